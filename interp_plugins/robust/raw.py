"""A model in raw units: pixels as they are in a file, columns as they are in a table, whatever it normalises by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.spec import InputSpec
from interp_plugins.core.wrapper import Wrapper

HALVES = (torch.float16, torch.bfloat16)


class OfRawInputs(Wrapper):
    """A model whose inputs are normalised on the way in.

    Args:
        func: the model.
        specs: how each of its first inputs is normalised.
        dtypes: the types that it takes; raw inputs of half precision are float32.
    """

    def __init__(self, func: Callable[..., Any], specs: Sequence[InputSpec], dtypes: Sequence[torch.dtype]):
        self.func, self.specs, self.dtypes = func, tuple(specs), tuple(dtypes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output for raw inputs; what follows them is as it is."""
        count = len(self.specs)
        inputs = self.normalised(args[:count])
        return self.func(*inputs, *args[count:], **kwargs)

    def identity(self) -> Any:
        """Mean, deviation and layout of each input: two with the same are one."""
        return tuple((s.mean, s.std, s.layout, t) for s, t in zip(self.specs, self.dtypes, strict=True))

    def raw(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Inputs as the model has them, in raw units."""
        return [
            spec.denormalise(x.float() if x.dtype in HALVES else x) for spec, x in zip(self.specs, inputs, strict=True)
        ]

    def normalised(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """Raw inputs, as the model has them."""
        made = []
        for spec, x, dtype in zip(self.specs, raw, self.dtypes, strict=True):
            value = spec.normalise(x)
            made.append(value.to(dtype) if dtype in HALVES else value)
        return made

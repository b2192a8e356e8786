"""A model in raw units: pixels as they are in a file, columns as they are in a table, whatever it normalises by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from interp_plugins.core.spec import InputSpec
from interp_plugins.core.wrapper import Wrapper


class OfRawInputs(Wrapper):
    """A model whose inputs are normalised on the way in.

    Args:
        func: the model.
        specs: how each of its first inputs is normalised.
    """

    def __init__(self, func: Callable[..., Any], specs: Sequence[InputSpec]):
        self.func, self.specs = func, tuple(specs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output for raw inputs; what follows them is as it is."""
        count = len(self.specs)
        inputs = [spec.normalise(x) for spec, x in zip(self.specs, args, strict=False)]
        return self.func(*inputs, *args[count:], **kwargs)

    def identity(self) -> Any:
        """Mean, deviation and layout of each input: two with the same are one."""
        return tuple((spec.mean, spec.std, spec.layout) for spec in self.specs)

    def raw(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Inputs as the model has them, in raw units."""
        return [spec.denormalise(x) for spec, x in zip(self.specs, inputs, strict=True)]

    def normalised(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """Raw inputs, as the model has them."""
        return [spec.normalise(x) for spec, x in zip(self.specs, raw, strict=True)]

"""Missing values: an element that is NaN in a sample stays missing in every row that a method makes of the sample.

Methods compute with numbers: steps along a path, draws and replaced features are sums and products, in which a NaN
would spread. So they get the samples with a number in each gap, and a model that puts NaN back there before it runs, in
each row at the gaps of its sample. No gradient and no change comes from a gap: its attribution is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import call_baseline
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Call
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple, is_float, like
from interp_plugins.core.wrapper import Wrapper


class PutsGapsBack(Wrapper):
    """A model that is called with numbers in the gaps of its inputs, and where the gaps are.

    Args:
        func: model or callable, which takes NaN for a missing value.
        count: number of inputs; as many masks follow them, True at a gap.
    """

    def __init__(self, func: Callable[..., Any], count: int):
        self.func, self.count = func, count
        self.__name__ = getattr(func, "__name__", type(func).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with NaN at the gaps; further arguments go along as they are."""
        n = self.count
        return self.func(*_at_gaps(args[:n], args[n : 2 * n], torch.nan), *args[2 * n :], **kwargs)

    def identity(self) -> Any:
        """The number of inputs."""
        return self.count


@dataclass(frozen=True)
class Gaps:
    """Where values are missing.

    Attributes:
        inputs: as the user gave them, with NaN.
        masks: per input, True at a gap, of the input's shape.
    """

    inputs: Any
    masks: tuple[Tensor, ...]

    def around(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The model as a function of filled inputs and masks."""
        if isinstance(func, Call):
            return Call(PutsGapsBack(func.func, len(self.masks)), func.kwargs, func.output)
        return PutsGapsBack(func, len(self.masks))

    def filled(self, values: Any) -> Any:
        """Inputs or baselines with a number in each gap: the mean of what is there beside it, along the last axis."""
        if callable(values) and not isinstance(values, Tensor):
            return lambda inputs: self.filled(call_baseline(values, self.inputs))
        many = as_tuple(values)
        if len(many) != len(self.masks):
            return values
        return like(values, [_filled(v, m) for v, m in zip(many, self.masks, strict=True)])

    def back(self, exp: Any) -> Any:
        """An explanation with its gaps: NaN in inputs and baselines, zero in maps over the input."""
        masks = tuple(m.cpu() for m in self.masks)

        def each(values: Any, gap: float) -> Any:
            if values is None or len(as_tuple(values)) != len(masks):
                return values
            return like(values, _at_gaps(as_tuple(values), masks, gap))

        maps = exp.attributions if exp.layer is not None else each(exp.attributions, 0.0)
        return replace(
            exp,
            inputs=each(exp.inputs, torch.nan),
            baselines=each(exp.baselines, torch.nan),
            attributions=maps,
        )


def gaps_of(inputs: Any, spec: InputSpec | None, methods: Any) -> Gaps | None:
    """The gaps in inputs for which the spec says that NaN is a missing value; None where nothing is missing.

    Args:
        inputs: as the user gave them.
        spec: what the user said of the inputs, or None.
        methods: the methods as the user named them.

    Raises:
        InputError: method objects, whose model would not see the gaps.
    """
    many = as_tuple(inputs)
    if not isinstance(spec, InputSpec) or not all(isinstance(x, Tensor) and x.ndim for x in many):
        return None
    says = [spec.of_input(i, x).missing == "nan" for i, x in enumerate(many)]
    masks = tuple(
        x.detach().isnan() if told and is_float(x) else torch.zeros_like(x, dtype=torch.bool)
        for told, x in zip(says, many, strict=True)
    )
    if not any(bool(m.any()) for m in masks):
        return None
    listed = methods if isinstance(methods, (list, tuple)) else [methods]
    if any(hasattr(m, "attribute") for m in listed):
        raise InputError(
            "InputSpec(missing='nan') is for methods by name: a method object has a model of its own, which would get "
            "numbers for the missing values. Give names, or a mapping name -> parameters."
        )
    return Gaps(inputs, masks)


def _at_gaps(values: tuple[Any, ...], masks: tuple[Tensor, ...], gap: float) -> list[Any]:
    """Values with the same in every gap; a tensor of another shape, or of whole numbers, as it is."""
    return [
        torch.where(m.to(v.device), gap, v) if isinstance(v, Tensor) and is_float(v) and v.shape == m.shape else v
        for v, m in zip(values, masks, strict=True)
    ]


def _filled(value: Any, mask: Tensor) -> Any:
    if not isinstance(value, Tensor) or not is_float(value) or value.shape[1:] != mask.shape[1:]:
        return value
    here = mask.to(value.device) if len(value) == len(mask) else mask.to(value.device).all(0, keepdim=True)
    gaps = (here & value.isnan()).detach()
    return torch.where(gaps, value.detach().nanmean(-1, keepdim=True).nan_to_num(), value)

"""Inputs by name: a dict of tensors, for models called as `model(image=..., table=...)` or `model({"image": ...})`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe, is_float
from interp_plugins.core.truth import LABEL_NAMES
from interp_plugins.core.wrapper import Wrapper


class NamedInputs(Wrapper):
    """A model whose explained inputs go by name; accepted wherever a model is, and called with them in order.

    Args:
        func: model or callable.
        names: the inputs' names, in order.
        whole: the model takes one mapping of all inputs instead of keyword arguments.
        along: names of keyword arguments that belong into that mapping as well, and are not explained.
    """

    def __init__(
        self, func: Callable[..., Any], names: tuple[str, ...], whole: bool = False, along: tuple[str, ...] = ()
    ):
        self.func, self.names, self.whole, self.along = func, names, whole, along
        self.__name__ = type(func).__name__ if isinstance(func, nn.Module) else getattr(func, "__name__", "function")

    def identity(self) -> Any:
        """The names, and how they are given."""
        return self.names, self.whole

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the model; arguments beyond the names go along by position."""
        named = dict(zip(self.names, inputs))
        more = inputs[len(self.names) :]
        if not self.whole:
            return self.func(*more, **named, **kwargs)
        named |= {name: kwargs.pop(name) for name in self.along if name in kwargs}
        return self.func(named, *more, **kwargs)


_PLACES = ("position_ids", "token_type_ids", "segment_ids")


def goes_along(name: str, value: Any) -> bool:
    """Whether an entry of a batch by name is passed to the model and not explained: a mask, ids of places, labels."""
    lower = str(name).lower()
    if not isinstance(value, Tensor) or lower in LABEL_NAMES or lower in _PLACES:
        return True
    return "mask" in lower and (not is_float(value) or bool(((value == 0) | (value == 1)).all()))


def explained_names(values: Mapping[str, Any]) -> list[str]:
    """Which entries of a batch by name are explained: floating-point ones with features, else the first (ids, mostly).

    Args:
        values: the batch, or the arguments that are taken from it.
    """
    able = [name for name, v in values.items() if not goes_along(name, v)]
    wide = [name for name in able if is_float(values[name]) and values[name].ndim > 1]
    return wide or able[:1] or [name for name, v in values.items() if isinstance(v, Tensor)][:1]


def by_name(func: Callable[..., Any], inputs: Mapping[str, Tensor], along: tuple[str, ...] = ()) -> NamedInputs:
    """The model as a function of the inputs in the mapping's order.

    Args:
        func: model or callable.
        inputs: what is explained.
        along: names of further keyword arguments.

    Raises:
        InputError: an empty mapping, names that are no text, or a model that takes neither these names nor a mapping.
    """
    names = tuple(inputs)
    asked = {*names, *along}
    if not names or not all(isinstance(n, str) for n in names):
        raise InputError(
            f"inputs by name must be a dict name -> tensor with at least one entry, got {describe(inputs)}."
        )
    parameters = _parameters(func)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return NamedInputs(func, names)
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if asked <= set(known):
        return NamedInputs(func, names)
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if required and not asked & set(known):
        return NamedInputs(func, names, whole=True, along=along)
    unknown = [n for n in names if n not in known]
    raise InputError(
        f"The model has no parameter {unknown[0]!r}; the inputs are {list(names)}, and it takes {known}. Name the "
        "inputs like its parameters, or wrap it in a function of them."
    )


def in_order(values: Any, names: tuple[str, ...], what: str) -> Any:
    """A dict by input name as a tuple in the inputs' order (None where a name is missing); anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    unknown = [n for n in values if n not in names]
    if unknown:
        raise InputError(f"{what} has an entry {unknown[0]!r}, but the inputs are {list(names)}.")
    return tuple(values.get(n) for n in names)


def _parameters(func: Any) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(func.forward if isinstance(func, nn.Module) else func).parameters.values())
    except (TypeError, ValueError):
        return None

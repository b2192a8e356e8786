"""Inputs by name: a dict of tensors, for models called as `model(image=..., table=...)` or `model({"image": ...})`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe
from interp_plugins.core.wrapper import Wrapper


class NamedInputs(Wrapper):
    """A model whose explained inputs go by name; accepted wherever a model is, and called with them in order.

    Args:
        func: model or callable.
        names: the inputs' names, in order.
        whole: the model takes one mapping of all inputs instead of keyword arguments.
    """

    def __init__(self, func: Callable[..., Any], names: tuple[str, ...], whole: bool = False):
        self.func, self.names, self.whole = func, names, whole
        self.__name__ = type(func).__name__ if isinstance(func, nn.Module) else getattr(func, "__name__", "function")

    def identity(self) -> Any:
        """The names, and how they are given."""
        return self.names, self.whole

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the model; arguments beyond the names go along by position."""
        named = dict(zip(self.names, inputs))
        more = inputs[len(self.names) :]
        return self.func(named, *more, **kwargs) if self.whole else self.func(*more, **named, **kwargs)


def by_name(func: Callable[..., Any], inputs: Mapping[str, Tensor]) -> NamedInputs:
    """The model as a function of the inputs in the mapping's order.

    Raises:
        InputError: an empty mapping, names that are no text, or a model that takes neither these names nor a mapping.
    """
    names = tuple(inputs)
    if not names or not all(isinstance(n, str) for n in names):
        raise InputError(
            f"inputs by name must be a dict name -> tensor with at least one entry, got {describe(inputs)}."
        )
    parameters = _parameters(func)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return NamedInputs(func, names)
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if set(names) <= set(known):
        return NamedInputs(func, names)
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if required and not set(names) & set(known):
        return NamedInputs(func, names, whole=True)
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

"""What the callbacks of all frameworks share: arguments that are checked early, errors that do not stop a training."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from interp_plugins.api.binding import as_pairs, canonical_name, layer_variant
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, unknown
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.registry import contract_of
from interp_plugins.core.tensors import describe

ON_ERROR = ("warn", "raise")


def check_names(methods: Any) -> None:
    """Unknown methods are said at once, not after the first epoch.

    Args:
        methods: a name or method object, several, or a mapping name -> parameters.

    Raises:
        InputTypeError: none of these, or none at all.
        UnknownNameError: no method of that name.
    """
    if isinstance(methods, (str, type)) or hasattr(methods, "attribute"):
        methods = (methods,)
    if not isinstance(methods, Iterable) or not methods:
        raise InputTypeError(f"methods must be a name, a list of names or a dict, got {describe(methods)}.")
    for method in methods:
        if isinstance(method, str):
            canonical_name(method)
        elif isinstance(method, type) or not hasattr(method, "attribute"):
            raise InputTypeError(f"A method must be a name or a method object, got {describe(method)}.")


def labels_of(methods: Any, layer: Any = None) -> list[str]:
    """What the explanations of methods will be called: their names, with a number where one stands there several times.

    Args:
        methods: a name or method object, several, or a mapping name -> parameters.
        layer: a layer that is explained, or None.
    """
    names = [
        (layer_variant(canonical_name(m)) if layer is not None else canonical_name(m))
        if isinstance(m, str)
        else contract_of(m).name
        for m, _ in as_pairs(methods)
    ]
    return [n if names.count(n) == 1 else f"{n}.{names[:i].count(n)}" for i, n in enumerate(names)]


def check_folder(name: str, path: Any) -> None:
    """Refuse what is no path, and a file where a directory belongs."""
    if path is None:
        return
    if not isinstance(path, (str, Path)):
        raise InputTypeError(f"{name} must be a path, got {describe(path)}.")
    there = next((p for p in (Path(path), *Path(path).parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{name}={str(path)!r} cannot be a directory: {str(there)!r} is a file. Name another.")


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an int of at least {least}, got {value!r}.")


def check_tag(tag: Any) -> None:
    """Refuse what is no name."""
    if not isinstance(tag, str) or not tag:
        raise InputError(f"tag must be a name, got {tag!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is none of a few words, with the nearest one."""
    if value not in choices:
        raise unknown(name, value, choices)


def check_arguments(given: Iterable[str], *functions: Callable[..., Any]) -> None:
    """Refuse a further argument that none of these functions takes by name, before the first epoch and not after it.

    Args:
        given: names of arguments.
        *functions: those that get them in the end.

    Raises:
        UnknownNameError: an argument that there is not.
    """
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = {n: 0 for f in functions for n, p in inspect.signature(f).parameters.items() if p.kind in by_name}
    for name in given:
        if name not in known:
            raise unknown("argument", name, known)


@contextlib.contextmanager
def contained(who: str, on_error: str, give_up: Callable[[], None] | None = None) -> Iterator[None]:
    """Random numbers are as they were after the block; an error in it is a warning, and training goes on.

    Args:
        who: the callback, for the warning.
        on_error: "warn", or "raise" the error instead.
        give_up: what is done first where there is one.
    """
    try:
        with preserved_rng():
            yield
    except Exception as error:
        if give_up is not None:
            give_up()
        if on_error == "raise":
            raise
        warnings.warn(
            f"{who} failed, and training goes on: {type(error).__name__}: {error} "
            "(on_error='raise' raises it instead.)",
            InterpWarning,
            stacklevel=4,
        )

"""What can be said of a callback's arguments before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp_plugins.api.binding import canonical_name, layer_variant, method_info
from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.tensors import describe


def check_names(methods: Any) -> None:
    """Unknown methods are said at once, not after the first epoch."""
    if isinstance(methods, str) or hasattr(methods, "attribute"):
        methods = (methods,)
    if not isinstance(methods, (Sequence, dict)) or not methods:
        raise InputTypeError(f"methods must be a name, a list of names or a dict, got {describe(methods)}.")
    for method in methods:
        if isinstance(method, str):
            canonical_name(method)


def check_layer_methods(methods: Any, shared: Mapping[str, Any]) -> None:
    """With `layer=`, every method named must be able to explain a layer.

    Args:
        methods: names, list or mapping, as the callback takes them.
        shared: `method_kwargs`.

    Raises:
        InputError: a method that explains the input alone, with those that can take its place.
    """
    options = methods if isinstance(methods, Mapping) else {}
    for method in (methods,) if isinstance(methods, str) else methods:
        if not isinstance(method, str):
            continue
        name, traits = canonical_name(method), method_info(method).traits
        if traits.wraps is not None:
            inner = (options.get(method) or {}).get(traits.wraps, shared.get(traits.wraps, traits.inside))
            name = canonical_name(inner) if isinstance(inner, str) else name
        layer_variant(name)


def check_count(name: str, value: Any, least: int) -> None:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an int of at least {least}, got {value!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise unknown(name, value, choices)

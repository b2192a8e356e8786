"""Whether the methods asked for can explain a layer, said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp_plugins.api.binding import canonical_name, layer_variant, method_info


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

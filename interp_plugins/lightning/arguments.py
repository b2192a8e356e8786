"""What a callback is given, checked before anything runs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from interp_plugins.api.binding import canonical_name, layer_variant, method_info
from interp_plugins.api.callbacks import check_choice
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.layers import Layer
from interp_plugins.core.mistaken import check_no_transform
from interp_plugins.core.target import Target
from interp_plugins.core.tensors import describe

_TARGETS = (int, str, list, tuple, Tensor, Target)
STAGES = ("validate", "test", "train")


def check_class_names(names: Any) -> None:
    """Class names are a list of texts, or None."""
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise InputTypeError(f"class_names must be a list of names, one per class, got {describe(names)}.")


def checked_stages(stages: Any) -> tuple[str, ...]:
    """The stages that were named, one or several, each one that there is."""
    found = (stages,) if isinstance(stages, str) else tuple(stages)
    if not found:
        raise InputError(f"stages is empty; name at least one of {', '.join(STAGES)}.")
    for stage in found:
        check_choice("stage", stage, STAGES)
    return found


def check_choices(target: Any, layer: Any, against: Any) -> None:
    """Targets and a layer of the kinds that a configuration can name."""
    for name, value in {"target": target, "against": against}.items():
        check_no_transform(value)
        if isinstance(value, float) or not (value is None or callable(value) or isinstance(value, _TARGETS)):
            raise InputTypeError(
                f"{name} must be a class, a name, a list of them or a function, got {describe(value)}."
            )
    if layer is not None and (not isinstance(layer, (str, nn.Module, Layer)) or layer == ""):
        raise InputTypeError(f"layer must be the dotted name of a module, got {describe(layer)}.")


def check_picklable(given: Mapping[str, Any]) -> None:
    """Functions can be imported, so that processes that are spawned get them with the callback.

    Raises:
        InputTypeError: one that cannot, by its name.
    """
    for name, value in given.items():
        if not callable(value):
            continue
        try:
            pickle.dumps(value)
        except Exception as error:
            raise InputTypeError(
                f"AttributionCallback cannot be pickled, because {name} is a function that cannot be imported "
                f"({error}). Define it with def at the top of a module, or use operator.itemgetter."
            ) from error


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

"""From what the user names to bound method objects, with every parameter sent to the methods that take it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import interp_plugins.attr  # noqa: F401 - registers the methods
from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.registry import MethodInfo, canonical_name, info_of, list_methods, method_info
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe

# Arguments that `explain` itself supplies.
SUPPLIED = {
    "self", "inputs", "target", "baselines", "additional_forward_args", "feature_mask", "return_convergence_delta",
    "forward_func", "model", "layer", "device_ids", "seed", "generator", "progress", "show_progress", "batch_size",
    "kwargs",
}  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """A method object ready to run.

    Attributes:
        name: registered name, or the class name of a foreign object.
        title: the name for people.
        method: the object with `attribute`.
        params: the user's and default parameters of `attribute`.
        takes: names of all arguments that `attribute` (or an inner method) takes.
        info: the registration, or None.
    """

    name: str
    title: str
    method: Any
    params: dict[str, Any]
    takes: frozenset[str]
    info: MethodInfo | None

    @property
    def innermost(self) -> Any:
        """The method that does the work: the one inside NoiseTunnel, or the method itself."""
        method = self.method
        while (inner := getattr(method, "attribution_method", None)) is not None:
            method = inner
        return method

    @property
    def baselines(self) -> str | None:
        """What its baselines are, as registered ("distribution": rows to draw from)."""
        info = info_of(type(self.innermost))
        return info.baselines if info is not None else None


def _names(function: Callable[..., Any]) -> set[str]:
    try:
        return {p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD}
    except (TypeError, ValueError):
        return set()


def attribute_names(method: Any) -> frozenset[str]:
    """Arguments of a method object's `attribute`, with those of the method inside it (NoiseTunnel).

    A method of the user's own that takes `**kwargs` is taken to know Captum's `target`.
    """
    own = _names(method.attribute)
    inner = getattr(method, "attribution_method", None)
    if inner is not None:
        return frozenset(own | attribute_names(inner))
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method.attribute).parameters.values())
    return frozenset(own | {"target"} if open_ended else own)


def bind_methods(
    methods: Any,
    func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    spec: InputSpec,
    layer: Any,
    params: Mapping[str, Any],
    default_layer: Callable[[], Any],
) -> list[Bound]:
    """Turn names, objects, sequences or mappings into bound methods.

    Raises:
        UnknownNameError: an unknown method name.
        TypeError: a parameter that no method takes, with the nearest name.
    """
    wanted = _as_pairs(methods)
    bound, taken = [], set()
    for what, own_params in wanted:
        if isinstance(what, str):
            one, used = _bind_name(what, own_params, func, inputs, spec, layer, params, default_layer)
        else:
            one, used = _bind_object(what, own_params, params)
        bound.append(one)
        taken |= used
    left = sorted(set(params) - taken)
    if left:
        known = sorted(set().union(*(b.takes for b in bound)) - SUPPLIED)
        names = ", ".join(b.name for b in bound)
        raise InputTypeError(
            f"explain() got an unexpected keyword argument {left[0]!r}.{did_you_mean(left[0], known)} "
            f"Parameters of {names}: {', '.join(known)}."
        )
    return bound


def _as_pairs(methods: Any) -> list[tuple[Any, dict[str, Any]]]:
    if isinstance(methods, str) or hasattr(methods, "attribute"):
        return [(methods, {})]
    if isinstance(methods, Mapping):
        bad = [k for k, v in methods.items() if v is not None and not isinstance(v, Mapping)]
        if bad:
            raise InputTypeError(
                f"methods[{bad[0]!r}] must be a mapping of parameters, got {describe(methods[bad[0]])}."
            )
        pairs = [(k, dict(v or {})) for k, v in methods.items()]
    elif isinstance(methods, Sequence):
        pairs = [(m, {}) for m in methods]
    else:
        raise InputTypeError(
            "methods must be a name, a method object with `attribute`, a sequence of these, or a mapping name -> "
            f"parameters; got {describe(methods)}. Names: {', '.join(list_methods())}."
        )
    if not pairs:
        raise InputError(f"methods is empty; name at least one of {', '.join(list_methods())}.")
    for what, _ in pairs:
        if not isinstance(what, str) and not callable(getattr(what, "attribute", None)):
            raise InputTypeError(f"A method must be a name or an object with `attribute`, got {describe(what)}.")
    return pairs


def _bind_name(
    name: str,
    own: Mapping[str, Any],
    func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    spec: InputSpec,
    layer: Any,
    shared: Mapping[str, Any],
    default_layer: Callable[[], Any],
) -> tuple[Bound, set[str]]:
    info = method_info(layer_variant(canonical_name(name)) if layer is not None else name)
    defaults = info.defaults(inputs, spec) if callable(info.defaults) else info.defaults
    construct = _names(info.cls)
    given = {**shared, **own}
    arguments: dict[str, Any] = {}
    if "layer" in construct:
        arguments["layer"] = layer if layer is not None else default_layer()
    if "attribution_method" in construct:
        inner = given.get("attribution_method", "integrated_gradients")
        if isinstance(inner, str):
            inner, _ = _bind_name(inner, {}, func, inputs, spec, layer, {}, default_layer)
            inner = inner.method
        method = info.cls(inner)
    else:
        arguments |= {k: given[k] for k in construct & set(given) if k != "layer"}
        method = info.cls(func, **arguments)
    takes = attribute_names(method)
    used = {k for k in given if k in (takes | construct) - SUPPLIED}
    wrong = sorted(set(own) - used)
    if wrong:
        known = sorted((takes | construct) - SUPPLIED)
        raise InputTypeError(
            f"{info.name} has no parameter {wrong[0]!r}.{did_you_mean(wrong[0], known)} "
            f"Its parameters: {', '.join(known)}."
        )
    params = {k: v for k, v in defaults.items() if k in takes} | {k: given[k] for k in used if k in takes}
    title = info.title
    if "attribution_method" in construct:
        inner_info = info_of(type(method.attribution_method))
        title = f"{info.title} ({_short_title(inner_info, method.attribution_method)})"
    return Bound(info.name, title, method, params, takes, info), used


def _short_title(info: MethodInfo | None, method: Any) -> str:
    """An abbreviation where the field has one (IG), else the title."""
    if info is None:
        return type(method).__name__
    return next((a.upper() for a in info.aliases if len(a) <= 3), info.title)


def layer_variant(name: str) -> str:
    """The method to use when a layer is asked for: the name itself, or its layer variant."""
    if name == "noise_tunnel" or "layer" in _names(method_info(name).cls):
        return name
    variants = {
        "integrated_gradients": "layer_integrated_gradients",
        "input_x_gradient": "layer_gradient_x_activation",
    }
    variant = variants.get(name, f"layer_{name}")
    if variant not in list_methods(layer=True):
        raise InputError(
            f"The method {name!r} explains the input and has no layer variant. With layer=, use one of: "
            f"{', '.join(list_methods(layer=True))}, integrated_gradients, gradient_shap, feature_ablation, "
            "noise_tunnel."
        )
    return variant


def _bind_object(method: Any, own: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[Bound, set[str]]:
    takes = attribute_names(method)
    info = info_of(type(method))
    given = {**shared, **own}
    used = set(given) & (takes - SUPPLIED)
    name = info.name if info else type(method).__name__
    title = info.title if info else type(method).__name__
    return Bound(name, title, method, {k: given[k] for k in used}, takes, info), used

"""From what the user names to bound method objects, with every parameter sent to the methods that take it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import interp_plugins.attr  # noqa: F401 - registers the methods
from interp_plugins.attr.shared.base import LayerAttribution
from interp_plugins.core.errors import InputError, InputTypeError, did_you_mean
from interp_plugins.core.guard import is_script, modules_of
from interp_plugins.core.layers import Layer, refuse_script, resolve_layer
from interp_plugins.core.registry import (
    MethodInfo,
    Traits,
    arguments_of,
    canonical_name,
    contract_of,
    innermost_method,
    list_methods,
    method_info,
    traits_of,
    variant,
)
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe

DEFAULT_METHODS = ("integrated_gradients", "noise_tunnel", "occlusion")
DEFAULT_METHODS_OF_ROWS = ("integrated_gradients", "noise_tunnel", "feature_ablation")  # tables, texts: no windows
# Arguments that `explain` itself supplies.
SUPPLIED = {
    "self", "inputs", "target", "baselines", "additional_forward_args", "feature_mask", "return_convergence_delta",
    "forward_func", "model", "layer", "device_ids", "seed", "generator", "progress", "show_progress", "batch_size",
    "kwargs",
}  # fmt: skip


def first_looks(kind: str) -> list[str]:
    """The methods that answer at once, the one made for this kind of data first; the next is for where it cannot.

    Args:
        kind: of the data, as `InputSpec.kind` has it.
    """
    fitting = [method_info(name) for name in list_methods() if kind in method_info(name).traits.first_look]
    return [one.name for one in sorted(fitting, key=lambda one: len(one.traits.first_look))]


@dataclass(frozen=True)
class Bound:
    """A method object ready to run.

    Attributes:
        name: registered name, or the class name of a foreign object.
        title: the name for people.
        method: the object with `attribute`.
        params: the user's and default parameters of `attribute`.
        takes: names of all arguments that `attribute` (or an inner method) takes.
        traits: what it can do, with the method inside it.
    """

    name: str
    title: str
    method: Any
    params: dict[str, Any]
    takes: frozenset[str]
    traits: Traits

    @functools.cached_property
    def innermost(self) -> Any:
        """The method that does the work: the one inside all others, or the method itself."""
        return innermost_method(self.method)

    @functools.cached_property
    def works(self) -> MethodInfo:
        """What is known of the method that does the work."""
        return contract_of(self.innermost)

    @property
    def shares(self) -> bool:
        """Whether it explains several targets in shared passes, with the parameters that it has."""
        alone = any(self.params.get(name) is not None for name in self.traits.alone_with)
        refined = self.params.get("tol") is not None
        return not alone and (self.traits.shares_tolerance if refined else self.traits.shares_targets)


def draws(methods: Any, options: Mapping[str, Any]) -> bool:
    """Whether methods draw random numbers, or might: then samples are explained one by one, each with its own seed.

    Args:
        methods: as for `interp_plugins.explain`.
        options: its further arguments.
    """
    if isinstance(options.get("baselines"), str) and options["baselines"] in ("uniform", "gaussian"):
        return True
    if callable(options.get("baselines")):
        return True
    many = [methods] if isinstance(methods, str) or hasattr(methods, "attribute") else list(methods)
    for method in many:
        takes = method_info(method).takes if isinstance(method, str) else arguments_of(method)
        if takes & {"seed", "generator"} or not _ours(method):
            return True
    return False


def _ours(method: Any) -> bool:
    return isinstance(method, str) or type(method).__module__.startswith("interp_plugins.")


def of_object(method: Any, params: dict[str, Any]) -> Bound:
    """A method object with its parameters, and what the registry knows of it."""
    info = contract_of(method)
    title = _title(info, method, params)
    return Bound(info.name, title, method, params, arguments_of(method), traits_of(method))


def layers_read(bound: Sequence[Bound]) -> list[Layer] | None:
    """All layers that the first method reads or differentiates at; None where that is more than layers, or unknown.

    None at all for a single method of ours that is about the input alone.

    Raises:
        LayerError: no such layer.
    """
    method, works = bound[0].method, bound[0].works
    if method is not bound[0].innermost:
        return None
    if works.site == "input" and len(bound) == 1 and not works.foreign and "layer" not in works.constructor_takes:
        return []
    if works.site != "layer" or getattr(method, "layer", None) is None:
        return None
    return method.resolved_layers() if isinstance(method, LayerAttribution) else None


def bind_methods(
    methods: Any,
    func: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    spec: InputSpec,
    layer: Any,
    params: Mapping[str, Any],
    default_layer: Callable[[], Any],
    budget: str = "normal",
) -> list[Bound]:
    """Turn names, objects, sequences or mappings into bound methods; None: those for this kind of data.

    Raises:
        UnknownNameError: an unknown method name.
        TypeError: a parameter that no method takes, with the nearest name.
    """
    if methods is None:
        methods = DEFAULT_METHODS_OF_ROWS if spec.kind in ("tabular", "text") else DEFAULT_METHODS
    wanted = as_pairs(methods)
    if layer is not None and any(map(is_script, modules_of(func))):
        for one in layer if isinstance(layer, list) else [layer]:
            module = resolve_layer(func, one).module
            assert not isinstance(module, str)
            refuse_script(module)
    slip = params.get("method")
    if isinstance(slip, str) and slip in {"ig", *list_methods()}:  # not the rule of a path integral
        raise InputTypeError(f"explain() takes methods=, not method=: you mean methods={slip!r}.")
    bound, taken = [], set()
    for what, own_params in wanted:
        if isinstance(what, str):
            one, used = _bind_name(what, own_params, func, inputs, spec, layer, params, default_layer, budget)
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


def as_pairs(methods: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Methods in any form that `interp_plugins.explain` takes, as pairs of a name or object and its parameters."""
    if isinstance(methods, str) or (hasattr(methods, "attribute") and not isinstance(methods, type)):
        return [(methods, {})]
    if isinstance(methods, Mapping):
        bad = [k for k, v in methods.items() if v is not None and not isinstance(v, Mapping)]
        if bad:
            raise InputTypeError(
                f"methods[{bad[0]!r}] must be a mapping of parameters, got {describe(methods[bad[0]])}."
            )
        pairs = [(k, dict(v or {})) for k, v in methods.items()]
    elif isinstance(methods, type):
        pairs = [(methods, {})]
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
        if isinstance(what, type):
            raise InputTypeError(
                f"A method must be a name or an object, got the class {what.__name__}. Give its name, or an object: "
                f"{what.__name__}(model)."
            )
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
    budget: str,
) -> tuple[Bound, set[str]]:
    info = method_info(layer_variant(canonical_name(name)) if layer is not None else name)
    defaults = info.presets(budget, inputs, spec)
    construct, wraps = info.constructor_takes, info.traits.wraps
    given = {**shared, **own}
    arguments = {k: given[k] for k in construct & set(given) if k not in ("layer", wraps)}
    if "layer" in construct:
        arguments["layer"] = layer if layer is not None else default_layer()
    if wraps is None:
        method = info.cls(func, **arguments)
    else:
        inner = given.get(wraps, info.traits.inside)
        if isinstance(inner, str):
            inner = _bind_name(inner, {}, func, inputs, spec, layer, {}, default_layer, budget)[0].method
        method = info.cls(**{wraps: inner}, **arguments)
    takes = arguments_of(method)
    used = {k for k in given if k in (takes | construct) - SUPPLIED}
    wrong = sorted(set(own) - used)
    if wrong:
        known = sorted((takes | construct) - SUPPLIED)
        raise InputTypeError(
            f"{info.name} has no parameter {wrong[0]!r}.{did_you_mean(wrong[0], known)} "
            f"Its parameters: {', '.join(known)}."
        )
    left = set(info.traits.go_together) if used & set(info.traits.go_together) else set()
    params = {k: v for k, v in defaults.items() if k in takes - left} | {k: given[k] for k in used if k in takes}
    return of_object(method, params), used


def _title(info: MethodInfo, method: Any, params: Mapping[str, Any]) -> str:
    """The name for people; of a method around another, both."""
    if info.traits.wraps is None:
        return info.title
    inside = _short_title(getattr(method, info.traits.wraps))
    return f"{info.title} ({inside})" if info.traits.called is None else info.traits.called(params, inside)


def _short_title(method: Any) -> str:
    """An abbreviation where the field has one (IG), else the title."""
    info = contract_of(method)
    return next((a.upper() for a in info.aliases if len(a) <= 3), info.title)


def layer_variant(name: str) -> str:
    """The method to use when a layer is asked for: the name itself, or its layer variant.

    A method around another stays: the one inside is at the layer.

    Raises:
        InputError: a method that explains the input alone, with those that can take its place.
    """
    info = method_info(name)
    if info.traits.wraps is not None or "layer" in info.constructor_takes:
        return info.name
    found = variant(name, "layer")
    if found is None:
        others = [method_info(n) for n in list_methods(site="input")]
        able = [m.name for m in others if m.traits.wraps is not None or variant(m.name, "layer") is not None]
        raise InputError(
            f"The method {name!r} explains the input and has no layer variant. With layer=, use one of: "
            f"{', '.join([*list_methods(layer=True), *able])}."
        )
    return found


def _bind_object(method: Any, own: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[Bound, set[str]]:
    given = {**shared, **own}
    used = set(given) & (arguments_of(method) - SUPPLIED)
    return of_object(method, {k: given[k] for k in used}), used

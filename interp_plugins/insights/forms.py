"""A form per method, read off its signature: what a person can set, and what came of what was typed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp_plugins.api.binding import SUPPLIED, list_methods, method_info
from interp_plugins.attr.shared.quadrature import MOST_STEPS
from interp_plugins.core.errors import InputError
from interp_plugins.core.registry import MethodInfo
from interp_plugins.core.spec import InputSpec

_MACHINERY = {
    "internal_batch_size", "perturbations_per_eval", "nt_samples_batch_size", "attr_to_layer_input",
    "attribute_to_layer_input", "attribute_to_neuron_input", "grad_kwargs", "kwargs", "noise_at", "max_steps",
}  # fmt: skip


def forms(inputs: tuple[Tensor, ...], spec: InputSpec) -> list[dict[str, Any]]:
    """Name, title and parameters of every method that explains inputs.

    Args:
        inputs: a batch, for defaults that depend on the data.
        spec: what is known of it.
    """
    made = []
    for name in list_methods():
        info = method_info(name)
        fits = info.applies_to != "image" or inputs[0].ndim >= 3
        if info.site != "neuron" and fits:
            made.append({"name": name, "title": info.title, "params": _parameters(info, inputs, spec)})
    return made


def _parameters(info: MethodInfo, inputs: tuple[Tensor, ...], spec: InputSpec) -> list[dict[str, Any]]:
    try:
        ours = info.defaults(inputs, spec) if callable(info.defaults) else info.defaults
    except InputError:  # a method for other data; its own defaults stand
        ours = {}
    found = []
    for name, param in info.parameters.items():
        if name in SUPPLIED or name in _MACHINERY or param.kind is param.VAR_KEYWORD:
            continue
        default = ours.get(name, None if param.default is param.empty else param.default)
        kind = _kind(param.annotation, default)
        if kind is not None:
            shown = default if kind in ("int", "float", "bool") or default is None else str(default)
            least, most = (1, MOST_STEPS) if name == "n_steps" else (None, None)
            found.append({"name": name, "type": kind, "default": shown, "min": least, "max": most})
    return found


def _kind(annotation: Any, default: Any) -> str | None:
    """The control for a parameter: by its default, else by its annotation; None for what cannot be typed in."""
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, int):
        return "int"
    if isinstance(default, float):
        return "float"
    if isinstance(default, (str, tuple)):
        return "text"
    text = str(annotation)
    if default is None and "int" in text and "Tensor" not in text and "tuple" not in text:
        return "int"
    if default is None and "float" in text and "Tensor" not in text:
        return "float"
    return None


def typed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the page sends them: text that reads as a Python literal ("(3, 15, 15)") becomes that value."""
    return {name: _literal(value) for name, value in params.items()}


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value

"""The registry of methods: one decorator, read by `explain`, the docs tables, the tests and the command line.

It holds what has been imported: `interp_plugins.attr` registers the built-in methods, and `api`, which binds names,
imports that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from interp_plugins.core.errors import unknown

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """What the registry knows of a method.

    Attributes:
        name: canonical snake_case name.
        cls: the class with Captum's constructor and `attribute`.
        aliases: other names, case-insensitive.
        needs: "gradient", "perturbation" or "forward": what is asked of the model.
        site: "input", "layer" or "neuron": what the map is over.
        baselines: what its `baselines` are: a "point" per sample, or a "distribution" of rows.
        title: the name for people.
        reference: paper or source.
        applies_to: what it asks of the data or the model: "any", "image" (an input with axes of space), or
            "transformer" (a model with attention).
        defaults: parameters that `explain` uses where they differ from the class's own, or a function of
            (inputs, spec) giving them.
    """

    name: str
    cls: type
    aliases: tuple[str, ...] = ()
    needs: str = "gradient"
    site: str = "input"
    baselines: str = "point"
    title: str = ""
    reference: str = ""
    applies_to: str = "any"
    defaults: Mapping[str, Any] | Callable[..., Mapping[str, Any]] = field(default_factory=dict)


_METHODS: dict[str, MethodInfo] = {}
_ALIASES: dict[str, str] = {}


def _key(name: str) -> str:
    """One key for all spellings: "Grad-CAM", "grad_cam", "GradCam"; but "Grad-CAM++" is another method."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def register(
    name: str,
    *,
    aliases: tuple[str, ...] = (),
    needs: str = "gradient",
    site: str = "input",
    baselines: str = "point",
    title: str = "",
    reference: str = "",
    applies_to: str = "any",
    defaults: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
) -> Callable[[C], C]:
    """Class decorator: make a method known by name. See `MethodInfo` for the arguments."""

    def add(cls: C) -> C:
        info = MethodInfo(
            name,
            cls,
            aliases,
            needs,
            site,
            baselines,
            title or name.replace("_", " ").title(),
            reference,
            applies_to,
            defaults or {},
        )
        for key in {_key(n) for n in (name, *aliases, cls.__name__)}:
            if _ALIASES.setdefault(key, name) != name:
                raise ValueError(f"{name!r}: the name {key!r} already belongs to {_ALIASES[key]!r}.")
        _METHODS[name] = info
        return cls

    return add


def canonical_name(name: str, default: str | None = None) -> str:
    """The registered name for a name or alias. Raises UnknownNameError unless a default is given."""
    found = _ALIASES.get(_key(name))
    if found is not None:
        return found
    if default is not None:
        return default
    raise unknown("method", name, sorted({*_METHODS, *(a for m in _METHODS.values() for a in m.aliases)}))


def method_info(name: str) -> MethodInfo:
    """What is registered under a name or alias."""
    return _METHODS[canonical_name(name)]


def info_of(cls: type) -> MethodInfo | None:
    """The registration of a class, or None for a class that is not registered."""
    return next((m for m in _METHODS.values() if m.cls is cls), None)


def list_methods(needs: str | None = None, layer: bool | None = None, site: str | None = None) -> list[str]:
    """Registered method names, sorted.

    Args:
        needs: only methods that need "gradient", "perturbation" or "forward".
        layer: True: only methods that explain a layer; False: only those that explain the input.
        site: only methods at "input", "layer" or "neuron".

    Example:
        list_methods(needs="forward")
        "integrated_gradients" in list_methods(layer=False)  # -> True
    """
    if needs not in (None, "gradient", "perturbation", "forward"):
        raise unknown("need", needs, ("gradient", "perturbation", "forward"))
    if site not in (None, "input", "layer", "neuron"):
        raise unknown("site", site, ("input", "layer", "neuron"))
    return sorted(
        m.name
        for m in _METHODS.values()
        if (needs is None or m.needs == needs)
        and (layer is None or (m.site == "layer") == layer)
        and (site is None or m.site == site)
    )

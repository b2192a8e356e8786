"""The registry of methods: one decorator that says all that is known of a method, and one look-up that reads it.

`register` stands above a method's class and holds its names, what it asks of data and model, what it can do (`Traits`),
and its card; the parameters are read off the class, once. `explain`, the docs tables, the tests and the command line
read it from here. `contract_of` gives the same of any method object: of one's own subclass of a method, of Captum's, of
anything with `attribute`.

It holds what has been imported: `interp_plugins.attr` registers the built-in methods, and `api`, which binds names,
imports that.
"""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from interp_plugins.core.errors import unknown

C = TypeVar("C", bound=type)
Parameters = Mapping[str, inspect.Parameter]
Defaults = Mapping[str, Any] | Callable[..., Mapping[str, Any]]

Budget = Literal["fast", "normal", "thorough"]  # what a call may cost, docs/budget.md
AXIOMS = ("completeness", "linearity", "dummy", "symmetry", "implementation invariance")
GAMES = ("shapley", "aumann_shapley", "gradient")


@dataclass(frozen=True)
class Traits:
    """What a method can do, beside computing a map.

    Attributes:
        shares_targets: a `core.multi_target.MultiTarget` is explained in shared passes; else `explain` runs once per
            target.
        shares_tolerance: it does so with `tol` as well, where each target may need passes of its own.
        alone_with: parameters that know one target; where one is given, `explain` runs once per target.
        begins_with_gradient: it begins with the gradients at the samples, so the prediction's pass keeps its graph.
        compiles: its passes are calls of the whole model, which `torch.compile` can take.
        embeds_ids: integer inputs are explained at their look-ups.
        reads_layer: the map is over a layer.
        asks_delta: `explain` asks for the convergence delta where the method takes `return_convergence_delta`.
        wraps: the constructor's parameter, and the attribute, that holds the method inside; None: it wraps none. What
            such a method can do, it can do around a method that can.
        inside: the name of the method inside, where none is given.
        called: of one that wraps: what people call it, a function of its parameters and the short name of the method
            inside; None: its title, and the method inside in brackets.
        per_dimension: parameters with a number per dimension behind the batch, which follow the input's layout.
        game: what its values are meant to be: "shapley" values, "aumann_shapley" values (the integral of the gradient
            along a straight path), the "gradient" at the input; None: something of its own.
        remark: what pictures say of how a map was made, a function of its parameters and the usual ones; "": nothing.
        first_look: the kinds of data (`InputSpec.kind`) for which it is shown where nobody chose a method, and the
            answer has to be there at once.
        unsigned: its maps say how much and not which way: with the defaults no value is below zero.
        go_together: parameters that a budget chooses for each other: where one of them is given, it chooses none.
    """

    shares_targets: bool = False
    shares_tolerance: bool = False
    alone_with: tuple[str, ...] = ()
    begins_with_gradient: bool = False
    compiles: bool = False
    embeds_ids: bool = False
    reads_layer: bool = False
    asks_delta: bool = True
    wraps: str | None = None
    inside: str | None = None
    called: Callable[[Mapping[str, Any], str], str] | None = None
    per_dimension: tuple[str, ...] = ()
    game: str | None = None
    remark: Callable[[Mapping[str, Any], Mapping[str, Any]], str] | None = None
    first_look: tuple[str, ...] = ()
    unsigned: bool = False
    go_together: tuple[str, ...] = ()

    def around(self, inner: Traits) -> Traits:
        """Those of a method around another."""
        return replace(
            self,
            shares_targets=self.shares_targets and inner.shares_targets,
            # its own draws go on until all targets have settled; each draw is shared as the method inside shares it
            shares_tolerance=self.shares_tolerance and inner.shares_targets,
            alone_with=(*self.alone_with, *inner.alone_with),
            begins_with_gradient=False,
            compiles=self.compiles and inner.compiles,
            embeds_ids=self.embeds_ids and inner.embeds_ids,
            asks_delta=self.asks_delta and inner.asks_delta,
        )


@dataclass(frozen=True)
class MethodInfo:
    """What the registry knows of a method.

    Attributes:
        name: canonical snake_case name; of a class that is not registered its own.
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
        fast: parameters of the `budget` "fast": a first map in a fraction of the time; as `defaults`.
        thorough: parameters of the `budget` "thorough"; as `defaults`.
        variant_of: the method that this is at a layer or for a neuron.
        traits: what it can do.
        cost: forward and backward passes per sample; n is `n_steps` or `n_samples`, d the number of features or
            windows, c of channels. Empty for a variant: that of the plain method.
        axioms: of `AXIOMS`, those that hold for every model (completeness: up to the integration or sampling error);
            each is tested in `tests/axioms/test_cards.py`.
        assumes: what has to be true for the map to mean what it says.
        own: an `attribute` that an object has beside its class's; None: the class's.
    """

    name: str
    cls: type[Any]
    aliases: tuple[str, ...] = ()
    needs: str = "gradient"
    site: str = "input"
    baselines: str = "point"
    title: str = ""
    reference: str = ""
    applies_to: str = "any"
    defaults: Defaults = field(default_factory=dict)
    fast: Defaults = field(default_factory=dict)
    thorough: Defaults = field(default_factory=dict)
    variant_of: str | None = None
    traits: Traits = field(default_factory=Traits)
    cost: str = ""
    axioms: tuple[str, ...] = ()
    assumes: str = ""
    own: Any = None

    @functools.cached_property  # at first use: reading them all at import takes longer than a small call
    def constructor(self) -> Parameters:
        """The parameters of the constructor, by name, with their defaults and annotations."""
        return _parameters(self.cls)

    @functools.cached_property
    def parameters(self) -> Parameters:
        """The parameters of `attribute`, by name, as an object of the class has it."""
        return _of_attribute(self.cls) if self.own is None else _parameters(self.own)

    def presets(self, budget: str, inputs: tuple[Any, ...], spec: Any) -> dict[str, Any]:
        """What `explain` sets: the defaults, and what a budget changes in them ("normal": nothing)."""
        budgets: dict[str, Defaults] = {"fast": self.fast, "normal": {}, "thorough": self.thorough}
        if budget not in budgets:
            raise unknown("budget", budget, tuple(budgets))
        several = (self.defaults, budgets[budget])
        return {k: v for one in several for k, v in (one(inputs, spec) if callable(one) else one).items()}

    @property
    def foreign(self) -> bool:
        """Whether the class stands outside this package, so that `attribute` may know Captum's targets alone."""
        return self.cls.__module__.partition(".")[0] != __name__.partition(".")[0]

    @functools.cached_property
    def takes(self) -> frozenset[str]:
        """The names of what `attribute` takes."""
        return _named(self.parameters)

    @functools.cached_property
    def constructor_takes(self) -> frozenset[str]:
        """The names of what the constructor takes."""
        return _named(self.constructor)

    @property
    def open_ended(self) -> bool:
        """Whether `attribute` takes further arguments by name (`**kwargs`)."""
        return any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())


_METHODS: dict[str, MethodInfo] = {}
_ALIASES: dict[str, str] = {}
_BY_CLASS: dict[type, MethodInfo] = {}
_SAID: dict[type, Mapping[str, Any]] = {}  # the traits that a class says of itself, and so of its subclasses
_DERIVED: weakref.WeakKeyDictionary[type, MethodInfo] = weakref.WeakKeyDictionary()


def _key(name: str) -> str:
    """One key for all spellings: "Grad-CAM", "grad_cam", "GradCam"; but "Grad-CAM++" is another method."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def family(**traits: Any) -> Callable[[C], C]:
    """Class decorator: the `Traits` that the subclasses of a base class have, where they do not say otherwise."""
    _check_traits(traits)

    def add(cls: C) -> C:
        _SAID[cls] = traits
        return cls

    return add


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
    defaults: Defaults | None = None,
    fast: Defaults | None = None,
    thorough: Defaults | None = None,
    variant_of: str | None = None,
    cost: str = "",
    axioms: tuple[str, ...] = (),
    assumes: str = "",
    **traits: Any,
) -> Callable[[C], C]:
    """Class decorator: make a method known by name.

    Args:
        name: of the method; `MethodInfo` says more of all arguments but `traits`.
        aliases: its other names.
        needs: what is asked of the model.
        site: what the map is over.
        baselines: what its `baselines` are.
        title: None: the name in capitals.
        reference: paper or source.
        applies_to: what it asks of the data or the model.
        defaults: parameters that `explain` uses.
        fast: those of a first map.
        thorough: those of a careful one.
        variant_of: the plain method.
        cost: passes per sample.
        axioms: of `AXIOMS`.
        assumes: what has to be true.
        **traits: fields of `Traits`; the others are those of the base classes (`family`, or registered themselves).

    Raises:
        ValueError: a name that another method has, an axiom or trait that there is not.
    """
    _check_traits(traits)
    for axiom in axioms:
        if axiom not in AXIOMS:
            raise unknown("axiom", axiom, AXIOMS)

    def add(cls: C) -> C:
        for key in (keys := {_key(n) for n in (name, *aliases, cls.__name__)}):
            if _ALIASES.get(key, name) != name:
                raise ValueError(f"{name!r}: the name {key!r} already belongs to {_ALIASES[key]!r}.")
        _SAID[cls] = traits
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
            fast or {},
            thorough or {},
            variant_of,
            _said(cls),
            cost,
            axioms,
            assumes,
        )
        _ALIASES.update(dict.fromkeys(keys, name))
        _METHODS[name] = info
        _BY_CLASS.setdefault(cls, info)
        return cls

    return add


def _check_traits(traits: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(Traits)]
    for name in traits:
        if name not in known:
            raise unknown("trait", name, known)
    game = traits.get("game")
    if game is not None and game not in GAMES:
        raise unknown("game", game, GAMES)


def _said(cls: type) -> Traits:
    """What a class and its bases say, the nearer class first."""
    said = {k: v for base in reversed(cls.__mro__) for k, v in _SAID.get(base, {}).items()}
    return Traits(**said)


def _parameters(function: Any) -> Parameters:
    """The parameters of a function or a class; none where it does not tell."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _of_attribute(cls: type) -> Parameters:
    """Those of a class's `attribute`, as its objects have it."""
    found = _parameters(getattr(cls, "attribute", None))
    bound = inspect.isfunction(inspect.getattr_static(cls, "attribute", None))
    return dict(list(found.items())[1:]) if bound else found


def _named(parameters: Parameters) -> frozenset[str]:
    return frozenset(p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD)


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
    return _BY_CLASS.get(cls)


def contract_of(method: Any) -> MethodInfo:
    """What is known of a method object: its registration, or what its class tells, read once per class.

    A subclass of a registered method has its traits, unless it is registered itself, and parameters of its own.
    """
    cls = type(method)
    if "attribute" in getattr(method, "__dict__", ()):  # of this object alone
        return replace(_derived(cls), own=method.attribute)
    found = _BY_CLASS.get(cls) or _DERIVED.get(cls)
    if found is None:
        found = _DERIVED[cls] = _derived(cls)
    return found


def _derived(cls: type) -> MethodInfo:
    base = next((_BY_CLASS[b] for b in cls.__mro__ if b in _BY_CLASS), MethodInfo("", cls))
    return replace(
        base,
        name=cls.__name__,
        title=cls.__name__,
        cls=cls,
        aliases=(),
        traits=_said(cls),
    )


def inner_method(method: Any) -> Any:
    """The method inside another (NoiseTunnel, ours or Captum's), or None.

    A class of the user's that does not say so wraps what it was constructed with, if that is a method.
    """
    info = contract_of(method)
    if info.traits.wraps is not None:
        return getattr(method, info.traits.wraps, None)
    if not info.foreign:
        return None
    held = (getattr(method, name, None) for name in info.constructor)
    return next((one for one in held if callable(getattr(one, "attribute", None))), None)


def innermost_method(method: Any) -> Any:
    """The method that does the work: the one inside all others, or the method itself."""
    inner = inner_method(method)
    return method if inner is None else innermost_method(inner)


def traits_of(method: Any) -> Traits:
    """What a method object can do, with the method inside it."""
    info, inner = contract_of(method), inner_method(method)
    if inner is None:
        return info.traits
    # around a method that it hands its arguments to, a foreign class is not known to make one delta of many
    known = info.traits.wraps is not None or "return_convergence_delta" in info.takes
    return replace(info.traits, asks_delta=known and info.traits.asks_delta).around(traits_of(inner))


def arguments_of(method: Any) -> frozenset[str]:
    """Arguments of the `attribute` of a method object or a registered name, with those of the method inside it.

    A method of the user's own that takes `**kwargs` is taken to know Captum's `target`.
    """
    named = isinstance(method, str)
    info = method_info(method) if named else contract_of(method)
    inner = info.traits.inside if named else inner_method(method)
    if inner is not None:
        return info.takes | arguments_of(inner)
    return info.takes | {"target"} if info.open_ended else info.takes


def variant(name: str, site: str) -> str | None:
    """The name of what a plain method is at a "layer" or for a "neuron", or None."""
    name = canonical_name(name, default=name)
    return next((m.name for m in _METHODS.values() if m.variant_of == name and m.site == site), None)


def per_dimension() -> frozenset[str]:
    """The parameters of all methods that have a number per dimension of the input."""
    return frozenset(name for info in _METHODS.values() for name in info.traits.per_dimension)


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

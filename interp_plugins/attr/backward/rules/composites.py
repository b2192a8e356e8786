"""Composites: which rule of relevance propagation holds where.

A rule is looked for in this order: the module's own `rule` attribute, the module's dotted name, its type, "the first
layer", the function's name, the function's kind, and at last `other`. Kinds are named in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from interp_plugins.attr.backward.rules.names import (
    AFFINE_PRODUCTS,
    ELEMENTWISE,
    LARGEST,
    NORMALIZATIONS,
    PRODUCTS,
    SMALLEST,
    WEIGHTED,
)
from interp_plugins.attr.backward.rules.relevance import (
    AlphaBeta,
    Epsilon,
    FixedScale,
    Flat,
    Gamma,
    Pass,
    RelevanceRule,
    Route,
    ZBox,
    ZPlus,
)
from interp_plugins.core.errors import InputTypeError, unknown
from interp_plugins.core.tensors import describe

_AVERAGES = {f"{a}avg_pool{d}d" for a in ("", "adaptive_") for d in (1, 2, 3)} | {"mean", "nanmean"}
_KIND = {
    **dict.fromkeys(ELEMENTWISE, "activation"),
    **dict.fromkeys(PRODUCTS | AFFINE_PRODUCTS, "product"),
    **dict.fromkeys(LARGEST | SMALLEST, "maximum"),
    **dict.fromkeys(NORMALIZATIONS, "normalization"),
    **dict.fromkeys(WEIGHTED - {"linear"}, "convolution"),
    **dict.fromkeys(_AVERAGES, "average"),
    **dict.fromkeys(("add", "sub", "rsub", "sum", "cumsum"), "sum"),
    **dict.fromkeys(("softmax", "log_softmax"), "softmax"),
    **dict.fromkeys(("neg", "positive", "nan_to_num"), "scaling"),
    "linear": "linear",
    "batch_norm": "batch_norm",
}  # fmt: skip
KINDS = (*sorted(set(_KIND.values())), "other")


def kind_of(name: str, operands: int) -> str:
    """The kind of a function; a product with a constant is a scaling or, with a matrix, a linear layer."""
    kind = _KIND.get(name, "other")
    if kind == "product" and operands == 1:
        return "scaling" if name == "mul" else "linear"
    return kind


@dataclass(frozen=True)
class Composite:
    """An assignment of rules; immutable, see `with_rules`.

    Args:
        kinds: rules by the function's kind ("linear", "convolution", "activation", ...).
        functions: rules by the function's name ("relu", "conv2d", "matmul"), which go first.
        types: rules by module type, for the calls of such modules.
        names: rules by a module's dotted name, `*` standing for anything.
        first: the rule of the first linear or convolutional call that the input reaches.
        merge_batch_norm: treat a batch norm and the layer in front of it as one layer, with the weights of both.
        constant_gates: in a product of a signal and a gate (a sigmoid or a softmax, as in LSTMs, squeeze-and-excitation
            and attention) the gate counts as a constant, and the signal gets all relevance (Arras et al. 2017,
            arXiv:1706.07206; Ali et al. 2022). False: both get half.
        other: the rule of everything else.
    """

    kinds: Mapping[str, RelevanceRule] = field(default_factory=dict)
    functions: Mapping[str, RelevanceRule] = field(default_factory=dict)
    types: Mapping[type[nn.Module], RelevanceRule] = field(default_factory=dict)
    names: Mapping[str, RelevanceRule] = field(default_factory=dict)
    first: RelevanceRule | None = None
    merge_batch_norm: bool = False
    constant_gates: bool = True
    other: RelevanceRule = field(default_factory=Epsilon)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("kind of function", kind, KINDS, "Rules for one function go into `functions`.")
        for where in (self.kinds, self.functions, self.types, self.names, {"first": self.first, "other": self.other}):
            for key, rule in where.items():
                if rule is not None and not isinstance(rule, RelevanceRule):
                    raise InputTypeError(
                        f"The rule for {key!r} must be a rule such as Epsilon() or Gamma(), got {describe(rule)}."
                    )

    def with_rules(self, **changes: Any) -> Composite:
        """A copy with other rules: mappings are added to the ones that stand, the rest is replaced."""
        merged: dict[str, Any] = {
            k: {**getattr(self, k), **v} if k in ("kinds", "functions", "types", "names") else v
            for k, v in changes.items()
        }
        return replace(self, **merged)

    def rule(self, name: str, operands: int) -> RelevanceRule:
        """The rule by function name and kind."""
        found = self.functions.get(name) or self.kinds.get(kind_of(name, operands))
        return found if found is not None else self.other


def epsilon(epsilon: float = 1e-9) -> Composite:
    """LRP-epsilon everywhere, Captum's choice: its numbers for the modules that it knows."""
    rule = Epsilon(epsilon)
    return Composite(
        kinds={
            "activation": Pass(),
            "softmax": Pass(),
            "scaling": Pass(),
            "normalization": FixedScale(epsilon),
            "batch_norm": rule,
        },
        other=rule,
    )


def _modern(epsilon: float, convolution: RelevanceRule, first: RelevanceRule | None = None) -> Composite:
    rule = Epsilon(epsilon)
    return Composite(
        kinds={
            "activation": Pass(),
            "softmax": Pass(),
            "scaling": Pass(),
            "batch_norm": Pass(),
            "normalization": FixedScale(epsilon),
            "maximum": Route(),
            "convolution": convolution,
        },
        first=first,
        merge_batch_norm=True,
        other=rule,
    )


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """ZPlus for convolutions, Epsilon for the rest."""
    return _modern(epsilon, ZPlus())


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """ZPlus for convolutions, Epsilon for the rest, Flat for the first layer (Kohlbrenner et al. 2020)."""
    return _modern(epsilon, ZPlus(), Flat())


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """AlphaBeta(2, 1) for convolutions, Epsilon for the rest."""
    return _modern(epsilon, AlphaBeta(2, 1))


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """AlphaBeta(2, 1) for convolutions, Epsilon for the rest, Flat for the first layer."""
    return _modern(epsilon, AlphaBeta(2, 1), Flat())


def epsilon_gamma_box(
    low: float | Tensor | None = None, high: float | Tensor | None = None, epsilon: float = 1e-6, gamma: float = 0.25
) -> Composite:
    """Gamma for convolutions, Epsilon for the rest, ZBox for the first layer (Montavon et al. 2019).

    Args:
        low: the smallest value that an input can have, after normalization; None: each sample's own.
        high: the largest value.
        epsilon: stabilizer of Epsilon.
        gamma: see `Gamma`.
    """
    return _modern(epsilon, Gamma(gamma), ZBox(low, high))


def attn_lrp(epsilon: float = 1e-6) -> Composite:
    """AttnLRP for transformers (Achtibat et al. 2024, arXiv:2402.05602).

    Softmax by its Taylor expansion, products of two operands by halves, normalizations with fixed scale, activations
    unchanged, Epsilon for the rest. It does not keep the sum of relevance at a softmax.
    """
    rule = Epsilon(epsilon)
    return _modern(epsilon, rule).with_rules(kinds={"softmax": rule}, constant_gates=False, merge_batch_norm=True)


COMPOSITES = {
    "epsilon": epsilon,
    "epsilon_plus": epsilon_plus,
    "epsilon_plus_flat": epsilon_plus_flat,
    "epsilon_alpha2_beta1": epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": epsilon_gamma_box,
    "attn_lrp": attn_lrp,
}


def as_composite(value: Any) -> Composite:
    """A composite from itself, a name of `COMPOSITES`, one rule for all layers with weights, or None (epsilon).

    Raises:
        UnknownNameError: no composite of that name.
        InputTypeError: something else.
    """
    if value is None:
        return epsilon()
    if isinstance(value, Composite):
        return value
    if isinstance(value, RelevanceRule):
        return epsilon().with_rules(kinds={"linear": value, "convolution": value})
    if isinstance(value, str):
        key = "".join(f"_{c.lower()}" if c.isupper() else c for c in value).lstrip("_").replace("__", "_")
        maker: Any = COMPOSITES.get(key) or COMPOSITES.get(value.lower())
        if maker is None:
            raise unknown("composite", value, COMPOSITES)
        made: Composite = maker()
        return made
    raise InputTypeError(
        f"composite must be a name ({', '.join(COMPOSITES)}), a Composite or a rule, got {describe(value)}."
    )

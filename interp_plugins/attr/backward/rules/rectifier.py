"""Two other backward rules for rectifiers: guided backpropagation and the deconvolutional network.

    gradient:       g * [x > 0]
    guided:         max(g, 0) * [x > 0]       Springenberg et al. 2014, arXiv:1412.6806
    deconvolution:  max(g, 0)                 Zeiler and Fergus 2013, arXiv:1311.2901

They hold for every rectifier: `nn.ReLU`, `F.relu`, `x.relu_()`, `x.clamp(min=0)`, and the clipped ones (ReLU6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall, Rule
from interp_plugins.attr.backward.rules.mode import RuleMode
from interp_plugins.attr.backward.rules.reach import RECTIFIERS
from interp_plugins.attr.backward.rules.recurrent import RECURRENT


def guided(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """The positive part of the gradient."""
    return [g.clamp(min=0) for g in call.pull(grads)]


def deconvolution(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """The positive part of what arrives, wherever the rectifier stands."""
    return [g.clamp(min=0) for g in grads]


class RectifierMode(RuleMode):
    """One rule for all rectifiers; everything else keeps its gradient."""

    belongs = RECTIFIERS
    needs_all = False
    decompositions = {name: RECURRENT[name] for name in ("rnn_relu", "rnn_relu_cell")}

    def __init__(self, rule: Rule):
        super().__init__()
        self.title = "Guided backpropagation" if rule is guided else "Deconvolution"
        self.rule = rule

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """The one rule, if the call is a rectifier; None otherwise."""
        return self.rule if _is_rectifier(name, args, kwargs) else None


def _is_rectifier(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name in ("relu", "relu6"):
        return True
    if name == "hardtanh":
        return _number(kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)) == 0
    if name == "clamp":
        return _number(kwargs.get("min", args[1] if len(args) > 1 else None)) == 0
    if name == "threshold":
        return [_number(v) for v in (*args[1:], *kwargs.values())][:2] == [0, 0]
    return False


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None

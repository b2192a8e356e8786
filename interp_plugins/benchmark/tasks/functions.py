"""Functions of a few numbers whose attributions are known: each is hard for one kind of method in one way.

After the kinds of units that Lee et al. 2025 (XAI-Units, arXiv:2506.01059) list. Nothing is trained. What is true is
enumerated (Shapley) and integrated (Aumann-Shapley), then checked: sums, columns that never matter, twins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.games import both_games
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task

_SAMPLES = {"tiny": 4, "small": 16, "full": 64}


class Formula(nn.Module):
    """A function of the columns as a net with one output: (N, D) -> (N, 1)."""

    def __init__(self, formula: Callable[..., Tensor]):
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        """The formula's value of each row, (N, 1)."""
        return self.formula(*x.unbind(1))[:, None]


def _step(x: Tensor, at: float) -> Tensor:
    """0 below `at`, 1 above it, a short ramp between, so that there is a gradient to integrate."""
    return (torch.relu(x - at + 0.05) - torch.relu(x - at - 0.05)) * 10


def _and(a: Tensor, b: Tensor) -> Tensor:
    return torch.relu(a + b - 1)


def _or(a: Tensor, b: Tensor) -> Tensor:
    return 1 - torch.relu(1 - a - b)


def _xor(a: Tensor, b: Tensor) -> Tensor:
    return torch.relu(a + b) - 2 * torch.relu(a + b - 1)


def _teeth(x: Tensor) -> Tensor:
    """A saw of slope +1 and -1 with teeth 0.1 wide: its gradient at a point says nothing of its course."""
    return (torch.remainder(x, 0.1) - 0.05).abs()


def _polynomial(a: Tensor, b: Tensor, c: Tensor, twin: Tensor, dummy: Tensor) -> Tensor:
    return a * b + 0.5 * a * c * twin + c + twin + 0 * dummy


def _listed(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """If a is large, 3; else if b is large, 1; else if c is large, -2; else 0. d is never asked."""
    first, second, third = _step(a, 0.5), _step(b, 0.5), _step(c, 0.5)
    return 3 * first + (1 - first) * (second + (1 - second) * -2 * third) + 0 * d


@dataclass(frozen=True)
class _Kind:
    """One function: its columns, where samples come from, what must hold of its truth."""

    says: str
    formula: Callable[..., Tensor]
    columns: int
    draw: str = "normal"
    baseline: float = 0.0
    dummies: tuple[int, ...] = ()
    twins: tuple[tuple[int, int], ...] = ()


KINDS = {
    "linear": _Kind("a weighted sum", lambda a, b, c, d, e: a - 2 * b + 3 * c + 0.5 * d + 0 * e, 5, dummies=(4,)),
    "additive": _Kind("a sum of curves", lambda a, b, c, d: torch.sin(2 * a) + b**2 - c.abs() + d**3 / 3, 4),
    "product": _Kind("two columns only together, and one alone", lambda a, b, c: a * b + c, 3, "positive"),
    "triple": _Kind("three columns only together", lambda a, b, c, d: a * b * c + 0 * d, 4, "positive", dummies=(3,)),
    "max": _Kind("the larger of two: the two games differ", lambda a, b: torch.maximum(a, b), 2, "positive"),
    "saturation": _Kind(
        "a sum that is cut off: at the sample the gradient is zero",
        lambda a, b, c: 1 - torch.relu(1 - a - b) + 0.1 * c,
        3,
        "large",
    ),
    "xor": _Kind("one of two but not both", lambda a, b, c, d: _xor(a, b) + 0.5 * c + 0 * d, 4, "binary", dummies=(3,)),
    "polynomial": _Kind("with a twin and a dummy", _polynomial, 5, "positive", dummies=(4,), twins=((2, 3),)),
    "cancellation": _Kind("large terms of opposite sign", lambda a, b, c: 10 * a - 10 * b + c, 3, "positive"),
    "shattered": _Kind("a saw on a slope: its gradient is noise", lambda a, b, c: a + 20 * _teeth(a) + b - c, 3),
    "pertinent_negative": _Kind(
        "what is absent speaks for it", lambda a, b, c: torch.relu(1 - a) + 2 * torch.relu(1 - b) - c, 3, "binary", 1.0
    ),
    "conflicting": _Kind("one column takes another's effect away", lambda a, b, c: a - a * b + c, 3, "positive"),
    "logic": _Kind(
        "AND, OR and NOT of bits, as rectifiers", lambda a, b, c, d: _or(_and(a, b), _and(c, 1 - d)), 4, "binary"
    ),
    "decision_list": _Kind("the first rule that holds decides", _listed, 4, "positive", dummies=(3,)),
}


def _samples(kind: _Kind, n: int) -> Tensor:
    """(N, D), the same whatever the size; where nothing happens between baseline and sample there is no truth."""
    generator = torch.Generator().manual_seed(7)
    shape = (16 * n, kind.columns)
    x = torch.randn(shape, generator=generator) if kind.draw == "normal" else torch.rand(shape, generator=generator)
    x = {"normal": x, "positive": x + 0.2, "large": x + 1.0, "binary": (x < 0.5).float()}[kind.draw]
    for i, j in kind.twins:
        x[:, j] = x[:, i]
    model = Formula(kind.formula)
    change = model(x) - model(torch.full_like(x, kind.baseline))
    return x[change[:, 0].abs() > 1e-3][:n]


def build(name: str, seed: int, size: str) -> Problem:
    """The problem of a function of `KINDS`.

    Args:
        name: which one.
        seed: of no effect.
        size: "tiny", "small" or "full".
    """
    kind = KINDS[name]
    model, x = Formula(kind.formula).eval(), _samples(kind, _SAMPLES[size])
    targets, baseline = torch.zeros(len(x), dtype=torch.long), torch.full((1, kind.columns), kind.baseline)
    truth = both_games(model, x, targets, baseline)
    facts = verify.games(model, x, targets, baseline, truth, kind.dummies, kind.twins)
    return Problem(model, x, targets, "values", truth, baselines=baseline, facts=facts)


for _name, _kind in KINDS.items():
    register_task(
        f"functions.{_name}", truth_kind="values", kind="tabular", samples=_SAMPLES, says=_kind.says, trained=False
    )(partial(build, _name))

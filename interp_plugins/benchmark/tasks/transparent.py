"""Trained nets that can be read: linear, additive, a decision list. Their attributions stand in their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import data, verify
from interp_plugins.benchmark.games import both_games
from interp_plugins.benchmark.nets import AdditiveNet, DecisionList
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 16, "full": 64}
_COLUMNS = 10


def _problem(net: nn.Module, x: Tensor, y: Tensor, n: int, least: float, dummies: tuple[int, ...] = ()) -> Problem:
    """The first n samples, explained for the predicted class against the mean of the table."""
    right = verify.accuracy(net, x, y, least)
    inputs = x[:n]
    targets, baseline = net(inputs).argmax(1), torch.zeros(1, x.shape[1])
    if isinstance(net, nn.Linear):
        values = net.weight[targets] * inputs
        truth = {"shapley": values, "aumann_shapley": values}
    elif isinstance(net, AdditiveNet):
        gains = net.each(inputs) - net.each(baseline)
        values = gains.gather(2, targets[:, None, None].expand(-1, gains.shape[1], 1))[..., 0]
        truth = {"shapley": values, "aumann_shapley": values}
    else:
        truth = both_games(net, inputs, targets, baseline)
    facts = verify.games(net, inputs, targets, baseline, truth, dummies)
    return Problem(net, inputs, targets, "values", truth, baselines=baseline, facts={"accuracy": right, **facts})


@register_task(
    "transparent.linear",
    truth_kind="values",
    kind="tabular",
    samples=SAMPLES,
    says="logistic regression on wines: weight times distance from the mean",
    needs=("sklearn",),
    license="wine: UCI, CC BY 4.0",
    seconds=1,
)
def linear(seed: int, size: str) -> Problem:
    """Three classes of wine by one linear layer."""
    x, y, _ = data.table("wine")
    net = fit(nn.Linear(x.shape[1], 3), x, y, epochs=40, lr=0.05)
    return _problem(net, x, y, SAMPLES[size], 0.95)


@register_task(
    "transparent.additive",
    truth_kind="values",
    kind="tabular",
    samples=SAMPLES,
    says="a small net for each column, added: each column's curve",
    needs=("sklearn",),
    license="breast cancer Wisconsin: UCI, CC BY 4.0",
    seconds=2,
)
def additive(seed: int, size: str) -> Problem:
    """Two classes of tumours by a net that adds a curve per column."""
    x, y, _ = data.table("breast_cancer")
    x = x[:, :_COLUMNS]
    net = fit(AdditiveNet(_COLUMNS, 2), x, y, epochs=40, lr=0.02)
    return _problem(net, x, y, SAMPLES[size], 0.9)


@register_task(
    "transparent.decision_list",
    truth_kind="values",
    kind="tabular",
    samples=SAMPLES,
    says="three soft rules, the first that holds decides; seven columns are never asked",
    needs=("sklearn",),
    license="breast cancer Wisconsin: UCI, CC BY 4.0",
    seconds=3,
)
def decision_list(seed: int, size: str) -> Problem:
    """Two classes of tumours by a list of rules whose thresholds are trained."""
    x, y, _ = data.table("breast_cancer")
    x = x[:, :_COLUMNS]
    asked = (7, 0, 1)  # concave points, radius, texture
    net = fit(DecisionList(asked, 2), x, y, epochs=60, lr=0.05)
    return _problem(net, x, y, SAMPLES[size], 0.85, tuple(i for i in range(_COLUMNS) if i not in asked))

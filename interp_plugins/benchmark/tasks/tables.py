"""Nets trained on tables, with a column that cannot matter and a column that stands twice.

The first layer reads the doubled column half from each copy and the noise not at all, so both facts hold exactly. With
at most 12 columns both games are enumerated.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import data, verify
from interp_plugins.benchmark.games import both_games
from interp_plugins.benchmark.nets import mlp
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 16, "full": 64}
_COLUMNS = 8
TABLES = {  # name -> package, least accuracy, epochs, licence
    "wine": ("sklearn", 0.9, 40, "wine: UCI, CC BY 4.0"),
    "breast_cancer": ("sklearn", 0.88, 30, "breast cancer Wisconsin: UCI, CC BY 4.0"),
    "adult": ("shapiq", 0.75, 2, "Adult: UCI, CC BY 4.0"),
    "california": ("shapiq", 0.75, 3, "California housing: StatLib, public"),
}


def with_twin_and_dummy(net: nn.Sequential) -> nn.Sequential:
    """The net for tables with two more columns: a copy of the first one, and one that it does not read."""
    first = net[0]
    assert isinstance(first, nn.Linear)
    wide = nn.Linear(first.in_features + 2, first.out_features).requires_grad_(False)
    half = first.weight[:, :1] / 2
    wide.weight.copy_(torch.cat([half, first.weight[:, 1:], half, torch.zeros_like(half)], 1))
    wide.bias.copy_(first.bias)
    return nn.Sequential(wide, *net[1:])


def _wide(x: Tensor) -> Tensor:
    noise = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(3))
    return torch.cat([x, x[:, :1], noise], 1)


def build(name: str, seed: int, size: str) -> Problem:
    """The problem of a table of `TABLES`.

    Args:
        name: which one.
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    _, least, epochs, _ = TABLES[name]
    x, y, names = data.table(name)
    x, y, names = x[:6000, :_COLUMNS], y[:6000], names[:_COLUMNS]
    net = fit(mlp(_COLUMNS, int(y.max()) + 1), x, y, epochs=epochs, lr=3e-3)
    model = with_twin_and_dummy(net)
    rows = _wide(x)
    right = verify.accuracy(model, rows, y, least)
    inputs, baseline = rows[: SAMPLES[size]], torch.zeros(1, rows.shape[1])
    targets = model(inputs).argmax(1)
    truth = both_games(model, inputs, targets, baseline)
    facts = verify.games(model, inputs, targets, baseline, truth, (_COLUMNS + 1,), ((0, _COLUMNS),))
    return Problem(
        model,
        inputs,
        targets,
        "values",
        truth,
        baselines=baseline,
        names=(*names, f"{names[0]} again", "noise"),
        facts={"accuracy": right, **facts},
    )


for _name, (_package, _, _, _license) in TABLES.items():
    register_task(
        f"tables.{_name}",
        truth_kind="values",
        kind="tabular",
        samples=SAMPLES,
        says=f"a net of two hidden layers on {_name.replace('_', ' ')}, one column twice, one of noise",
        needs=(_package,),
        license=_license,
        seconds=4,
    )(partial(build, _name))

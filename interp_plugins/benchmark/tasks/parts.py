"""Figures put together of parts, drawn again without one of them: how much each part matters to the net is measured.

After the idea of FunnyBirds (Hesse et al. 2023, arXiv:2308.06248), with a renderer of our own: a body and four parts
in three variants each. A class is said by its variants, the head's almost always, the wing's and the tail's less often,
the foot's not at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.nets import cnn
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
SIDE, CLASSES = 24, 3
_TRAIN = {"tiny": (1500, 6), "small": (2000, 8), "full": (4000, 8)}  # figures, epochs
_PLACES = ((1, 9), (9, 1), (9, 17), (17, 9))  # head, wing, tail, foot: their upper left corners
_SAYS = (0.95, 0.8, 0.6, 0.0)  # how often a part is of its class's variant; else it is any
_SIZE = 6
_BODY = slice(9, 15)


def _variants() -> Tensor:
    """Three shapes (3, 6, 6): a frame, a cross, a bar."""
    shapes = torch.zeros(CLASSES, _SIZE, _SIZE)
    shapes[0, [0, -1]] = shapes[0, :, [0, -1]] = 1.0
    shapes[1, 2:4] = shapes[1, :, 2:4] = 1.0
    shapes[2, :, :3] = 1.0
    return shapes


def drawn(which: Tensor, there: Tensor, ground: Tensor) -> Tensor:
    """Figures (N, 1, 24, 24).

    Args:
        which: (N, 4), the variant of each part.
        there: (N, 4) bool, which parts are drawn.
        ground: (N, 1, 24, 24), what they are drawn on.
    """
    found, shapes = ground.clone(), _variants()
    found[:, 0, _BODY, _BODY] += 0.5
    for part, (row, column) in enumerate(_PLACES):
        one = shapes[which[:, part]] * there[:, part, None, None]
        found[:, 0, row : row + _SIZE, column : column + _SIZE] += one
    return found


def numbered() -> Tensor:
    """Which part a pixel belongs to, (24, 24): 0 none, 1 to 4 the parts, 5 the body."""
    found = torch.zeros(SIDE, SIDE, dtype=torch.long)
    for part, (row, column) in enumerate(_PLACES):
        found[row : row + _SIZE, column : column + _SIZE] = part + 1
    found[_BODY, _BODY] = len(_PLACES) + 1
    return found


def _figures(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classes, variants and grounds of n figures."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (n,), generator=generator)
    any_ = torch.randint(CLASSES, (n, len(_PLACES)), generator=generator)
    own = torch.rand(n, len(_PLACES), generator=generator) < torch.tensor(_SAYS)
    return label, torch.where(own, label[:, None], any_), 0.1 * torch.randn(n, 1, SIDE, SIDE, generator=generator)


@register_task(
    "parts",
    truth_kind="parts",
    kind="image",
    samples=SAMPLES,
    says="figures of a body and four parts, drawn again without each: what it is worth to the net",
    seconds=6,
)
def build(seed: int, size: str) -> Problem:
    """Which of three figures it is."""
    count, epochs = _TRAIN[size]
    label, which, ground = _figures(count + 400, 1)
    missing = torch.rand(len(label), len(_PLACES), generator=torch.Generator().manual_seed(2)) < 0.1
    net = fit(cnn(1, CLASSES, SIDE), drawn(which, ~missing, ground)[:count], label[:count], epochs=epochs, lr=4e-3)
    test, whole = slice(count, None), torch.ones(400, len(_PLACES), dtype=torch.bool)
    alike = which[test][:, :3].eq(label[test][:, None]).all(1)  # all that speaks, speaks for the class
    label, which, ground = label[test][alike], which[test][alike], ground[test][alike]
    whole = whole[: len(label)]
    x = drawn(which, whole, ground)
    right = verify.accuracy(net, x, label, 0.97)
    other = torch.where(torch.arange(len(_PLACES)) < 3, (which + 1) % CLASSES, which)
    rest = torch.cat([which[:, :3], (which[:, 3:] + 1) % CLASSES], 1)  # another foot, on another ground
    good, facts = verify.planted(net, x, drawn(other, whole, ground), drawn(rest, whole, ground.roll(1, 0)))
    picked = good.nonzero()[: SAMPLES[size], 0]
    x, label, which, ground, whole = (v[picked] for v in (x, label, which, ground, whole))
    worth = []
    with torch.no_grad():
        score = net.double()(x.double()).gather(1, label[:, None])[:, 0]
        for part in range(len(_PLACES)):
            there = whole.clone()
            there[:, part] = False
            without = net(drawn(which, there, ground).double()).gather(1, label[:, None])[:, 0]
            worth.append(score - without)
        bare = drawn(which, whole, ground)
        bare[:, 0, _BODY, _BODY] -= 0.5
        worth.append(score - net(bare.double()).gather(1, label[:, None])[:, 0])
    net.float()
    truth = torch.stack(worth, 1).float()
    share = float((truth.argmax(1) == 0).double().mean())
    facts = {"accuracy": right, **facts, "head_first": share}
    parts = numbered().expand(len(x), -1, -1).clone()
    return Problem(net, x, label, "parts", truth, "image", parts=parts, facts=facts)

"""Sentences of templates in which one word decides: a trigger among neutral words, or a judgement with a negation.

Explained are ids of words; id 0 is padding, and what stands for nothing.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.nets import TokenLSTM
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
_TRAIN = {"tiny": (800, 5), "small": (1500, 6), "full": (4000, 8)}  # sentences, epochs
_LENGTH = 10
_NEUTRAL = (
    *("the", "a", "film", "story", "actor", "scene", "music", "of", "and", "in", "with", "was", "seen", "by", "me"),
    *("we", "on", "that", "plot", "last"),
)
GOOD, BAD, NOT = "good", "bad", "not"
WORDS = ("", *_NEUTRAL, GOOD, BAD, NOT)
_ID = {word: i for i, word in enumerate(WORDS)}


def _neutral(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, len(_NEUTRAL) + 1, (n, _LENGTH), generator=generator)


def _planted(rest: Tensor, kind: str, label: Tensor, negated: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Sentences (N, T) with their deciding words, and where these stand."""
    ids, where, rows = rest.clone(), torch.zeros_like(rest, dtype=torch.bool), torch.arange(len(rest))
    good = (label == 1) != (negated & (kind == "negation"))
    ids[rows, at + 1] = torch.where(good, _ID[GOOD], _ID[BAD])
    where[rows, at + 1] = True
    if kind == "negation":
        ids[rows[negated], at[negated]] = _ID[NOT]
        where[rows[negated], at[negated]] = True
    return ids, where


def build(kind: str, seed: int, size: str) -> Problem:
    """Sentences and the class of each.

    Args:
        kind: "trigger" or "negation".
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    count, epochs = _TRAIN[size]
    n = count + 400
    label, generator = torch.arange(n) % 2, torch.Generator().manual_seed(9)
    negated = torch.rand(n, generator=generator) < 0.5
    at = torch.randint(_LENGTH - 1, (n,), generator=generator)
    ids, where = _planted(_neutral(n, 1), kind, label, negated, at)
    net = fit(TokenLSTM(len(WORDS), 2), ids[:count], label[:count], epochs=epochs, lr=1e-2)
    test = slice(count, n)
    right = verify.accuracy(net, ids[test], label[test], 0.97)
    turned, _ = _planted(_neutral(n, 1)[test], kind, 1 - label[test], negated[test], at[test])
    rest, _ = _planted(_neutral(n, 2)[test], kind, label[test], negated[test], at[test])
    good, facts = verify.planted(net, ids[test], turned, rest)
    good &= negated[test] if kind == "negation" else True
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        ids[test][picked],
        label[test][picked],
        "mask",
        where[test][picked],
        "text",
        baselines=0,
        facts={"accuracy": right, **facts},
    )


for _name, _says in (
    ("trigger", "one word of ten, good or bad, says the class"),
    ("negation", "good, bad, not good, not bad: explained are sentences with a negation"),
):
    register_task(f"text.{_name}", truth_kind="mask", kind="text", samples=SAMPLES, says=_says, seconds=4)(
        partial(build, _name)
    )

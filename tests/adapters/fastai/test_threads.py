"""One Learner in several threads, as behind a server: every map is the right one, and the Learner is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.learner import Learner

from tests.adapters.fastai.conftest import equal, snapshot
from tests.reliability.test_threads import in_threads
from tests.thorough import times

GLOBAL = ("random", "numpy", "torch")  # generators that all threads share: what they may do is in reliability.md
ASKED: list[dict[str, Any]] = [
    {"methods": "saliency", "target": "dog"},
    {"methods": "grad_cam", "target": "cat"},
    {"methods": "ig", "n_steps": 3, "target": "dog"},
    {"methods": "occlusion", "sliding_window_shapes": (3, 12, 12), "strides": (3, 12, 12), "target": "cat"},
    {"methods": "noise_tunnel", "nt_samples": 2, "n_steps": 2, "target": "dog", "seed": 3},
]


def maps(learn: Learner, pictures: list[Path]) -> list[Callable[[], torch.Tensor]]:
    """One call per question: pictures, rows of the data, an encoded batch."""
    xb = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    rows: list[dict[str, Any]] = [{"ds_idx": 1, "idxs": [2, 0]}, {"ds_idx": 0, "idxs": [1]}]
    sources: list[dict[str, Any]] = [{"item": pictures[0]}, {"item": pictures[1]}, *rows, {"xb": xb}]

    def call(source: dict[str, Any], ask: dict[str, Any]) -> Callable[[], torch.Tensor]:
        return lambda: torch.as_tensor(learn.explain(**source, **ask)[0].attributions)

    return [call(source, ask) for source, ask in zip(sources, ASKED, strict=True)]


def tried(calls: list[Callable[[], torch.Tensor]], rounds: int) -> list[str]:
    """What went wrong: each call in a thread of its own, again and again."""
    right = [call() for call in calls]
    wrong: list[str] = []

    def work(i: int) -> None:
        for _ in range(rounds):
            if not torch.allclose(calls[i](), right[i], atol=1e-6):
                wrong.append(f"{ASKED[i % len(ASKED)]['methods']} differs")

    return in_threads(work, len(calls)) + wrong


@pytest.mark.parametrize("training", [True, False])
def test_one_learner(learn: Learner, training: bool) -> None:
    learn.model.train(training)
    learn.model[0][1].eval()
    learn.model[0][0].bias.requires_grad_(False)
    calls = maps(learn, learn.dls.valid_ds.items)
    calls[0]()
    before = snapshot(learn)
    assert tried(calls, times(3, 30)) == []
    after = snapshot(learn)
    assert [k for k in before if k not in GLOBAL and not equal(before[k], after[k])] == []


def test_two_learners_of_one_data(make_learner: Callable[..., Learner]) -> None:
    """Their nets are two, but the transforms that both read by note what they did last: each waits for the other."""
    one, two = make_learner(), make_learner()
    calls = maps(one, one.dls.valid_ds.items)[:3] + maps(two, two.dls.valid_ds.items)[2:]
    before = snapshot(one), snapshot(two)
    assert tried(calls, times(3, 30)) == []
    after = snapshot(one), snapshot(two)
    assert [k for k in before[0] if k not in GLOBAL and not equal(before[0][k], after[0][k])] == []
    assert [k for k in before[1] if k not in GLOBAL and not equal(before[1][k], after[1][k])] == []

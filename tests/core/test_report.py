"""report.collect: what a method says beside its map."""

from __future__ import annotations

import torch
from torch import nn

from interp_plugins.attr import IntegratedGradients, Occlusion, Saliency
from interp_plugins.core.report import collect, note

MODEL, X = nn.Linear(4, 3), torch.randn(2, 4)


def test_passes_are_counted_over_all_calls() -> None:
    with collect() as report:
        Saliency(MODEL).attribute(X, target=0)
        IntegratedGradients(MODEL).attribute(X, target=0, n_steps=5)
        Occlusion(MODEL).attribute(X, (2,), target=0)
    assert report["backward_passes"] == 2 + 10
    assert report["forward_passes"] == 2 + 10 + 2 * (1 + 3)


def test_runs_to_a_tolerance_report_error_and_gradients_per_sample() -> None:
    with collect() as report:
        IntegratedGradients(MODEL).attribute(X, target=0, tol=0.01)
    assert len(report["map_error"]) == 2 and report["n_gradients"] == [7, 7] and report["backward_passes"] == 14


def test_scores_come_with_the_delta() -> None:
    with collect() as report:
        IntegratedGradients(MODEL).attribute(X, target=1, return_convergence_delta=True)
    assert torch.allclose(report["score"], MODEL(X)[:, 1].detach())
    assert torch.allclose(report["baseline_score"], MODEL.bias[1].detach().expand(2))


def test_collections_nest_and_nothing_is_kept_outside() -> None:
    note(lost=1)
    with collect() as outer:
        note(a=1)
        with collect() as inner:
            note(b=2)
        note(a=3)
    note(lost=2)
    assert outer == {"a": 3} and inner == {"b": 2}

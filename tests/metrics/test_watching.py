"""`MetricWatch`: the numbers of `evaluate` for maps that a callback has, within a limit of rows."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.api.asking import ask_each, ask_once
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.spec import InputSpec
from interp_plugins.metrics.watching import MetricWatch

G = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, 8, 8, generator=G)
SPEC = InputSpec("image", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
METRICS = (("srg", {"steps": 4}), ("infidelity", {"n_perturb_samples": 4}), "entropy")


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs)).eval()


def batch(model: Any, x: Tensor, keys: range, target: Any = None, **options: Any) -> SampleBatch:
    return SampleBatch(model, x, tuple(keys), target, {"input_spec": SPEC, **options})


def test_the_numbers_are_those_of_evaluate_whatever_the_batches() -> None:
    """One black baseline for all methods, of which one has none and one starts at its own."""
    model, methods = net(), {"saliency": {}, "integrated_gradients": {"n_steps": 4}}
    found = ip.evaluate(model, X, methods, METRICS, input_spec=SPEC)
    watch = MetricWatch(METRICS, 10**6, 0)
    whole = watch.numbers([(batch(model, X, range(5)), ip.explain(model, X, methods, input_spec=SPEC))])
    cut = [X[:2], X[2:]]
    keys = (range(2), range(2, 5))
    parts = [(batch(model, x, k), ip.explain(model, x, methods, input_spec=SPEC)) for x, k in zip(cut, keys)]
    for method, one, other in zip(found.methods, whole, watch.numbers(parts), strict=True):
        for name in found.metrics:
            assert one[name] == pytest.approx(found[method, name].mean, rel=1e-5)
            assert other[name] == pytest.approx(one[name], rel=1e-4)
            assert one[f"{name}_ci_low"] <= one[name] <= one[f"{name}_ci_high"]


def test_no_more_rows_go_through_the_model_than_the_budget_says() -> None:
    model, rows = net(), []
    exps = ip.explain(model, X, "saliency", input_spec=SPEC)
    model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for budget in (0, 7, 8, 23, 39, 40):
        rows.clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            watch = MetricWatch((("srg", {"steps": 4}), "entropy"), budget, 0)
            [found] = watch.numbers([(batch(model, X, range(5)), exps)])
        n = budget // 8  # 4 steps from both ends, whose ends are shared
        assert ("srg" in found) == (n > 0) and "entropy" in found
        assert (len(said) == 1) == (n < 5) and (n == 5 or f"judge {n} of them" in str(said[0].message))
        said_of_samples, probe = 5 + (n if 0 < n < 5 else 0), 6  # beside the budget, see `row_probe`
        assert sum(rows) <= budget + said_of_samples + probe


def test_texts_of_unlike_lengths_share_the_budget() -> None:
    """The first texts are the long ones: what a sample costs in the mean would be too much."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rows = nn.Embedding(20, 4), 0

        def forward(self, ids: Tensor) -> Tensor:
            self.rows += len(ids)
            return self.table(ids).cumsum(1)[:, -1, :3]

    model = Words()
    given = []
    for k, length in enumerate((12, 12, 2, 2)):
        ids = torch.randint(1, 20, (1, length), generator=G)
        one = SampleBatch(model, ids, (k,), None, {"input_spec": InputSpec("text")})
        given.append((one, ip.explain(model, ids, "feature_ablation", input_spec=InputSpec("text"))))
    watch = MetricWatch("srg", 30, 0)
    model.rows = 0
    with pytest.warns(InterpWarning, match="judge 1 of them"):
        watch.numbers(given)
    assert model.rows <= 30 + 4


def test_several_targets_and_what_goes_along() -> None:
    """Of three targets each is asked about its own maps, also for a part of the samples, with its part of a mask."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.net(x * mask[:, None, None, None])

    model, mask = Masked(), torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0])
    options = {"additional_forward_args": (mask,)}
    exps = ip.explain(model, X, ("saliency", "input_x_gradient"), target=[0, 2, 1], input_spec=SPEC, **options)
    watch = MetricWatch((("srg", {"steps": 4}),), 2 * 8 * 6, 0)
    with pytest.warns(InterpWarning, match="judge 2 of them"):
        found = watch.numbers([(batch(model, X, range(5), [0, 2, 1], **options), exps)])
    for i, (method, target) in enumerate((m, t) for m in ("saliency", "input_x_gradient") for t in (0, 2, 1)):
        alone = ip.evaluate(
            model,
            X[:2],
            method,
            ("srg", {"steps": 4}),
            target=target,
            input_spec=SPEC,
            additional_forward_args=mask[:2],
        )
        assert found[i]["srg"] == pytest.approx(alone[method, "srg"].mean, rel=1e-4)


def test_regions_are_asked_about_as_they_were_explained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    targets = [ClassRegion(1), ClassRegion(2)]
    exps = ip.explain(model, X, "saliency", target=targets, input_spec=SPEC)
    found = MetricWatch((("srg", {"steps": 4}),), 10**6, 0).numbers([(batch(model, X, range(5), targets), exps)])
    for one, target in zip(found, targets, strict=True):
        alone = ip.evaluate(model, X, "saliency", ("srg", {"steps": 4}), target=target, input_spec=SPEC)
        assert one["srg"] == pytest.approx(alone["saliency", "srg"].mean, rel=1e-5)


def test_what_is_asked_is_settled_once_for_every_explanation() -> None:
    model = net()
    labels = {"activation": torch.sigmoid, "threshold": 0.5}
    each = ask_each(model, X, **labels)
    assert [one.asked.labels[0] for one in each] == [
        e.target_label[0] for e in ip.explain(model, X, "saliency", **labels)
    ]
    assert len(ask_each(model, X, alone=True, **labels)) == 1
    with pytest.raises(TargetError, match="2 explanations per sample are asked for"):
        ask_once(model, X, [0, 1])

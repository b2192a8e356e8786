"""Metrics against slow re-implementations and against other packages."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from interp_plugins import metrics as im

# Whole numbers make ties.
numbers = st.integers(-4, 4).map(float)


@st.composite
def pairs_of_maps(draw):
    size = draw(st.integers(2, 12))
    one = st.lists(numbers, min_size=size, max_size=size)
    return draw(one), draw(one), draw(st.lists(st.booleans(), min_size=size, max_size=size))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def orders(values: list[float]) -> list[tuple[int, ...]]:
    """All orders of the elements in which no larger one stands behind a smaller one."""
    ranked = sorted(set(values), reverse=True)
    groups = [[i for i, v in enumerate(values) if v == value] for value in ranked]
    many = itertools.product(*(itertools.permutations(g) for g in groups))
    return [tuple(itertools.chain(*order)) for order in many]


def slow_iou(a, m) -> float:
    found = []
    for v in a:
        chosen = [x >= v for x in a]
        union = sum(c or k for c, k in zip(chosen, m))
        found.append(sum(c and k for c, k in zip(chosen, m)) / union)
    return max(found)


@settings(max_examples=60, deadline=None)
@given(pairs_of_maps())
def test_localisation_is_its_slow_reference(drawn) -> None:
    a, _, m = drawn
    maps, masks, size = torch.tensor([a]), torch.tensor([m]), sum(m)
    inner, outer = [v for v, k in zip(a, m) if k], [v for v, k in zip(a, m) if not k]
    positive = [max(v, 0) for v in a]
    inside = sum(v for v, k in zip(positive, m) if k)
    distance = sum(v * min(abs(i - j) for j, k in enumerate(m) if k) for i, v in enumerate(positive)) if size else 0
    total = sum(positive)
    ap = [sum(v >= u for v in inner) / sum(v >= u for v in a) for u in inner]
    expected = {
        "pointing_game": mean([float(k) for v, k in zip(a, m) if v == max(a)]),
        "relevance_mass": inside / total if total else math.nan,
        "mask_auc": mean([(v > w) + (v == w) / 2 for v in inner for w in outer]),
        "mask_ap": mean(ap),
        "mask_iou": slow_iou(a, m) if size else math.nan,
        "mass_distance": distance / total / (len(a) - 1) if total else math.nan,
    }
    for name, value in expected.items():
        found = im.metric_info(name).function(maps, masks).item()
        assert found == pytest.approx(value if size else math.nan, abs=1e-12, nan_ok=True), name


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=6), st.data())
def test_ties_are_judged_by_the_mean_over_all_orders(a, data) -> None:
    m = data.draw(st.lists(st.booleans(), min_size=len(a), max_size=len(a)).filter(any))
    maps, masks = torch.tensor([a]), torch.tensor([m])
    all_orders = orders(a)
    for k in range(1, len(a) + 1):
        value = mean([sum(m[i] for i in order[:k]) / k for order in all_orders])
        assert im.top_k(maps, masks, k=k).item() == pytest.approx(value, abs=1e-12)
        if k == sum(m):
            assert im.relevance_rank(maps, masks).item() == pytest.approx(value, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(pairs_of_maps())
def test_complexity_and_truth_are_their_slow_references(drawn) -> None:
    a, b, m = drawn
    maps, sizes = torch.tensor([a]), sorted((abs(v) for v in a), reverse=True)
    total, d = sum(sizes), len(a)
    shares = [v / total for v in sizes if v] if total else []
    entropy = -sum(p * math.log(p) for p in shares) if total else math.nan
    norm = math.sqrt(sum(v * v for v in a))
    carrying = next((k for k in range(1, d + 1) if sum(sizes[:k]) >= 0.7 * total - 1e-9), 0) / d
    assert im.entropy(maps).item() == pytest.approx(entropy, abs=1e-12, nan_ok=True)
    assert im.effective_size(maps).item() == pytest.approx(math.exp(entropy), nan_ok=True)
    hoyer = (math.sqrt(d) - total / norm) / (math.sqrt(d) - 1) if total else math.nan
    assert im.hoyer(maps).item() == pytest.approx(hoyer, abs=1e-9, nan_ok=True)
    assert im.mass_share(maps, q=0.7).item() == pytest.approx(carrying if total else math.nan, nan_ok=True)
    assert im.support_size(maps, tol=0.5).item() == sum(v > 0.5 * sizes[0] for v in sizes)
    error = math.dist(a, b) / math.sqrt(sum(v * v for v in b)) if any(b) else math.nan
    assert im.truth_error(maps, torch.tensor([b])).item() == pytest.approx(error, abs=1e-12, nan_ok=True)
    wrong = sum(abs(v) for v, k in zip(a, m) if k) / total if total and any(m) else math.nan
    assert im.impossible_mass(maps, torch.tensor([m])).item() == pytest.approx(wrong, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs_of_maps())
def test_agreement_is_its_slow_reference(drawn) -> None:
    a, b, _ = drawn
    x, y = torch.tensor([a]), torch.tensor([b])
    tau = stats.kendalltau(a, b).statistic
    assert im.kendall_tau(x, y).item() == pytest.approx(tau, abs=1e-12, nan_ok=True)
    pairs = list(itertools.combinations(range(len(a)), 2))
    order = [(np.sign(abs(a[i]) - abs(a[j])), np.sign(abs(b[i]) - abs(b[j]))) for i, j in pairs]
    assert im.pairwise_rank_agreement(x, y).item() == pytest.approx(mean([float(p == q) for p, q in order]))
    k = max(1, len(a) // 2)
    first, second = ([i for _, i in sorted((-abs(v), i) for i, v in enumerate(r))][:k] for r in (a, b))
    both = set(first) & set(second)
    signs = {i for i in both if np.sign(a[i]) == np.sign(b[i])}
    ranks = [i for i, j in zip(first, second) if i == j]
    expected = {
        "feature_agreement": len(both) / k,
        "sign_agreement": len(signs) / k,
        "rank_agreement": len(ranks) / k,
        "signed_rank_agreement": len([i for i in ranks if i in signs]) / k,
        "top_k_overlap": len(both) / len(set(first) | set(second)),
    }
    for name, value in expected.items():
        assert im.metric_info(name).function(x, y, k=k, ties="index").item() == pytest.approx(value), name


def test_kendall_of_long_maps_is_scipys() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 3000, generator=g), torch.randn(3, 3000, generator=g).mul(3).round()
    b[1] = a[1] + 0.1 * b[1]
    expected = [stats.kendalltau(x, y).statistic for x, y in zip(a.numpy(), b.numpy())]
    assert im.kendall_tau(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_detection_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    a, m = torch.randn(4, 9, 9, generator=g).mul(3).round(), torch.rand(4, 9, 9, generator=g) > 0.7
    flat = list(zip(m.flatten(1).numpy(), a.flatten(1).numpy()))
    assert im.mask_auc(a, m).tolist() == pytest.approx([metrics.roc_auc_score(*p) for p in flat])
    assert im.mask_ap(a, m).tolist() == pytest.approx([metrics.average_precision_score(*p) for p in flat])


@pytest.mark.parametrize("window", [3, 7])
def test_ssim_is_scikit_images(window: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 15, 12, generator=g).double(), torch.randn(4, 15, 12, generator=g).double()
    b[1:] = a[1:] + 0.3 * b[1:]
    expected = []
    for x, y in zip(a.numpy(), b.numpy()):
        span = max(x.max(), y.max()) - min(x.min(), y.min())
        expected.append(metrics.structural_similarity(x, y, win_size=window, data_range=span))
    assert im.ssim(a, b, window=window).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("space", [(30,), (17, 23), (5, 6, 7)])
def test_distances_are_scipys(space: tuple[int, ...]) -> None:
    masks = torch.rand(4, *space, generator=torch.Generator().manual_seed(2)) > 0.97
    masks[:, 0] = False
    masks[0].flatten()[1] = True
    from interp_plugins.metrics.distance import distances

    found = distances(masks.flatten(1), space).reshape(4, *space)
    for mask, one in zip(masks.numpy(), found.numpy()):
        expected = ndimage.distance_transform_edt(~mask) if mask.any() else np.zeros(space)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-12)


def test_a_constant_map_is_in_a_neutral_order_and_not_in_that_of_the_raster() -> None:
    from interp_plugins.metrics.ranking import descending

    rows = torch.zeros(3, 1000)
    assert descending(rows, "index")[0].tolist() == list(range(1000))
    ids = torch.tensor([0, 1, 0])
    found = descending(rows, "random", 0, ids)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], descending(rows, "random", 1, ids)[0])
    assert all(sorted(order) == list(range(1000)) for order in found.tolist())
    halves = torch.stack([(descending(rows, "random", s, ids)[0] < 500)[:500].double().mean() for s in range(200)])
    assert abs(halves.mean() - 0.5) < 4 * halves.std() / 200**0.5
    mixed = torch.tensor([[1.0, 5.0, 1.0, 5.0, 1.0]])
    assert {tuple(descending(mixed, "random", s)[0, :2].tolist()) for s in range(20)} == {(1, 3), (3, 1)}

"""Every method on a device without float64 (tests/conformance/mps.py)."""

from __future__ import annotations

import itertools

import pytest
import torch

from interp_plugins import explain
from interp_plugins.metrics import (
    cosine_similarity,
    gini_index,
    list_metrics,
    metric,
    metric_info,
    removal_curves,
    spearman_correlation,
)
from tests.conformance.cases import VARIANTS, attribute, distance, leaves, typical
from tests.conformance.mps import PretendMps
from tests.conformance.test_results import seeded
from tests.metrics.cases import case, maps_with_odd_ones


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_method_needs_float64_on_the_device(variant: str) -> None:
    one = typical(variant)
    expected = attribute(variant, one.build(torch.float32), **seeded(variant))
    problem = one.build(torch.float32)
    with PretendMps() as mode:
        for t in (*problem.xs, *itertools.chain(problem.model.parameters(), problem.model.buffers())):
            mode.put(t)
        found = attribute(variant, problem, **seeded(variant))
        assert {t.device.type for t in leaves(found)} == {"mps"}
    scale = max(float(t.abs().max()) for t in leaves(expected))
    assert distance(found, expected) <= 1e-4 * scale


def test_metrics_and_explain_do_not_either() -> None:
    problem = typical("integrated_gradients").build(torch.float32)
    with PretendMps() as mode:
        for t in (*problem.xs, *itertools.chain(problem.model.parameters(), problem.model.buffers())):
            mode.put(t)
        one, two = explain(problem.model, problem.xs[0], ["ig", "occlusion"], target=1)
        maps = mode.put(one.attribution.clone()), mode.put(two.attribution.clone())
        for measure in (cosine_similarity, spearman_correlation):
            assert measure(*maps).device.type == "cpu"
        assert gini_index(maps[0]).device.type == "cpu"
        assert removal_curves(problem.model, problem.xs[0], maps[0], target=1, steps=4).deletion.isfinite().all()


@pytest.mark.parametrize("name", [n for n in list_metrics() if metric_info(n).needs != "order"])
def test_no_metric_of_maps_needs_float64_on_the_device(name: str) -> None:
    maps = maps_with_odd_ones(6, (3, 9, 11))
    given = case(name, maps)
    expected = metric(name).of(maps, **given).values
    with PretendMps() as mode:
        found = metric(name).of(mode.put(maps.clone()), **given).values
    assert found.dtype == torch.float64 and found.device.type == "cpu"
    assert torch.allclose(found, expected, 1e-3, 1e-4, equal_nan=True)


def test_the_pretended_device_refuses_float64() -> None:
    with PretendMps() as mode:
        x = mode.put(torch.ones(2))
        assert x.detach().device.type == torch.zeros(1, device=x.device).device.type == "mps"
        assert x.cpu().double().device.type == "cpu"
        with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
            x.double()

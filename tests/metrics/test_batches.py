"""No metric depends on batch mates: any split, order, chunk, layout in memory and number of threads, to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from interp_plugins.metrics import Metric, list_metrics, metric, metric_info
from interp_plugins.metrics.registry import ASKING
from tests.metrics.cases import SHAPES, case, fits, maps_with_odd_ones, rows_of, scaled, settings

FITTING = [(name, shape) for name in list_metrics() for shape in SHAPES if fits(name, shape)]


def updated(name: str, maps: Tensor, given: dict, parts: list[Tensor], **params) -> Metric:
    m = metric(name, **{**settings(name, tuple(maps.shape[1:])), **params})
    for rows in parts:
        m.update(maps[rows], ids=rows, **rows_of(given, rows))
    return m


def same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_any_split_and_order_gives_the_same_bits(name: str, shape: tuple[int, ...]) -> None:
    maps = maps_with_odd_ones(6, shape)
    given, everyone = case(name, maps), torch.arange(len(maps))
    whole = updated(name, maps, given, [everyone]).compute()
    shuffled = everyone[torch.randperm(len(maps), generator=torch.Generator().manual_seed(0))]
    for parts in (list(everyone.split(1)), list(everyone.split(5)), [shuffled], list(shuffled.split(3))):
        found = updated(name, maps, given, parts).compute()
        assert same(found.values, whole.values)
        assert (found.ids, found.reasons, found.chance) == (whole.ids, whole.reasons, whole.chance)
        assert repr(found.mean) == repr(whole.mean) and repr(found.ci(draws=50)) == repr(whole.ci(draws=50))
        assert repr(found) == repr(whole)


@pytest.mark.parametrize("name", [n for n in list_metrics() if metric_info(n).needs not in ASKING])
def test_long_rows_threads_and_memory_layout(name: str) -> None:
    """So long that PyTorch shares one sum out over threads, and not each of several."""
    maps = maps_with_odd_ones(1, (3, 128, 130))[-3:]
    given, everyone = case(name, maps_with_odd_ones(1, (3, 128, 130))), torch.arange(3)
    given = rows_of(given, torch.arange(5, 8))
    whole = updated(name, maps, given, [everyone]).compute()
    assert torch.get_num_threads() == 1
    alone = updated(name, maps, given, list(everyone.split(1))).compute()
    turned = updated(name, maps.contiguous(memory_format=torch.channels_last), given, [everyone]).compute()
    try:
        torch.set_num_threads(2)
        threaded = updated(name, maps, given, list(everyone.split(1))).compute()
    finally:
        torch.set_num_threads(1)
    for found in (alone, turned, threaded):
        assert same(found.values, whole.values)


@pytest.mark.parametrize("name", [n for n in list_metrics() if metric_info(n).needs in ASKING])
@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_the_size_of_passes_does_not_matter(name: str, batch_size: int | None) -> None:
    maps = maps_with_odd_ones(2, (2, 3, 3))
    given, everyone = case(name, maps), torch.arange(len(maps))
    whole = updated(name, maps, given, [everyone]).compute()
    assert same(updated(name, maps, given, [everyone], batch_size=batch_size).compute().values, whole.values)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_maps_that_are_not_finite_have_no_value_and_say_so(name: str, shape: tuple[int, ...]) -> None:
    maps = maps_with_odd_ones(6, shape)
    found = updated(name, maps, case(name, maps), [torch.arange(len(maps))]).compute()
    assert found.values.dtype == torch.float64 and found.values.shape == (len(maps),)
    assert found.values[3:5].isnan().all() and not found.values.isinf().any()
    assert found.reasons[3] == found.reasons[4] == "the map holds NaN or infinity"
    assert set(found.reasons) == set(found.values.isnan().nonzero().flatten().tolist())
    assert "the value is not finite" not in found.undefined


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_invariance_is_what_the_metric_says(name: str, shape: tuple[int, ...]) -> None:
    maps = maps_with_odd_ones(6, shape)[5:].double()
    given = rows_of(case(name, maps_with_odd_ones(6, shape)), torch.arange(5, 13))
    info, everyone = metric_info(name), torch.arange(len(maps))
    values = updated(name, maps, given, [everyone]).compute().values

    def close(factor: float) -> bool:
        found = updated(name, factor * maps, scaled(given, factor), [everyone]).compute().values
        return torch.allclose(found, values, 1e-9, 1e-12, True)

    assert [close(c) for c in (1e-8, 0.5, 1024.0)] == [info.scale_invariant] * 3
    if name != "monotonicity":  # the model adds up, so that it rises at the same steps in any order
        assert close(-1.0) == info.sign_invariant


@pytest.mark.parametrize("name", [n for n in list_metrics() if metric_info(n).needs in ("maps", "truth", "pair")])
def test_the_order_of_elements_does_not_matter_but_to_neighbourhoods(name: str) -> None:
    if name == "ssim":
        return
    maps = maps_with_odd_ones(6, (40,))[7:].double()
    given = rows_of(case(name, maps_with_odd_ones(6, (40,))), torch.arange(7, 13))
    turn = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    moved = {k: v[:, turn] for k, v in given.items()}
    clean = {k: v + torch.arange(40) * 1e-6 if k == "other" else v for k, v in given.items()}  # without ties
    moved = {k: v[:, turn] for k, v in clean.items()}
    a, b = (metric(name).of(m, **g).values for m, g in ((maps, clean), (maps[:, turn], moved)))
    assert torch.allclose(a, b, 1e-12, 1e-12, True)


@pytest.mark.parametrize("name", [n for n in list_metrics() if metric_info(n).chance is not None])
def test_chance_is_what_random_maps_get(name: str) -> None:
    if metric_info(name).needs in ASKING:
        maps = torch.randn(300, 4, 5, generator=torch.Generator().manual_seed(5))
    else:
        maps = torch.randn(2000, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    given = case(name, maps)
    given = (
        {"other": torch.randn(maps.shape, generator=torch.Generator().manual_seed(6))} if "other" in given else given
    )
    score = metric(name).of(maps, **given)
    assert score.chance is not None
    error = score.sd / math.sqrt(score.n - score.n_undefined)
    assert abs(score.mean - score.chance) < 4 * error

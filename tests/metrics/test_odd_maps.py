"""Maps of any number format and layout in memory, of one sample or one feature: values are those of the plain map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, row_probe
from interp_plugins import metrics as im
from interp_plugins.metrics import judge_together, list_metrics, metric, metric_info
from interp_plugins.metrics.registry import ASKING, REPEATING
from tests.metrics.cases import case, fits, maps_with_odd_ones, settings
from tests.metrics.test_batches import same

OF_MAPS = [n for n in list_metrics() if metric_info(n).needs not in REPEATING]
SHAPE = (2, 7, 8)


def values(name: str, maps: Tensor, given: dict, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return metric(name, **settings(name, shape)).of(maps, **given).values


@pytest.mark.parametrize("name", OF_MAPS)
def test_number_formats_and_layouts(name: str) -> None:
    """A half is the double that it stands for; what is turned, expanded or cut out of more is what it shows."""
    maps = maps_with_odd_ones(3, SHAPE)
    given = case(name, maps)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool):
        one = maps.to(dtype) if dtype.is_floating_point else maps.nan_to_num(0, 2, 0).abs().round().to(dtype)
        assert same(values(name, one, given), values(name, one.double(), given)), dtype
    whole = values(name, maps, given)
    inside = torch.zeros(len(maps), 2, *SHAPE)
    inside[:, 1] = maps
    turned = maps.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    for one in (inside[:, 1], turned, maps.flip(0).flip(0)):
        assert same(values(name, one, given), whole)
    if "other" not in given:
        expanded = maps[7:8, :1].expand(len(maps), *SHAPE)
        assert same(values(name, expanded, given), values(name, expanded.clone(), given))
    kept = maps.clone()
    values(name, maps, given)
    assert same(maps, kept)


@pytest.mark.parametrize("name", OF_MAPS)
def test_one_sample_of_one_feature_has_a_value_or_a_reason(name: str) -> None:
    shape = (1, 1, 1) if not fits(name, (2,)) else (1,)
    if name in ("ssim", "sic", "aic", "grid_pointing", "focus"):
        return  # of windows, information and cells, which one place has none of
    maps = torch.full((1, *shape), 2.0)
    given: dict = {}
    if metric_info(name).needs in ASKING:
        given = {"model": nn.Flatten(), "inputs": torch.full((1, *shape), 0.5)}
    elif (needs := metric_info(name).needs) != "maps":
        given = {{"masks": "masks", "truth": "truth", "pair": "other"}[needs]: torch.ones(1, *shape)}
    score = metric(name).of(maps, **given)
    assert score.n == 1 and score.values.isnan().sum() == score.n_undefined == len(score.reasons)
    assert "the value is not finite" not in score.undefined


LINE = torch.tensor([[3.0, 1.0, 1.0, 0.0]])


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
@pytest.mark.parametrize("name", [n for n in list_metrics(needs="masks") if n not in ("grid_pointing", "focus")])
def test_masks_of_any_type(name: str, kind: torch.dtype) -> None:
    mask = torch.tensor([[True, True, False, False]])
    assert same(metric(name).of(LINE, masks=mask.to(kind)).values, metric(name).of(LINE, masks=mask).values)


def test_prediction_gap_ranks_features_by_the_size_of_their_mean_and_says_where_none_is_left() -> None:
    x, features = torch.ones(1, 4), torch.tensor([[0, 0, 1, 2]])
    maps = torch.tensor([[5.0, -5.0, 1.0, 0.5]])  # feature 0 has a mean of zero
    for k, place in ((1, 2), (2, 3)):
        model = lambda v, place=place: v[:, place]  # noqa: E731
        options = {"k": k, "relative": False, "features": features, "sd": 1.0}
        assert im.prediction_gap(model, x, maps, **options).item() > 0
    assert im.prediction_gap(lambda v: v[:, 0], x, maps, **options).item() == 0
    score = metric("prediction_gap", important=False, k=4, relative=False).of(maps, model=lambda v: v.sum(1), inputs=x)
    assert score.undefined == {"no feature is disturbed": 1}


def test_road_solves_in_float32_for_pictures_in_half_precision_and_says_where_there_is_nothing_to_keep() -> None:
    plane = (torch.arange(8.0)[:, None] * 2 + torch.arange(8.0))[None, None] * 8  # squares sum to more than halves hold
    maps, seen = torch.zeros(1, 1, 8, 8), []
    maps[..., 2:5, 3:6] = torch.arange(1.0, 10).reshape(3, 3)

    def model(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return v.float().mean((1, 2, 3))

    im.road(model, plane.half(), maps, percentages=(14,), sd=0, order="morf")
    filled = seen[-1]
    assert filled.dtype == torch.float16 and (filled.float() - plane).abs().max() < 0.1
    silent = metric("road", measure="probability").of(maps, model=lambda v: 0 * v.mean((1, 2, 3)), inputs=plane)
    assert silent.undefined == {"the clean score is 0": 1}
    half = metric("road", measure="probability").of(
        maps, model=lambda v: (v - plane).abs().amax((1, 2, 3)), inputs=plane, target=lambda output: output
    )
    assert half.undefined == {"the clean score is 0": 1}  # the pictures filled in score more than 0


class Folded(nn.Sequential):
    """Large enough for a planned view, with a norm to fold."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip
        self.eval()


@row_probe(False)
def test_the_planned_view_of_the_model_gives_the_same_and_passes_are_as_told() -> None:
    torch.manual_seed(0)
    model, x = Folded(), torch.randn(2, 3, 64, 64)
    maps = {name: torch.randn(2, 1, 64, 64) for name in "abcde"}
    asked = {"region_perturbation": {"window": 8}, "faithfulness_correlation": {"n_subsets": 60}}
    rows: list[int] = []
    model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for several in ({"a": maps["a"]}, maps):
        plan = judge_together(model, x, several, asked, target=1, dry_run=True)
        with acceleration(False):
            plain = judge_together(model, x, several, asked, target=1)
        assert sum(rows) == plain.forward_passes == plan.forward_passes
        rows.clear()
        found = judge_together(model, x, several, asked, target=1)
        assert found.passes == plain.passes == plan.passes
        assert sum(rows) - plan.forward_passes in range(1, 6)  # the view was compared with the model first
        rows.clear()
        for name in asked:
            for method in several:
                assert torch.allclose(found.values[name][method], plain.values[name][method], 1e-3, 1e-5)

"""NaN as a missing value: it stays missing whatever a method does to the sample, and has no share in the score."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib
import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins import InputSpec, explain
from interp_plugins.attr import IntegratedGradients
from interp_plugins.core.errors import InputError

matplotlib.use("agg")
NAN = torch.nan
ROWS = torch.tensor([[1.0, NAN, 3.0, -2.0], [NAN, NAN, 0.5, 4.0], [2.0, 1.0, -1.0, 3.0]], dtype=torch.float64)
W = torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=torch.float64)
TABLE = InputSpec("tabular", missing="nan")


def total(x: Tensor) -> Tensor:
    return (x * W).nansum(1)


class Counts(nn.Module):
    """A score that depends on how many values are there, as imputing networks' does; one that lost a gap is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.gaps.append(x.isnan())
        return (x * W).nansum(1) ** 2 / (~x.isnan()).sum(1)


EXACT: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 5},
    "input_x_gradient": {},
    "feature_ablation": {},
    "shapley_values": {},
    "shapley_value_sampling": {"n_samples": 2},
    "kernel_shap": {"n_samples": 100},
    "gradient_shap": {"n_samples": 2},
    "occlusion": {"sliding_window_shapes": (1,)},
    "idgi": {"n_steps": 3},
    "deep_lift": {},
}


@pytest.mark.parametrize("method", EXACT)
def test_of_a_sum_each_value_that_is_there_has_its_own_term(method: str) -> None:
    baseline = torch.tensor([[0.5, 1.0, 0.0, -1.0]], dtype=torch.float64)
    found = explain(total, ROWS, method, input_spec=TABLE, baselines=None, **EXACT[method])[0]
    right = (ROWS * W).nan_to_num()
    if method == "idgi":  # shares out by squared gradients
        torch.testing.assert_close(found.attribution.sum(1), right.sum(1))
    else:
        torch.testing.assert_close(found.attribution, right, rtol=1e-6, atol=1e-6)
    if method not in ("input_x_gradient", "gradient_shap", "idgi"):
        moved = explain(total, ROWS, method, input_spec=TABLE, baselines=baseline, **EXACT[method])[0]
        torch.testing.assert_close(moved.attribution, ((ROWS - baseline) * W).nan_to_num(), rtol=1e-6, atol=1e-6)
    assert bool((found.attribution[ROWS.isnan()] == 0).all())


@pytest.mark.parametrize("method", [*EXACT, "saliency", "noise_tunnel", "lime", "smooth_grad"])
def test_the_model_meets_no_other_gaps(method: str) -> None:
    if method == "smooth_grad" and method not in ip.list_methods():
        method = "noise_tunnel"
    net = Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exp = explain(net, ROWS, method, input_spec=TABLE, **EXACT.get(method, {}))[0]
    known = {tuple(row) for row in ROWS.isnan().tolist()}
    assert {tuple(row) for gaps in net.gaps for row in gaps.tolist()} <= known
    assert bool((exp.attribution[ROWS.isnan()] == 0).all()) and bool(exp.attribution.isfinite().all())
    assert torch.equal(exp.inputs.isnan(), ROWS.isnan()) and torch.equal(exp.inputs[2], ROWS[2])


def test_gradients_are_those_of_what_is_there() -> None:
    x = ROWS.clone().requires_grad_()
    Counts()(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(explain(Counts(), ROWS, "saliency", input_spec=TABLE)[0].attribution, x.grad.abs())
    for i in range(3):  # a sample's gaps are its own
        alone = explain(Counts(), ROWS[i : i + 1], "ig", input_spec=TABLE)[0].attribution
        batch = explain(Counts(), ROWS, "ig", input_spec=TABLE)[0].attribution[i]
        torch.testing.assert_close(alone[0], batch)


@pytest.mark.parametrize("method", ["ig", "saliency", "occlusion", "feature_ablation", "noise_tunnel", "kernel_shap"])
def test_series(method: str) -> None:
    x = torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(0))
    x[0, 1, 3:7], x[2, :, 0] = NAN, NAN

    def mean(x: Tensor) -> Tensor:
        return x.nanmean(2).sum(1)

    spec = InputSpec("series", missing="nan")
    exp = explain(mean, x, method, input_spec=spec, seed=1)[0]
    assert bool((exp.attribution[x.isnan()] == 0).all())
    if method == "ig":
        share = (x / (~x.isnan()).sum(2, keepdim=True)).nan_to_num()
        torch.testing.assert_close(exp.attribution, share, rtol=1e-4, atol=1e-6)
    exp.show()


def test_masks_stand_before_further_arguments_and_targets_stay() -> None:
    def scaled(x: Tensor, factor: Tensor, *, shift: Tensor) -> Tensor:
        return torch.stack([total(x) * factor, total(x) + shift], 1)

    factor = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    exp = explain(
        scaled, ROWS, "ig", target=0, additional_forward_args=factor, forward_kwargs={"shift": factor}, input_spec=TABLE
    )[0]
    torch.testing.assert_close(exp.attribution, (ROWS * W).nan_to_num() * factor[:, None])


def test_baselines_have_the_gaps_of_the_sample() -> None:
    def first(x: Tensor) -> Tensor:
        assert bool(x.isnan().any())  # asked with what was given
        return x * 0 + 1

    for given in (ROWS * 0 + 1, first, 1.0):
        exp = explain(total, ROWS, "ig", baselines=given, input_spec=TABLE)[0]
        torch.testing.assert_close(exp.attribution, ((ROWS - 1) * W).nan_to_num())
        assert torch.equal(exp.baselines.isnan(), ROWS.isnan())


def test_results_can_be_shown_and_kept(tmp_path: Any) -> None:
    exps = explain(total, ROWS, ["ig", "feature_ablation"], input_spec=TABLE)
    exps.plot()
    exps.to_df()
    exps.to_html()
    exps[0].save(tmp_path / "a.pt")
    again = ip.Explanation.load(tmp_path / "a.pt")
    assert torch.equal(again.inputs.isnan(), ROWS.isnan()) and again.spec.missing == "nan"


def test_without_the_word_a_gap_is_refused_with_the_way_out() -> None:
    for call in (lambda: explain(total, ROWS, "ig"), lambda: IntegratedGradients(total).attribute(ROWS)):
        with pytest.raises(InputError, match=r"contains NaN.*input_spec=InputSpec\(missing='nan'\)"):
            call()
    with pytest.raises(InputError, match="infinity"):
        explain(total, ROWS / 0, "ig", input_spec=TABLE)
    with pytest.raises(InputError, match="must be 'nan'"):
        InputSpec(missing="NaN")
    with pytest.raises(InputError, match="methods by name"):
        explain(total, ROWS, IntegratedGradients(total), input_spec=TABLE)


def test_nothing_changes_where_nothing_is_missing() -> None:
    a, b = (explain(total, ROWS[2:], "ig", input_spec=s)[0].attribution for s in (TABLE, InputSpec("tabular")))
    assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "idgi", "deep_lift", "guided_ig"])
def test_no_path_begins_at_a_gap(method: str) -> None:
    rows, baseline = torch.ones(2, 4), torch.tensor([[0.0, NAN, 0.0, 0.0]])
    with pytest.raises(InputError, match=r"baselines\[0\] of shape .* contains NaN.*feature_ablation"):
        explain(lambda x: x.nansum(1), rows, method, baselines=baseline)


def test_a_feature_can_be_replaced_by_a_gap() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0]])
    found = explain(lambda x: x.nansum(1), rows, "feature_ablation", baselines=torch.full((1, 3), NAN))[0]
    torch.testing.assert_close(found.attributions, rows)

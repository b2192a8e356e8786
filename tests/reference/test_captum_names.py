"""Names and conventions of Captum 0.9: the table of docs/captum.md, and `captum_numbers()`."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins import captum_numbers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "captum.md"
# Names of private modules that tutorials import, where a module has others beside them.
WANTED = {
    "captum.attr._utils.lrp_rules": {
        "EpsilonRule",
        "GammaRule",
        "Alpha1_Beta0_Rule",
        "IdentityRule",
        "PropagationRule",
    },
    "captum.attr._utils.input_layer_wrapper": {"ModelInputWrapper", "InputIdentity"},
    "captum.attr._core.lime": {"Lime", "LimeBase", "get_exp_kernel_similarity_function"},
    "captum.attr._core.gradient_shap": {"GradientShap", "InputBaselineXGradient"},
    "captum.attr._core.layer.layer_gradient_shap": {"LayerGradientShap", "LayerInputBaselineXGradient"},
    "captum._utils.models.linear_model": {"SkLearnLasso", "SkLearnRidge", "SkLearnLinearRegression"},
    "captum.attr._utils.visualization": {"visualize_image_attr", "visualize_text", "VisualizationDataRecord"},
    "captum.attr.visualization": {"visualize_image_attr", "visualize_image_attr_multiple", "visualize_timeseries_attr"},
    "captum.insights": {"AttributionVisualizer", "Batch"},
    "captum.insights.attr_vis": {"AttributionVisualizer", "Batch"},
    "captum.insights.attr_vis.features": {"ImageFeature", "TextFeature", "GeneralFeature", "EmptyFeature"},
}


def rows_of_the_page() -> Iterator[tuple[str, str]]:
    _, _, table = PAGE.read_text(encoding="utf-8").partition("where they are here")
    yield from re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.M)[1:]  # behind the head


def at_path(path: str) -> Any:
    """A module, or what a module shows under a name; None where there is no such thing."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        parent, _, name = path.rpartition(".")
        return getattr(at_path(parent), name, None) if parent else None


@pytest.mark.parametrize(("theirs", "here"), list(rows_of_the_page()))
def test_the_table_of_names_is_true(theirs: str, here: str) -> None:
    path = re.findall(r"`([\w.]+)`", theirs)[0]
    if here.startswith("not here"):
        assert at_path(path) is not None
        assert at_path(path.replace("captum", "interp_plugins", 1)) is None, "it is here now: say where"
        return
    there = at_path(re.findall(r"`([\w.]+)`", here)[0])
    if "up to 0.8" not in theirs:
        original = at_path(path)
        if not inspect.ismodule(original):
            assert callable(original) and callable(there)
            return
        public = WANTED.get(path) or set(original.__all__)
        assert public <= set(vars(original))
    else:
        public = WANTED[path]
    assert [name for name in sorted(public) if not hasattr(there, name)] == []


def test_every_area_of_captum_is_in_the_table() -> None:
    named = " ".join(theirs for theirs, _ in rows_of_the_page())
    for area in ("attr", "metrics", "robust", "concept", "influence", "module"):
        assert f"`captum.{area}" in named


def test_rules_by_captums_names_are_captums(digits: tuple[nn.Module, Tensor]) -> None:
    from captum.attr._utils import lrp_rules as theirs

    from interp_plugins.attr._utils import lrp_rules as mine

    model, x = digits
    for name, more in (("EpsilonRule", {}), ("GammaRule", {"gamma": 0.7}), ("Alpha1_Beta0_Rule", {})):
        found = []
        for rules, library in ((theirs, captum.attr), (mine, ours)):
            for i in (0, 2):
                model[i].rule = getattr(rules, name)(**more)
            found.append(quietly(library.LRP(model).attribute, x, target=1))
            for i in (0, 2):
                model[i].__dict__.pop("rule", None)
        torch.testing.assert_close(*found)
        assert list(inspect.signature(getattr(mine, name)).parameters) == [
            p for p in inspect.signature(getattr(theirs, name)).parameters
        ]


@pytest.fixture
def digits() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    return model, torch.randn(2, 5).double()


def quietly(call: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        return call(*args, **kwargs)


@pytest.mark.parametrize(
    "rule", ["gausslegendre", "riemann_trapezoid", "riemann_left", "riemann_middle", "riemann_right"]
)
def test_paths_are_captums_inside_captum_numbers(rule: str, digits: tuple[nn.Module, Tensor]) -> None:
    model, x = digits
    how: dict[str, Any] = {"target": 1, "n_steps": 7, "method": rule}
    for name, place, more in (
        ("IntegratedGradients", (), ()),
        ("LayerIntegratedGradients", (model[1],), ()),
        ("LayerConductance", (model[1],), ()),
        ("InternalInfluence", (model[1],), ()),
        ("NeuronConductance", (model[1],), (2,)),
    ):
        theirs = quietly(getattr(captum.attr, name)(model, *place).attribute, x, *more, **how)
        method = getattr(ours, name)(model, *place)
        with captum_numbers():
            mine = method.attribute(x, *more, **how)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)  # Captum's weights are float32
        if name == "LayerConductance" and rule == "gausslegendre":
            assert not torch.allclose(method.attribute(x, *more, **how), theirs, atol=1e-6)


def test_windows_and_types_are_captums_inside_captum_numbers(digits: tuple[nn.Module, Tensor]) -> None:
    model, x = digits
    theirs = quietly(captum.attr.Occlusion(model).attribute, x, (2,), strides=(2,), target=0)
    with captum_numbers():
        mine = ours.Occlusion(model).attribute(x, (2,), strides=(2,), target=0)
    assert mine.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(mine, theirs)
    for name in ("ShapleyValueSampling", "FeatureAblation", "Lime", "KernelShap"):
        theirs = quietly(getattr(captum.attr, name)(model).attribute, x[:1], target=0)
        with captum_numbers():
            mine = quietly(getattr(ours, name)(model).attribute, x[:1], target=0)
        assert mine.dtype == theirs.dtype, name

    def whole(v: Tensor) -> Tensor:
        return (2 * v).sum(1)

    with captum_numbers():
        assert ours.FeatureAblation(whole).attribute(torch.tensor([[1, 2]])).dtype == torch.int64
    assert ours.FeatureAblation(whole).attribute(torch.tensor([[1, 2]])).dtype == torch.float32


def test_expected_gradients_draw_as_captum_inside_captum_numbers(digits: tuple[nn.Module, Tensor]) -> None:
    model, x = digits
    many = torch.randn(7, x.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    for stdevs in (0.0, 0.25):
        how: dict[str, Any] = {"n_samples": 6, "stdevs": stdevs, "target": 1, "return_convergence_delta": True}
        for name, place in (("GradientShap", ()), ("LayerGradientShap", (model[1],))):
            np.random.seed(5)  # noqa: NPY002 - Captum's draws are of the global generators
            with captum_numbers():
                mine = quietly(getattr(ours, name)(model, *place).attribute, x, many, **how)
            theirs = quietly(getattr(captum.attr, name)(model, *place).attribute, x, many, **how)  # the generator stood
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
            other = quietly(getattr(ours, name)(model, *place).attribute, x, many, **how)
            assert not torch.allclose(other[0], theirs[0])
            with captum_numbers():  # a seed of one's own goes before
                own = getattr(ours, name)(model, *place).attribute(x, many, seed=3, **how)
            torch.testing.assert_close(own, getattr(ours, name)(model, *place).attribute(x, many, seed=3, **how))


def test_expected_gradients_of_two_inputs_draw_as_captum_inside_captum_numbers() -> None:
    def both(a: Tensor, b: Tensor) -> Tensor:
        return (a * b.sin()).sum(1) ** 2

    xs = torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    pools = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    np.random.seed(2)  # noqa: NPY002
    with captum_numbers():
        mine = quietly(ours.GradientShap(both).attribute, xs, pools, stdevs=(0.1, 0.0))
    theirs = quietly(captum.attr.GradientShap(both).attribute, xs, pools, stdevs=(0.1, 0.0))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_conductance_at_a_kink_is_nearer_to_the_change_of_the_score_than_captums() -> None:
    x, errors = torch.tensor([[0.0, 100.0, 0.0]], dtype=torch.float64), {ours: [], captum.attr: []}
    for bend in torch.linspace(10, 90, 41):
        net = Bent(float(bend))
        for library, found in errors.items():
            method = library.LayerConductance(net, net.first)
            found.append(abs(method.attribute(x, n_steps=60, return_convergence_delta=True)[1].item()))
    assert np.mean(errors[ours]) < 0.7 * np.mean(errors[captum.attr])


class Bent(nn.Module):
    """relu(sum of x - bend)."""

    def __init__(self, bend: float):
        super().__init__()
        self.first, self.bend = nn.Identity(), bend

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x).sum(1) - self.bend).relu()


def test_internal_influence_at_a_kink_is_nearer_to_the_truth_than_its_weights_in_captum() -> None:
    net = Bent(-1.0)  # of the path from -20 to 80 the part above -1 counts: 0.81 of it
    x, start = torch.tensor([[0.0, 80.0, 0.0]]), torch.tensor([[0.0, -20.0, 0.0]])
    how: dict[str, Any] = {"n_steps": 500, "method": "riemann_trapezoid"}
    mine = ours.InternalInfluence(net, net.first).attribute(x, start, **how)
    theirs = quietly(captum.attr.InternalInfluence(net, net.first).attribute, x, start, **how)
    assert (mine - 0.81).abs().max() < 7e-4 < (theirs - 0.81).abs().min()


def test_a_random_point_of_the_path_is_complete_in_the_mean(digits: tuple[nn.Module, Tensor]) -> None:
    from interp_plugins.attr._core.gradient_shap import InputBaselineXGradient
    from interp_plugins.attr._core.layer.layer_gradient_shap import LayerInputBaselineXGradient

    model, x = digits
    x = x[:1].repeat(400, 1)
    maps, delta = InputBaselineXGradient(model).attribute(x, target=1, return_convergence_delta=True, seed=0)
    expected = ours.IntegratedGradients(model).attribute(x[:1], target=1, n_steps=400)
    assert (maps.mean(0) - expected[0]).abs().max() < 4 * maps.std(0).max() / 20
    torch.testing.assert_close(delta, ours.IntegratedGradients(model).compute_convergence_delta(maps, 0 * x, x, 1))
    layer = LayerInputBaselineXGradient(model, model[2])  # linear from there on: every point gives the exact map
    maps, delta = layer.attribute(x, target=1, return_convergence_delta=True, seed=0)
    change = (model(x) - model(0 * x))[:, 1]
    torch.testing.assert_close(maps[:, 1], change)
    assert delta.abs().max() < 1e-12
    one = LayerInputBaselineXGradient(model, model[2], multiply_by_inputs=False).attribute(x, target=1, seed=0)
    torch.testing.assert_close(one, torch.tensor([0.0, 1.0, 0.0]).double().expand(400, 3))


def test_current_figure_is_captums() -> None:
    import matplotlib.pyplot as plt

    tokens: dict[str, Any] = {"input_tokens": ["a", "b"], "output_tokens": ["x"]}
    found = {}
    for library in (captum.attr, ours):
        plt.close("all")
        result = library.LLMAttributionResult(**tokens, seq_attr=torch.ones(2), token_attr=torch.ones(1, 2))
        image = torch.rand(6, 6, 3).numpy()
        seen = []
        for draw in (
            lambda image=image, library=library: library.visualization.visualize_image_attr(image, image),
            result.plot_token_attr,
            result.plot_seq_attr,
        ):
            figure, _ = draw()
            seen.append((plt.gcf() is figure, len(plt.get_fignums()), len(figure.axes)))
        found[library] = seen
        plt.close("all")
    assert found[captum.attr] == found[ours]

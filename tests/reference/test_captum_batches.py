"""Models and selectors of one number per batch, batches of any length, unused layers: as Captum 0.9 takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins.core.errors import InputError, InterpWarning, ModelError
from interp_plugins.core.rows import row_probe


def quietly(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of Captum's, which warns of much."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return call(*args, **kwargs)


def tensors(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


LOSSES: dict[str, Callable[[Tensor], Any]] = {
    "a sum": lambda out: out.sum(),
    "a tensor of one": lambda out: out.sum().reshape(1),
    "a Python number": lambda out: float(out.sum()),
}
METHODS: dict[str, dict[str, Any]] = {
    "FeatureAblation": {},
    "ShapleyValueSampling": {"n_samples": 20},
    "ShapleyValues": {},
    "Lime": {"n_samples": 60},
    "KernelShap": {"n_samples": 60},
}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_number_per_batch_has_one_map(name: str, loss: str, net: nn.Module, rows: Tensor) -> None:
    seen: list[int] = []

    def model(x: Tensor) -> Any:
        seen.append(len(x))
        return LOSSES[loss](net(x))

    theirs = quietly(getattr(captum.attr, name)(model).attribute, rows, **METHODS[name])
    seen.clear()
    torch.manual_seed(0)
    with row_probe(False):
        mine = getattr(ours, name)(model).attribute(rows, **METHODS[name])
    assert mine.shape == theirs.shape == (1, 4)
    # Lime draws as Captum does; orders of features are drawn otherwise, and KernelShap takes all 16 coalitions here.
    tolerance = 0.2 if name in ("ShapleyValueSampling", "KernelShap") else 1e-5
    torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=tolerance)
    assert set(seen) <= {1, 3}, "one copy of the batch at a time, and one sample to see what the model does"


def test_windows_over_a_batch_agree(net: nn.Module, rows: Tensor) -> None:
    theirs = quietly(captum.attr.Occlusion(lambda x: net(x).sum()).attribute, rows, (2,), strides=(2,))
    mine = ours.Occlusion(lambda x: net(x).sum()).attribute(rows, (2,), strides=(2,))
    torch.testing.assert_close(mine, theirs.double(), rtol=0, atol=1e-6)
    one = torch.randn(3, generator=torch.Generator().manual_seed(0))
    theirs = quietly(captum.attr.Occlusion(lambda x, y: 2 * x - y).attribute, (one, one), ((), ()))
    for a, b in zip(ours.Occlusion(lambda x, y: 2 * x - y).attribute((one, one), ((), ())), theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_python_number_is_as_exact_as_it_is(net: nn.Module, rows: Tensor) -> None:
    for x in (rows, rows[:1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # of one sample: a row at a time
            mine = ours.FeatureAblation(lambda v: float(net.float()(v).sum())).attribute(x.float())
        theirs = quietly(captum.attr.FeatureAblation(lambda v: float(net.float()(v).sum())).attribute, x.float())
        assert mine.dtype == theirs.dtype == torch.float64


def test_a_gradient_of_a_number_per_batch_is_that_of_its_rows(net: nn.Module, rows: Tensor) -> None:
    expected = ours.Saliency(
        lambda x: net(x)[:, 0],
    ).attribute(rows, abs=False)
    mine = ours.Saliency(lambda x: net(x)[:, 0].sum()).attribute(rows, abs=False)
    torch.testing.assert_close(mine, expected)
    with pytest.raises(ModelError, match="one value per row"):  # steps of the path would meet in it
        ours.IntegratedGradients(lambda x: net(x)[:, 0].sum()).attribute(rows)


# -- batches of any length ------------------------------------------------------------------------------------


LIN = torch.tensor([3.0, 1.0, 2.0])
TABLE = torch.tensor([[1.0, -2.0, 3.0], [2.0, -1.0, 3.0]])
IDS = torch.tensor([1, 7, 2, 4, 5, 3, 6])


def with_list(x: Tensor, ids: Tensor) -> Tensor:
    """A value for the batch, of rows and of a list of ids that has a length of its own."""
    assert x.shape[1:] == (3,) and ids.ndim == 1
    return (x @ LIN + (ids[0] if ids.numel() else 0)).sum()


@pytest.mark.parametrize("name", METHODS)
def test_inputs_of_different_lengths_agree(name: str) -> None:
    theirs = quietly(getattr(captum.attr, name)(with_list).attribute, (TABLE, IDS), **METHODS[name])
    torch.manual_seed(0)
    mine = getattr(ours, name)(with_list).attribute((TABLE, IDS), **METHODS[name])
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=1e-4)


def test_an_empty_input_gets_zeros() -> None:
    theirs = quietly(captum.attr.FeatureAblation(with_list).attribute, (TABLE, torch.tensor([])))
    for name, more in METHODS.items():
        mine = getattr(ours, name)(with_list).attribute((TABLE, torch.tensor([])), **more)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=0.1)  # Lime's lasso shrinks
    for a, b in zip(ours.FeaturePermutation(with_list).attribute((TABLE, torch.tensor([]))), theirs, strict=True):
        assert a.shape == b.shape and not a.any()


def test_features_of_lists_are_columns() -> None:
    masks = (torch.tensor([[0, 0, 1]]), torch.tensor([1]))
    theirs = quietly(
        captum.attr.FeatureAblation(with_list).attribute, (TABLE, IDS), feature_mask=masks, baselines=(1.0, 3)
    )
    mine = ours.FeatureAblation(with_list).attribute((TABLE, IDS), feature_mask=masks, baselines=(1.0, 3))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.float(), b.float())
    (first, second), n = ours.FeaturePermutation(with_list).attribute((TABLE, IDS), seed=0), len(IDS)
    assert not first.any() and float(second) in {2.0 * (1 - int(i)) for i in IDS[-n:]}


@pytest.mark.parametrize(
    ("model", "more", "text"),
    [
        (lambda x, ids: x.sum(1), {}, "inputs\\[1\\] has 7 samples"),
        (with_list, {"perturbations_per_eval": 2}, "Use perturbations_per_eval=1"),
        (with_list, {"feature_mask": (torch.zeros(2, 3).long(), torch.tensor([1]))}, "a feature is a column"),
        (with_list, {"feature_mask": torch.tensor([[0, 1, 2]])}, "give one per input"),
    ],
)
def test_wrong_questions_about_lists_are_refused(model: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        ours.FeatureAblation(model).attribute((TABLE, IDS), **more)


# -- selectors, layers, baselines -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NeuronGradient", "NeuronIntegratedGradients", "NeuronFeatureAblation"])
def test_selectors_may_sum_over_the_batch(name: str, net: nn.Module, rows: Tensor) -> None:
    theirs = quietly(getattr(captum.attr, name)(net, net[1]).attribute, rows, lambda out: out[:, 2:].sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)  # rows feel each other in such a sum
        mine = getattr(ours, name)(net, net[1]).attribute(rows, lambda out: out[:, 2:].sum())
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)


def test_every_class_says_as_captum_whether_it_multiplies(net: nn.Module) -> None:
    for name in captum.attr.__all__:
        theirs = getattr(captum.attr, name)
        kind = isinstance(theirs, type) and issubclass(theirs, captum.attr.Attribution) and name.startswith(("L", "N"))
        if (
            not kind
            or "LLM" in name
            or name in ("LayerAttribution", "NeuronAttribution", "Lime", "LimeBase", "NoiseTunnel")
        ):
            continue
        given = (net,) if name == "LRP" else (net, net[0])
        assert getattr(ours, name)(*given).multiplies_by_inputs == theirs(*given).multiplies_by_inputs, name


class Spare(nn.Module):
    """A layer that runs and is not used, and one behind which the gradient ends."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.spare, self.cut, self.b = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.spare(x)
        return self.b(torch.relu(self.a(x)) + self.cut(x).detach().round())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("LayerGradientXActivation", {}),
        ("LayerIntegratedGradients", {"n_steps": 4}),
        ("LayerConductance", {"n_steps": 4}),
        ("InternalInfluence", {"n_steps": 4}),
        ("LayerGradientShap", {"baselines": torch.zeros(2, 3)}),
        ("LayerDeepLift", {}),
        ("LayerDeepLiftShap", {"baselines": torch.zeros(2, 3)}),
        ("LayerLRP", {}),
        ("LayerGradCam", {}),
    ],
)
def test_a_layer_without_use_gets_zeros_and_a_warning(name: str, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Spare(), torch.randn(2, 3)
    for trains in (True, False):
        with pytest.warns(InterpWarning, match="does not use the layer 'spare'"):
            found = getattr(ours, name)(model.requires_grad_(trains), model.spare).attribute(x, target=1, **more)
        assert found.shape[0] == 2 and not found.any()
        with pytest.raises(ModelError, match="does not depend on"):  # it has a use, and no gradient
            getattr(ours, name)(model, model.cut).attribute(x, target=1, **more)


def test_baselines_broadcast(net: nn.Module, rows: Tensor) -> None:
    for b in (torch.tensor(0.5), torch.arange(4.0), torch.ones(3, 1), torch.ones(1, 1)):
        full = b.double().expand(3, 4).clone()
        for method in (ours.FeatureAblation(net), ours.IntegratedGradients(net)):
            torch.testing.assert_close(
                method.attribute(rows, baselines=b.double(), target=0), method.attribute(rows, baselines=full, target=0)
            )
        layer = ours.LayerFeatureAblation(net, net[0])
        b, full = (b, torch.ones(3, 5) * 0.5) if b.ndim == 0 else (torch.ones(5) * 0.5, torch.ones(3, 5) * 0.5)
        torch.testing.assert_close(
            layer.attribute(rows, layer_baselines=b, target=0), layer.attribute(rows, layer_baselines=full, target=0)
        )
    with pytest.raises(InputError, match="what broadcasts to it"):
        ours.FeatureAblation(net).attribute(rows, baselines=torch.ones(2, 4), target=0)


def test_answers_later_need_inputs_and_unknown_arguments_are_told(net: nn.Module, rows: Tensor) -> None:
    for name in ("Occlusion", "Lime", "KernelShap", "FeatureAblation"):
        with pytest.raises(NotImplementedError, match="without inputs"):
            getattr(ours, name)(net).attribute_future()
    for method in (ours.FeatureAblation(net), ours.FeaturePermutation(net)):
        with pytest.warns(InterpWarning, match="no argument 'n_step'"):
            method.attribute(rows, target=0, n_step=3)


def test_progress_that_was_asked_for_reads_as_captums(
    net: nn.Module, rows: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in (ours.FeatureAblation(net), ours.ShapleyValueSampling(net), ours.KernelShap(net)):
        for more in ({}, {"perturbations_per_eval": 2}):
            method.attribute(rows, target=0, show_progress=True, **more)
            assert f"{method.get_name()} attribution: 100%" in capsys.readouterr().err


def test_a_number_is_no_rule(net: nn.Module) -> None:
    net[0].rule = 1
    for library in (captum.attr, ours):
        with pytest.raises(TypeError, match="Please select propagation rules"):
            library.LRP(net)

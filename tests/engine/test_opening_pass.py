"""The pass that begins a call: one for prediction, layer and first gradient, and only where it equals three."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, explain
from interp_plugins.attr import EigenCAM, GradCAMPlusPlus, LayerCAM
from interp_plugins.core.caches import call_cache

METHODS = ["saliency", "input_x_gradient", "grad_cam", "layer_cam", "grad_cam_plus_plus", "hi_res_cam"]
KEY = ("first pass",)


class Net(nn.Module):
    """Counts the rows that run; its last convolution is followed by an operation in place, if asked."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.act, self.fc = nn.ReLU(inplace), nn.Linear(5, 3)
        self.ran = SimpleNamespace(rows=0)

    def forward(self, x: Tensor) -> Tensor:
        self.ran.rows += len(x)
        return self.fc(self.act(self.last(self.act(self.first(x)))).mean((2, 3)))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def made(inplace: bool = False) -> Net:
    torch.manual_seed(3)
    return Net(inplace).double().eval()


def both(net: nn.Module, x: Tensor, method: Any, **more: Any) -> tuple[Any, Any]:
    return explain(net, x, method, **more)[0], explain(net, x, method, accelerate=False, **more)[0]


@pytest.mark.parametrize("target", [None, 1], ids=["predicted", "given"])
@pytest.mark.parametrize("method", METHODS)
def test_one_pass_gives_prediction_layer_and_gradient(method: str, target: int | None, x: Tensor) -> None:
    net = made()
    mine, plain = both(net, x, method, target=target)
    assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-10, atol=1e-14) and mine.layer == plain.layer
    assert torch.equal(mine.score, plain.score) and mine.prediction == plain.prediction
    net.ran.rows = 0
    explain(net, x, method, target=target)
    assert net.ran.rows == len(x)


@pytest.mark.parametrize("layer", ["last", None], ids=["given", "found"])
def test_what_needs_no_gradient_reads_the_predictions_pass_which_then_has_no_graph(
    layer: str | None, x: Tensor
) -> None:
    net, graphs = made(), []
    net.fc.register_forward_pre_hook(lambda module, args: graphs.append(args[0].requires_grad))
    mine, plain = both(net, x, "eigen_cam", layer=layer)
    assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-10, atol=1e-14) and mine.layer == plain.layer
    net.ran.rows, graphs[:] = 0, []
    alone = explain(net, x, "eigen_cam", layer=layer)[0]
    assert net.ran.rows == len(x) and graphs == [layer is None]  # a layer is looked for by gradients
    net.ran.rows, graphs[:] = 0, []
    first, second = explain(net, x, ("eigen_cam", "layer_cam"), layer=layer)
    assert graphs[0] and torch.equal(first.attribution, alone.attribution)
    assert torch.equal(second.attribution, explain(net, x, "layer_cam", layer=layer)[0].attribution)


@pytest.mark.parametrize(("cls", "layer"), [(LayerCAM, None), (GradCAMPlusPlus, None), (EigenCAM, "last")])
def test_a_map_asked_for_directly_takes_one_pass_too(cls: type, layer: str | None, x: Tensor) -> None:
    net = made()
    found = cls(net, layer).attribute(x, 1)
    assert net.ran.rows == len(x)
    with acceleration(False):
        assert torch.allclose(found, cls(net, layer).attribute(x, 1), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layer", ["first", "last", "act"])
def test_a_layer_that_is_changed_in_place_or_runs_twice_is_read_by_itself(layer: str, x: Tensor) -> None:
    net = made(inplace=True)
    with pytest.warns(UserWarning, match="runs 2 times") if layer == "act" else acceleration():
        mine, plain = both(net, x, "layer_cam", layer=layer)
    assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-10, atol=1e-14) and mine.attribution.any()


def test_a_layer_with_a_hook_of_the_users_is_read_by_itself(x: Tensor) -> None:
    net = made()
    net.last.register_forward_hook(lambda module, args, out: 2 * out)
    mine, plain = both(net, x, "layer_cam", layer="last")
    assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore:The model draws random numbers")
def test_a_model_that_draws_runs_again_with_the_numbers_it_would_have_drawn(x: Tensor) -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (1 + 0.1 * torch.rand_like(x)))

    torch.manual_seed(3)
    mine, plain = both(Noisy().double().eval(), x, "saliency", target=1)
    assert torch.equal(mine.attribution, plain.attribution) and torch.equal(mine.score, plain.score)


def test_the_graph_is_gone_before_a_method_that_has_no_use_for_it(x: Tensor) -> None:
    seen: list[bool] = []

    class Looks:
        def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
            seen.append(KEY in call_cache())
            return inputs

    explain(made(), x, ["grad_cam", Looks()])
    explain(made(), x, [Looks(), "saliency"])
    explain(made(), x, ["ig", Looks(), "layer_cam"], n_steps=3)  # its layer is looked for before
    assert seen == [False] * 3 and call_cache() == {}


def test_rows_that_need_several_chunks_have_no_pass_of_their_own(x: Tensor) -> None:
    net = made()
    mine, plain = both(net, x, "saliency", batch_size=1, target=1)
    assert torch.allclose(mine.attribution, plain.attribution, rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore:EigenCAM fails the randomisation check")
@pytest.mark.parametrize("inplace", [False, True])
def test_a_map_of_activations_alone_is_read_off_the_pass_of_the_prediction(x: Tensor, inplace: bool) -> None:
    net = made(inplace)
    explain(net, x, "eigen_cam", target=0)  # how the model treats its rows is known by now
    net.ran.rows = 0
    found, plain = both(net, x, "eigen_cam", target=0, layer="last")
    assert torch.equal(found.attribution, plain.attribution)
    net.ran.rows = 0
    explain(net, x, "eigen_cam", target=0, layer="last")
    assert net.ran.rows == (2 if not inplace else 4)  # what was written over is read again


@pytest.mark.filterwarnings("ignore:EigenCAM fails the randomisation check")
def test_a_model_that_leaves_torch_needs_no_graph_for_it(x: Tensor) -> None:
    class Outside(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.from_numpy(x.numpy() * 2.0))

    torch.manual_seed(3)
    net = Outside().double().eval()
    found = explain(net, x, "eigen_cam", target=0, layer="last")[0]
    assert torch.equal(found.attribution, explain(made(), 2 * x, "eigen_cam", target=0, layer="last")[0].attribution)


def test_a_method_about_the_input_alone_notes_no_modules(x: Tensor) -> None:
    """No hook of ours stands at a layer then; beside a method that reads layers, all are noted."""
    net, hooks = made(), []
    net.first.register_forward_pre_hook(lambda module, args: hooks.append(len(net.last._forward_hooks)))
    alone = explain(net, x, "saliency", target=1)[0]
    assert hooks == [0]
    hooks.clear()
    first, second = explain(net, x, ["saliency", LayerCAM(net, "last")], target=1)
    assert hooks[0] == 1 and torch.equal(first.attribution, alone.attribution)
    assert torch.equal(second.attribution, explain(net, x, LayerCAM(net, "last"), target=1)[0].attribution)

"""Layers whose rows are frames, crops or views: an axis of their own where they can be told apart, else a refusal."""

from __future__ import annotations

import warnings

import matplotlib
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import InputSpec, explain
from interp_plugins.attr import LayerActivation, LayerGradCam
from interp_plugins.core.errors import InterpError, LayerError

matplotlib.use("agg")
torch.manual_seed(0)
CLIP = torch.rand(3, 4, 3, 10, 10)


class PerFrame(nn.Module):
    """Frames (N, T, C, H, W) folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cnn, self.head = nn.Conv2d(3, 7, 3), nn.Linear(7, 2)

    def forward(self, v: Tensor) -> Tensor:
        maps = torch.relu(self.cnn(v.flatten(0, 1)))
        return self.head(maps.mean((2, 3)).view(*v.shape[:2], -1).mean(1))


class Crops(PerFrame):
    """Four crops of each picture."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.stack([x[..., :6, :6], x[..., :6, 4:], x[..., 4:, :6], x[..., 4:, 4:]], 1))


class Siamese(PerFrame):
    """Two pictures, one batch behind the other: the rows of a sample do not stand together."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = torch.relu(self.cnn(torch.cat([a, b]))).mean((2, 3)).chunk(2)
        return self.head((left - right).abs())


class Stacked(Siamese):
    """The same with each sample's pictures beside each other."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        maps = torch.relu(self.cnn(torch.stack([a, b], 1).flatten(0, 1))).mean((2, 3)).view(len(a), 2, -1)
        return self.head((maps[:, 0] - maps[:, 1]).abs())


METHODS = [
    "gradcam", "layer_integrated_gradients", "layer_activation", "layer_gradient_x_activation", "grad_cam_plus_plus",
    "hi_res_cam", "eigen_cam", "layer_conductance", "internal_influence", "layer_gradient_shap", "layer_lrp",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Inputs of shape")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_sample_its_frames(method: str) -> None:
    net = PerFrame()
    options = {"input_spec": InputSpec("clip")}
    exp = explain(net, CLIP, method, layer="cnn", target=1, **options)[0]
    assert exp.attribution.shape[:2] == (3, 4) and len(exp) == 3
    one = explain(net, CLIP[1:2], method, layer="cnn", target=1, **options)[0]
    if method != "layer_gradient_shap":  # draws
        assert torch.allclose(exp.attribution[1], one.attribution[0], atol=1e-5)
    exp.to_df()


def test_values_are_those_of_each_frame() -> None:
    net = PerFrame()
    found = LayerActivation(net, "cnn").attribute(CLIP)
    assert torch.allclose(found, torch.stack([net.cnn(v) for v in CLIP]), atol=1e-6)


def test_strips_are_drawn_of_frames_and_of_views() -> None:
    pair = (torch.rand(2, 3, 10, 10), torch.rand(2, 3, 10, 10))
    for net, x, spec in (
        (PerFrame(), CLIP, InputSpec("clip")),
        (Crops(), torch.rand(2, 3, 10, 10), None),
        (Stacked(), pair, None),
    ):
        exps = explain(net, x, ["gradcam", "layer_gradient_x_activation"], layer="cnn", target=1, input_spec=spec)
        _, axes = exps.plot(max_n=1)
        word = "frame" if x is CLIP else "view"
        texts = [t.get_text() for t in axes[0, 1].texts]
        assert texts == [f"{word} {k}" for k in range(2 if x is pair else 4)]
        exps[0].show(index=1)
        exps.to_html()
        exps.to_df()


def test_views_that_do_not_stand_together_are_refused() -> None:
    x = (torch.rand(3, 3, 10, 10), torch.rand(3, 3, 10, 10))
    for method in ("gradcam", "layer_activation", "layer_integrated_gradients", "layer_gradient_x_activation"):
        with pytest.raises(LayerError, match="cannot be told apart per sample"):
            explain(Siamese(), x, method, layer="cnn", target=1)


@pytest.mark.filterwarnings("ignore:The rows of this model feel each other")  # at the layer they do
def test_views_of_one_pair_are_its_own_but_steps_of_it_are_not_told_apart() -> None:
    x, stacked = (torch.rand(1, 3, 10, 10), torch.rand(1, 3, 10, 10)), Stacked()
    net = Siamese()
    net.load_state_dict(stacked.state_dict())
    for method in ("gradcam", "layer_activation", "layer_integrated_gradients", "layer_gradient_x_activation"):
        found, right = (explain(one, x, method, layer="cnn", target=1)[0].attribution for one in (net, stacked))
        assert found.shape[:2] == (1, 2) and torch.allclose(found, right, atol=1e-6)
    for method in ("layer_conductance", "internal_influence"):
        assert explain(stacked, x, method, layer="cnn", target=1)[0].attribution.shape[:2] == (1, 2)
        with pytest.raises(LayerError, match="cannot be told apart per sample"):
            explain(net, x, method, layer="cnn", target=1)


def test_channel_methods_say_that_they_cannot() -> None:
    for method in ("score_cam", "ablation_cam"):
        with pytest.raises(InterpError, match="cannot be told apart"):
            explain(PerFrame(), CLIP, method, layer="cnn", target=1, input_spec=InputSpec("clip"))


def test_states_of_a_recurrent_layer_stay() -> None:
    rnn = nn.GRU(3, 4, batch_first=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0].mean(1)

    out, state = LayerActivation(Net(), "rnn").attribute(torch.randn(2, 5, 3))
    assert out.shape == (2, 5, 4) and state.shape == (1, 2, 4)


def test_grad_cam_of_one_clip() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LayerGradCam(PerFrame(), "cnn").attribute(CLIP[:1], target=1).shape == (1, 4, 1, 8, 8)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("method", ["layer_gradient_shap", "layer_conductance", "internal_influence"])
def test_as_many_channels_as_rows_in_a_pass_are_no_batch(method: str, samples: int) -> None:
    options = {"n_samples": 5, "seed": 0} if method == "layer_gradient_shap" else {"n_steps": 5}
    net = PerFrame()
    net.cnn, net.head = nn.Conv2d(3, 5 * samples, 3), nn.Linear(5 * samples, 2)
    found, apart = (
        explain(
            net, CLIP[:samples], method, layer="cnn", target=1, batch_size=size, input_spec=InputSpec("clip"), **options
        )[0].attribution
        for size in (5 * samples, 1)
    )
    assert found.shape == (samples, 4, 5 * samples, 8, 8)
    assert torch.allclose(found, apart, atol=1e-5)

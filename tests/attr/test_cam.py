"""The CAM family: slow formulas, agreement with the grad-cam package, layers found and tokens laid out unasked."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins import explain
from interp_plugins.attr.gradient.full_grad import full_gradient
from interp_plugins.attr.shared.grid_layer import last_grid_layer
from interp_plugins.core.errors import InputError, InterpWarning, LayerError, TargetError, UnknownNameError
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.grid import find_grid, trace_shapes
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import layer_name
from interp_plugins.core.target import as_target

FAMILY = ["GradCAMPlusPlus", "XGradCAM", "LayerCAM", "HiResCAM", "EigenGradCAM", "EigenCAM", "ScoreCAM", "AblationCAM"]


class Cnn(nn.Module):
    """Two convolutions; the second keeps the input's size."""

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(4, channels, 3, padding=1), nn.ReLU()
        self.mix, self.fc = nn.Conv2d(channels, 6, 3, stride=2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc(self.mix(y).tanh().amax((2, 3)))


@pytest.fixture
def net() -> Cnn:
    torch.manual_seed(3)
    return Cnn().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


# -- slow formulas ---------------------------------------------------------------------------------------------


def activation_and_gradient(net: Cnn, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    a = net.relu2(net.conv2(net.relu1(net.conv1(x[None])))).detach().requires_grad_()
    score = net.fc(net.mix(a).tanh().amax((2, 3)))[0, target]
    return a.detach()[0], torch.autograd.grad(score, a)[0][0]


def slow(name: str, a: Tensor, g: Tensor) -> Tensor:
    """The paper's formula, place by place."""
    channels, height, width = a.shape
    out = torch.zeros(height, width, dtype=a.dtype)
    for c in range(channels):
        total = sum(a[c, i, j] for i in range(height) for j in range(width))
        weight = torch.zeros((), dtype=a.dtype)
        for i in range(height):
            for j in range(width):
                d = g[c, i, j]
                if name == "GradCAMPlusPlus" and d != 0:
                    weight = weight + d**2 / (2 * d**2 + total * d**3) * max(d, torch.zeros(()))
                elif name == "XGradCAM" and total != 0:
                    weight = weight + d * a[c, i, j] / total
        for i in range(height):
            for j in range(width):
                d = g[c, i, j]
                factor = {"LayerCAM": max(d, torch.zeros(())), "HiResCAM": d}.get(name, weight)
                out[i, j] += factor * a[c, i, j]
    return out


@pytest.mark.parametrize("name", ["GradCAMPlusPlus", "XGradCAM", "LayerCAM", "HiResCAM"])
def test_gradient_weighted_maps_are_the_papers_formula(net: Cnn, x: Tensor, name: str) -> None:
    found = getattr(attr, name)(net, "relu2").attribute(x, target=2, relu_attributions=False)
    expected = torch.stack([slow(name, *activation_and_gradient(net, row, 2)) for row in x])[:, None]
    assert close(found, expected)
    assert close(getattr(attr, name)(net, "relu2").attribute(x, target=2), expected.relu())


def test_score_cam_is_the_papers_formula(net: Cnn, x: Tensor) -> None:
    a = net.relu2(net.conv2(net.relu1(net.conv1(x)))).detach()
    expected = torch.zeros(2, 1, 8, 8, dtype=x.dtype)
    for n in range(2):
        scores = []
        for c in range(5):
            low, high = a[n, c].min(), a[n, c].max()
            mask = (a[n, c] - low) / (high - low) if high > low else torch.zeros_like(a[n, c])
            scores.append(net((x[n] * mask)[None])[0, 1])
        weights = torch.stack(scores).softmax(0)
        for c in range(5):
            expected[n, 0] += weights[c].detach() * a[n, c]
    assert close(attr.ScoreCAM(net, "relu2").attribute(x, target=1), expected.relu())


def test_ablation_cam_is_the_papers_formula(net: Cnn, x: Tensor) -> None:
    a = net.relu2(net.conv2(net.relu1(net.conv1(x)))).detach()
    tail = lambda t: net.fc(net.mix(t).tanh().amax((2, 3)))[0, 1].detach()  # noqa: E731
    expected = torch.zeros(2, 1, 8, 8, dtype=x.dtype)
    for n in range(2):
        score = tail(a[n : n + 1])
        for c in range(5):
            without = a[n : n + 1].clone()
            without[:, c] = 0
            expected[n, 0] += (score - tail(without)) / abs(score) * a[n, c]
    found = attr.AblationCAM(net, "relu2").attribute(x, target=1, relu_attributions=False)
    assert close(found, expected)


def test_eigen_cam_projects_on_the_first_axis_and_ignores_the_class(net: Cnn, x: Tensor) -> None:
    a = net.relu2(net.conv2(net.relu1(net.conv1(x)))).detach().flatten(2)
    found = attr.EigenCAM(net, "relu2").attribute(x, target=0)
    for n in range(2):
        values, axes = torch.linalg.eigh(a[n] @ a[n].T)
        assert values[-1] > 1.5 * values[-2]
        assert close((axes[:, -1] @ a[n]).abs(), found[n].flatten(), 1e-10)
    assert close(found, attr.EigenCAM(net, "relu2").attribute(x, target=3))


def test_hi_res_cam_adds_up_to_the_score_of_linear_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3, bias=False)).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    found = attr.HiResCAM(net, "1").attribute(x, target=1, relu_attributions=False)
    assert close(found.sum((1, 2, 3)), net(x)[:, 1].detach())


def test_full_gradient_is_complete_for_a_relu_net_with_batch_norm() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(),
                        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))  # fmt: skip
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    net = net.double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with frozen(net):
        parts, biases, scores = full_gradient(Forward.of(net, 2, as_target(1, 2)), (x,))
    assert len(biases) == 4
    assert close(sum(p.flatten(1).sum(1) for p in (*parts, *biases)), scores)
    assert close(scores, net(x)[:, 1].detach())
    rescaled = []
    for part in (*parts, *biases[:2]):
        for n in range(2):
            p = part[n].abs()
            p = (p - p.min()) / (p.max() - p.min())
            rescaled.append(F.interpolate(p[None], (8, 8), mode="bilinear").sum(1)[0])
    expected = torch.stack([sum(rescaled[n::2]) for n in range(2)])
    assert close(attr.FullGrad(net).attribute(x, target=1)[:, 0], expected.detach())


def test_finer_cam_explains_the_class_against_those_like_it(net: Cnn, x: Tensor) -> None:
    with torch.no_grad():
        scores = net(x)
    near = [sorted((c for c in range(4) if c != 2), key=lambda c: float(abs(s[c] - s[2])))[:2] for s in scores]

    def finer(out: Tensor) -> Tensor:
        rows = []
        for row, others in zip(out, near):
            p = row.softmax(0)
            rows.append(sum(p[d] * (row[2] - 0.5 * row[d]) for d in others) / sum(p[d] for d in others))
        return torch.stack(rows)

    found = attr.FinerCAM(net, "relu2").attribute(x, target=2, alpha=0.5, n_similar=2)
    assert close(found, attr.LayerGradCam(net, "relu2").attribute(x, target=finer, relu_attributions=True))
    for target in (2, torch.tensor([2, 2]), (2,)):
        assert close(attr.FinerCAM(net, "relu2").attribute(x, target=target, alpha=0.5, n_similar=2), found)
    plain = attr.FinerCAM(net, "relu2", base="layer_cam").attribute(x, target=2, alpha=0)
    assert close(plain, attr.LayerCAM(net, "relu2").attribute(x, target=2))


# -- agreement with the grad-cam package -----------------------------------------------------------------------


def scaled(cam: Tensor) -> np.ndarray:
    """As grad-cam scales its maps."""
    flat = cam[:, 0] - cam[:, 0].flatten(1).amin(1)[:, None, None]
    return (flat / (1e-7 + flat.flatten(1).amax(1)[:, None, None])).numpy()


def theirs(name: str, net: nn.Module, layer: nn.Module, x: Tensor, target: int, reshape: Any = None) -> np.ndarray:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cam = getattr(pytorch_grad_cam, name)(net, [layer], reshape_transform=reshape)
        return np.asarray(cam(x, [ClassifierOutputTarget(target)] * len(x)))


@pytest.mark.parametrize(("ours", "name"), [("LayerGradCam", "GradCAM"), *((n, n) for n in FAMILY)])
def test_agrees_with_grad_cam_on_a_cnn(net: Cnn, x: Tensor, ours: str, name: str) -> None:
    single, x = net.float(), x.float()
    single.fc.weight.data *= 100  # they add 1e-6 and 1e-7 to denominators
    more = {"centre": True} if name == "EigenCAM" else {}
    mine = getattr(attr, ours)(single, "relu2").attribute(x, target=2, relu_attributions=name[:5] != "Eigen", **more)
    found = theirs(name, single, single.relu2, x, 2)
    if name.startswith("Eigen"):  # their axis has no definite sign
        both = np.stack([scaled(mine.relu()), scaled((-mine).relu())])
        assert np.abs(both - found).max((2, 3)).min(0).max() < 2e-4
    elif name == "AblationCAM":  # divided by the score itself there, by its size here
        sign = single(x)[:, 2].sign().reshape(-1, 1, 1, 1).detach()
        raw = attr.AblationCAM(single, "relu2").attribute(x, target=2, relu_attributions=False)
        assert np.abs(scaled((raw * sign).relu()) - found).max() < 2e-4
    else:
        assert np.abs(scaled(mine) - found).max() < 2e-4


@pytest.mark.parametrize(("ours", "name"), [("LayerCAM", "LayerCAM"), ("HiResCAM", "HiResCAM")])
def test_agrees_with_grad_cam_on_transformers(ours: str, name: str) -> None:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for net, layer, grid in ((vit("timm"), "blocks.1.norm1", (4, 4)), (swin("timm"), "norm", (2, 2))):

        def reshape(t: Tensor, grid: Any = grid) -> Tensor:
            t = t[:, -16:].reshape(len(t), *grid, -1) if t.ndim == 3 else t
            return t.permute(0, 3, 1, 2)

        mine = getattr(attr, ours)(net, layer).attribute(x, target=1)
        assert mine.shape == (2, 1, *grid)
        big = F.interpolate(torch.from_numpy(scaled(mine))[:, None], (16, 16), mode="bilinear")
        found = theirs(name, net, net.get_submodule(layer), x, 1, reshape)
        assert np.abs(scaled(big) - found).max() < 1e-4


# -- layers and layouts ----------------------------------------------------------------------------------------


def vit(source: str) -> nn.Module:
    """A small ViT with a class token and a 4 x 4 grid."""
    torch.manual_seed(0)
    if source == "timm":
        from timm.models.vision_transformer import VisionTransformer as Timm

        return Timm(img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=3, reg_tokens=2).eval()
    if source == "torchvision":
        from torchvision.models.vision_transformer import VisionTransformer as Tv

        net = Tv(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=3)
        nn.init.normal_(net.heads.head.weight)  # zeros otherwise
        return net.eval()
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(  # type: ignore[call-arg]  # of the base class
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16,
                       patch_size=4, num_labels=3)  # fmt: skip
    return ViTForImageClassification(config).eval()


def swin(source: str) -> nn.Module:
    """A small Swin transformer whose last grid is 2 x 2."""
    torch.manual_seed(0)
    if source == "timm":
        from timm.models.swin_transformer import SwinTransformer as Timm

        return Timm(img_size=16, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=2,
                    num_classes=3).eval()  # fmt: skip
    if source == "torchvision":
        from torchvision.models.swin_transformer import SwinTransformer as Tv

        return Tv([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=3).eval()
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(  # type: ignore[call-arg]
        image_size=16, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2,
                        num_labels=3)  # fmt: skip
    return SwinForImageClassification(config).eval()


@pytest.mark.parametrize("source", ["timm", "torchvision", "transformers"])
@pytest.mark.parametrize(("make", "grid"), [(vit, (4, 4)), (swin, (2, 2))], ids=["vit", "swin"])
def test_tokens_are_laid_out_and_the_layer_is_found(source: str, make: Any, grid: tuple[int, int]) -> None:
    net = make(source)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    func = Call(net, output="logits") if source == "transformers" else net
    found = attr.HiResCAM(func).attribute(x, target=1, relu_attributions=False)
    assert found.shape == (2, 1, *grid) and bool(found.any(-1).all())
    with frozen(func):
        forward = Forward.of(func, 2)
        layer = last_grid_layer(forward, (x,))
        _, seen = trace_shapes(forward, (x,))
        shapes = [s.shape for s in seen if s.module is layer.module]
        place = find_grid(layer.module, shapes[layer.call or 0], (x,), seen)
    assert place.size == grid
    assert place.prefix == ({"timm": 3}.get(source, 1) if make is vit else 0)
    assert layer_name(net, layer.module).split(".")[-1] not in ("q_proj", "value", "fc1", "qkv")


def test_layer_behind_the_last_attention_of_a_class_token_warns() -> None:
    net = vit("timm")
    x = torch.randn(1, 3, 16, 16)
    with pytest.warns(InterpWarning, match="depends on the class token alone.*Choose an earlier layer"):
        assert not attr.HiResCAM(net, "blocks.1").attribute(x, target=1).any()


def test_layouts_that_cannot_be_told_are_refused_and_can_be_given() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Flatten(2), nn.Linear(16, 15), nn.Flatten(), nn.Linear(90, 2)).eval()
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(LayerError, match=r"\(2, 6, 15\).*6 tokens belong to no grid.*layout=\(h, w\)"):
        attr.HiResCAM(net, "2").attribute(x, target=0)
    assert attr.HiResCAM(net, "2").attribute(x, target=0, layout=(2, 3)).shape == (2, 1, 2, 3)
    assert attr.HiResCAM(net, "2").attribute(x, target=0, layout="first").shape == (2, 1, 15)
    shape = lambda t: t.reshape(2, 6, 3, 5)  # noqa: E731
    assert attr.HiResCAM(net, "2").attribute(x, target=0, layout=shape).shape == (2, 1, 3, 5)
    with pytest.raises(InputError, match="layout must be 'auto', 'first'"):
        attr.HiResCAM(net, "2").attribute(x, target=0, layout="middle")
    with pytest.raises(InputError, match=r"layout=\(9, 9\) does not fit"):
        attr.HiResCAM(net, "2").attribute(x, target=0, layout=(9, 9))
    with pytest.raises(InputError, match=r"layout\(tensor\) gave"):
        attr.HiResCAM(net, "2").attribute(x, target=0, layout=lambda t: t[:1])


def test_channels_first_and_last_are_told_apart() -> None:
    x = torch.zeros(1, 3, 32, 48)
    conv, norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
    for shape, kind in (((2, 8, 8, 12), "first"), ((2, 8, 12, 8), "last"), ((2, 64, 4, 6), "first")):
        assert find_grid(conv, shape, (x,), []).kind == kind
    assert find_grid(norm, (2, 96, 8), (x,), []).size == (8, 12)
    with pytest.raises(LayerError, match="belong to no grid"):
        find_grid(norm, (2, 97, 8), (x,), [])


@pytest.mark.parametrize("name", ["LayerCAM", "EigenCAM", "AblationCAM"])
def test_maps_of_several_layers_are_averaged(net: Cnn, x: Tensor, name: str) -> None:
    method = getattr(attr, name)
    one, two = (method(net, layer).attribute(x, target=1) for layer in ("relu2", "mix"))
    peaks = [m / m.flatten(1).amax(1).clamp_min(1e-30).reshape(-1, 1, 1, 1) for m in (one, two)]
    expected = (peaks[0] + F.interpolate(peaks[1], (8, 8), mode="bilinear")) / 2
    assert close(method(net, ["relu2", "mix"]).attribute(x, target=1), expected)


def test_explain_takes_the_family_by_name(net: Cnn, x: Tensor) -> None:
    exps = explain(net, x, ("grad-cam++", "layercam", "gradcam", "fullgrad"), target=1)
    assert exps.methods == ["grad_cam_plus_plus", "layer_cam", "grad_cam", "full_grad"]
    assert exps[0].layer == "mix" and exps[0].heatmap().shape == (8, 8)
    many = explain(net, x, ("gradcam", "layercam"), target=1, layer=["relu1", "relu2"])
    assert all(e.attribution.shape == (2, 1, 8, 8) for e in many)


def test_what_a_method_cannot_do_is_refused(net: Cnn, x: Tensor) -> None:
    flat = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    row = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(InputError, match=r"ScoreCAM masks the input.*AblationCAM"):
        attr.ScoreCAM(flat, "0").attribute(row, target=0)
    with pytest.raises(InputError, match="FullGrad makes a map of one input with axes of space"):
        attr.FullGrad(flat).attribute(row, target=0)
    with pytest.raises(InputError, match="AblationCAM must know the axis of the channels"):
        attr.AblationCAM(net, "relu2").attribute(x, target=0, layout=lambda t: t)
    with pytest.raises(TargetError, match="FinerCAM compares a class with others"):
        attr.FinerCAM(net, "relu2").attribute(x, target=lambda out: out.sum(1))
    with pytest.raises(InputError, match="alpha must be between 0"):
        attr.FinerCAM(net, "relu2").attribute(x, target=0, alpha=2)
    with pytest.raises(UnknownNameError, match=r"Unknown base 'layercam'.*Did you mean 'layer_cam'"):
        attr.FinerCAM(net, "relu2", base="layercam")
    with pytest.raises(LayerError, match="Give layer="):
        attr.HiResCAM(flat).attribute(row, target=0)

"""Averages over augmented inputs, layers and checkpoints: against the same by hand; nothing changes on the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins import explain
from interp_plugins.core.errors import InputError, InputTypeError, UnknownNameError


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 3)
    ).double()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(1)).double()


# -- augmentation --------------------------------------------------------------------------------------------------


def test_flips_and_shifts_are_averaged_in_the_pictures_own_frame(net: nn.Module, x: Tensor) -> None:
    inner = attr.InputXGradient(net)
    plain = inner.attribute(x, target=1)
    flipped = inner.attribute(x.flip(-1), target=1).flip(-1)
    found = attr.AugmentedAttribution(inner).attribute(x, ["flip"], target=1)
    assert close(found, (plain + flipped) / 2)
    moved = torch.cat([x[..., :1, :], x[..., :1, :], x[..., :-2, :]], -2)
    moved = torch.cat([moved[..., :1], moved[..., :1], moved[..., :-2]], -1)
    there = inner.attribute(moved, target=1)
    inside = attr.AugmentedAttribution(inner).attribute(x, ["shift"], shift=2, target=1)[..., 2:-2, 2:-2] * 3
    back = torch.cat([x[..., 2:, :], x[..., -1:, :], x[..., -1:, :]], -2)
    back = torch.cat([back[..., 2:], back[..., -1:], back[..., -1:]], -1)
    other = inner.attribute(back, target=1)
    assert close(inside, plain[..., 2:-2, 2:-2] + there[..., 4:, 4:] + other[..., :-4, :-4])


def test_scales_are_warped_back(x: Tensor) -> None:
    smooth = F.interpolate(x, (40, 40), mode="bicubic")
    identity = type("Identity", (), {"attribute": lambda self, inputs, target=None: inputs * 1})()
    found = attr.AugmentedAttribution(identity).attribute(smooth, ["scale"], scales=(1.25,))
    assert float((found - smooth)[..., 8:-8, 8:-8].abs().mean()) < 0.02


def test_maps_of_layers_and_explain_work_with_augmentation(net: nn.Module, x: Tensor) -> None:
    found = attr.AugmentedAttribution(attr.LayerGradCam(net, "3")).attribute(x, target=0)
    assert found.shape == (2, 1, 5, 5)
    exp = explain(net, x, "tta", attribution_method="saliency", target=0)[0]
    assert exp.attribution.shape == x.shape and "Test-time augmentation" in exp.title
    exp = explain(net, x, "tta", target=0, n_steps=20)[0]
    assert float(exp.relative_delta.max()) < 0.1


# -- layers --------------------------------------------------------------------------------------------------------


def test_layers_are_averaged_at_the_inputs_size(net: nn.Module, x: Tensor) -> None:
    inner = attr.LayerGradCam(net, "0")
    one, two = (attr.LayerGradCam(net, k).attribute(x, target=1) for k in ("2", "3"))
    one, two = (m / m.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1) for m in (one, two))
    expected = (one + F.interpolate(two, (10, 10), mode="bilinear")) / 2
    assert close(attr.LayerAverage(inner, ["2", net[3]]).attribute(x, target=1), expected)
    assert inner.layer == "0"


# -- checkpoints ---------------------------------------------------------------------------------------------------


def states(net: nn.Module) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(5)
    return [
        {k: v + 0.1 * torch.rand(v.shape, generator=g).double() if v.is_floating_point() else v
         for k, v in net.state_dict().items()}
        for _ in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["mapping", "torch", "safetensors", "lightning"])
def test_checkpoints_are_averaged_and_the_model_stays(net: nn.Module, x: Tensor, kind: str, tmp_path: Path) -> None:
    several = states(net)
    given: list[Any] = []
    for k, state in enumerate(several):
        path = tmp_path / f"{k}.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
        if kind == "torch":
            torch.save(state, path)
        elif kind == "safetensors":
            save_file(state, path)
        elif kind == "lightning":
            torch.save({"epoch": k, "state_dict": {f"net.{n}": v for n, v in state.items()}}, path)
        given.append(state if kind == "mapping" else path)
    before = {k: (id(v), v.clone()) for k, v in net.named_parameters()}
    net.train()
    for make in (lambda m: attr.IntegratedGradients(m), lambda m: attr.LayerGradCam(m, "3")):
        found = attr.CheckpointAverage(make(net), given).attribute(x, target=1)
        expected = []
        for state in several:
            twin = nn.Sequential(*[type(m)(*a) for m, a in zip(net, ARGUMENTS)]).double()
            twin.load_state_dict(state)
            expected.append(make(twin).attribute(x, target=1))
        assert close(found, sum(expected) / 3, 1e-10)
    assert net.training and all(m.training for m in net.children())
    assert all(id(v) == before[k][0] and torch.equal(v, before[k][1]) for k, v in net.named_parameters())


ARGUMENTS: list[tuple[Any, ...]] = [(3, 4, 3, 1, 1), (4,), (), (2,), (), (100, 3)]


def test_callables_around_the_model_get_the_state_too(net: nn.Module, x: Tensor) -> None:
    several = states(net)
    around = attr.CheckpointAverage(attr.Saliency(lambda z: net(z).softmax(1)), several).attribute(x, target=1)
    plain = attr.CheckpointAverage(attr.Saliency(net), several).attribute(x, target=lambda out: out.softmax(1)[:, 1])
    assert close(around, plain)


class BoomError(RuntimeError):
    """Raised inside a model."""


def test_model_stays_when_it_raises(net: nn.Module, x: Tensor) -> None:
    before = {k: (id(v), v.clone()) for k, v in net.named_parameters()}

    def fail(*_: Any) -> None:
        raise BoomError

    handle = net[4].register_forward_hook(fail)
    with pytest.raises(BoomError):
        attr.CheckpointAverage(attr.Saliency(net), states(net)).attribute(x, target=1)
    handle.remove()
    assert all(id(v) == before[k][0] and torch.equal(v, before[k][1]) for k, v in net.named_parameters())


def test_what_cannot_be_averaged_is_refused(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    saliency = attr.Saliency(net)
    with pytest.raises(InputTypeError, match="AugmentedAttribution needs a method object"):
        attr.AugmentedAttribution(net)
    with pytest.raises(UnknownNameError, match=r"Unknown augmentation 'flips'\. Did you mean 'flip'"):
        attr.AugmentedAttribution(saliency).attribute(x, ["flips"], target=0)
    with pytest.raises(InputError, match="scales are positive factors"):
        attr.AugmentedAttribution(saliency).attribute(x, scales=(0.0,), target=0)
    flat = attr.Saliency(nn.Linear(4, 2).double())
    with pytest.raises(InputError, match=r"Flips, shifts and scales are for pictures.*NoiseTunnel"):
        attr.AugmentedAttribution(flat).attribute(torch.rand(2, 4).double(), target=0)
    with pytest.raises(InputTypeError, match="needs a method at a layer"):
        attr.LayerAverage(saliency, ["2"])
    with pytest.raises(InputError, match="checkpoints must be a list"):
        attr.CheckpointAverage(saliency, net.state_dict())
    short = dict(list(net.state_dict().items())[1:])
    with pytest.raises(InputError, match=r"checkpoints\[0\] has no '0.weight'"):
        attr.CheckpointAverage(saliency, [short]).attribute(x, target=0)
    wrong = {**net.state_dict(), "0.bias": torch.zeros(7)}
    with pytest.raises(InputError, match=r"checkpoints\[1\]\['0.bias'\].*the model's has shape \(4,\)"):
        attr.CheckpointAverage(saliency, [net.state_dict(), wrong]).attribute(x, target=0)

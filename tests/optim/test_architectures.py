"""Networks as people have them: a picture of a unit, and the model bit for bit as it was."""

import copy
import signal
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import InputSpec, dataset_examples, visualize
from interp_plugins.core.errors import InputTypeError
from interp_plugins.core.global_random import rng_state
from interp_plugins.optim import objectives as o

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")

NETS: dict[str, tuple[Any, str, int]] = {
    "resnet18": (lambda: models.resnet18(weights=None), "layer2", 32),
    "googlenet": (lambda: models.googlenet(weights=None, init_weights=False, aux_logits=False), "inception3a", 48),
    "efficientnet": (lambda: timm.create_model("tf_efficientnet_lite0"), "blocks.2.1", 32),
    "convnext": (lambda: timm.create_model("convnext_atto"), "stages.1", 32),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3), "blocks.1", 32),
    "swin": (lambda: models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=5), "features.1", 32),
    "squeezenet": (lambda: models.squeezenet1_1(weights=None), "features.4", 32),
    "mobilenet": (lambda: models.mobilenet_v3_small(weights=None), "features.3", 32),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16), "features.denseblock2", 32),
    "segmentation": (lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
                     "backbone.4", 32),
}  # fmt: skip


def state_of(net: nn.Module) -> tuple[Any, ...]:
    """All that a call is to leave as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    kept = [(m.training, *(len(getattr(m, h)) for h in hooks)) for m in net.modules()]
    return kept, [(p.grad is None, p.requires_grad) for p in net.parameters()], rng_state()


@pytest.mark.parametrize("name", list(NETS))
def test_an_architecture_gives_pictures_and_stays(name: str) -> None:
    make, layer, size = NETS[name]
    torch.manual_seed(0)
    net: nn.Module = make().train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, state_of(net)
    how: dict[str, Any] = {"like": torch.zeros(1, 3, size, size), "progress": False}
    found = visualize(net, layer, channel=[0, 3], steps=12, **how)
    assert found.images.shape == (2, 3, size, size) and found.activation.isfinite().all()
    rise = [h[-1] - h[0] for h, s in zip(found.history, found.state, strict=True) if s != "dead"]
    assert not rise or all(r > 0 for r in rise)

    def same() -> bool:
        return state_of(net) == state and all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())

    def ends(how: str) -> Any:
        calls = [0]

        def read(seen: dict[Any, Tensor], picture: Tensor) -> Tensor:
            calls[0] += 1
            if calls[0] == 3 and how == "error":
                raise RuntimeError("mine")
            if calls[0] == 3:
                signal.raise_signal(signal.SIGINT)
            return seen[layer].flatten(1).mean(1)

        return o.custom([layer], read)

    assert same()
    with pytest.raises(RuntimeError, match="mine"):
        visualize(net, objective=ends("error"), steps=6, **how)
    assert same()
    assert visualize(net, objective=ends("interrupt"), steps=6, **how).state == ("interrupted",)
    assert same()


def conv(channels: int = 3, out: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, out, 3), nn.ReLU(), nn.Conv2d(out, 5, 3)).eval()


X = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {"steps": 8, "progress": False}


def test_a_wrapped_model_is_the_model() -> None:
    net = conv()
    plain, wrapped = visualize(net, "2", channel=1, like=X[:1], **QUICK), nn.DataParallel(net)
    for name in ("2", "module.2"):
        assert torch.equal(visualize(wrapped, name, channel=1, like=X[:1], **QUICK).images, plain.images)
    compiled = torch.compile(net, backend="eager")
    assert torch.allclose(visualize(compiled, "2", channel=1, like=X[:1], **QUICK).images, plain.images, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_climbs_in_single(dtype: torch.dtype) -> None:
    net = conv()
    want = visualize(net, "2", channel=1, data=X, steps=200, tol=None, progress=False)
    half = net.to(dtype)
    found = visualize(half, "2", channel=1, data=X, steps=200, tol=None, progress=False)
    assert next(half.parameters()).dtype == dtype and found.images.dtype == torch.float32
    assert found.examples is not None
    with torch.no_grad():
        one, other = (copy.deepcopy(half).float()(v.images)[0, 1].mean() for v in (found, want))
    assert float(one) > 0.9 * float(other)


def test_a_u_net_of_fastai_and_its_middle() -> None:
    unet = pytest.importorskip("fastai.vision.models.unet")
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
    net = unet.DynamicUnet(body, 3, (16, 16)).eval()
    before = [len(m._forward_hooks) for m in net.modules()]
    found = visualize(net, "layers.0.2", channel=[0, 1], like=X[:1, :, :8, :8], **QUICK)
    output = visualize(net, target=lambda out: out[:, 1].mean((1, 2)), like=X[:1, :, :8, :8], **QUICK)
    assert found.activation.isfinite().all() and output.images.shape == (1, 3, 8, 8)
    assert [len(m._forward_hooks) for m in net.modules()] == before  # its own hooks, which it lives by


def test_recurrent_layers_and_ids() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 5, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            return self.lstm(self.embed(ids))[0][:, -1]

    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    torch.manual_seed(0)
    series = torch.randn(9, 7, 2)
    spec = InputSpec("series", layout="last")
    made = visualize(Series().eval(), "lstm", channel=2, data=series, input_spec=spec, steps=20, progress=False)
    assert made.inputs.shape == (1, 7, 2) and made.history[0, -1] > made.history[0, 0]
    ids = torch.randint(0, 20, (9, 7))
    assert (
        len(dataset_examples(Words().eval(), ids, "lstm", channel=1, k=3, input_spec=InputSpec("text")).words[0]) == 3
    )
    with pytest.raises(InputTypeError, match="dataset_examples"):
        visualize(Words().eval(), "lstm", channel=1, like=ids[:1])

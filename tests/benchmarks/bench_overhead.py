"""What a small call costs beside the passes themselves: one thread, one row, in turn with other libraries.

    python -m tests.benchmarks.bench_overhead [--rounds 9] [name ...]

The MLP (30-64-64-3) takes a tenth of a millisecond, so everything around it shows; EfficientNet-Lite0 at 224 x 224 has
273 modules, resnet18 at 64 x 64 has 61. Writes milliseconds of the processor of both, and the median and range of the
ratio theirs / here within a round (1 is equal, more is faster here). With `imports`, what importing costs beside an
interpreter's start, and beside torch.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import captum.attr as theirs
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins import explain
from interp_plugins.demo import lite0
from tests.benchmarks.measured import Table, span

Call = Callable[[], object]
TARGET = 1
TABLE = Table(
    "overhead",
    "Small calls",
    "`python -m tests.benchmarks.bench_overhead`: what a call costs beside its passes; one thread, one row, in turn; "
    "milliseconds of the processor, theirs over here (more than 1 is faster here). The MLP is 30-64-64-3 with random "
    "weights, Lite0 the trained EfficientNet at 224 x 224, resnet18 at 64 x 64 has random weights. Integrated "
    "Gradients has 20 steps, KernelShap and Lime 50 samples, FeatureAblation 64 cells of a picture, "
    "LayerConductance is at `layer2`.",
    ("theirs, ms", "here, ms", "theirs / here"),
    ("captum", "grad-cam"),
)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval()


def resnet() -> nn.Module:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18().eval()


def gradient(net: nn.Module, x: Tensor) -> Call:
    """A forward and a backward pass, by hand."""

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf)[:, TARGET].sum(), leaf)[0].abs()

    return run


def cam(net: nn.Module, layer: nn.Module, x: Tensor) -> Call:
    """Grad-CAM by hand: a forward pass with a hook, and a backward pass to the layer."""

    def run() -> Tensor:
        kept: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, args, out: kept.append(out))
        score = net(x.clone().requires_grad_())[:, TARGET].sum()
        handle.remove()
        grad = torch.autograd.grad(score, kept[0])[0]
        return (grad.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu().detach()

    return run


def same_methods(net: nn.Module, x: Tensor, layer: nn.Module, mask: Tensor | None) -> Iterator[tuple[str, Call, Call]]:
    """Captum's class and ours, with the same arguments."""
    leaf = x.clone().requires_grad_()  # Captum warns where it has to ask for gradients itself
    asked: dict[str, dict[str, object]] = {
        "Saliency": {},
        "IntegratedGradients": {"n_steps": 20},
        "FeatureAblation": {"feature_mask": mask},
    }
    if mask is None:  # resnet18 runs a ReLU twice, and Captum's DeepLift refuses that
        asked |= {"DeepLift": {}, "KernelShap": {"n_samples": 50}, "Lime": {"n_samples": 50}}
    for name, how in asked.items():
        there, here = getattr(theirs, name)(net), getattr(ours, name)(net)
        given = leaf if name in ("Saliency", "DeepLift") else x
        yield (
            f"attr.{name} / Captum",
            lambda there=there, given=given, how=how: there.attribute(given, target=TARGET, **how),
            lambda here=here, how=how: here.attribute(x, target=TARGET, **how),
        )
    yield (
        "attr.LayerConductance / Captum",
        lambda: theirs.LayerConductance(net, layer).attribute(x, target=TARGET),
        lambda: ours.LayerConductance(net, layer).attribute(x, target=TARGET),
    )


def cases() -> Iterator[tuple[str, Call, Call]]:
    """Name, theirs (or by hand), ours."""
    small, row = mlp(), torch.randn(1, 30, generator=torch.Generator().manual_seed(1))
    for name, a, b in same_methods(small, row, small[2], None):
        yield f"MLP, {name}", a, b
    yield "MLP, attr.Saliency / by hand", gradient(small, row), lambda: ours.Saliency(small).attribute(row, TARGET)
    yield (
        "MLP, explain saliency / by hand",
        gradient(small, row),
        lambda: explain(small, row, "saliency", target=TARGET),
    )
    yield from pictures()
    net, picture = resnet(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    cells = torch.arange(64) // 8
    mask = (cells[:, None] * 8 + cells)[None, None].expand(1, 3, 64, 64)
    for name, a, b in same_methods(net, picture, net.layer2, mask):
        yield f"resnet18, {name}", a, b


def pictures() -> Iterator[tuple[str, Call, Call]]:
    """A picture with Lite0."""
    net, x = lite0(), torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    layer = net.blocks[6]
    saliency, leaf = theirs.Saliency(net), x.clone().requires_grad_()
    yield (
        "Lite0, explain saliency / Captum",
        lambda: saliency.attribute(leaf, target=TARGET),
        lambda: explain(net, x, "saliency", target=TARGET),
    )
    map_of = theirs.LayerGradCam(net, layer)
    there = lambda: map_of.attribute(x, target=TARGET, relu_attributions=True)  # noqa: E731
    plain = ours.LayerGradCam(net, layer)
    yield "Lite0, attr.LayerGradCam / Captum", there, lambda: plain.attribute(x, target=TARGET, relu_attributions=True)
    for where in (layer, None):
        named = "" if where is None else ", layer given"
        run = lambda where=where: explain(net, x, "grad_cam", target=TARGET, layer=where)  # noqa: E731
        yield f"Lite0, explain grad_cam{named} / Captum", there, run
    yield (
        "Lite0, explain grad_cam, layer given / by hand",
        cam(net, layer, x),
        lambda: explain(net, x, "grad_cam", target=TARGET, layer=layer),
    )
    for method, peer in (("grad_cam", GradCAM), ("layer_cam", LayerCAM), ("grad_cam_plus_plus", GradCAMPlusPlus)):
        twin = copy.deepcopy(net)  # the peer leaves its hooks on the model
        made = peer(model=twin, target_layers=[twin.blocks[6]])
        yield (
            f"Lite0, explain {method}, layer given / pytorch-grad-cam",
            lambda made=made: made(input_tensor=x, targets=[ClassifierOutputTarget(TARGET)]),
            lambda method=method: explain(net, x, method, target=TARGET, layer=layer),
        )


def measure(name: str, a: Call, b: Call, rounds: int) -> None:
    """A row of the table; short calls are repeated within a round."""

    def seconds(call: Call, count: int) -> float:
        begin = time.process_time()
        for _ in range(count):
            call()
        return (time.process_time() - begin) / count

    for call in (a, b, a, b):
        call()
    count = max(1, min(50, int(0.03 / (seconds(a, 1) + seconds(b, 1)))))
    pairs = [(seconds(a, count), seconds(b, count)) for _ in range(rounds)]
    first, second = (f"{statistics.median(column) * 1000:.3g}" for column in zip(*pairs, strict=True))
    TABLE.add(name, [first, second, span([x / y for x, y in pairs])], rounds)


def imports(rounds: int) -> None:
    """What importing costs, medians of fresh interpreters."""

    def seconds(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    pairs = (("pass", "import interp_plugins"), ("import torch", "import torch, interp_plugins.attr"))
    for before, after in pairs:
        found = [(seconds(before), seconds(after)) for _ in range(rounds)]
        more = statistics.median(b - a for a, b in found)
        print(f"| `{after}` beyond `{before}` | {more * 1000:.0f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only cases whose name holds one of these words; imports for imports")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, a, b in cases():
        if not asked.names or any(word in name for word in asked.names):
            measure(name, a, b, asked.rounds)
    if not asked.names or "imports" in asked.names:
        imports(min(asked.rounds, 5))


if __name__ == "__main__":
    main()

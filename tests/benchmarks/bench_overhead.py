"""What a small call costs beside the passes themselves: one thread, one row, in turn with Captum and with autograd.

    python -m tests.benchmarks.bench_overhead [--rounds 20] [name ...]

The MLP (30-64-64-3) takes a tenth of a millisecond, so everything around it shows; resnet18 at 64 x 64 and 224 x 224 is
where it should not. Prints a table for docs/dev/performance.md: milliseconds of both, and the median and range of the
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

Call = Callable[[], object]
TARGET = 1
WHOLE = {"relu_attributions": True}


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
    yield (
        "attr.Saliency",
        lambda: theirs.Saliency(net).attribute(leaf, target=TARGET),
        lambda: ours.Saliency(net).attribute(x, target=TARGET),
    )
    yield (
        "attr.IntegratedGradients",
        lambda: theirs.IntegratedGradients(net).attribute(x, target=TARGET),
        lambda: ours.IntegratedGradients(net).attribute(x, target=TARGET, progress=False),
    )
    yield (
        "attr.FeatureAblation",
        lambda: theirs.FeatureAblation(net).attribute(x, target=TARGET, feature_mask=mask),
        lambda: ours.FeatureAblation(net).attribute(x, target=TARGET, feature_mask=mask, progress=False),
    )
    yield (
        "attr.LayerConductance",
        lambda: theirs.LayerConductance(net, layer).attribute(x, target=TARGET),
        lambda: ours.LayerConductance(net, layer).attribute(x, target=TARGET, progress=False),
    )
    if mask is None:  # resnet18 runs a ReLU twice, and Captum's DeepLift refuses that
        yield (
            "attr.DeepLift",
            lambda: theirs.DeepLift(net).attribute(leaf, target=TARGET),
            lambda: ours.DeepLift(net).attribute(x, target=TARGET),
        )


def cases() -> Iterator[tuple[str, Call, Call]]:
    """Name, theirs (or by hand), ours."""
    small, row = mlp(), torch.randn(1, 30, generator=torch.Generator().manual_seed(1))
    for name, a, b in same_methods(small, row, small[2], None):
        yield f"MLP, {name} / Captum", a, b
    yield "MLP, attr.Saliency / by hand", gradient(small, row), lambda: ours.Saliency(small).attribute(row, TARGET)
    yield (
        "MLP, explain saliency / by hand",
        gradient(small, row),
        lambda: explain(small, row, "saliency", target=TARGET),
    )

    net = resnet()
    middle, last = net.layer2, net.layer4
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    cells = torch.arange(64) // 8
    mask = (cells[:, None] * 8 + cells)[None, None].expand(1, 3, 64, 64)
    for name, a, b in same_methods(net, picture, middle, mask):
        yield f"resnet18 at 64, {name} / Captum", a, b
    large = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    yield (
        "resnet18 at 224, explain saliency / by hand",
        gradient(net, large),
        lambda: explain(net, large, "saliency", target=TARGET),
    )
    for method, peer in (("grad_cam", GradCAM), ("layer_cam", LayerCAM), ("grad_cam_plus_plus", GradCAMPlusPlus)):
        run = lambda method=method: explain(net, large, method, target=TARGET)  # noqa: E731
        yield f"resnet18 at 224, explain {method} / by hand", cam(net, last, large), run
        twin = copy.deepcopy(net)  # the peer leaves its hooks on the model
        made = peer(model=twin, target_layers=[twin.layer4])
        yield (
            f"resnet18 at 224, explain {method} / pytorch-grad-cam",
            lambda made=made: made(input_tensor=large, targets=[ClassifierOutputTarget(TARGET)]),
            run,
        )


def measure(a: Call, b: Call, rounds: int) -> tuple[float, float, list[float]]:
    """Medians in milliseconds, and the ratios a / b within each round; short calls are repeated within a round."""
    a(), b()
    begin = time.perf_counter()
    a(), b()
    count = max(1, min(50, int(0.02 / (time.perf_counter() - begin))))

    def seconds(call: Call) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - begin) / count

    pairs = [(seconds(a), seconds(b)) for _ in range(rounds)]
    first, second = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    return first, second, [x / y for x, y in pairs]


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
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| Call | theirs | here | theirs / here |\n|---|---|---|---|")
    for name, a, b in cases():
        if not asked.names or any(word in name for word in asked.names):
            first, second, ratios = measure(a, b, asked.rounds)
            span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {name} | {first:.2f} ms | {second:.2f} ms | {span} |", flush=True)
    if not asked.names or "imports" in asked.names:
        imports(min(asked.rounds, 5))


if __name__ == "__main__":
    main()

"""Pictures of units against lucent and Horama: `python -m tests.benchmarks.bench_optim [what ...]`.

What: speed, overhead, batch, quality, examples, memory; all without. Seconds of the processor, one thread, variants in
turn; ratios are of one round, medians of `--rounds` (5). A step costs what more steps cost over few, so that neither
side pays for its beginning; both counts are above those from which the engine plans. Memory is the peak of a process of
its own over what it held before the first step. lucent (0.1.8, with kornia 0.4.1) and Horama
(0.3) are no dependencies: where they cannot be imported their rows are left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from interp_plugins import InputSpec, dataset_examples, visualize
from interp_plugins.core.hooks import hooked
from interp_plugins.demo.network import lite0

SIZE = 128
SPEC = InputSpec("image", mean=(0.5,) * 3, std=(0.5,) * 3)
FEW, MORE = 24, 56
GIVEN_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}  # at once
OF_CROPS = 6  # a step of Horama's sees so many rows: it gets a sixth of the steps


def networks() -> dict[str, tuple[nn.Module, str]]:
    """Networks and layers: two with random weights, one trained."""
    torch.manual_seed(0)
    googlenet = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False).eval()
    resnet = torchvision.models.resnet18(weights=None).eval()
    trained = lite0()
    return {
        "GoogLeNet inception4a": (googlenet, "inception4a"),
        "resnet18 layer3": (resnet, "layer3"),
        "Lite0 blocks.4.2": (trained, "blocks.4.2"),
        "Lite0 conv_head": (trained, "conv_head"),
    }


def ours(net: nn.Module, layer: str, channel: Any, steps: int, size: int = SIZE, **options: Any) -> Tensor:
    """Pictures, all steps."""
    like = torch.zeros(1, 3, size, size)
    how = {"steps": steps, "tol": None, "progress": False, "input_spec": SPEC, "like": like, **options}
    return visualize(net, layer, channel=channel, **how).images


def of_lucent(net: nn.Module, layer: str, channel: int, steps: int) -> Tensor:
    """The same by lucent, which sees 128 pixels as well."""
    render = importlib.import_module("lucent.optvis.render")
    param = importlib.import_module("lucent.optvis.param")
    transform = importlib.import_module("lucent.optvis.transform")
    found = render.render_vis(
        net,
        f"{layer.replace('.', '_')}:{channel}",
        param_f=lambda: param.image(SIZE),
        transforms=[*transform.standard_transforms, lambda x: (x - 0.5) / 0.5],
        preprocess=False,
        thresholds=(steps,),
        progress=False,
        show_image=False,
        fixed_image_size=SIZE,
    )
    return torch.from_numpy(found[-1]).movedim(-1, 1)


def of_horama(net: nn.Module, layer: str, channel: int, steps: int) -> None:
    """Horama's six crops a step."""
    horama = importlib.import_module("horama")
    kept: list[Tensor] = []
    handle = dict(net.named_modules())[layer].register_forward_hook(lambda m, a, out: kept.append(out))

    def score(x: Tensor) -> Tensor:
        kept.clear()
        net(x)
        return kept[-1][:, channel].mean()

    horama.fourier(score, total_steps=steps, image_size=SIZE, model_input_size=SIZE, device="cpu")
    handle.remove()


def clean(net: nn.Module) -> None:
    """Take away what peers leave: hooks and gradients."""
    for module in net.modules():
        module._forward_hooks.clear()
    net.zero_grad(set_to_none=True)


def seconds(run: Callable[[], Any]) -> float:
    """Of the processor."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def per_step(run: Callable[[int], Any], share: int = 1) -> float:
    """What a step more costs, with a share of the steps."""
    few, more = FEW // share, MORE // share
    begun = seconds(lambda: run(few))
    return (seconds(lambda: run(more)) - begun) / (more - few)


def there(name: str) -> bool:
    """Whether a peer can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def quoted(ratios: Sequence[float]) -> str:
    """A median and its range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def speed(rounds: int) -> None:
    """Steps, against the peers."""
    peers = {"lucent": of_lucent, "horama": of_horama}
    known = {name: run for name, run in peers.items() if there(name)}
    for title, (net, layer) in networks().items():
        found: dict[str, list[float]] = {name: [] for name in ("ours", *known)}
        for _ in range(rounds):
            found["ours"].append(per_step(lambda steps: ours(net, layer, 7, steps)))  # noqa: B023
            for name, run in known.items():
                share = OF_CROPS if name == "horama" else 1
                found[name].append(per_step(lambda steps: run(net, layer, 7, steps), share))  # noqa: B023
                clean(net)
        said = [f"ours {1 / statistics.median(found['ours']):.1f} steps/s"]
        for name in known:
            said.append(f"{name} / ours {quoted([b / a for a, b in zip(found['ours'], found[name], strict=True)])}")
        print(f"{title}: {', '.join(said)}", flush=True)


def batch(rounds: int) -> None:
    """Sixteen channels in a call, against sixteen calls."""
    net, layer = networks()["Lite0 blocks.4.2"]
    ratios = []
    for _ in range(rounds):
        alone = seconds(lambda: [ours(net, layer, c, 16) for c in range(16)])
        ratios.append(seconds(lambda: ours(net, layer, range(16), 16)) / alone)
    print(f"16 channels in one call / 16 calls: {quoted(ratios)}", flush=True)


def level(net: nn.Module, layer: str, pictures: Tensor, channels: Sequence[int], size: int) -> Tensor:
    """How active each picture's channel is, seen at a size."""
    kept: list[Tensor] = []
    with torch.no_grad(), hooked() as hooks:
        hooks.behind(dict(net.named_modules())[layer], lambda m, a, out: kept.append(out))
        seen = nn.functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False)
        net(SPEC.normalise(seen))
    return torch.stack([kept[0][i, c].mean() for i, c in enumerate(channels)])


def quality(rounds: int) -> None:
    """Activation of the clean picture after 128 steps, eight channels of the trained network."""
    net, layer = networks()["Lite0 blocks.4.2"]
    channels = [0, 7, 20, 33, 50, 64, 81, 100]
    made = {"ours": ours(net, layer, channels, 128)}
    if there("lucent"):
        made["lucent"] = torch.cat([of_lucent(net, layer, c, 128) for c in channels])
        clean(net)
    for size in (128, 224):
        levels = {name: level(net, layer, pictures, channels, size) for name, pictures in made.items()}
        said = ", ".join(f"{name} {float(v.median()):.1f}" for name, v in levels.items())
        print(f"median activation seen at {size}: {said}", flush=True)


def truncated(net: Any) -> nn.Module:
    """Lite0 up to `blocks.4.2`, its parameters without gradients."""
    for p in net.parameters():
        p.requires_grad_(False)
    return nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:4], *net.blocks[4][:3]).eval()


def overhead(rounds: int) -> None:
    """A step, against a forward and a backward pass of the plain network up to the layer."""
    net, layer = networks()["Lite0 blocks.4.2"]
    parts = truncated(net)

    def bare(steps: int, size: int) -> None:
        for _ in range(steps):
            x = torch.rand(1, 3, size, size).requires_grad_()
            torch.autograd.grad(parts(x)[:, 7].mean(), x)

    for size in (128, 224):
        ratios = []
        for _ in range(rounds):
            own = per_step(lambda steps: ours(net, layer, 7, steps, size))  # noqa: B023
            ratios.append(own / per_step(lambda steps: bare(steps, size)))  # noqa: B023
        print(f"a step at {size} / forward and backward of the truncated network: {quoted(ratios)}", flush=True)


def memory(rounds: int) -> None:
    """The peak of a process that makes one picture, over what it held before."""
    for title in networks():
        peaks: dict[str, list[float]] = {"ours": []} | ({"lucent": []} if there("lucent") else {})
        for _ in range(rounds):
            for who, found in peaks.items():
                made = subprocess.run(
                    [sys.executable, "-m", "tests.benchmarks.bench_optim", "--peak", who, title],
                    capture_output=True, text=True, check=True, env={**os.environ, **GIVEN_BACK},
                )  # fmt: skip
                found.append(float(made.stdout.split()[-1]))
        said = ", ".join(f"{who} {quoted(found)} MiB" for who, found in peaks.items())
        print(f"{title}: peak of one picture, {said}", flush=True)


def peak(who: str, title: str) -> None:
    """In a process of its own: MiB of the peak over what was held before."""
    net, layer = networks()[title]
    run = {"ours": ours, "lucent": of_lucent}[who]
    run(net, layer, 7, 1)  # imports
    clean(net)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held = memory_of("VmRSS")
    run(net, layer, 7, 32)
    print(memory_of("VmHWM") - held)


def memory_of(what: str) -> float:
    """MiB of this process, as Linux tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(what))) / 1024


def examples(rounds: int) -> None:
    """All channels of a layer over data, against the bare forward passes up to it."""
    net, layer = networks()["Lite0 blocks.4.2"]
    x = torch.rand(256, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    parts = truncated(net)

    def bare() -> None:
        with torch.no_grad():
            for rows in x.split(64):
                parts(rows)

    ratios = []
    for _ in range(rounds):
        plain = seconds(bare)
        ratios.append(seconds(lambda: dataset_examples(net, x, layer, batch_size=64, progress=False)) / plain)
    print(f"dataset_examples of a whole layer / bare passes: {quoted(ratios)}", flush=True)


MEASURED: dict[str, Callable[[int], None]] = {
    "speed": speed,
    "overhead": overhead,
    "batch": batch,
    "quality": quality,
    "examples": examples,
    "memory": memory,
}


def main() -> None:
    """Run what is asked for."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=2, metavar=("WHO", "WHAT"), help="used by memory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        peak(*given.peak)
        return
    for what in given.what:
        MEASURED[what](given.rounds)


if __name__ == "__main__":
    main()

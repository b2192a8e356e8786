"""Whether anything leaks: how much larger a process is after many calls of a method.

    python -m tests.benchmarks.bench_memory [METHOD ...] [--calls 300] [--net plain]

MiB and objects that stay from the tenth call to half of the calls, and from there to the last. What is made once and
kept (compiled kernels of oneDNN, say) shows in the first half alone; a leak goes on. Every method of the registry gets
what it needs: a layer, a neuron, few features, a transformer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import list_methods, method_info
from tests.benchmarks.measured import Table

WARM = 10
TABLE = Table(
    "memory",
    "What stays after calls",
    "`python -m tests.benchmarks.bench_memory`: `explain` of two pictures of 32 x 32 by a small net (plain; with "
    "operations in place; with a module used twice; recurrent; methods about attention: a transformer on 4 x 4); "
    "what the process (after the collector, without what glibc keeps of freed memory) and the collector hold more "
    "after half of the calls than after the tenth, and after the last than after half.",
    ("calls", "MiB more, first half", "MiB more, second half", "objects more, first half", "objects more, second half"),
    (),
)
FEW = {"n_steps": 8, "n_samples": 8, "nt_samples": 2, "max_evals": 60, "steps": 3}
RULES = ("deep_lift", "deep_lift_shap", "layer_deep_lift", "lrp", "layer_lrp", "guided_backprop", "deconvolution",
         "guided_grad_cam", "saliency", "integrated_gradients")  # fmt: skip # asked about the other nets, too


def plain() -> nn.Module:
    """Two convolutions and a linear layer."""
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 3))


class InPlace(nn.Module):
    """Activations, sums and products written over their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.last, self.silu, self.fc = nn.Conv2d(6, 6, 3, padding=1), nn.SiLU(inplace=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.first(x)))
        z = self.silu(self.last(y).add_(y)).mean((2, 3))
        return self.fc(z.mul_(torch.sigmoid(z.clone())))


class Reused(nn.Module):
    """One activation and one convolution, each used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.act, self.fc = (
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.ReLU(),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.act(self.last(x))
        return self.fc(x.mean((2, 3)))


class Recurrent(nn.Module):
    """The rows of a picture one after the other, by an LSTM and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(96, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)
        self.last, self.act, self.fc = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.lstm(x.transpose(1, 2).flatten(2))[0])
        return self.fc(self.act(self.last(y[:, -1])))


@dataclass(frozen=True)
class Subject:
    """A net, the size of its pictures, a layer, and a neuron there."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)
    layer: str = "last"
    neuron: tuple[int, ...] = (0, 1, 1)


def transformer() -> nn.Module:
    """Two blocks of attention."""
    from tests.conformance.cases import TinyVit

    return TinyVit()


NETS = {
    "plain": Subject(plain, layer="3"),
    "in place": Subject(InPlace),
    "reused": Subject(Reused),
    "recurrent": Subject(Recurrent, neuron=(0,)),
    "transformer": Subject(transformer, (2, 4, 4), "blocks.1.norm", (0, 1)),
}


def resident() -> float:
    """MiB of this process now, without garbage, nor what the allocator keeps of freed memory."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def call_of(method: str, subject: Subject) -> Callable[[], object]:
    """A call of a method, with what it needs and few samples."""
    from interp_plugins.core.registry import arguments_of

    net, info = subject.build().eval(), method_info(method)
    x = torch.rand(2, *subject.shape)
    layer = subject.layer if info.site in ("layer", "neuron") or "layer" in info.constructor_takes else None
    takes = arguments_of(method)
    how = {k: v for k, v in FEW.items() if k in takes}
    if layer is not None:
        how["layer"] = layer
    if info.site == "neuron":
        how["neuron_selector"] = subject.neuron
    if method == "shapley_values":
        how["feature_mask"] = torch.arange(subject.shape[-1]).expand(1, *subject.shape) * 3 // subject.shape[-1]
    return partial(explain, net, x, method, target=0, progress=False, **how)


def measured(method: str, net: str, calls: int, seconds: float) -> list[str]:
    """The cells of a row: calls, and what stayed in each half of them."""
    torch.manual_seed(0)
    call = call_of(method, NETS[net])
    for _ in range(WARM):
        call()
    begin = time.process_time()
    call()
    calls = max(2 * WARM, min(calls, int(seconds / (time.process_time() - begin))))
    held = [(0.0, 0)] * 3
    for k, more in enumerate((0, calls // 2 - WARM, calls - calls // 2)):
        for _ in range(more):
            call()
        held[k] = resident(), len(gc.get_objects())
    mib, objects = zip(*held, strict=True)
    return [str(calls), *(f"{b - a:.2f}" for a, b in pairwise(mib)), *(str(b - a) for a, b in pairwise(objects))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="methods; left out: all, and some about every net")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="of the processor for a method, about: slow ones are called less often",
    )
    parser.add_argument("--net", choices=NETS, default="plain")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    asked = [(name, options.net) for name in options.names or list_methods()]
    asked = [(name, "transformer" if method_info(name).applies_to == "transformer" else net) for name, net in asked]
    if not options.names:
        asked += [(name, net) for net in ("in place", "reused", "recurrent") for name in RULES if fits(name, net)]
    for name, net in asked:
        label = name if net in ("plain", "transformer") else f"{name}, {net}"
        TABLE.add(label, measured(name, net, options.calls, options.seconds), 1)


def fits(method: str, net: str) -> bool:
    """Whether a method can be asked about a net: one with maps over space needs a layer that has them."""
    return not (net == "recurrent" and method == "guided_grad_cam")


if __name__ == "__main__":
    main()

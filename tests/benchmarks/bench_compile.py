"""What `explain(compile=True)` costs and saves: processor time per picture, compiled against not, and the break-even.

Run: .venv/bin/python -m tests.benchmarks.bench_compile [backend] [pictures]   (some minutes)

Compiled and plain runs take turns picture by picture, on one thread. The first compiled picture brings the compiler's
time with it, that of the C++ compiler's processes included; nothing is taken from an earlier run's cache.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # processes of its own are waited for, so their time is counted
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import torch

from interp_plugins import explain
from interp_plugins.demo.network import lite0
from tests.benchmarks.workloads import network

SIZE = 64
METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 32},
    "occlusion": {"sliding_window_shapes": (3, 16, 16), "strides": (3, 8, 8)},
}


def spent(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process and of the children it waited for, and the result."""
    before = _processor_seconds()
    result = run()
    return _processor_seconds() - before, result


def _processor_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def main(backend: str, pictures: int) -> None:
    """Print a line per network and method."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    xs = torch.randn(pictures + 1, 3, SIZE, SIZE)
    for name, net in (("EfficientNet-Lite0", lite0()), ("resnet18", network("resnet18", "cpu"))):
        for method, params in METHODS.items():

            def one(i: int, compile: str | bool, method: str = method, net: Any = net, params: Any = params) -> Any:
                return explain(net, xs[i : i + 1], method, target=3, compile=compile, progress=False, **params)[0]

            one(0, False)
            first, _ = spent(lambda: one(0, backend))
            plain, fast, errors = [], [], []
            for i in range(1, pictures + 1):
                seconds, a = spent(lambda i=i: one(i, False))
                plain.append(seconds)
                seconds, b = spent(lambda i=i: one(i, backend))
                fast.append(seconds)
                errors.append(float((a.attributions - b.attributions).norm() / a.attributions.norm()))
            ratio = statistics.median(p / f for p, f in zip(plain, fast, strict=True))
            p, f = statistics.median(plain), statistics.median(fast)
            even = f"{(first - f) / (p - f):.0f} pictures" if p > f else "never"
            print(
                f"{name}, {method}: {p:.3f} s plain, {f:.3f} s compiled, ratio {ratio:.2f}, compiling {first - f:.0f} "
                f"s, break-even {even}, maps differ by {max(errors):.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "inductor", int(sys.argv[2]) if len(sys.argv) > 2 else 100)

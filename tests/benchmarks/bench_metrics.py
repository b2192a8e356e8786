"""What metrics of maps cost themselves: milliseconds a sample of 3 x 64 x 64, alone and in a batch of 16.

python -m tests.benchmarks.bench_metrics
"""

from __future__ import annotations

import statistics
import time

import torch

from interp_plugins.metrics import list_metrics, metric_info
from tests.metrics.cases import case

REPEATS = 7


def milliseconds(name: str, n: int) -> float:
    """Median time of a metric's function for n samples, per sample."""
    maps = torch.randn(16, 3, 64, 64)
    given = [value[:n] for value in case(name, maps).values()]
    if metric_info(name).needs == "pair":
        given = [torch.randn(n, 3, 64, 64)]
    function, times = metric_info(name).function, []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        function(maps[:n], *given)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:]) / n * 1e3


if __name__ == "__main__":
    torch.set_num_threads(1)
    for metric in list_metrics():
        if metric_info(metric).needs != "order":
            print(f"{metric:26}{milliseconds(metric, 1):8.3f}{milliseconds(metric, 16):8.3f} ms a sample")

"""Two processes evaluate a data set whose sampler repeats a sample to fill up: python gloo_script.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import interp_plugins as ip
from interp_plugins.metrics import as_torchmetric

N, WORLD = 7, 2  # one sample comes twice
OPTIONS: dict[str, Any] = {
    "methods": ("saliency", "noise_tunnel"),
    "metrics": ("srg", "entropy"),
    "target": "label",
    "nt_samples": 2,
    "controls": ("control.random",),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)).double().eval()


def data() -> TensorDataset:
    g = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(N, 1, 8, 8, generator=g).double(), torch.arange(N) % 4)


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    samples = data()
    loader = DataLoader(samples, 2, sampler=DistributedSampler(samples, shuffle=True, seed=3))
    found = ip.evaluate(model(), loader, **OPTIONS)
    found.save(f"{folder}/scores_{rank}.json")
    given = as_torchmetric("srg")
    for numbers in torch.utils.data.BatchSampler(loader.sampler, 2, False):
        x, y = samples.tensors[0][numbers], samples.tensors[1][numbers]
        given.update(ip.explain(model(), x, "saliency", target=y)[0], model=model(), ids=numbers)
    torch.save(given.compute(), f"{folder}/torchmetric_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(process, (str(Path(sys.argv[1])),), WORLD, start_method="fork")

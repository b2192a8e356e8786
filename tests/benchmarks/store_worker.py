"""One process of a throughput run: python store_worker.py PHOTOGRAPHS RUN METHOD PARAMS COUNT RANK WORLD_SIZE THREADS.

Prints the wall-clock and the processor seconds of the run, without start and imports.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import ConcatDataset, Subset

from interp_plugins import explain
from interp_plugins.demo.module import Photographs
from interp_plugins.demo.network import lite0
from interp_plugins.store import explain_dataset

photographs, run, method, params = sys.argv[1:5]
count, rank, world_size, threads = map(int, sys.argv[5:9])
torch.set_num_threads(threads)
files = sorted(Path(photographs).glob("*.png"))
data = Subset(ConcatDataset([Photographs(files)] * (1 + count // len(files))), range(count))
net = lite0()
explain(net, data[0][0][None], "saliency")  # what the first call loads
options = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(params).items()}
wall, cpu = time.perf_counter(), time.process_time()
explain_dataset(
    net, data, run, {method: options}, target="label", unit_size=1, rank=rank, world_size=world_size, progress=False
)
print(time.perf_counter() - wall, time.process_time() - cpu)

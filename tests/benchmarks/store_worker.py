"""One process of a throughput run: python store_worker.py PHOTOGRAPHS RUN METHOD PARAMS COUNT RANK WORLD_SIZE [UNIT].

Begins the run (imports, shapes of the maps), says "ready", waits for a line, and prints when it began and ended (in
seconds of the clock) and the processor seconds in between.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import ConcatDataset, Subset

from interp_plugins.demo.module import Photographs
from interp_plugins.demo.network import lite0
from interp_plugins.store import explain_dataset

photographs, run, method, params = sys.argv[1:5]
count, rank, world_size, unit = map(int, (*sys.argv[5:9], 1)[:4])
torch.set_num_threads(1)
files = sorted(Path(photographs).glob("*.png"))
data = Subset(ConcatDataset([Photographs(files)] * (1 + count // len(files))), range(count))
net, options = lite0(), json.loads(params)


def work(rank: int, world_size: int) -> None:
    explain_dataset(
        net,
        data,
        run,
        {method: options},
        target="label",
        unit_size=unit,
        rank=rank,
        world_size=world_size,
        progress=False,
    )


work(count, count + 1)  # of so many processes the last has no unit: the run is begun, and nothing else
print("ready", flush=True)
sys.stdin.readline()
begin, used = time.time(), time.process_time()
work(rank, world_size)
print(begin, time.time(), time.process_time() - used)

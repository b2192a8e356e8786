"""Influence over many items holds a batch of them, not all: the process may grow by two gigabytes at most."""

import subprocess
import sys

import pytest

from tests.thorough import times

PROGRAM = """
import resource, torch
from torch import nn
from torch.utils.data import Dataset
import interp_plugins as ip

class Rows(Dataset):
    def __len__(self):
        return {rows}
    def __getitem__(self, i):
        return torch.randn(512, generator=torch.Generator().manual_seed(i)), i % 10

torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))
ip.influence(net, torch.randn(1, 512), (torch.randn(10, 512), torch.arange(10)), k=2)  # what is loaded late
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30,) * 2)
for method in ("tracin", "fast", "ekfac_last"):
    print(tuple(ip.influence(net, torch.randn(5, 512), Rows(), method=method, k=3, progress=False).indices.shape))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_a_million_weights_and_many_rows_fit_beside_two_gigabytes() -> None:
    program = PROGRAM.format(rows=times(4_000, 20_000))  # gradients as they are would take 16 and 80 GB
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.count("(5, 3)") == 3, done.stderr[-2000:]

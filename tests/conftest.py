"""What every test runs under: two threads, no screen, no network, one seed, plans for tiny nets. Nothing else belongs
here.

With INTERP_PLUGINS_KERNELS=off in the environment the kernels that stand on private operators of torch are refused, as
they are where a build of torch has not these operators.
"""

import os

os.environ["MPLBACKEND"] = "Agg"
# A model that is asked for by name must come from a package, never from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch

from interp_plugins.engine.kernels.guest import GUESTS
from interp_plugins.engine.plan import planned

# What is tested of accelerations is that they are exact: tiny nets show it as well as those that gain.
planned.MIN_ELEMENTS = 0
if os.environ.get("INTERP_PLUGINS_KERNELS") == "off":
    for guest in GUESTS:
        guest.refuse("refused by the tests")

# Small tensors: more threads than this only fight over the cores.
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """A net made without a seed of its own is the same in whatever order the tests run."""
    torch.manual_seed(0)

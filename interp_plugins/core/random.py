"""Random draws that never touch the global generators."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from interp_plugins.core.errors import InputError
from interp_plugins.core.global_random import drew, pending_seed


def check_seed(seed: Any) -> int:
    """A seed that every generator takes: an int from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be an int from 0 to 2**63 - 1, got {seed!r}.")
    return int(seed)


def sample_seed(seed: int, sample: int | str) -> int:
    """The seed of one sample's random draws: a function of the run's seed and the sample's number or name."""
    made = hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(made, "little") >> 1


def make_generator(seed: int | None = None, generator: torch.Generator | None = None) -> torch.Generator:
    """A private generator.

    Args:
        seed: its seed. None: a copy of torch's global CPU generator as it stands, so that `torch.manual_seed` still
            decides the draws, while the global state itself is left as it was.
        generator: use (and advance) this one instead.
    """
    if generator is not None:
        if seed is not None:
            raise InputError("Give seed or generator, not both.")
        return generator
    own = torch.Generator()
    seed = pending_seed() if seed is None else seed
    if seed is None:
        own.set_state(torch.get_rng_state())
    else:
        own.manual_seed(check_seed(seed))
    return own


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """A generator for draws on the CPU: itself, or one that a generator of another device decides."""
    if generator.device.type == "cpu":
        return generator
    own = torch.Generator()
    return own.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from torch's global CPU generator (a user's function) draw from this one; it is advanced.

    The global generator is as it was after the block. Other threads draw from it as well, so a block is one call of the
    function, and holds no pass of a model.
    """
    before = torch.get_rng_state()
    if generator.device.type == "cpu":
        torch.set_rng_state(generator.get_state())
    else:
        drew("cuda", "mps")
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    try:
        yield
    finally:
        if generator.device.type == "cpu":
            generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)

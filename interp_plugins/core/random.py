"""Random draws that never touch the global generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from interp_plugins.core.errors import InputError


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
    if seed is None:
        own.set_state(torch.get_rng_state())
    else:
        own.manual_seed(seed)
    return own


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from torch's global CPU generator (a user's function) draw from this one; it is advanced.

    The global state itself is not put back: to be used inside `core.guard.frozen`, which does that.
    """
    if generator.device.type == "cpu":
        torch.set_rng_state(generator.get_state())
    else:
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    try:
        yield
    finally:
        if generator.device.type == "cpu":
            generator.set_state(torch.get_rng_state())

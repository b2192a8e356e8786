"""Random draws that never touch the global generators."""

from __future__ import annotations

import torch

from .errors import InputError


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

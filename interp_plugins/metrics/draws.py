"""Random draws of metrics: each is a function of (seed, sample, number of the draw, element), and of nothing else.

So no draw moves with batch mates, with the order of the samples, with chunks, or with the number of processes.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_STREAM = 0x9E3779B97F4A7C15 - 2**64  # the constants of splitmix64, as signed numbers
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_MIX_32 = (0x7FEB352D, 0x846CA68B - 2**32)  # of a mixer of 32-bit numbers with little bias (Wellons 2018)


def mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): neighbouring int64 numbers become unrelated ones."""
    x = x + _STREAM
    x = (x ^ _shifted(x, 30)) * _MIX[0]
    x = (x ^ _shifted(x, 27)) * _MIX[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample_numbers(seed: int, ids: Tensor | None) -> Tensor:
    """A pseudo-random int64 per sample, of (seed, id): (N,), or (1,) for samples without ids, which share it."""
    own = torch.zeros(1, dtype=torch.int64) if ids is None else ids.to(torch.int64)
    return mixed(own + mixed(torch.tensor([seed], dtype=torch.int64)))


def element_keys(seed: int, ids: Tensor | None, count: int) -> Tensor:
    """A pseudo-random number per sample and element, of (seed, sample, element) alone: int64 (N, count), or (1, count).

    Args:
        seed: of all draws.
        ids: int64 (N,), numbers of the samples; None: all samples have the same.
        count: number of elements.
    """
    elements = torch.arange(1, count + 1, dtype=torch.int64)
    return mixed(sample_numbers(seed, ids)[:, None] + elements[None] * _STREAM)


@functools.lru_cache(maxsize=8)
def numbers(count: int) -> Tensor:
    """Fixed pseudo-random int64 (count,), none of them 0."""
    return mixed(torch.arange(1, count + 1, dtype=torch.int64) * _STREAM)


def draw_keys(samples: Tensor, draws: Tensor, count: int) -> Tensor:
    """A pseudo-random int32 per draw and element: (R, count), all bits of it alike.

    Args:
        samples: int64 (R,), the number of each draw's sample, of `sample_numbers`.
        draws: int64 (R,), the number of the draw.
        count: number of elements.
    """
    own = mixed(samples + mixed(draws))
    low, high = (own & 0xFFFFFFFF).to(torch.int32), (own >> 32).to(torch.int32)
    x = numbers(count).to(own.device).to(torch.int32)[None] ^ low[:, None]
    x ^= (x >> 16) & 0xFFFF
    x *= _MIX_32[0]
    x += high[:, None]
    x ^= (x >> 15) & 0x1FFFF
    x *= _MIX_32[1]
    x ^= (x >> 16) & 0xFFFF
    return x


def uniform(keys: Tensor) -> Tensor:
    """Numbers in [0, 1) of 24 bits from those of `draw_keys`: float32, of their shape."""
    return ((keys >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24

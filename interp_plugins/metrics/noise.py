"""Uniform and normal numbers of a seed, a sample and a draw: made of `metrics.draws`, so no batch mate moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_plugins.metrics.draws import mixed, numbers, sample_numbers


def keys(seed: int, ids: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Numbers of streams, int64 (R,): of a seed, samples (R,), and a draw of each."""
    return mixed(sample_numbers(seed, ids.cpu()) + mixed(torch.as_tensor(draw, dtype=torch.int64).cpu()))


def uniform(streams: Tensor, size: int) -> Tensor:
    """Numbers in [0, 1), float64 (R, size): those of each stream (R,) from its first on."""
    bits = mixed(streams[:, None] + numbers(size)[None])
    return ((bits >> 11) & (2**53 - 1)).to(torch.float64) * 2.0**-53


def normal(streams: Tensor, size: int) -> Tensor:
    """Standard normal numbers, float64 (R, size), a row after the other: vectors round by where an element lies."""
    rows = []
    for one in streams.split(1):
        a, b = uniform(one, 2 * size)[0].chunk(2)
        rows.append((-2 * (1 - a).log()).sqrt() * (2 * torch.pi * b).cos())
    return torch.stack(rows) if rows else torch.empty(0, size, dtype=torch.float64)


def pick(streams: Tensor, count: int) -> Tensor:
    """A number in 0 ... count - 1 of each stream, int64 (R,)."""
    return (uniform(streams, 1)[:, 0] * count).long().clamp_max(count - 1)

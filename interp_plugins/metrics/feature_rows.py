"""Elements that go together: the number of each element's feature, and a map's sum or mean over each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.features import MaskFeatures


def feature_numbers(maps: tuple[Tensor, ...], features: Any) -> tuple[Tensor | None, Tensor]:
    """The feature of every element, and how many features each sample has.

    Args:
        maps: one per input, batch first.
        features: int tensor (or one per input), broadcastable to the maps; None: each element alone.

    Returns:
        int64 (N, D), counted from 0 within the sample, or None where each element is a feature; int64 (N,) on the CPU.
    """
    n = maps[0].shape[0]
    if features is None:
        return None, torch.full((n,), sum(m[0].numel() for m in maps))
    positions = MaskFeatures(maps, features).positions()
    one = all(len(p) == 1 for p in positions)  # the same features for all samples
    shapes = [(1 if one else n, *m.shape[1:]) for m in maps]
    numbers = torch.cat([p.expand(shape).flatten(1) for p, shape in zip(positions, shapes)], 1)
    ordered, where = numbers.sort(dim=1)
    new = torch.zeros_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    own = torch.empty_like(ordered).scatter_(1, where, new.cumsum(1))
    own = own.expand(n, -1)
    return own, (own.amax(1) + 1).cpu()


def feature_sums(rows: Tensor, own: Tensor | None, totals: Tensor, *, mean: bool = False) -> Tensor:
    """Sums (or means) of maps over their features: (N, F), F the most features of a sample; 0 (NaN) where it has none.

    Args:
        rows: maps (N, D).
        own: the feature of every element (N, D), or None.
        totals: features per sample (N,).
        mean: give means.
    """
    if own is None:
        return rows
    sums = rows.new_zeros(rows.shape[0], int(totals.max())).scatter_add(1, own, rows)
    return sums / torch.zeros_like(sums).scatter_add(1, own, torch.ones_like(rows)) if mean else sums

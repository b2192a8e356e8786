"""How alike two maps of the same samples are, for metrics that ask for the second one themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.core.errors import unknown
from interp_plugins.metrics.again import Again
from interp_plugins.metrics.rows import SIGNS, as_rows, mass, reduced, wide
from interp_plugins.metrics.similarity import cosine_similarity, spearman_correlation, ssim

SIMILARITIES = {"rank": spearman_correlation, "cosine": cosine_similarity, "ssim": ssim}
CONSTANT = "the map is constant"


def check_similarity(names: Sequence[str], sign: str | None) -> None:
    """Refuse unknown words.

    Raises:
        UnknownNameError: another similarity or sign.
    """
    for name in names:
        if name not in SIMILARITIES:
            raise unknown("similarity", name, tuple(SIMILARITIES))
    if sign is not None and sign not in SIGNS:
        raise unknown("sign", sign, SIGNS)


def judged(again: Again, maps: tuple[Tensor, ...], reduce: str | None, sign: str | None) -> Tensor:
    """What is compared of maps: (N, H, W) of one picture whose channels were reduced, else rows (N, D).

    Args:
        again: knows which axis holds channels.
        maps: as the method gave them.
        reduce: how channels become one value per place; None: element by element.
        sign: what of the values counts; None: they themselves.
    """
    if reduce is None:
        rows = as_rows(maps)
        return rows if sign is None else mass(rows, sign)
    as_rows(maps)  # refuses what is no map
    parts = []
    for k, one in enumerate(maps):
        axis = again.channel_axis(one, k)
        values = reduced(wide(one.detach()), () if axis is None else (axis,), reduce)
        parts.append(values if sign is None else mass(values, sign))
    if len(parts) == 1 and parts[0].ndim == 3 and maps[0].ndim == 4:
        return parts[0]
    return torch.cat([p.reshape(p.shape[0], -1) for p in parts], 1)


def constant(maps: Tensor) -> Tensor:
    """Whether all values of a map are equal (N,)."""
    rows = maps.flatten(1)
    return rows.amax(1) == rows.amin(1)


def alike(name: str, before: Tensor, after: Tensor) -> Tensor:
    """Similarity (N,) of two maps; 0 where the second is constant or not finite: it is like nothing."""
    return SIMILARITIES[name](before, after).nan_to_num(0.0)

"""How alike two maps of the same samples are, for metrics that ask for the second one themselves."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.core.errors import unknown
from interp_plugins.metrics.again import Again
from interp_plugins.metrics.rows import SIGNS, as_rows, checked, mass, reduced, wide
from interp_plugins.metrics.similarity import (
    centred_ranks,
    cosine_of_rows,
    cosine_similarity,
    spearman_correlation,
    ssim,
)

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
    checked(maps)
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


class Original:
    """Maps that others are compared with, one after the other: their ranks are found once.

    Args:
        maps: as `judged` gives them.
    """

    def __init__(self, maps: Tensor):
        self.maps = maps

    @functools.cached_property
    def _ranks(self) -> Tensor:
        return centred_ranks(as_rows(self.maps))

    def alike(self, name: str, after: Tensor) -> Tensor:
        """Similarity (N,) to other maps; 0 where these are constant or not finite: they are like nothing."""
        if name != "rank":
            return SIMILARITIES[name](self.maps, after).nan_to_num(0.0)
        rows = as_rows(after)
        found = cosine_of_rows(self._ranks, centred_ranks(rows)).double().nan_to_num(0.0)
        return torch.where(rows.isfinite().all(1), found, 0.0)

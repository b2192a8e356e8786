"""The values of units in a pass over data: how active each is, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.optim.objective import Seen, over_space
from interp_plugins.optim.objective_kinds import at_place, place_in
from interp_plugins.optim.units import AskedUnits, FeatureUnit

REDUCES = ("max", "mean")


@dataclass(frozen=True)
class Values:
    """Of some items.

    Attributes:
        rank: (R, U) by which examples are chosen.
        place: (R, U) where in the flat grid that is; -1: nowhere in particular.
        level: (R, U) the number that `visualize` climbs.
    """

    rank: Tensor
    place: Tensor
    level: Tensor


@dataclass(frozen=True)
class Readout:
    """How units are read.

    Attributes:
        asked: what was asked for.
        units: the units that were asked for, one by one.
        reduce: over space: "max", "mean", or a function (R, U, S) -> (R, U).
    """

    asked: AskedUnits
    units: Sequence[FeatureUnit]
    reduce: str | Callable[[Tensor], Tensor] = "max"

    def __post_init__(self) -> None:
        if not callable(self.reduce) and self.reduce not in REDUCES:
            raise InputError(f"reduce must be 'max', 'mean' or a function, got {self.reduce!r}.")

    def values(self, seen: Seen) -> Values:
        """The values of all units for some items.

        Raises:
            InputError: NaN among them.
        """
        kind = self.asked.kind
        if kind in ("channel", "direction"):
            found = self._over_space(seen)
        elif kind == "neuron":
            found = self._at_places(seen)
        else:
            level = torch.stack([u.objective(seen) for u in self.units], 1)
            found = Values(level, torch.full_like(level, -1).long(), level)
        if not bool(found.rank.isfinite().all()):
            raise InputError("The units' values are NaN or infinite for some items; look for bad data or weights.")
        return Values(found.rank.float().cpu(), found.place.cpu(), found.level.double().cpu())

    def _over_space(self, seen: Seen) -> Values:
        a = seen.at(self.asked.layer, 0 if self.asked.token == "cls" else self.asked.token)
        if self.asked.kind == "channel":
            numbers = [u.channel or 0 for u in self.units]
            if numbers != list(range(a.shape[1])):
                a = a[:, numbers]
        else:
            vectors = torch.stack([u.objective.vector for u in self.units]).to(a)  # type: ignore[attr-defined]
            a = torch.einsum("rc...,uc->ru...", a, vectors)
        level = over_space(a)
        if a.ndim < 3:
            return Values(level, torch.full_like(level, -1).long(), level)
        flat = a.flatten(2)
        largest, place = flat.max(2)
        if callable(self.reduce):
            return Values(self.reduce(flat), place, level)
        return Values(largest if self.reduce == "max" else level, place, level)

    def _at_places(self, seen: Seen) -> Values:
        a = seen.at(self.asked.layer)
        values, places = [], []
        for unit in self.units:
            at = place_in(a, unit.objective.place)  # type: ignore[attr-defined]
            values.append(at_place(a[:, unit.channel or 0], at))
            flat = 0
            for p, s in zip(at, a.shape[2:], strict=True):
                flat = flat * s + p % s
            places.append(flat if at else -1)
        level = torch.stack(values, 1)
        return Values(level, torch.tensor(places).expand(level.shape).to(level.device), level)


def grid_of(asked: AskedUnits, shapes: dict[Any, tuple[int, ...]], grids: dict[Any, Any]) -> tuple[int, ...]:
    """The axes of space of the layer that is read; none where there is no such layer."""
    if asked.layer is None or asked.token is not None:
        return ()
    shape, grid = shapes[asked.layer], grids[asked.layer]
    return tuple(grid.lay_out(torch.empty(shape, device="meta")).shape[2:])


def channels_of(asked: AskedUnits, shapes: dict[Any, tuple[int, ...]], grids: dict[Any, Any]) -> int | None:
    """How many channels the layer has."""
    if asked.layer is None:
        return None
    shape, grid = shapes[asked.layer], grids[asked.layer]
    if asked.token is not None and len(shape) == 3:
        return shape[2]
    laid = tuple(grid.lay_out(torch.empty(shape, device="meta")).shape)
    return laid[1] if len(laid) > 1 else 1

"""Pictures put together in a grid: how much of the mass lies in the cells of the class that is asked about.

The mask is known exactly and costs no labelling. No model is asked here; the maps are those of the grid picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import describe
from interp_plugins.metrics.localisation import relevance_mass
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import Judged, checked


def _cell_share(attributions: Judged, cells: Any, *, grid: tuple[int, int] = (2, 2), **others: Any) -> Tensor:
    masks = _cell_masks(attributions, cells, grid)
    return masks.flatten(1).double().mean(1).cpu()


@register_metric(
    "grid_pointing",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=_cell_share,
    chance_text="1 / cells",
    reference="Boehle et al. 2021, arXiv:2104.00032",
    says="mass in the cell of the class / all mass",
)
def grid_pointing(
    attributions: Judged,
    cells: Any,
    *,
    grid: tuple[int, int] = (2, 2),
    sign: str = "positive",
    reduce: str | None = "sum",
) -> Tensor:
    """Share of a grid picture's mass that lies in the cell of the class that was explained.

    Args:
        attributions: maps (N, C, H, W) or (N, H, W) of pictures made of a grid of others, or an `Explanation`.
        cells: which cell holds the class: an int per sample, counted along the rows, or bool (N, cells) for several.
        grid: rows and columns of the grid; sides that do not divide are cut at the nearest pixel.
        sign: what is mass: "positive" values, "absolute" or "negative" ones.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN for a map without mass, or where no cell is asked about.

    Raises:
        InputError: cells that the grid does not have.

    Example:
        grid_pointing(torch.ones(1, 3, 8, 8), [2])  # -> [0.25]
    """
    return relevance_mass(attributions, _cell_masks(attributions, cells, grid), sign=sign, reduce=reduce)


@register_metric(
    "focus",
    kind="localisation",
    needs="masks",
    higher_is_better=True,
    chance=_cell_share,
    chance_text="share of the cells",
    reference="Arias-Duart et al. 2022, arXiv:2109.15035",
    says="mass in all cells of the class / all mass",
)
def focus(
    attributions: Judged,
    cells: Any,
    *,
    grid: tuple[int, int] = (2, 2),
    sign: str = "positive",
    reduce: str | None = "sum",
) -> Tensor:
    """Share of a mosaic's mass that lies in the cells, mostly two of four, that show the class that was explained.

    Args:
        attributions: maps (N, C, H, W) or (N, H, W) of mosaics, or an `Explanation`.
        cells: bool (N, cells), which cells show the class; or an int per sample for a single one.
        grid: rows and columns of the mosaic.
        sign: what is mass: "positive" values, "absolute" or "negative" ones.
        reduce: how channels become one value per place.

    Returns:
        (N,) float64 in [0, 1]; NaN for a map without mass, or where no cell shows the class.

    Example:
        focus(torch.ones(1, 3, 8, 8), torch.tensor([[True, True, False, False]]))  # -> [0.5]
    """
    return relevance_mass(attributions, _cell_masks(attributions, cells, grid), sign=sign, reduce=reduce)


def _cell_masks(attributions: Judged, cells: Any, grid: tuple[int, int]) -> Tensor:
    """The masks (N, H, W) of some cells."""
    many = checked(attributions)
    shape = tuple(getattr(attributions, "input", many[0]).shape)
    if len(many) != 1 or len(shape) not in (3, 4):
        raise InputError(f"A grid picture's map is (N, C, H, W) or (N, H, W); got {[tuple(m.shape) for m in many]}.")
    n, count = many[0].shape[0], grid[0] * grid[1]
    asked = cells if isinstance(cells, Tensor) else torch.as_tensor(cells)
    if asked.dtype != torch.bool and tuple(asked.shape) == (n,) and bool(((asked >= 0) & (asked < count)).all()):
        asked = torch.nn.functional.one_hot(asked.long(), count).bool()
    if asked.dtype != torch.bool or tuple(asked.shape) != (n, count):
        raise InputError(
            f"cells must be an int from 0 to {count - 1} per sample ({n} of them), or bool ({n}, {count}) for a grid "
            f"of {grid[0]} x {grid[1]}; got {describe(cells)}."
        )
    rows, columns = (_numbers(size, parts) for size, parts in zip(shape[-2:], grid))
    return asked.cpu()[:, rows[:, None] * grid[1] + columns[None]]


def _numbers(size: int, parts: int) -> Tensor:
    """The number of the part in which each of `size` places lies."""
    return ((torch.arange(size) + 0.5) * parts / size).floor().long()

"""Anything else: a line for one axis, a heat map for two; more axes are folded into rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import in_sizes
from interp_plugins.viz import colour
from interp_plugins.viz.figure import bare
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite


class ArrayRenderer(Renderer):
    """Inputs and attributions of any shape, batch first."""

    kinds: ClassVar[tuple[str, ...]] = ("array",)

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Width and height of a panel in inches: wider than high."""
        return 3.4, 2.2

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """The values as a line, or as grey levels."""
        x = np.nan_to_num(in_sizes(exp.input[i % len(exp)]).numpy())
        grid, note = _folded(x)
        if len(grid) == 1:
            ax.plot(grid[0], color=colour.INK, linewidth=1)
            _quiet(ax)
        else:
            ax.imshow(grid, cmap="gray", aspect="auto", interpolation="nearest")
            bare(ax)
        return note

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """Signed bars for one axis, else a heat map."""
        grid, note = _folded(finite(self.values(exp, i)))
        if len(grid) == 1:
            _stems(ax, grid[0], scale)
            return None
        ax.imshow(scale.rgb(grid), aspect="auto", interpolation="nearest")
        bare(ax)
        ax.set_title(note, fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()


@register
class GenericRenderer(ArrayRenderer):
    """Data nothing is known of, and layers without a spatial layout."""

    name: ClassVar[str] = "generic"


def _folded(x: np.ndarray) -> tuple[np.ndarray, str]:
    """The array with two axes (rows, last axis), and its shape in words if it had more."""
    if x.ndim < 2:
        return x.reshape(1, -1), ""
    note = " × ".join(str(n) for n in x.shape) + ", folded into rows" if x.ndim > 2 else ""
    return x.reshape(-1, x.shape[-1]), note


def _stems(ax: Axes, values: np.ndarray, scale: Scale) -> None:
    """One bar per position."""
    where = np.arange(len(values))
    up, down = scale.length_colours((1.0, -1.0))
    ax.fill_between(where, np.maximum(values, 0), step="mid", color=up, linewidth=0)
    ax.fill_between(where, np.minimum(values, 0), step="mid", color=down, linewidth=0)
    ax.axhline(0, color=colour.INK, linewidth=0.8)
    _quiet(ax)


def _quiet(ax: Axes) -> None:
    """Small ticks, no frame on the right and above."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7, length=2, color=colour.FAINT_INK, labelcolor=colour.INK)

"""Pictures of the same units at several times, side by side: steps of a climb, epochs of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp_plugins.optim.picture import pixels
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, bare, compact, new_figure


def film(names: Sequence[str], found: Sequence[Any], max_n: int = 8) -> Plot:
    """A row per unit, a column per time.

    Args:
        names: of the times.
        found: a `Visualization` each, of the same units.
        max_n: units at most.
    """
    n = min(len(found[0]), max_n)
    fig = new_figure(1.6 * len(found) + 0.4, 1.85 * n + 0.3)
    axes = np.asarray(fig.subplots(n, len(found), squeeze=False))
    for j, (name, one) in enumerate(zip(names, found, strict=True)):
        shown = pixels(one.images, one.spec, one.alpha)
        for i in range(n):
            ax = axes[i, j]
            bare(ax)
            if one.state[i] == "dead":
                ax.text(0.5, 0.5, "dead", ha="center", va="center", fontsize=8)
            else:
                ax.imshow(shown[i], interpolation="nearest")
            ax.set_xlabel(compact(float(one.activation[i])), fontsize=7, color=colour.FAINT_INK)
            if i == 0:
                ax.set_title(name, fontsize=8, color=colour.INK)
            if j == 0:
                ax.set_ylabel(one.names[i], fontsize=7, color=colour.INK)
    return Plot(fig, axes)

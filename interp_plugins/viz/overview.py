"""Pictures of whole explanations instead of single samples: what they share, and where to look them up.

An overview is a function (explanations, ax=..., ...) -> Plot in a file of its own, registered under its name with the
question whether it can be drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, new_figure

Explained = Explanation | Sequence[Explanation]
F = TypeVar("F", bound=Callable[..., Plot])


@dataclass(frozen=True)
class Overview:
    """One overview: its name, how it is drawn, and the reason why it cannot be, or "", for given explanations."""

    name: str
    draw: Callable[..., Plot]
    why_not: Callable[[Sequence[Explanation]], str]
    heading: str

    def taken(self, **given: Any) -> dict[str, Any]:
        """Of some arguments those that this overview has."""
        return {name: value for name, value in given.items() if name in inspect.signature(self.draw).parameters}


OVERVIEWS: dict[str, Overview] = {}


def overview(name: str, why_not: Callable[[Sequence[Explanation]], str], heading: str) -> Callable[[F], F]:
    """Decorator: make an overview known under its name."""

    def known(function: F) -> F:
        OVERVIEWS[name] = Overview(name, function, why_not, heading)
        return function

    return known


def fitting(exps: Sequence[Explanation]) -> list[Overview]:
    """The overviews that say something about these explanations."""
    return [one for one in OVERVIEWS.values() if len(exps) and not one.why_not(exps)]


def as_list(exps: Explained) -> list[Explanation]:
    """One explanation or several as a list."""
    return [exps] if isinstance(exps, Explanation) else list(exps)


def asked(name: str, exps: Explained) -> list[Explanation]:
    """The explanations of an overview. Raises InputError with the reason where it cannot be drawn."""
    many = as_list(exps)
    reason = OVERVIEWS[name].why_not(many) if many else "there is no explanation."
    if reason:
        raise InputError(f"The picture {name!r} cannot be drawn: {reason}")
    return many


def axes_for(ax: Any, count: int, size: tuple[float, float], figsize: tuple[float, float] | None) -> Plot:
    """Axes for `count` panels in a row: those given (an axis, several, a figure), or those of a new figure."""
    if ax is None:
        ax = new_figure(*(figsize or (count * size[0] + 0.3, size[1])))
    if isinstance(ax, FigureBase):
        return Plot(ax, ax.subplots(1, count, squeeze=False))
    given = np.array([[ax]] if isinstance(ax, Axes) else ax, dtype=object).reshape(1, -1)
    if given.size != count:
        raise InputError(f"ax holds {given.size} axes, but {count} are needed: one per explanation.")
    return Plot(given[0, 0].figure, given)


def rows_of_names(ax: Axes, names: Sequence[str], size: float = 8) -> None:
    """Name the rows of a chart, the first on top, without frame or ticks."""
    ax.set_yticks(range(len(names)), list(names), fontsize=size, color=colour.INK, parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7, length=2, color=colour.FAINT_INK, labelcolor=colour.INK)


def heading(ax: Axes, text: str) -> None:
    """The bold heading of a panel."""
    ax.set_title(text, fontsize=9.5, fontweight="bold", color=colour.INK, parse_math=False)

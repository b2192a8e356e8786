"""Time series: a lane per channel with its line, coloured by the attribution of every step.

"series" has time last, (N, C, T), as convolutions have it; "sequence" has it second, (N, T, C) or (N, T).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.ticker import MaxNLocator

from interp_plugins.core.enlarged import enlarged
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import in_sizes
from interp_plugins.viz import colour
from interp_plugins.viz.renderer import Renderer, register
from interp_plugins.viz.scale import Scale, finite
from interp_plugins.viz.titles import shorten

MAX_LANES = 8
_FILL = 0.8  # the part of a lane's height that its line takes


class _Lanes(Renderer):
    """What both layouts of time series share; values are (C, T) everywhere below."""

    kinds: ClassVar[tuple[str, ...]] = ("line", "band", "heatmap")
    time_first: ClassVar[bool]

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether the input has a time axis and at most one of channels."""
        return exp.input.ndim == 3 or (exp.input.ndim == 2 and self.time_first)

    def accepts(self, exp: Explanation) -> bool:
        """Whether each step has attributions; maps at layers need a time axis of their own."""
        same = exp.attribution.shape == exp.input.shape
        return self.accepts_input(exp) and (
            same or (exp.attribution.ndim == 3 and exp.attribution.shape[1:].numel() > 1)
        )

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Wide, and as high as its lanes."""
        return 4.6, 0.7 + 0.52 * min(self._signal(exp, 0).shape[0], MAX_LANES)

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The attributions (C, T); a layer's, added up over its channels and stretched to the input's time, (1, T)."""
        values = super().values(exp, i)
        if exp.attribution.shape == exp.input.shape:
            return self._rows(values)
        cam = len(values) == 1  # the channel first, whatever the input has
        total = torch.from_numpy(values if cam else self._rows(values)).sum(0)[None, None]
        return np.asarray(enlarged(total, self._signal(exp, i).shape[1:])[0].numpy())

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """A line per channel."""
        signal = self._signal(exp, i)
        chosen = np.arange(min(len(signal), MAX_LANES))
        _lanes(ax, signal[chosen], self._names(exp, chosen))
        return f"{MAX_LANES} of {len(signal)} channels" if len(signal) > MAX_LANES else ""

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """The lines in their colours, the lines before coloured bands, or channels against time."""
        signal, values = self._signal(exp, i), finite(self.values(exp, i))
        shared = len(values) == 1 and len(signal) > 1
        if kind == "heatmap":
            _matrix(ax, values, scale, ["all channels"] if shared else self._names(exp, np.arange(len(signal))))
            return scale.mappable()
        rows = np.broadcast_to(values, signal.shape)
        chosen = np.sort(np.argsort(-np.abs(rows).sum(1), kind="stable")[:MAX_LANES])
        lanes = _lanes(ax, signal[chosen], self._names(exp, chosen), faint=kind == "line")
        for lane, row in zip(lanes, rows[chosen], strict=True):
            (_coloured_line if kind == "line" else _bands)(ax, lane, row, scale)
        if len(signal) > len(chosen):
            ax.set_title(f"the {len(chosen)} strongest of {len(signal)} channels", fontsize=8, color=colour.FAINT_INK)
        return scale.mappable()

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """(C, T) of one sample's array."""
        return np.atleast_2d(x.T if self.time_first else x)

    def _signal(self, exp: Explanation, i: int) -> np.ndarray:
        """The input (C, T) in raw units."""
        x = in_sizes(exp.input[i % len(exp)][None])
        raw = exp.spec.denormalise(x) if exp.spec.normalised and not self.time_first else x
        return self._rows(np.nan_to_num(raw[0].numpy()))

    def _names(self, exp: Explanation, chosen: np.ndarray) -> list[str]:
        """Names of the chosen channels; "" for the only one without a name."""
        names, count = exp.feature_names, self._signal(exp, 0).shape[0]
        if names and len(names) == count:
            return [shorten(names[c], 16) for c in chosen]
        return [f"channel {c}" for c in chosen] if count > 1 else [""]


@register
class SeriesRenderer(_Lanes):
    """Series (N, C, T): time is last."""

    name: ClassVar[str] = "series"
    time_first: ClassVar[bool] = False


@register
class SequenceRenderer(_Lanes):
    """Sequences (N, T, C) or (N, T): time comes first."""

    name: ClassVar[str] = "sequence"
    time_first: ClassVar[bool] = True


def _lanes(ax: Axes, signal: np.ndarray, names: list[str], faint: bool = False) -> np.ndarray:
    """Draw each channel in a lane of height 1, the first on top; returns the lines' heights (C, T)."""
    low, span = signal.min(1, keepdims=True), np.ptp(signal, axis=1)[:, None]
    unit = np.divide(signal - low, span, out=np.full_like(signal, 0.5), where=span > 0)
    lanes = (len(signal) - 1 - np.arange(len(signal)))[:, None] + (1 - _FILL) / 2 + _FILL * unit
    for lane in lanes:
        shade = colour.GREY if faint else colour.INK
        ax.plot(lane, color=shade, linewidth=0.9, zorder=2, marker="." if lane.size == 1 else "")
    ax.set_yticks(len(signal) - 0.5 - np.arange(len(signal)), names)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    for border in range(1, len(signal)):
        ax.axhline(border, color=colour.GREY, linewidth=0.4, zorder=0)
    ax.set_xlim(-0.5, signal.shape[1] - 0.5)
    ax.set_ylim(0, len(signal))
    _quiet(ax)
    return lanes


def _coloured_line(ax: Axes, lane: np.ndarray, row: np.ndarray, scale: Scale) -> None:
    """The line again, each half of a segment in the colour of its step, thicker where the attribution is strong."""
    if len(lane) < 2:
        ax.scatter([0], lane, c=scale.rgb(row), zorder=3, s=25)
        return
    where = np.arange(len(lane), dtype=float)
    middle, halfway = (where[:-1] + where[1:]) / 2, (lane[:-1] + lane[1:]) / 2
    points = np.empty((2 * len(lane) - 1, 2))
    points[0::2], points[1::2] = np.stack([where, lane], 1), np.stack([middle, halfway], 1)
    step = np.repeat(np.arange(len(lane)), 2)[1:-1]
    segments = np.stack([points[:-1], points[1:]], 1)
    width = 0.6 + 3.2 * scale.strength(row)[step]
    shades = scale.rgb(row)[step]
    ax.add_collection(LineCollection(list(segments), colors=shades, linewidths=width, zorder=3, capstyle="round"))


def _bands(ax: Axes, lane: np.ndarray, row: np.ndarray, scale: Scale) -> None:
    """A coloured ground behind every step of a lane."""
    bottom = np.floor(lane.min())
    boxes = [
        [(t - 0.5, bottom), (t - 0.5, bottom + 1), (t + 0.5, bottom + 1), (t + 0.5, bottom)] for t in range(len(row))
    ]
    ax.add_collection(PolyCollection(boxes, facecolors=scale.rgb(row), linewidths=0, zorder=1))


def _matrix(ax: Axes, values: np.ndarray, scale: Scale, names: list[str]) -> None:
    """Channels against time, every channel."""
    ax.imshow(scale.rgb(values), aspect="auto", interpolation="nearest")
    if len(names) <= 30:
        ax.set_yticks(range(len(names)), names)
        for label in ax.get_yticklabels():
            label.set_parse_math(False)
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(names)} channels", fontsize=7, color=colour.FAINT_INK)
    _quiet(ax)


def _quiet(ax: Axes) -> None:
    """Time ticks alone, at whole steps."""
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.annotate(
        "step",
        (1, 0),
        (0, -4),
        "axes fraction",
        "offset points",
        ha="right",
        va="top",
        fontsize=6.5,
        color=colour.FAINT_INK,
    )
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(labelsize=7, length=2, color=colour.FAINT_INK, labelcolor=colour.INK)
    ax.tick_params(axis="y", length=0)

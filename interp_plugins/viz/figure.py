"""Figures without pyplot: made, measured, encoded and shown without touching its global state."""

from __future__ import annotations

import base64
import io
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from interp_plugins.viz import colour
from interp_plugins.viz.scale import Scale

_METADATA: dict[str, Any] = {"Software": None}  # the same picture is the same bytes, whatever drew it


class Plot(NamedTuple):
    """A figure and its axes (rows, columns); notebooks show the picture."""

    fig: Any
    axes: np.ndarray

    def _repr_png_(self) -> bytes | None:
        return png_of_figure(self.fig) if isinstance(self.fig, Figure) else None


def new_figure(width: float, height: float, dpi: float = 110) -> Figure:
    """An empty figure of the given size in inches, laid out so that nothing overlaps."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    return Figure(figsize=(width, height), layout=layout, dpi=dpi)


def bare(ax: Axes) -> None:
    """Remove ticks and frame; the axis label stays."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def compact(value: float, _: Any = None) -> str:
    """A number in two digits with a real minus sign: 0.0023 -> "0.0023", -12000 -> "−1.2e4"."""
    if value == 0:
        return "0"
    text = f"{value:.2g}"
    if "e" in text:
        mantissa, power = text.split("e")
        text = f"{mantissa}e{int(power)}"
    return text.replace("-", "−")


def add_colorbar(ax: Axes, source: ScalarMappable, scale: Scale, label: bool = True) -> None:
    """A thin colour bar beside the picture: its ends in attribution units, arrows where values are clipped.

    In a figure whose layout makes room, the bar stands outside the axis, as high as the picture, and says the
    scale in words; elsewhere it takes its room from the axis, and the words stand below the picture.
    """
    fig: Any = ax.figure
    low, high = source.get_clim()
    roomy = fig.get_layout_engine() is not None
    if roomy:
        sides = abs(np.ptp(ax.get_ylim()) / np.ptp(ax.get_xlim())) if ax.get_aspect() == 1 else 1.0
        thin = 0.045 * min(1.0, float(sides))  # of the axis' width
        place: dict[str, Any] = {"cax": ax.inset_axes((1 + 0.6 * thin, 0.0, thin, 1.0))}
    else:
        place = {"ax": ax, "fraction": 0.15, "pad": 0.04, "aspect": 18}
    bar = fig.colorbar(source, extend=_extend(low, high, scale), **place)
    bar.set_ticks([0.0] if scale.limit == 0 else sorted({low, 0.0, high}))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(compact))
    bar.ax.tick_params(labelsize=8 if label else 7, length=2, color=colour.FAINT_INK, labelcolor=colour.INK)
    bar.outline.set_linewidth(0.4)
    if label and roomy:
        bar.set_label(scale.label, fontsize=8, color=colour.FAINT_INK)
    elif label:
        ax.set_xlabel(scale.label.replace(", ", ",\n", 1), fontsize=7, color=colour.FAINT_INK)


def _extend(low: float, high: float, scale: Scale) -> str:
    """The ends of a colour bar that stand for more than their value."""
    if not scale.clips:
        return "neither"
    return "both" if low < 0 < high else ("min" if low < 0 else "max")


def characters(ax: Axes, fontsize: float, least: int = 24) -> int:
    """About how many characters fit in one line as wide as the axis."""
    fig: Any = ax.figure
    inches = ax.bbox.width / fig.dpi
    return max(least, int(inches * 72 / (0.58 * fontsize)))


def png_of_figure(fig: Figure) -> bytes:
    """The figure as PNG, drawn once (`savefig` draws a laid out figure twice)."""
    out, given = io.BytesIO(), fig.canvas
    try:
        FigureCanvasAgg(fig).print_png(out, metadata=_METADATA)
    finally:
        fig.set_canvas(given)
    return out.getvalue()


def png_of_pixels(rgb: np.ndarray, longest: int = 448) -> bytes:
    """RGB values (H, W, 3) in [0, 1] as PNG; reduced so that no side is longer than `longest` pixels."""
    height, width = rgb.shape[:2]
    if max(height, width) > longest:
        factor = longest / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        grid = torch.from_numpy(np.ascontiguousarray(rgb)).float().permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(grid, size=size, mode="bilinear", antialias=True)
        rgb = small[0].permute(1, 2, 0).numpy()
    out = io.BytesIO()
    pixels = np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    imsave(out, np.ascontiguousarray(pixels), format="png", metadata=_METADATA)
    return out.getvalue()


def data_uri(png: bytes) -> str:
    """PNG bytes as a `data:` URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def in_notebook() -> bool:
    """Whether a notebook's cell is running this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class QuietAxes(np.ndarray):
    """An array of axes that a notebook does not print below their picture."""

    def _ipython_display_(self) -> None:
        """Show nothing: the picture is there already."""


def _nothing() -> None:
    """What a notebook runs instead of printing an axis."""


def display_in_notebook(fig: Figure, axes: Any) -> Any:
    """Show the figure below the running notebook cell, and return its axes; outside a notebook only the latter.

    Args:
        fig: what is shown.
        axes: an axis or an array of axes, which the cell will not print beside the picture.
    """
    if not in_notebook():
        return axes
    from IPython.display import Image, display

    display(Image(data=png_of_figure(fig), format="png"))
    if isinstance(axes, np.ndarray):
        return axes.view(QuietAxes)
    axes._ipython_display_ = _nothing
    return axes

"""`Renderer`: how one kind of data is drawn. A new kind of data is a new file with one registered subclass."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from interp_plugins.core.errors import unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.viz.figure import add_colorbar, new_figure, png_of_figure
from interp_plugins.viz.scale import Scale, ScaleRule


class Renderer:
    """How inputs and attributions of one kind of data look.

    Attributes:
        name: the `InputSpec.kind` it draws.
        kinds: names of its pictures; the first one stands in for a kind of picture it does not have.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    def accepts_input(self, exp: Explanation) -> bool:
        """Whether `original` can draw exp's input."""
        return True

    def accepts(self, exp: Explanation) -> bool:
        """Whether `draw` can draw exp's attributions."""
        return True

    def size(self, exp: Explanation, kind: str) -> tuple[float, float]:
        """Good width and height of one picture in a grid, in inches."""
        return 2.6, 2.6

    def values(self, exp: Explanation, i: int) -> np.ndarray:
        """The attributions of sample i as they are drawn; the scale is fitted to them."""
        return exp.attribution[i].detach().double().cpu().numpy()

    def original(self, ax: Axes, exp: Explanation, i: int) -> str:
        """Draw the input of sample i. Returns a note on how it was made visible, or ""."""
        raise NotImplementedError

    def draw(self, ax: Axes, exp: Explanation, i: int, kind: str, scale: Scale) -> ScalarMappable | None:
        """Draw the attributions of sample i. Returns the source of a colour bar, or None if it needs none."""
        raise NotImplementedError

    def markup(self, exp: Explanation, i: int, scale: Scale | None) -> str | None:
        """HTML for pages and notebooks in the place of a picture (of the input, where scale is None), or None."""
        return None

    def picture(self, exp: Explanation, i: int, kind: str, scale: Scale, longest: int) -> bytes:
        """The picture alone as PNG, for pages; `kind` may be "original"."""
        fig = new_figure(*self.size(exp, self.kinds[0]), dpi=200)
        ax = fig.add_subplot()
        if kind == "original":
            self.original(ax, exp, i)
        else:
            source = self.draw(ax, exp, i, kind, scale)
            if source is not None:
                add_colorbar(ax, source, scale)
        return png_of_figure(fig)


M = TypeVar("M", bound=type[Renderer])
_RENDERERS: dict[str, Renderer] = {}


def register(renderer: M) -> M:
    """Class decorator: make a renderer known under its name."""
    _RENDERERS[renderer.name] = renderer()
    return renderer


def in_own_size(exp: Explanation, i: int) -> tuple[Explanation, int]:
    """Where sample i is drawn from: of pictures that were filled up to one size, from itself in its own."""
    return (exp[i % len(exp)], 0) if "input_size" in exp.meta.get("per_sample", {}) else (exp, i)


def input_renderer(exp: Explanation) -> Renderer:
    """The renderer that draws exp's input."""
    if _RENDERERS["strip"].accepts_input(exp):
        return _RENDERERS["strip"]
    renderer = _RENDERERS.get(exp.spec.kind)
    return renderer if renderer is not None and renderer.accepts_input(exp) else _RENDERERS["generic"]


def attribution_renderer(exp: Explanation) -> Renderer:
    """The renderer that draws exp's attributions: that of the data, or plain arrays (a layer's units, say).

    Where a layer has several maps per sample, they are drawn as a strip.
    """
    if "entries_per_sample" in exp.meta:
        return _RENDERERS["strip"] if _RENDERERS["strip"].accepts(exp) else _RENDERERS["generic"]
    renderer = _RENDERERS.get(exp.spec.kind)
    return renderer if renderer is not None and renderer.accepts(exp) else _RENDERERS["generic"]


def all_kinds() -> tuple[str, ...]:
    """Names of all kinds of pictures."""
    return tuple(dict.fromkeys(("original", *(k for m in _RENDERERS.values() for k in m.kinds))))


def resolve_kind(renderer: Renderer, kind: str, others: tuple[str, ...] = ()) -> str:
    """The picture to draw: `kind`, or the renderer's own picture if it has no such kind.

    Raises UnknownNameError for a name that no renderer knows; it names `others` as well.
    """
    if kind not in all_kinds():
        raise unknown("kind of picture", kind, (*all_kinds(), *others))
    return kind if kind in renderer.kinds or kind == "original" else renderer.kinds[0]


def fit_scale(exp: Explanation, i: int, rule: ScaleRule, signed: bool = False) -> Scale:
    """The scale of sample i; signed if asked for, or if the method gave a negative value anywhere in the batch."""
    values = attribution_renderer(exp).values(exp, i)
    return rule.fit(values, signed=signed or is_signed(exp) or None)


def is_signed(exp: Explanation) -> bool:
    """Whether any attribution of the batch is negative."""
    maps = exp.attributions if isinstance(exp.attributions, tuple) else (exp.attributions,)
    return any(bool((one < 0).any()) for one in maps)


class PanelContents(NamedTuple):
    """What a panel holds: the scale of its colour bar (None without one) and a note on the input, or ""."""

    scale: Scale | None = None
    note: str = ""


def panel(
    ax: Axes, exp: Explanation, i: int, kind: str, rule: ScaleRule, label: bool = True, signed: bool = False
) -> PanelContents:
    """Draw one picture with its colour bar; `label` says the scale beside the bar, `signed` as in `fit_scale`."""
    exp, i = in_own_size(exp, i)
    renderer = attribution_renderer(exp)
    kind = resolve_kind(renderer, kind)
    if kind == "original":
        return PanelContents(note=input_renderer(exp).original(ax, exp, i))
    scale = fit_scale(exp, i, rule, signed)
    source = renderer.draw(ax, exp, i, kind, scale)
    if source is None:
        return PanelContents()
    add_colorbar(ax, source, scale, label=label)
    return PanelContents(scale)

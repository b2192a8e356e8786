"""One explanation of one sample in one axis."""

from __future__ import annotations

from matplotlib.axes import Axes

from interp_plugins.core.explanation import Explanation
from interp_plugins.viz import colour
from interp_plugins.viz.figure import characters, display_in_notebook, new_figure
from interp_plugins.viz.inputs import choose, part_text
from interp_plugins.viz.renderer import attribution_renderer, is_signed, panel, resolve_kind
from interp_plugins.viz.scale import ScaleRule
from interp_plugins.viz.titles import broken, original_caption, panel_title

_FONT, _SMALL_FONT = 10, 8
_ROOMY = 36  # characters per line from which the title is set in the larger size


def show(
    exp: Explanation,
    ctx: Axes | None = None,
    kind: str = "side",
    *,
    index: int = 0,
    input: int | str = 0,
    normalize: str | float = "percentile",
    percentile: float = 99.0,
    figsize: tuple[float, float] | None = None,
    title: bool | str = True,
    colorbar_label: bool = True,
) -> Axes:
    """Draw one sample of an explanation.

    Args:
        exp: the explanation.
        ctx: the matplotlib axis to draw in; None makes a figure of its own (`result.figure`), displayed in a
            notebook.
        kind: for images "side" (original, heat map, overlay), "overlay", "heatmap", "masked" (dark where the
            map is weak), "alpha" (white where it is weak), "positive", "negative", "contour", "channels" (a map per
            channel), "original"; for volumes "slices", "planes" (through the strongest voxel), "heatmap"; for series
            "line", "band" (a coloured ground), "heatmap" (channels against time). Other data are drawn in their own
            way, and a picture that data do not have is replaced by their own first one.
        index: which sample of the batch; negative counts from the end.
        input: which input of a model with several, by number or `InputSpec.name`.
        normalize: "percentile", "max", "none" or a positive number; see `ScaleRule`.
        percentile: the percentile of |map| that gets the full colour.
        figsize: width and height in inches of a new figure.
        title: True writes method, target, probability and completeness error; a text replaces them.
        colorbar_label: whether the colour bar says its scale in words.

    Returns:
        The axis drawn in.

    Raises:
        InputError: for NaN or infinite attributions, or a sample or input that is not there.
        UnknownNameError: for an unknown `kind`, `input` or `normalize`.
    """
    rule = ScaleRule(normalize, percentile)
    index = exp.number(index)
    signed = is_signed(exp)
    part = choose(exp, input)
    exp = part.exp
    renderer = attribution_renderer(exp)
    kind = resolve_kind(renderer, kind)
    ax = ctx
    if ax is None:
        zoom = 1.1 if kind == "side" else 1.7
        width, height = (zoom * side for side in renderer.size(exp, kind))
        fig = new_figure(*(figsize or (width + 0.9, height + 0.75)))
        ax = fig.add_subplot()
    size = _FONT if characters(ax, _FONT, least=1) >= _ROOMY else _SMALL_FONT
    width = characters(ax, size)
    drawn = panel(ax, exp, index, kind, rule, label=colorbar_label, signed=signed)
    if title:
        text = panel_title(exp, index, width)
        if kind == "original":
            text = original_caption(exp, index, width, drawn.note)
        notes = (broken(note, width) for note in (part_text(part, index), ax.get_title()) if note)
        lines = (title if isinstance(title, str) else text, *notes)
        ax.set_title("\n".join(filter(None, lines)), fontsize=size, color=colour.INK, parse_math=False)
    return ax if ctx is not None else display_in_notebook(fig, ax)

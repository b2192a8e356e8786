"""Pictures of a change: before, after, and the change itself, made visible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.robust.contrast_map import ContrastMaps
from interp_plugins.robust.norms import as_levels
from interp_plugins.viz.figure import Plot, bare, data_uri, new_figure, png_of_figure

if TYPE_CHECKING:
    import pandas as pd

_FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def picture(
    inputs: Any,
    perturbed: Any,
    delta: Any,
    spec: InputSpec,
    captions: Sequence[tuple[str, str]],
    max_n: int,
    contrast: ContrastMaps | None = None,
) -> Plot:
    """A row per sample: the picture, the changed picture, and the change around middle grey, enlarged.

    Args:
        inputs: (N, C, H, W), C of 1 or 3, in the model's units.
        perturbed: the same pictures changed, of the same shape and units.
        delta: their difference in raw units.
        spec: normalisation, range of the raw values.
        captions: what to write below the first and the second picture of each row.
        max_n: rows at most.
        contrast: maps that stand beside it; None: none.

    Raises:
        InputError: the inputs are no pictures.
    """
    x = as_tuple(inputs)[0]
    if (
        spec.kind != "image"
        or len(as_tuple(inputs)) > 1
        or x.ndim != 4
        or x.shape[spec.channel_axis(4) or 1] not in (1, 3)
    ):
        raise InputError(
            f"Only pictures (N, C, H, W) of one or three channels are drawn, and the inputs are of kind {spec.kind!r} "
            f"with shape {tuple(x.shape)}. to_df() has a row per sample."
        )
    n = min(len(x), max_n)
    low, high = spec.value_range
    shown = [(_pixels(spec.denormalise(t), spec) - low) / (high - low) for t in (x, perturbed)]
    change = _pixels(delta, spec) / (high - low)
    many = 3 if contrast is None else 4
    fig = new_figure(2.4 * many, 2.6 * n)
    axes = np.atleast_2d(fig.subplots(n, many, squeeze=False))
    for i in range(n):
        largest = float(np.abs(change[i]).max())
        factor = max((f for f in _FACTORS if f * largest <= 0.5), default=1) if largest > 0 else 1
        drawn = (shown[0][i], shown[1][i], 0.5 + factor * change[i])
        below = (*captions[i], f"change × {factor}" if largest > 0 else "no change")
        for ax, rgb, text in zip(axes[i][:3], drawn, below, strict=True):
            ax.imshow(np.clip(rgb, 0, 1).repeat(3 // rgb.shape[-1], axis=-1), interpolation="nearest")
            bare(ax)
            ax.set_xlabel(text, fontsize=9)
        if contrast is not None:
            _contrast(axes[i][3], contrast, i)
    return Plot(fig, axes)


def _contrast(ax: Any, contrast: ContrastMaps, i: int) -> None:
    """The map of one sample, or an empty place where its class is what it was."""
    from interp_plugins.viz.renderer import attribution_renderer, fit_scale, in_own_size
    from interp_plugins.viz.scale import ScaleRule

    if i not in contrast.rows:
        ax.axis("off")
        return
    row = contrast.rows.index(i)
    exp, own = in_own_size(contrast.maps, row)
    attribution_renderer(exp).draw(ax, exp, own, "overlay", fit_scale(exp, own, ScaleRule()))
    why = contrast.maps.target_label[row] if contrast.maps.target_label is not None else ""
    alike = float(contrast.agreement[row])
    words = f"why {why}".replace(" rather than ", "\nrather than ")
    ax.set_xlabel(f"{words}\nagrees with the change: {alike:.2f}", fontsize=9)


_WAYS = {
    "regions": "without the fewest regions that were found to decide",
    "row": "with as few columns changed as was found",
    "visible": "changed smoothly, so that it can be seen",
}
_BECAME = {
    "turned": ("now gets {another}", "now get {another}"),
    "held": ("keeps its answer", "keep their answer"),
    "masked": (
        "keeps its answer with a gradient of zero, which proves nothing",
        "keep their answer with a gradient of zero, which proves nothing",
    ),
    "none found": ("for which no such change was found", "for which no such change was found"),
    "already": ("that needed no change", "that needed no change"),
}
_STATES = (
    "turned: the model says another class, or what was asked for; held: it was not turned, which is no proof that "
    "nothing turns it; masked: not turned, and its gradient is zero, which says nothing; none found: no change was "
    "found that does it; already: nothing was needed."
)


def lead(state: Sequence[str], goals: Sequence[Any] | None, params: Mapping[str, Any], spec: InputSpec) -> str:
    """What was done to how many samples, and what became of them, in a sentence.

    Args:
        state: of each sample, as `Perturbed` has it.
        goals: the class to be reached per sample, or None.
        params: the attack and its parameters.
        spec: facts about the inputs.
    """
    attack, norm, eps = params["attack"], params["norm"], params["eps"]
    if math.isfinite(eps):
        size = as_levels(eps) if spec.kind == "image" else f"{eps:.3g}"
        done = f"changed with {attack} by at most {size} ({norm})"
    else:
        done = _WAYS.get(attack, f"changed as little as {attack} could find ({norm})")
    reached = f"{goals[0]!r}" if goals and len(set(goals)) == 1 else "what was asked for"
    another = "another answer" if goals is None and "goal" not in params else reached
    n, parts = len(state), []
    for kind in dict.fromkeys(state):
        k = state.count(kind)
        one, many = _BECAME.get(kind, (f"is {kind}", f"are {kind}"))
        parts.append(f"{k} {one if k == 1 else many}".format(another=another))
    samples = "1 sample" if n == 1 else f"{n} samples, each"
    return f"{samples} {done}: {', '.join(parts)}."


def page(table: pd.DataFrame, drawn: Plot | None, lead: str, title: str) -> str:
    """A page of a table and a picture.

    Args:
        table: a row per sample.
        drawn: the picture, or None.
        lead: what stands above.
        title: of the page.
    """
    from interp_plugins.viz.template import section, whole_page

    parts = []
    if drawn is not None:
        image = f'<img src="{data_uri(png_of_figure(drawn.fig))}" alt="before, after, change">'
        parts.append(section("Before, after, and the change", image))
    grid = table.to_html(border=0, float_format=lambda v: f"{v:.3g}")
    parts.append(section("All samples", f'<div class="scroll" tabindex="0">{grid}</div>'))
    legend = [("Sizes", "Linf, L2, L1 and the number of changed elements (L0), in raw units."), ("State", _STATES)]
    return whole_page(title, lead, parts, legend)


def _pixels(x: Tensor, spec: InputSpec) -> np.ndarray:
    """(N, H, W, C), float64."""
    found: np.ndarray = x.detach().double().movedim(spec.channel_axis(4) or 1, -1).numpy()
    return found

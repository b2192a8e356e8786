"""`CaptumInterpretation`: what fastai's class of this name was meant to do, with the same calls.

fastai's own (`fastai.callback.captum`) needs `captum.insights`, which Captum 0.9 no longer has. This one needs no
Captum: it keeps constructor, `visualize` and `insights`, and hands the work to `learn.explain`. Pictures follow the
conventions of Captum's `visualize_image_attr` (its papers: "captum.attr.visualization"): maps are summed over
channels, and divided by the value at which `100 - outlier_perc` percent of their total are reached.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fastai.learner import Learner
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from interp_plugins.api.binding import canonical_name
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.baseline import BASELINES
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.registry import arguments_of
from interp_plugins.fastai import learner as _learner  # noqa: F401 - Learner.explain
from interp_plugins.fastai.reader import reader_of
from interp_plugins.insights.report import write_report
from interp_plugins.viz import pixels
from interp_plugins.viz.figure import bare, display_in_notebook, in_notebook, new_figure
from interp_plugins.viz.scale import finite
from interp_plugins.viz.truth import caption

_METRICS = {"IG": "integrated_gradients", "NT": "noise_tunnel", "Occl": "occlusion"}
_BASELINES = {"zeros": "black", "uniform": "uniform", "gauss": "gaussian"}
_SIGNS = ("all", "positive", "negative", "absolute_value")
_METHODS = ("original_image", "heat_map", "blended_heat_map", "masked_image", "alpha_scaling")


class Visualized(NamedTuple):
    """What `visualize` gives: the figure with its axes (rows: samples), and the explanation it shows."""

    fig: Figure
    axes: np.ndarray
    explanation: Explanation

    def __repr__(self) -> str:
        rows, columns = self.axes.shape
        return f"Visualized({rows} x {columns} pictures, {self.explanation!r})"


class CaptumInterpretation:
    """Maps of a Learner's pictures, with the calls of fastai's class of the same name.

    Args:
        learn: the Learner; its model and data are read anew with every call.
        cmap_name: name of the colour map made of `colors`.
        colors: the colours of heat maps, from 0 to 1, as (position, colour) or colours alone; None: white to black.
        N: number of steps of the colour map.
        methods: the pictures, side by side: "original_image", "heat_map", "blended_heat_map", "masked_image",
            "alpha_scaling".
        signs: which attributions each picture shows: "all", "positive", "negative", "absolute_value"; one per picture
            ("all" where there is an original). Masked and alpha pictures cannot show "all".
        outlier_perc: percentage of the map's total that is cut off at its strongest pixels; 0: the largest value gets
            the full colour.

    Raises:
        InputError: for pictures or signs that do not exist, or do not go together.
    """

    def __init__(
        self,
        learn: Learner,
        cmap_name: str = "custom blue",
        colors: Sequence[Any] | None = None,
        N: int = 256,
        methods: Sequence[str] = ("original_image", "heat_map"),
        signs: Sequence[str] = ("all", "positive"),
        outlier_perc: float = 1,
    ):
        if len(methods) != len(signs) or not methods:
            raise InputError(f"methods has {len(methods)} pictures and signs {len(signs)}; give one sign per picture.")
        for method, sign in zip(methods, signs):
            if method not in _METHODS:
                raise unknown("picture", method, _METHODS)
            if sign not in _SIGNS:
                raise unknown("sign", sign, _SIGNS)
            if method in ("masked_image", "alpha_scaling") and sign == "all":
                raise InputError(f"{method} cannot show 'all' signs; use 'positive', 'negative' or 'absolute_value'.")
        if not 0 <= outlier_perc < 100:
            raise InputError(f"outlier_perc must be at least 0 and below 100, got {outlier_perc}.")
        self.learn, self.cmap_name, self.N = learn, cmap_name, N
        self.colors = [(0, "#ffffff"), (0.25, "#000000"), (1, "#000000")] if colors is None else list(colors)
        self.methods, self.signs, self.outlier_perc = tuple(methods), tuple(signs), outlier_perc
        self.supported_metrics = list(_METRICS)

    @property
    def dls(self) -> Any:
        """The Learner's data, as they are now."""
        return self.learn.dls

    @property
    def model(self) -> Any:
        """The Learner's model, as it is now."""
        return self.learn.model

    def visualize(
        self,
        inp: Any,
        metric: Any = "IG",
        n_steps: int = 1000,
        baseline_type: Any = "zeros",
        nt_type: str = "smoothgrad",
        strides: Any = (3, 4, 4),
        sliding_window_shapes: Any = (3, 15, 15),
        *,
        target: Any = None,
        **params: Any,
    ) -> Visualized:
        """Explain one item or a list of items, and show input and map side by side.

        Args:
            inp: what `learn.predict` takes (path, picture, array), or a list; no label is needed.
            metric: the method: "IG", "NT" (noise tunnel over IG), "Occl", or any of `interp_plugins.list_methods()`.
            n_steps: steps of the integral, for IG and every other method that has steps, and for each noisy copy of NT
                (so NT costs `nt_samples` as much: 50 steps are enough there).
            baseline_type: "zeros" (black pixels), "uniform" (noise over all colours), "gauss" (the picture and Gaussian
                noise), "black", "mean", "blur", a number in the model's units (0: the mean colour, if the data are
                normalised), a tensor, a function, or a picture (Path, PIL).
            nt_type: "smoothgrad", "smoothgrad_sq" or "vargrad", for NT.
            strides: steps (channels, height, width) of the window, for Occl; no more channels than the data have.
            sliding_window_shapes: size (channels, height, width) of the window, for Occl.
            target: None: the predicted class; a label or index; "label": the item's ground truth, as fastai had it.
            **params: further arguments of `learn.explain` and of the method (`nt_samples`, `stdevs`, `layer`, ...).

        Returns:
            Figure, axes and explanation; the figure is displayed in a notebook.

        Raises:
            InterpError: one of its kinds, for names that do not exist and items that cannot be read.
        """
        name = self._method(metric)
        window = {"strides": self._window(strides), "sliding_window_shapes": self._window(sliding_window_shapes)}
        takes = arguments_of(name)
        given = {k: v for k, v in {"n_steps": n_steps, "nt_type": nt_type, **window}.items() if k in takes}
        given["baselines"] = _baseline(baseline_type)
        explanation = self.learn.explain(inp, name, target, **{**given, **params})[0]
        return self._draw(explanation, str(metric))

    def insights(
        self, inp_data: Any, debug: bool = True, *, path: Any = None, methods: Methods = DEFAULT_METHODS, **params: Any
    ) -> Path:
        """Explain items by several methods, and open the viewer: below a notebook's cell, or in the browser.

        The viewer is one file; it switches between samples, methods and pictures without a model behind it.

        Args:
            inp_data: an item or a list of items.
            debug: whether to print a line on each explanation (target, score, completeness error, range).
            path: where the page is written; None: a new temporary directory.
            methods: see `learn.explain`.
            **params: further arguments of `learn.explain`.

        Returns:
            The file's path. It needs no server and no network.
        """
        explanations = self.learn.explain(inp_data, methods, **params)
        if debug:
            print(explanations)
        page = Path(path) if path is not None else Path(tempfile.mkdtemp(prefix="insights-")) / "insights.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        write_report(explanations, page, title="Insights")
        _open(page)
        return page

    # -- arguments -------------------------------------------------------------------------------------------

    def _method(self, metric: Any) -> Any:
        if not isinstance(metric, str):
            return metric
        try:
            return _METRICS.get(metric) or canonical_name(metric)
        except InputError as error:
            known = ", ".join(self.supported_metrics)
            raise type(error)(f"Metric {metric!r} is not supported ({known} are fastai's names). {error}") from error

    def _window(self, shape: Any) -> Any:
        """A window's size or step with no more channels than the pictures have: (3, 15, 15) is (1, 15, 15) in grey."""
        channels = reader_of(self.learn).channels
        if channels is None or not isinstance(shape, (tuple, list)) or len(shape) != 3:
            return shape
        return (min(shape[0], channels), *shape[1:])

    # -- pictures --------------------------------------------------------------------------------------------

    def _draw(self, exp: Explanation, metric: str) -> Visualized:
        rows, columns = len(exp), len(self.methods)
        height, width = exp.input.shape[2:]
        side = 3.0
        fig = new_figure(columns * (side + 0.6), rows * (side * height / width + 0.7))
        axes = fig.subplots(rows, columns, squeeze=False)
        cmap = LinearSegmentedColormap.from_list(self.cmap_name, self.colors, N=self.N)
        for i in range(rows):
            rgb, values = pixels.photo(exp, i).rgb, finite(exp.heatmap(i))
            for ax, method, sign in zip(axes[i], self.methods, self.signs):
                bare(ax)
                if method == "original_image":
                    ax.imshow(rgb)
                    ax.set_title(f"Original Image\n{caption(exp, i)}", fontsize=9, parse_math=False)
                else:
                    source = draw_map(ax, method, rgb, values, sign, cmap, self.outlier_perc)
                    fig.colorbar(source, ax=ax, shrink=0.8)
                    ax.set_title(f"{metric}: {sign.replace('_', ' ')}", fontsize=9)
        return Visualized(fig, display_in_notebook(fig, axes), exp)


def normalised(values: np.ndarray, sign: str, outlier_perc: float) -> np.ndarray:
    """A map (H, W) as Captum's pictures show it: one sign, divided by a limit, clipped to [-1, 1].

    The limit is the value at which the sorted |values| of this sign have added up to `100 - outlier_perc` percent of
    their total. A map of zeros stays zero.
    """
    kept = {"all": values, "positive": values.clip(min=0), "negative": -values.clip(max=0)}.get(sign, np.abs(values))
    size = np.sort(np.abs(kept).reshape(-1))
    total = size.cumsum()
    if total[-1] == 0:
        return np.zeros_like(kept)
    place = int(np.searchsorted(total, (1 - outlier_perc / 100) * total[-1]))
    limit = size[min(place, len(size) - 1)]
    return np.clip(kept / limit, -1, 1)


def draw_map(
    ax: Axes, method: str, rgb: np.ndarray, values: np.ndarray, sign: str, cmap: Any, outlier_perc: float
) -> ScalarMappable:
    """Draw one of Captum's kinds of pictures; returns the source of its colour bar."""
    unit = normalised(values, sign, outlier_perc)
    norm = Normalize(-1 if sign == "all" else 0, 1)
    if method == "heat_map":
        return ax.imshow(unit, cmap=cmap, norm=norm)
    if method == "blended_heat_map":
        ax.imshow(pixels.grey(rgb)[..., 0], cmap="gray", vmin=0, vmax=1)
        return ax.imshow(unit, cmap=cmap, norm=norm, alpha=0.5)
    strength = unit[..., None]
    if method == "masked_image":
        ax.imshow(rgb * strength)
    else:
        ax.imshow(np.concatenate([rgb, strength], axis=2))
    return ScalarMappable(Normalize(0, 1), "gray")


def _baseline(kind: Any) -> Any:
    """Fastai's names and ours, but not "zero", which is too near to "zeros" to mean another thing."""
    if not isinstance(kind, str):
        return kind
    known = {**_BASELINES, **{name: name for name in BASELINES if name != "zero"}}
    if kind not in known:
        raise unknown("baseline_type", kind, known, "Give 0 for zeros in the model's units.")
    return known[kind]


def _open(page: Path) -> None:
    """Show the page to whoever sits before it: in a notebook's cell, or in the browser of an interactive session."""
    if in_notebook():
        from IPython.display import HTML, display

        inside = escape(page.read_text(encoding="utf-8"), quote=True)
        display(HTML(f'<iframe srcdoc="{inside}" width="100%" height="720" style="border:0"></iframe>'))
    elif hasattr(sys, "ps1"):
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(page.resolve().as_uri())

"""Pictures of plain arrays, without an `Explanation`: an attribution map over an image or a time series.

Signatures and meanings are Captum's (`captum.attr.visualization`): height, width, channels last; values are divided by
the value below which 100 - outlier_perc percent of their sum lies. Tensors, channels first and batches of one are
understood as well, and a map of zeros is drawn as zeros.
"""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1 import make_axes_locatable

from interp_plugins.core.errors import InputError, InterpWarning, unknown
from interp_plugins.viz import colour

_SILENT = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}  # backends without a window
SIGNS = ("all", "positive", "negative", "absolute_value")
IMAGE_METHODS = ("heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling")
SERIES_METHODS = ("overlay_individual", "overlay_combined", "colored_graph")


def array(values: Any) -> np.ndarray:
    """An array from an array, a list or a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def channels_last(values: Any, name: str) -> np.ndarray:
    """(H, W) or (H, W, C) from that, from (C, H, W), and from a batch of one.

    Raises:
        InputError: anything else.
    """
    a = array(values)
    if a.ndim == 4 and a.shape[0] == 1:
        a = a[0]
    if a.ndim == 3 and a.shape[2] not in (1, 3, 4) and a.shape[0] in (1, 3, 4):
        a = a.transpose(1, 2, 0)
    if a.ndim not in (2, 3):
        raise InputError(f"{name} must be (H, W), (H, W, C) or (C, H, W), got shape {np.shape(values)}.")
    return a


def normalised(attr: np.ndarray, sign: str, outlier_perc: float = 2) -> np.ndarray:
    """Values of that sign in [-1, 1], or [0, 1]; the largest, outlier_perc percent of the sum, get full colour."""
    if sign not in SIGNS:
        raise unknown("sign", sign, SIGNS)
    if not 0 <= outlier_perc <= 100:
        raise InputError(f"outlier_perc must be between 0 and 100 inclusive, got {outlier_perc}.")
    chosen = {
        "all": lambda: attr,
        "positive": lambda: np.maximum(attr, 0),
        "negative": lambda: -np.minimum(attr, 0),
        "absolute_value": lambda: np.abs(attr),
    }[sign]()
    rising = np.sort(np.abs(chosen), axis=None)
    sums = np.cumsum(rising)
    if not sums[-1] > 0:
        return np.zeros_like(chosen, dtype=float)
    limit = rising[min(int(np.searchsorted(sums, sums[-1] * (1 - outlier_perc / 100))), len(rising) - 1)]
    return np.clip(chosen / (limit or rising[-1]), -1, 1)


def colours(sign: str, cmap: str | Colormap | None) -> tuple[Colormap, Normalize]:
    """The colour map for a sign (or the caller's), and its range."""
    own = {"all": colour.DIVERGING, "positive": colour.POSITIVE, "negative": colour.NEGATIVE.reversed()}
    chosen = own.get(sign, colour.SEQUENTIAL) if cmap is None else cmap
    if isinstance(chosen, str):
        chosen = matplotlib.colormaps[chosen]
    return chosen, Normalize(-1 if sign == "all" else 0, 1)


def new_figure(given: Any, use_pyplot: bool, size: tuple[float, float], **grid: Any) -> tuple[Any, Any]:
    """The caller's figure and axes, or new ones."""
    if given is not None:
        return given[0], given[1]
    if use_pyplot:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=size, **grid)
    figure = Figure(figsize=size)
    return figure, figure.subplots(**grid)


def present(use_pyplot: bool) -> None:
    """Show pyplot's figures where there is a window or a notebook."""
    if use_pyplot and matplotlib.get_backend().lower() not in _SILENT:
        import matplotlib.pyplot as plt

        plt.show()


def colour_bar(
    figure: Any, axis: Any, cmap: Colormap, norm: Normalize, alpha: float = 1.0, pad: float = 0.1, blank: bool = False
) -> None:
    """A horizontal bar below an axis; `blank` only leaves its room, so that neighbours stand level."""
    place = make_axes_locatable(axis).append_axes("bottom", size="5%", pad=pad)
    if blank:
        place.axis("off")
        return
    source = matplotlib.cm.ScalarMappable(norm, cmap)
    figure.colorbar(source, orientation="horizontal", alpha=alpha, cax=place)


def visualize_image_attr(
    attr: Any,
    original_image: Any = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: int | float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """Draw an attribution map of an image; returns (figure, axis).

    Args:
        attr: map (H, W, C), summed over channels, or (H, W); not needed for "original_image".
        original_image: image (H, W, C), in [0, 1] or [0, 255]; needed for all methods but "heat_map".
        method: "heat_map", "blended_heat_map" (over the grey image), "original_image", "masked_image" (image times
            map), "alpha_scaling" (map as opacity).
        sign: "all", "positive", "negative" or "absolute_value".
        plt_fig_axis: figure and axis to draw in; None makes them.
        outlier_perc: percent of the sum of values that is cut off at full colour.
        cmap: colour map; None: one that suits the sign.
        alpha_overlay: opacity of the map in "blended_heat_map".
        show_colorbar: draw the scale below.
        title: title of the axis.
        fig_size: size of a new figure, inches.
        use_pyplot: make the figure with pyplot and show it.

    Raises:
        InputError: unknown method or sign, no image where one is needed, shapes that differ.
    """
    if method not in IMAGE_METHODS:
        raise unknown("method", method, IMAGE_METHODS)
    if sign not in SIGNS:
        raise unknown("sign", sign, SIGNS)
    image = None if original_image is None else _pixels(original_image)
    if image is None and method != "heat_map":
        raise InputError("Original Image must be provided for any visualization other than heatmap.")
    if sign == "all" and method in ("masked_image", "alpha_scaling"):
        raise InputError(
            f"Cannot display {method.replace('_', ' ')} with both positive and negative attributions, choose a "
            "different sign option."
        )
    values = None if method == "original_image" else _values(attr, image, method, sign, outlier_perc)
    figure, axis = new_figure(plt_fig_axis, use_pyplot, fig_size)
    axis = axis[0] if isinstance(axis, (list, np.ndarray)) else axis
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    chosen, norm = colours(sign, cmap)
    if method in ("original_image", "masked_image", "alpha_scaling"):
        axis.imshow(_picture(method, image, values), cmap="gray")
    else:
        over = method == "blended_heat_map"
        if over:
            axis.imshow(image.mean(2), cmap="gray")  # type: ignore[union-attr]
        axis.imshow(values, cmap=chosen, norm=norm, alpha=alpha_overlay if over else None)
    if show_colorbar:
        alpha = alpha_overlay if method == "blended_heat_map" else 1.0
        colour_bar(figure, axis, chosen, norm, alpha, blank=method not in ("heat_map", "blended_heat_map"))
    if title:
        axis.set_title(title)
    present(use_pyplot)
    return figure, axis


def _values(attr: Any, image: np.ndarray | None, method: str, sign: str, outlier_perc: float) -> np.ndarray:
    """The map (H, W) to draw, of the image's size."""
    if attr is None:
        raise InputError(f"attr is None; {method} draws a map. Give an array (H, W) or (H, W, C).")
    flat = channels_last(attr, "attr")
    values = normalised(flat.sum(2) if flat.ndim == 3 else flat, sign, outlier_perc)
    if image is not None and image.shape[:2] != values.shape:
        raise InputError(f"attr has size {values.shape}, original_image {image.shape[:2]}; they must be equal.")
    return values


def _picture(method: str, image: Any, values: Any) -> np.ndarray:
    """The image itself, times the map (H, W), or with the map as its opacity (H, W, 4)."""
    if method == "original_image":
        return image.squeeze(2) if image.shape[2] == 1 else image
    if method == "masked_image":
        return (image * values[..., None]).astype(np.uint8).squeeze()
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))[..., :3]
    return np.concatenate([rgb, (values[..., None] * 255).astype(np.uint8)], 2)


def _pixels(image: Any) -> np.ndarray:
    """(H, W, C) in 0 to 255."""
    a = channels_last(image, "original_image")
    a = a[..., None] if a.ndim == 2 else a
    if np.nanmax(a) <= 1:
        a = a * 255
    return np.clip(a, 0, 255).astype(np.uint8)


def visualize_image_attr_multiple(
    attr: Any,
    original_image: Any,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """Several `visualize_image_attr` side by side; returns (figure, axis or list of axes).

    Args:
        attr: map (H, W, C) or (H, W).
        original_image: image (H, W, C).
        methods: one per panel.
        signs: one per panel.
        titles: one per panel, or None.
        fig_size: size of the figure, inches.
        use_pyplot: make the figure with pyplot and show it.
        **kwargs: further arguments of `visualize_image_attr`.
    """
    if len(methods) != len(signs):
        raise InputError(f"Methods and signs array lengths must match: got {len(methods)} and {len(signs)}.")
    if titles is not None and len(titles) != len(methods):
        raise InputError(
            f"If titles list is given, length must match that of methods list: got {len(titles)} for {len(methods)}."
        )
    figure, axes = new_figure(None, use_pyplot, fig_size, nrows=1, ncols=len(methods))
    panels = list(np.atleast_1d(axes))
    for i, panel in enumerate(panels):
        visualize_image_attr(
            attr,
            original_image,
            methods[i],
            signs[i],
            (figure, panel),
            title=titles[i] if titles else None,
            use_pyplot=False,
            **kwargs,
        )
    figure.tight_layout()
    present(use_pyplot)
    return figure, panels if len(panels) > 1 else panels[0]


def visualize_timeseries_attr(
    attr: Any,
    data: Any,
    x_values: Any = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Any] | None = None,
    outlier_perc: int | float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Any]:
    """Draw attributions of a time series; returns (figure, axis or array of axes).

    Args:
        attr: map (T, C), or (C, T) with channels_last=False.
        data: the series (T, C), or (C, T) with channels_last=False.
        x_values: times (T,); None: 0 to T - 1.
        method: "overlay_individual" (a panel per channel over its map), "overlay_combined" (all channels over the sum
            of their maps), "colored_graph" (lines coloured by the map).
        sign: "all", "positive", "negative" or "absolute_value".
        channel_labels: names of the channels.
        channels_last: whether channels are the second dimension.
        plt_fig_axis: figure and axes to draw in; None makes them.
        outlier_perc: percent of the sum of values that is cut off at full colour.
        cmap: colour map; None: one that suits the sign.
        alpha_overlay: opacity of the map.
        show_colorbar: draw the scale below.
        title: title of the first axis.
        fig_size: size of a new figure, inches.
        use_pyplot: make the figure with pyplot and show it.
        **pyplot_kwargs: for the lines.
    """
    if method not in SERIES_METHODS:
        raise unknown("visualization method", method, SERIES_METHODS)
    a, series, times = _series(attr, data, x_values, channels_last)
    channels, length = a.shape
    together = method == "overlay_combined"
    values = normalised(a.sum(0, keepdims=True) if together else a, sign, outlier_perc)
    chosen, norm = colours(sign, cmap)
    figure, axes = new_figure(plt_fig_axis, use_pyplot, fig_size, nrows=1 if together else channels, sharex=True)
    panels = list(np.atleast_1d(np.asarray(axes, dtype=object)))
    for c in range(channels):
        panel, label = panels[0 if together else c], channel_labels[c] if channel_labels else None
        if method == "colored_graph":
            _coloured_line(panel, times, series[c], values[c], cmap=chosen, norm=norm, **pyplot_kwargs)
        else:
            panel.plot(times, series[c], label=label, **pyplot_kwargs)
        if label and not together:
            panel.set_ylabel(label)
    if method != "colored_graph":
        for panel, row in zip(panels, values):
            _background(panel, times, [chosen(norm(value)) for value in row], alpha_overlay)
    if together and channel_labels:
        panels[0].legend(loc="best")
    for panel in panels:
        panel.set_xlim(times[0], times[-1] if length > 1 else times[0] + 1)
    if show_colorbar:
        colour_bar(figure, panels[-1], chosen, norm, 1.0 if method == "colored_graph" else alpha_overlay, pad=0.4)
    if title:
        panels[0].set_title(title)
    present(use_pyplot)
    return figure, axes


def _series(attr: Any, data: Any, x_values: Any, channels_last: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The map (C, T), the series (C, T) and its times (T,), checked."""
    a, series = array(attr), array(data)
    for name, v in (("attr", a), ("data", series)):
        if v.ndim != 2:
            raise InputError(f"Expected {name} of shape (T, C), got {v.shape}.")
    if a.shape != series.shape:
        raise InputError(f"attr and data must have one shape, got {a.shape} and {series.shape}.")
    if channels_last:
        a, series = a.T, series.T
    channels, length = a.shape
    if channels > length:
        warnings.warn(
            f"Number of channels ({channels}) greater than time series length ({length}), please verify input format "
            "(channels_last).",
            InterpWarning,
            stacklevel=3,
        )
    times = np.arange(length) if x_values is None else array(x_values)
    if len(times) != length:
        raise InputError(f"x_values must have same length as data: got {len(times)} for {length}.")
    return a, series, times


def _coloured_line(panel: Axes, times: np.ndarray, channel: np.ndarray, values: np.ndarray, **look: Any) -> None:
    """A channel (T,) as a line, coloured by its map (T,)."""
    points = np.stack([times, channel], 1)
    lines = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), **look)
    lines.set_array(values)
    panel.add_collection(lines)
    room = 0.1 * (np.ptp(channel) or 1)
    panel.set_ylim(channel.min() - room, channel.max() + room)


def _background(panel: Axes, times: np.ndarray, faces: list[Any], alpha: float) -> None:
    """A stripe of a face colour per time behind the lines, around that time."""
    edges = _edges(times)
    for low, high, face in zip(edges[:-1], edges[1:], faces):
        panel.axvspan(low, high, facecolor=face, edgecolor=None, alpha=alpha, zorder=0)


def _edges(times: np.ndarray) -> np.ndarray:
    """Borders halfway between neighbouring times."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middle = (times[:-1] + times[1:]) / 2
    return np.concatenate([[2 * times[0] - middle[0]], middle, [2 * times[-1] - middle[-1]]])

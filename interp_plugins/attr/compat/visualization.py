"""Pictures of plain arrays under Captum's names; drawn by `interp_plugins.viz`, which is loaded when first asked for.

    from interp_plugins.attr import visualization as viz
    viz.visualize_image_attr(map_hwc, image_hwc, method="blended_heat_map", sign="all")

For an `Explanation`, its own `show`, `plot` and `to_html` say more (target, scale, error).
"""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = [  # noqa: F822 - they come late, from viz
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "draw_mask_border",
    "draw_mask_legend",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]


class ImageVisualizationMethod(Enum):
    """The ways in which `visualize_image_attr` draws, under Captum's names."""

    heat_map = 1
    blended_heat_map = 2
    original_image = 3
    masked_image = 4
    alpha_scaling = 5


class TimeseriesVisualizationMethod(Enum):
    """The ways in which `visualize_timeseries_attr` draws, under Captum's names."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


class VisualizeSign(Enum):
    """The signs whose values are drawn, under Captum's names."""

    positive = 1
    absolute_value = 2
    negative = 3
    all = 4


def drawing(room: str) -> Any:
    """The part of `interp_plugins.viz` that draws "image" (arrays), "masks", "text" or "llm" (language models).

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from interp_plugins.viz import captum_image, captum_llm, captum_text, masks
    except ModuleNotFoundError as err:
        if err.name and err.name.startswith("matplotlib"):
            raise ImportError("Pictures need matplotlib: pip install 'interp-plugins[viz]'.") from err
        raise
    return {"image": captum_image, "masks": masks, "text": captum_text, "llm": captum_llm}[room]


_PLACES = {
    **dict.fromkeys(("draw_mask_border", "draw_mask_legend"), "masks"),
    **dict.fromkeys(("visualize_image_attr", "visualize_image_attr_multiple", "visualize_timeseries_attr"), "image"),
    **dict.fromkeys(
        (
            "VisualizationDataRecord",
            "format_classname",
            "format_special_tokens",
            "format_tooltip",
            "format_word_importances",
            "visualize_text",
        ),
        "text",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(drawing(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

"""Pictures of an `Explanation`: one panel, a grid, a notebook fragment, a self-contained page.

Each kind of data has its own file (`image`, `volume`, `clip`, `series`, `text`, `tabular`, `array`), chosen by
`exp.spec.kind` in `renderer`; several maps of one sample are a `strip`; each picture of whole explanations has one as
well (`summary`, `depth`, `shares`, `classes`), known to `overview`. Nothing here touches pyplot's state, and nothing
computes attributions.
"""

# ruff: noqa: E402 - the door says first what is missing
from interp_plugins.core.extras import require

require("interp_plugins.viz", "viz", "matplotlib")

from interp_plugins.viz import (  # noqa: F401  (each registers its renderer)
    array,
    clip,
    image,
    series,
    strip,
    tabular,
    text,
    volume,
)
from interp_plugins.viz.classes import classes_in_one
from interp_plugins.viz.depth import layers_by_tokens
from interp_plugins.viz.figure import Plot
from interp_plugins.viz.grid import plot, show_grid
from interp_plugins.viz.notebook import notebook_html
from interp_plugins.viz.page import to_html
from interp_plugins.viz.renderer import all_kinds
from interp_plugins.viz.scale import Scale, ScaleRule
from interp_plugins.viz.shares import input_shares
from interp_plugins.viz.show import show
from interp_plugins.viz.summary import beeswarm, importance

__all__ = [
    "Plot",
    "Scale",
    "ScaleRule",
    "all_kinds",
    "beeswarm",
    "classes_in_one",
    "importance",
    "input_shares",
    "layers_by_tokens",
    "notebook_html",
    "plot",
    "show",
    "show_grid",
    "to_html",
]

"""Pictures of an `Explanation`: one panel, a grid, a notebook fragment, a self-contained page.

Each kind of data has its own file (`image`, `volume`, `series`, `text`, `tabular`, `array`), chosen by `exp.spec.kind`
in `medium`; each picture of whole explanations has one as well (`summary`, `depth`, `shares`), known to `overview`.
Nothing here touches pyplot's state, and nothing computes attributions.
"""

from . import array, image, series, tabular, text, volume  # noqa: F401  (each registers its medium)
from .depth import layers_by_tokens
from .figure import Plot
from .grid import plot, show_grid
from .medium import all_kinds
from .notebook import notebook_html
from .page import to_html
from .scale import Scale, ScaleRule
from .shares import input_shares
from .show import show
from .summary import beeswarm, importance

__all__ = [
    "Plot",
    "Scale",
    "ScaleRule",
    "all_kinds",
    "beeswarm",
    "importance",
    "input_shares",
    "layers_by_tokens",
    "notebook_html",
    "plot",
    "show",
    "show_grid",
    "to_html",
]

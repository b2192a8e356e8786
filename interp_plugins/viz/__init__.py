"""Pictures of an `Explanation`: one panel, a grid, a notebook fragment, a self-contained page.

Each kind of data has its own file (`image`, `tabular`, `array`), chosen by `exp.spec.kind` in `medium`.
Nothing here touches pyplot's state, and nothing computes attributions.
"""

from . import array, image, tabular, text  # noqa: F401  (each registers its medium)
from .grid import Plot, plot, show_grid
from .medium import all_kinds
from .notebook import notebook_html
from .page import to_html
from .scale import Scale, ScaleRule
from .show import show

__all__ = ["Plot", "Scale", "ScaleRule", "all_kinds", "notebook_html", "plot", "show", "show_grid", "to_html"]

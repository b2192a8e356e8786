"""Pictures of an `Explanation`: one panel, a grid.

Each kind of data has its own file (`image`, `tabular`, `array`), chosen by `exp.spec.kind` in `medium`.
Nothing here touches pyplot's state, and nothing computes attributions.
"""

from . import array, image, tabular  # noqa: F401  (each registers its medium)
from .grid import Plot, plot, show_grid
from .medium import all_kinds
from .scale import Scale, ScaleRule
from .show import show

__all__ = ["Plot", "Scale", "ScaleRule", "all_kinds", "plot", "show", "show_grid", ]

"""From attribution values to colour, openly: which value gets the full colour, and what is cut off.

A map is divided by one limit and clipped to [-1, 1] (signed) or [0, 1]; the limit is kept in attribution
units, so that the colour bar can say it. A map of zeros stays zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.viz import colour

NORMALIZE = ("percentile", "max", "none")


@dataclass(frozen=True)
class Scale:
    """What full colour means for one map.

    Args:
        limit: the |attribution| drawn in full colour, in attribution units; 0 for a map of zeros.
        signed: whether negative values can occur (diverging colours around 0) or not (sequential colours).
        clips: whether some values lie beyond the limit.
        label: the scale in words, for the colour bar.
    """

    limit: float
    signed: bool
    clips: bool
    label: str

    def unit(self, values: np.ndarray) -> np.ndarray:
        """Values divided by the limit, clipped to [-1, 1], or [0, 1] without sign; zeros for a zero limit."""
        low = -1.0 if self.signed else 0.0
        if self.limit == 0:
            return np.zeros(np.shape(values))
        return np.clip(np.asarray(values, dtype=np.float64) / self.limit, low, 1.0)

    def strength(self, values: np.ndarray) -> np.ndarray:
        """|values| relative to the limit, in [0, 1]."""
        return np.abs(self.unit(values))

    @property
    def cmap(self) -> Colormap:
        """Diverging colours for signed maps, sequential ones otherwise."""
        return colour.DIVERGING if self.signed else colour.SEQUENTIAL

    def rgb(self, values: np.ndarray, cmap: Colormap | None = None) -> np.ndarray:
        """Colours (..., 3) in [0, 1] of the values."""
        unit = self.unit(values)
        position = (unit + 1) / 2 if self.signed and cmap is None else unit
        return np.asarray((cmap or self.cmap)(position))[..., :3]

    def length_colours(self, values: Iterable[float]) -> list[str]:
        """The one colour of each bar, whose length says how much: orange up, blue down; purple without a sign."""
        if not self.signed:
            return [colour.PLAIN_COLOUR for _ in values]
        return [colour.POSITIVE_COLOUR if v >= 0 else colour.NEGATIVE_COLOUR for v in values]

    def mappable(self, low: float | None = None, high: float = 1.0, cmap: Colormap | None = None) -> ScalarMappable:
        """A colour bar source from low * limit to high * limit (low: -1 for signed maps, else 0)."""
        low = (-1.0 if self.signed else 0.0) if low is None else low
        limit = self.limit or 1.0
        return ScalarMappable(Normalize(low * limit, high * limit), cmap or self.cmap)


@dataclass(frozen=True)
class ScaleRule:
    """How to find the limit of a map.

    Args:
        normalize: "percentile" (the given percentile of |map|), "max" (its largest value), "none" (values are
            taken as they are, full colour at 1), or a positive number: that value, for maps to be compared.
        percentile: in (0, 100]; used by "percentile" only.

    Raises:
        UnknownNameError: for another name.
        InputError: for a percentile or a number out of range.
    """

    normalize: str | float = "percentile"
    percentile: float = 99.0

    def __post_init__(self) -> None:
        if isinstance(self.normalize, str):
            if self.normalize not in NORMALIZE:
                raise unknown("normalize", self.normalize, NORMALIZE, "A positive number is the limit itself.")
        elif isinstance(self.normalize, bool) or not 0 < self.normalize < float("inf"):
            raise InputError(f"normalize must be one of {NORMALIZE} or a positive number, got {self.normalize!r}.")
        if not 0 < self.percentile <= 100:
            raise InputError(f"percentile must be above 0 and at most 100, got {self.percentile}.")

    def fit(self, values: np.ndarray, signed: bool | None = None) -> Scale:
        """The scale of a map; `signed=None` looks for negative values. NaN and infinity are InputErrors."""
        values = finite(values)
        size = np.abs(values)
        largest = float(size.max(initial=0.0))
        signed = bool((values < 0).any()) if signed is None else signed
        if largest == 0:
            return Scale(0.0, signed, False, "attribution (zero everywhere)")
        limit, label = self._limit(size, largest, signed)
        return Scale(limit, signed, largest > limit * (1 + 1e-9), label)

    def _limit(self, size: np.ndarray, largest: float, signed: bool) -> tuple[float, str]:
        """The limit and its description, for a map that is not zero everywhere."""
        if self.normalize == "max":
            return largest, "attribution, full colour at the largest value"
        if self.normalize == "percentile":
            which = f"{ordinal(self.percentile)} percentile"
            limit = float(np.percentile(size, self.percentile))
            if limit > 0:
                return limit, f"attribution, clipped at the {which}"
            return largest, f"attribution, full colour at the largest value\n(the {which} is 0)"
        limit = 1.0 if isinstance(self.normalize, str) else float(self.normalize)
        how = "not normalised, clipped" if self.normalize == "none" else "clipped"
        return limit, f"attribution, {how} at {'±' if signed else ''}{limit:g}"


def finite(values: np.ndarray) -> np.ndarray:
    """The values as float64. Raises InputError for NaN or infinity: no picture of them would be honest."""
    values = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        nan = int(np.isnan(values).sum())
        raise InputError(
            f"The attribution map has {nan} NaN and {int(bad.sum()) - nan} infinite values among "
            f"{values.size}, so it cannot be drawn. Check the model's outputs and gradients for this input "
            "(overflow in half precision is a common cause), or clean the map with torch.nan_to_num."
        )
    return values


def ordinal(number: float) -> str:
    """99 -> "99th", 91 -> "91st", 99.5 -> "99.5th"."""
    text = f"{number:g}"
    if "." in text or text[-2:] in ("11", "12", "13"):
        return text + "th"
    return text + {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")

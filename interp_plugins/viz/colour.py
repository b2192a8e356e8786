"""Colours that keep their meaning for colour-blind readers and over a photograph.

Positive values are vermilion, negative ones blue (both from the Okabe-Ito set, told apart under every common
colour-vision deficiency), values that are never negative purple. All maps start at white, so nothing is drawn
where the attribution is zero, and lightness falls steadily, so that a grey print keeps the order. Under a map a
photograph keeps its shapes but little of its lightness, which would be taken for attribution.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex

_WARM = ("#ffffff", "#fbc9a4", "#ee8a47", "#d55e00", "#8f3300")
_COLD = ("#ffffff", "#b3d9f2", "#5aaede", "#0072b2", "#003d6b")
_PLAIN = ("#ffffff", "#dcc6ec", "#b081d1", "#7b3aa5", "#420a68")


def _ramp(name: str, colours: tuple[str, ...]) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list(name, list(colours), N=512)


DIVERGING = _ramp("attribution_signed", (*_COLD[:0:-1], *_WARM))
POSITIVE = _ramp("attribution_positive", _WARM)
NEGATIVE = _ramp("attribution_negative", _COLD[::-1])
SEQUENTIAL = _ramp("attribution_unsigned", _PLAIN)
STRENGTH = _ramp("attribution_strength", ("#000000", "#ffffff"))
OPACITY = _ramp("attribution_opacity", ("#ffffff", "#000000"))

POSITIVE_COLOUR, NEGATIVE_COLOUR, PLAIN_COLOUR = _WARM[3], _COLD[3], _PLAIN[3]
GROUND = (0.78, 0.96)  # grey of a photograph's black and white under a map: 16 of 100 steps of lightness apart
INK, FAINT_INK, GREY = "#1f2328", "#656d76", "#b6bcc4"
CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")  # Okabe-Ito
LOW_TO_HIGH = "cividis"  # values of a feature: made for colour-blind readers, and no colour of an attribution


def css_gradient(cmap: Colormap, stops: int = 9) -> str:
    """A CSS `linear-gradient` from left (lowest) to right (highest) with the colours of `cmap`."""
    colours = ", ".join(to_hex(cmap(float(t))) for t in np.linspace(0, 1, stops))
    return f"linear-gradient(to right, {colours})"

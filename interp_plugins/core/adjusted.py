"""P-values of several tests of one question, adjusted together."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """P-values of several tests of one question, adjusted so that any false one among them stays as rare as one.

    Args:
        ps: one per test; NaN (nothing was tested) stays and does not count.

    Returns:
        Adjusted values, in the same order.

    References:
        Holm 1979, Scandinavian Journal of Statistics 6.

    Example:
        from interp_plugins.core.adjusted import holm

        holm([0.01, 0.04, 0.03])  # -> [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    found, running = [math.nan] * len(ps), 0.0
    for at, (p, i) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - at)))
        found[i] = running
    return found

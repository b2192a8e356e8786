"""Another gradient for rectifiers, for pictures that do not reach a unit at all.

A unit whose rectifiers are off everywhere gives no gradient, so no step is better than another. Here a rectifier that
is off lets through what would switch it on, and a clipped one what would bring it back: the rule of lucid's
redirected_relu (Olah, Mordvintsev, Schubert 2017), for every rectifier of the model, without touching a module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall
from interp_plugins.attr.backward.rules.rectifier import RectifierMode


def redirected(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """The gradient, and where the rectifier is off (or clipped) what would end that."""
    (x, *_), (g, *_) = call.xs, grads
    plain = call.pull(grads)
    (value,) = call.run([x])
    off, full = (x <= 0) & (value <= 0), (x > 0) & (value < x)
    through = torch.where(off, g.clamp(min=0), torch.where(full, g.clamp(max=0), plain[0]))
    return [through, *plain[1:]]


def waking() -> RectifierMode:
    """The mode under which a model runs to wake units."""
    return RectifierMode(redirected)

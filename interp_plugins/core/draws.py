"""Models that draw random numbers although they are in eval mode, such as a dropout that always acts: told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.caches import call_cache
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.forward import Forward


def drawn_so_far(x: Tensor) -> Any:
    """What changes with every draw from the generator of a tensor's device."""
    if x.is_cuda:
        return torch.cuda.default_generators[x.device.index or 0].get_offset()
    if x.device.type == "mps" and torch.backends.mps.is_available():
        return torch.mps.get_rng_state().numpy().tobytes()
    return torch.get_rng_state().numpy().tobytes()


_MEANING = "The draws are part of the maps, and completeness errors say nothing."


def tell_if_drawing(forward: Forward, inputs: Sequence[Tensor], meaning: str = _MEANING) -> None:
    """Warn where two passes on the same samples differ; for calls during which random numbers were drawn.

    Args:
        forward: the model call.
        inputs: the samples, inside `frozen`.
        meaning: what that does to an answer, in words.
    """
    key = ("draws", id(forward.func))
    if key in call_cache():
        return
    call_cache()[key] = forward.func
    try:
        with torch.no_grad():
            one, other = (forward.raw([x.clone() for x in inputs]).double() for _ in range(2))
    except Exception:  # it is a question beside the one that was asked, and that one is answered
        return
    if one.shape != other.shape or torch.equal(one, other):
        return
    warnings.warn(
        f"The model draws random numbers in eval mode: two passes on the same samples differ by up to "
        f"{float((one - other).abs().max()):.3g}, where outputs reach {float(one.abs().max()):.3g}. {meaning} "
        "F.dropout(x, p) always acts: write F.dropout(x, p, training=self.training). Of a model that draws on purpose, "
        "ask about the mean of many passes.",
        InterpWarning,
        stacklevel=5,
    )

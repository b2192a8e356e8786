"""Does the map need these weights? How much less faithful the map of the same net with a shuffled upper half is.

Two maps that are zero in the same places correlate, whatever they say elsewhere: dark backgrounds and dead units make
`parameter_randomisation` high for methods that know the weights well. Here the other map is judged by this very model:
a method that ignores the weights loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.other_weights import other_weights
from interp_plugins.core.tensors import like
from interp_plugins.metrics.again import asking_again
from interp_plugins.metrics.faithfulness import srg
from interp_plugins.metrics.redrawn import drawn_anew, stages_of
from interp_plugins.metrics.registry import register_metric

_ASKED = ("explain", "target", "additional_forward_args", "batch_size", "seed", "ids")
OPTIONS = (*_ASKED, "features", "ties", "reduce")


@register_metric(
    "weights_gain",
    kind="randomisation",
    needs="weights",
    higher_is_better=True,
    chance=None,
    chance_text="0 for a map that ignores the weights",
    reference="after the checks of Adebayo et al. 2018, arXiv:1810.03292",
    cost="2 steps x (draws + 1), and draws E",
    says="srg of the map - srg of the map with the upper half's weights shuffled",
    options=OPTIONS,
)
def weights_gain(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    *,
    baselines: Any = None,
    references: Any = None,
    steps: int = 20,
    draws: int = 1,
    stages: int = 5,
    **options: Any,
) -> Tensor:
    """How much of a map's symmetric relevance gain is lost where it is that of the net with a shuffled upper half.

    Args:
        forward_func: an `nn.Module`, or a callable that holds one.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`, which knows its method and classes.
        attributions: the samples' maps; None: those of the `Explanation`.
        baselines: what replaces the input where parts are removed; None: as for `srg`.
        references: what replaces it where `baselines` are not given, as those that `evaluate` has for all metrics.
        steps: points of the removal curves after the first.
        draws: shuffles of the weights; the loss is the mean over them.
        stages: the net is cut into so many, of which the first half from the output down is shuffled, the middle one
            among them, as for `parameter_randomisation`.
        **options: `explain` (how maps are made, `metrics.Explainer`), and as for `srg`.

    Returns:
        (N,) float64, in units of the score; 0 for a method that ignores the weights.

    Raises:
        InputError: a callable without modules, or fewer than one draw.

    Example:
        weights_gain(model, exp, steps=5, stages=2)  # (2,)
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise InputError(f"draws must be an int from 1 up, got {draws!r}.")
    exp = inputs if isinstance(inputs, Explanation) else None
    maps = attributions if attributions is not None else None if exp is None else exp.attributions
    if maps is None:
        raise InputError("attributions are missing: give the maps of these inputs, or an Explanation as inputs.")
    asked = {k: v for k, v in options.items() if k in _ASKED and k not in ("ids", "explain")}
    removal = {k: v for k, v in options.items() if k != "explain"}
    seed = options.get("seed", 0)
    baselines = references if baselines is None else baselines

    def gain(found: Any) -> Tensor:
        if exp is None:
            return srg(forward_func, inputs, found, baselines, steps=steps, **removal)
        return srg(forward_func, replace(exp, attributions=found), None, baselines, steps=steps, **removal)

    with asking_again(options.get("explain"), forward_func, inputs, **asked) as again:
        parts = stages_of(again, stages)
        places = [place for part in parts[: (len(parts) + 1) // 2] for place in part.places]
        rows, others = torch.arange(again.n), []
        for draw in range(draws):
            with other_weights(forward_func, places, drawn_anew(places, "permute", seed, draw)):
                others.append(like(maps, again.maps(again.xs, rows)))
    own = gain(maps)
    return own - sum(gain(one) for one in others) / draws

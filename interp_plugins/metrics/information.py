"""Performance information curves: how much of a picture's information the model needs, when it is uncovered by a map.

The blurred picture is uncovered, the largest attributions first. Information is the size of the picture compressed
without loss, from 0 for the blurred one to 1 for the whole; what has more detail has more of it. The curve's value is
the probability kept (SIC), or whether the class is the same (AIC), the best so far; the metric is the area below it.

Reference: Kapishnikov et al., XRAI: Better Attributions Through Regions, 2019, arXiv:1906.02825, section 4.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import as_baselines
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import as_tuple
from interp_plugins.metrics.asking import Questions, about, asking, check_values, probability_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removed import OPTIONS, feature_ranks
from interp_plugins.metrics.road import class_number
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.undefined import defined

COMPRESSOR = {"zlib, level 6, of differences to the left": zlib.ZLIB_RUNTIME_VERSION}


def compressed_size(picture: Tensor) -> int:
    """Bytes of a picture compressed without loss: uint8 (C, H, W), as differences to the left neighbour, by zlib.

    Args:
        picture: the values.
    """
    changes = picture.clone()
    changes[..., 1:] -= picture[..., :-1]  # modulo 256
    return len(zlib.compress(changes.contiguous().numpy().tobytes(), 6))


def _register(name: str, says: str) -> Any:
    return register_metric(
        name,
        kind="faithfulness",
        needs="order",
        higher_is_better=True,
        reference="Kapishnikov et al. 2019, arXiv:1906.02825, section 4",
        cost="steps + 1",
        says=says,
        options=OPTIONS,
        versions=COMPRESSOR,
    )


@_register("sic", "area below the probability kept, over the information uncovered")
def sic(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int = 20,
    **options: Any,
) -> Tensor:
    """Softmax information curve: area below the best share of the probability so far, over the information uncovered.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: pictures (N, C, H, W); or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what is seen before anything is uncovered; None: the blurred picture.
        steps: in which the picture is uncovered, by equal shares of the pixels.
        **options: `target`, a class, whose probability is the softmax over axis 1, or a function output -> probability;
            the rest as for `removal_curves`, `reduce` is "sum".

    Returns:
        (N,) float64 in [0, 1]; NaN where the clean probability is 0, or the blurred picture has as much information.

    Raises:
        InputError: no pictures, or no steps.

    Example:
        sic(model, x, exp.attribution, target=3).shape  # -> (2,)
    """
    return _area((forward_func, inputs, attributions, baselines), steps, False, **options)


@_register("aic", "area below whether the class is the same, over the information uncovered")
def aic(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int = 20,
    **options: Any,
) -> Tensor:
    """Accuracy information curve: area below whether the class was seen so far, over the information uncovered.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: pictures (N, C, H, W); or an `Explanation`.
        attributions: maps; None: the `Explanation`'s.
        baselines: what is seen before anything is uncovered; None: the blurred picture.
        steps: in which the picture is uncovered, by equal shares of the pixels.
        **options: as for `removal_curves`, `reduce` is "sum". `target` plays no part: the class is the largest output
            of the whole picture (of a single output, its sign).

    Returns:
        (N,) float64 in [0, 1]; NaN where the blurred picture has as much information as the whole.

    Raises:
        InputError: no pictures, or no steps.

    Example:
        aic(model, x, exp.attribution).shape  # -> (2,)
    """
    return _area((forward_func, inputs, attributions, baselines), steps, True, **options)


def _area(
    given: tuple[Any, ...],
    steps: int,
    accuracy: bool,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = "sum",
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """Areas below the curves, (N,)."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a positive int, got {steps!r}.")
    what = about(given[1], given[2], 0 if given[3] is None else given[3], class_number if accuracy else target, reduce)
    if len(what.maps) != 1 or what.maps[0].ndim != 4:
        raise InputError(f"Information is that of pictures (N, C, H, W), got {[tuple(m.shape) for m in what.maps]}.")
    maps = as_rows(what.maps)
    if given[3] is None:
        what = replace(what, baselines=_blurred(what.inputs))
    if not accuracy:
        what = what.with_target(probability_of(what.target, len(maps)))
    ranks, totals = feature_ranks(what.maps, features, ties, seed, ids)
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    counts = (totals[:, None] * shares).round().long()
    rows = torch.arange(len(maps)).repeat_interleave(steps + 1)
    with asking(
        given[0], what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        check_values(questions.xs, "srg or sufficiency")

        def kept(at: Tensor) -> Tensor:
            return ranks[rows[at].to(ranks.device)] < counts.flatten()[at].to(ranks.device)[:, None]

        scores = questions.masked(rows, kept, [what.maps[0].shape[1:]]).reshape(len(maps), -1)
        pictures = _Pictures(questions, what.maps[0].shape[1:], _last(given[1]))
        per = steps + 1
        sizes = [pictures.sizes(i, kept(torch.arange(i * per, i * per + per))) for i in range(len(maps))]
    known = torch.tensor(sizes, dtype=torch.float64)
    clean, empty = scores[:, -1:], known[:, 0] == known[:, -1]
    values = (scores == clean).double() if accuracy else (scores / clean).clamp(0, 1)
    shares_known = ((known - known[:, :1]) / (known[:, -1:] - known[:, :1])).clamp(0, 1)
    reasons = {"the picture has no more information than what it begins from": empty}
    if not accuracy:
        reasons["the clean score is 0"] = (clean == 0)[:, 0]
    return defined(_below(shares_known, values), maps, reasons)


def _blurred(inputs: Any) -> Tensor:
    """Each picture blurred, by itself: a convolution's rounding feels how many there are, and where they lie."""
    many = as_tuple(inputs)[0]
    return torch.cat([as_baselines("blur", (one.detach().clone(),))[0] for one in many.split(1)])


def _last(inputs: Any) -> bool:
    """Whether the channels are the last axis."""
    return isinstance(inputs, Explanation) and inputs.spec.channel_axis(4) == 3


class _Pictures:
    """Samples as pictures of 256 levels, over each sample's own range.

    Args:
        questions: the batch and what stands for nothing.
        shape: of a map.
        last: the channels are the last axis.
    """

    def __init__(self, questions: Questions, shape: torch.Size, last: bool):
        self.x, self.b = (t[0].detach().cpu().double() for t in (questions.xs, questions.references))
        self.shape, self.last = shape, last

    def sizes(self, i: int, kept: Tensor) -> list[int]:
        """Compressed sizes of a sample's pictures, of which some elements (K, D) are its own."""
        low = self.x[i].min()
        levels = 255 / (self.x[i].max() - low).clamp_min(torch.finfo(torch.float64).tiny)
        own, base = (((t[i] - low) * levels).round().clamp(0, 255).to(torch.uint8) for t in (self.x, self.b))
        mixed = torch.where(kept.cpu().reshape(-1, *self.shape), own, base)
        return [compressed_size(p) for p in (mixed.movedim(-1, 1) if self.last else mixed)]


def _below(x: Tensor, y: Tensor) -> Tensor:
    """Area below the best value so far, from 0 to 1, by trapezoids; points in the order of x."""
    x, order = x.sort(dim=1, stable=True)
    best = y.gather(1, order).cummax(1).values
    return ((best[:, 1:] + best[:, :-1]) / 2 * (x[:, 1:] - x[:, :-1])).cumsum(1)[:, -1]

"""Deletion and insertion curves: how the score falls without the strongest parts of the input, and rises with them.

The elements of a map are ranked, the largest first. Deletion replaces the first k of them in the input by the
baseline's; insertion puts the first k of them into the baseline. A map that names what the model uses lets the deletion
curve fall early (a small area below it) and the insertion curve rise early (a large one). Insertion read backwards is
deletion of the least first, so the difference of the two areas is the symmetric relevance gain, whose chance is zero.
Both ask the model about inputs unlike its data, and are relative to the baseline: compare maps of one sample under one
baseline. They cannot see a map that ignores the model but lies on the object.

Reference: Petsiuk, Das and Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018,
section 4.3. Cost: 2 steps forward rows per sample, for the two curves share their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import Maps
from interp_plugins.metrics.removed import Removals, removed
from interp_plugins.metrics.rows import as_rows


@dataclass(frozen=True)
class RemovalCurves:
    """What `removal_curves` gives; K is the number of steps.

    Attributes:
        fraction: (K + 1,) float64, the share of features removed (or put in), from 0 to 1; (N, K + 1) where samples
            have different numbers of features, and then a curve stands still at 1 once its own steps are done.
        deletion: (N, K + 1) float64, the score with that share of the input replaced by the baseline.
        insertion: (N, K + 1) float64, the score with that share of the baseline replaced by the input.
        steps: (N,) int64, steps of each sample.
    """

    fraction: Tensor
    deletion: Tensor
    insertion: Tensor
    steps: Tensor

    @property
    def deletion_auc(self) -> Tensor:
        """(N,) area below the deletion curve; small is good."""
        return _area(self.deletion, self.fraction)

    @property
    def insertion_auc(self) -> Tensor:
        """(N,) area below the insertion curve; large is good."""
        return _area(self.insertion, self.fraction)

    @property
    def srg(self) -> Tensor:
        """(N,) symmetric relevance gain: area when the least go first less area when the most do; large is good."""
        return self.insertion_auc - self.deletion_auc

    def aopc(self, upto: int | None = None) -> Tensor:
        """(N,) mean of f(x) - f(x_k) over k = 0 ... `upto` steps of the deletion curve; large is good.

        Args:
            upto: the last step; None: all.

        Raises:
            InputError: fewer than one step.
        """
        if upto is not None and (isinstance(upto, bool) or not isinstance(upto, int) or upto < 1):
            raise InputError(f"upto must be a positive int or None, got {upto!r}.")
        last = self.steps if upto is None else self.steps.clamp_max(upto)
        drops = (self.deletion[:, :1] - self.deletion).cumsum(1).gather(1, last[:, None])[:, 0]
        return drops / (last + 1)


def _area(curve: Tensor, fraction: Tensor) -> Tensor:
    """Area below curves; added from the left, so that steps of no width at the end change nothing."""
    widths = (fraction[..., 1:] - fraction[..., :-1]).expand(curve.shape[0], -1)
    return ((curve[:, 1:] + curve[:, :-1]) * widths / 2).cumsum(1)[:, -1]


def removal_curves(
    forward_func: Callable[..., Any],
    inputs: Maps | Explanation,
    attributions: Maps | None = None,
    baselines: Any = None,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    steps: int | None = 20,
    features: Any = None,
    reduce: str | None = None,
    ties: str = "random",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> RemovalCurves:
    """Deletion and insertion curves of maps; the model is frozen meanwhile and left as it was.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`, which knows maps, baselines and classes.
        attributions: one map per input, that broadcasts to it: where the map has size 1 along a dimension, all of the
            input's elements along it are replaced together. A picture's map (N, 1, H, W), summed over the channels,
            removes whole pixels, as in the paper. Ranked by value, the largest first. None: the `Explanation`'s.
        baselines: what replaces the input: as for a method's `attribute`; None = the `Explanation`'s, or zeros.
        target: the score: as for a method's `attribute`; `core.target.Probability(class)` for the paper's. None: the
            classes of the `Explanation`.
        additional_forward_args: further arguments of the model; tensors with N rows follow the batch.
        steps: points of the curve after the first; fewer where there are fewer features; None: one per feature.
        features: int tensor (or one per input), broadcastable to the maps: elements with one number go together
            (superpixels, words, columns), ranked by their mean. None: each element alone.
        reduce: "sum", "abs_sum", "max_abs", "l2": channels become one value and go together; None: the maps as given.
        ties: which of equal values goes first: "random", by a permutation of `seed` and sample; "index", the first in
            the map, so that a constant map is a raster scan.
        batch_size: rows per pass; None = automatic, halved when memory runs out.
        seed: seed of the ties, and of models that draw random numbers.
        ids: int64 (N,), numbers of the samples for their ties; None: one permutation for all samples.

    Raises:
        InputError: maps that do not fit the inputs, fewer than one step, or an `Explanation` without a class index and
            no target.

    Example:
        curves = removal_curves(model, x, exp.attribution.sum(1, keepdim=True), target=Probability(3))
        curves.insertion_auc - curves.deletion_auc
    """
    if bool(as_rows(inputs if attributions is None else attributions).isnan().any()):
        raise InputError("The attributions hold NaN, which has no rank among the elements.")
    return curves_and_maps(
        forward_func,
        inputs,
        attributions,
        baselines,
        steps=steps,
        target=target,
        additional_forward_args=additional_forward_args,
        features=features,
        reduce=reduce,
        ties=ties,
        batch_size=batch_size,
        seed=seed,
        ids=ids,
    )[0]


def curves_and_maps(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    steps: int | None = 20,
    insertion: bool = True,
    **options: Any,
) -> tuple[RemovalCurves, Tensor]:
    """The curves, and the maps as rows (N, D), which may hold what has no rank.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, or an `Explanation`.
        attributions: one map per input, or None.
        baselines: what replaces the input.
        steps: points of the curve after the first; None: one per feature.
        insertion: whether the second curve is asked for; else it is NaN between its ends.
        **options: as for `removal_curves`.

    Raises:
        InputError: fewer than one step.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps must be a positive int, got {steps!r}.")

    def plan(totals: Tensor) -> Removals:
        return _plan(totals, steps, insertion)

    found = removed(plan, forward_func, inputs, attributions, baselines, **options)
    own = found.totals if steps is None else found.totals.clamp_max(steps)
    points = found.plan.counts.shape[1] // 2
    fraction = found.plan.counts[:, :points].double() / found.totals[:, None]
    last = own[:, None]
    falling, rising = found.scores[:, :points], found.scores[:, points:]
    empty, clean = falling.gather(1, last), falling[:, :1]
    beyond = torch.arange(points) >= last
    falling, rising = torch.where(beyond, empty, falling), torch.where(beyond, clean, rising)
    rising[:, :1] = empty
    together = fraction[0] if bool((fraction == fraction[:1]).all()) else fraction
    return RemovalCurves(together, falling, rising, own), found.maps


def _plan(totals: Tensor, steps: int | None, insertion: bool) -> Removals:
    """Both curves; insertion without its ends, which are those of deletion."""
    own = totals if steps is None else totals.clamp_max(steps)
    points = int(own.max()) + 1
    counts = torch.stack([_counts(total, k, points) for total, k in zip(totals.tolist(), own.tolist())])
    at = torch.arange(points)[None]
    asked = torch.cat([at <= own[:, None], (at > 0) & (at < own[:, None]) & insertion], 1)
    deleting = torch.arange(2 * points) < points
    return Removals(torch.cat([counts, counts], 1), deleting, asked)


def _counts(total: int, steps: int, points: int) -> Tensor:
    """How many of the features are gone at each point: rounded shares, then all of them."""
    counts = torch.full((points,), total)
    counts[: steps + 1] = torch.linspace(0, total, steps + 1, dtype=torch.float64).round().long()
    return counts

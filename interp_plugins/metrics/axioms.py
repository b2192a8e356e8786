"""Does the map keep the rules that its method promises? Errors of axioms, on the user's own model.

An error of 0 says that the rule holds at these samples, not that the map is right: input x gradient of a linear model
keeps them all, and so does a map that was made to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.tensors import is_float
from interp_plugins.metrics.asking import Questions, about, asking, no_ids
from interp_plugins.metrics.feature_rows import feature_numbers, feature_sums
from interp_plugins.metrics.neighbours import ZERO_MAP
from interp_plugins.metrics.noise import keys, uniform
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.removed import Removals, removed
from interp_plugins.metrics.rows import as_rows, row_sum
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
_CLOSE = 0.01  # of scores: half precision stays below it
ASKED = ("target", "additional_forward_args", "batch_size", "seed")
SINGLES = (*ASKED, "features", "reduce", "n_draws", "tol", "ids")


@register_metric(
    "completeness",
    kind="axioms",
    needs="scores",
    higher_is_better=False,
    scale_invariant=False,
    reference="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="2",
    says="|sum(a) - (f(x) - f(b))| / |f(x) - f(b)|",
    options=ASKED,
)
def completeness(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    relative: bool = True,
    **options: Any,
) -> Tensor:
    """How far the map's sum is from the change of the score between baseline and input.

    Only methods that promise it (Integrated Gradients, Shapley values, DeepLift) are to be judged by it, and only
    against their own baseline.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`, which knows maps, baselines and classes.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what the method compared with; None: the `Explanation`'s, or zeros.
        relative: as a share of the change of the score.
        **options: `target`, `additional_forward_args`, `batch_size` and `seed`, as for `removal_curves`.

    Returns:
        (N,) float64, 0 for an exact map; NaN where the score does not change and `relative` is asked for.

    Example:
        completeness(lambda v: v.sum(1), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))  # -> [0.0]
    """
    absent = baselines is None and isinstance(inputs, Explanation) and no_ids(inputs.baselines)

    def ends(totals: Tensor) -> Removals:
        counts = torch.stack([torch.zeros_like(totals), totals], 1)
        asked = torch.ones_like(counts, dtype=torch.bool)
        asked[:, 1] = not absent
        return Removals(counts, torch.tensor([True, True]), asked)

    found = removed(ends, forward_func, inputs, attributions, baselines, **options)
    change = found.scores[:, 0] - (_score_of_nothing(inputs, found.scores[:, 0]) if absent else found.scores[:, 1])
    error = (row_sum(found.maps).cpu().double() - change).abs()
    if not relative:
        return defined(error, found.maps)
    return defined(error / change.abs(), found.maps, {"the score does not change": change == 0})


def _score_of_nothing(exp: Explanation, scores: Tensor) -> Tensor:
    """F(baseline) as the method had it, of a baseline that is no input: rows of zeros where ids are looked up."""
    own, nothing = exp.score, exp.baseline_score
    off = None if own is None else (scores - own.double()).abs() > _CLOSE * own.abs().clamp_min(1.0)
    if nothing is None or off is None or bool(off.any()):
        raise InputError(
            "The baseline of this Explanation is no ids but rows of zeros where they are looked up, so no model can "
            "be asked about it; its score is not known for this target. Explain that target, or give baselines=."
        )
    return nothing.double()


@register_metric(
    "non_sensitivity",
    kind="axioms",
    needs="scores",
    higher_is_better=False,
    sign_invariant=True,
    reference="Nguyen and Martinez 2020, arXiv:2007.07584",
    cost="features x n_draws + 1",
    says="share of features with a zero in the map or in the model, but not in both",
    options=SINGLES,
)
def non_sensitivity(
    forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any
) -> Tensor:
    """Share of the features that the map and the model do not agree about: one says that it does not matter.

    A feature does not matter to the model where no draw in its place moves the score; numbers are drawn from the
    sample's own range, several times, since one baseline may move nothing by accident.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: not needed.
        **options: `n_draws` per feature (3); `tol` (1e-6), the share of the largest size of the map, and of the score,
            that counts as zero; `features`, `reduce` ("sum"), `ids`, `target`, `additional_forward_args`, `batch_size`
            and `seed`, as for `removal_curves`.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: inputs that are ids alone, or what `removal_curves` refuses.

    Example:
        non_sensitivity(lambda v: v[:, 0], torch.ones(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))  # -> [0.25]
    """
    silent, zero, there, sums = _singles((forward_func, inputs, attributions, baselines), **options)
    differ = ((silent ^ zero) & there).sum(1) / there.sum(1)
    return defined(differ, sums)


@register_metric(
    "dummy",
    kind="axioms",
    needs="scores",
    higher_is_better=False,
    sign_invariant=True,
    reference="the dummy axiom; Sundararajan et al. 2017, arXiv:1703.01365",
    cost="features x n_draws + 1",
    says="largest |a| of a feature that does not matter / largest |a|",
    options=SINGLES,
)
def dummy(forward_func: Model, inputs: Any, attributions: Any = None, baselines: Any = None, **options: Any) -> Tensor:
    """What the map gives at most to a feature that never moves the score, relative to its largest.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: not needed.
        **options: as for `non_sensitivity`, which asks the same rows.

    Returns:
        (N,) float64 in [0, 1]; NaN where every feature matters, or the map is zero everywhere.

    Raises:
        InputError: as `non_sensitivity`.

    Example:
        dummy(lambda v: v[:, 0], torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 1.0]]))  # -> [0.25]
    """
    silent, _, there, sums = _singles((forward_func, inputs, attributions, baselines), **options)
    sizes = torch.where(there, sums.abs(), 0.0)
    largest = sizes.amax(1)
    found = torch.where(silent & there, sizes, 0.0).amax(1) / largest
    return defined(found, sums, {"every feature matters": ~(silent & there).any(1), ZERO_MAP: largest == 0})


def _singles(
    args: tuple[Any, ...],
    *,
    n_draws: int = 3,
    tol: float = 1e-6,
    features: Any = None,
    reduce: str | None = "sum",
    ids: Tensor | None = None,
    target: Any = None,
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each feature (N, F): whether it moves no score, whether the map is zero there, whether there is one; sums."""
    forward_func, inputs, attributions, baselines = args
    for name, value in (("n_draws", n_draws),):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a positive int, got {value!r}.")
    if isinstance(tol, bool) or not isinstance(tol, (int, float)) or not 0 <= tol < 1:
        raise InputError(f"tol must be a number in [0, 1), got {tol!r}.")
    given = about(inputs, attributions, baselines, target, reduce)
    own, totals = feature_numbers(given.maps, features)
    with asking(
        forward_func, given, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        if not all(map(is_float, questions.xs)):
            raise InputError("Numbers are drawn in the place of features, and some inputs are ids.")
        there = torch.arange(int(totals.max())) < totals[:, None]
        moves = _moves(questions, given.maps, own, there, n_draws, tol, seed, ids)
    sums = feature_sums(as_rows(given.maps), own, totals).cpu().double()
    zero = sums.abs() <= tol * torch.where(there, sums.abs(), 0.0).amax(1, keepdim=True)
    return ~moves, zero, there, sums


def _moves(
    questions: Questions,
    maps: tuple[Tensor, ...],
    own: Tensor | None,
    there: Tensor,
    n_draws: int,
    tol: float,
    seed: int,
    ids: Tensor | None,
) -> Tensor:
    """Whether any draw in the place of a feature moves the score by more than `tol` of it: bool (N, F)."""
    xs, n = questions.xs, questions.n
    who = torch.zeros(n, dtype=torch.int64) if ids is None else ids
    fresh = [[drawn_in_range(x, seed, who, draw * len(xs) + k) for k, x in enumerate(xs)] for draw in range(n_draws)]
    whole = torch.stack([torch.arange(n), torch.full((n,), -1)], 1)  # the samples themselves come first
    which = torch.cat([whole, there.nonzero().repeat_interleave(n_draws, 0)])
    draws = torch.cat([torch.zeros(n, dtype=torch.int64), torch.arange(n_draws).repeat(int(there.sum()))])
    sizes, shapes = [m[0].numel() for m in maps], [m.shape[1:] for m in maps]
    numbers = torch.arange(sum(sizes)).expand(n, -1) if own is None else own.cpu()

    def make(at: Tensor) -> list[Tensor]:
        rows, found = which[at, 0], []
        here = (numbers[rows] == which[at, 1][:, None]).split(sizes, dim=1)
        for k, (x, part, shape) in enumerate(zip(xs, here, shapes, strict=True)):
            new = torch.stack([fresh[d][k][r] for d, r in zip(draws[at].tolist(), rows.tolist())])
            switch = part.reshape(-1, *shape).to(x.device)
            found.append(torch.where(switch, new, x[rows.to(x.device)]))
        return found

    told = hashlib.blake2b(numbers.contiguous().numpy().tobytes() + who.numpy().tobytes(), digest_size=16).hexdigest()
    scores = questions.changed(("single draws", seed, n_draws, told, tuple(shapes)), which[:, 0], make)
    clean = scores[which[:, 0]]
    far = (scores - clean).abs() > tol * clean.abs()
    found = torch.zeros(there.shape, dtype=torch.bool)
    found[which[far, 0], which[far, 1]] = True
    return found


def drawn_in_range(x: Tensor, seed: int, who: Tensor, draw: int) -> Tensor:
    """Numbers in each sample's own range, of its shape; where it has none, between its value and one more.

    Args:
        x: samples (N, ...).
        seed: of the draws.
        who: int64 (N,), numbers of the samples.
        draw: number of the draw.
    """
    flat = x.reshape(x.shape[0], -1).cpu().double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    high = torch.where(high > low, high, low + 1)
    return (low + (high - low) * uniform(keys(seed, who, draw), flat.shape[1])).reshape(x.shape).to(x)

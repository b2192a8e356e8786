"""What the model says when one feature after the other is drawn anew: which features move the score, and how much.

New values are uniform over the sample's own range, or rows of data, or the baseline's. They depend on (seed, sample,
number of the draw), not on the map: inside `shared_rows` the rows of one method serve all others, and those of one of
these metrics the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.random import check_seed
from interp_plugins.core.tensors import as_tuple
from interp_plugins.metrics.asking import Questions, about, asking, check_values
from interp_plugins.metrics.draws import draw_keys, sample_numbers, uniform
from interp_plugins.metrics.feature_rows import feature_numbers, feature_sums
from interp_plugins.metrics.ranking import average_ranks
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.sheet import digest
from interp_plugins.metrics.similarity import cosine_of_rows
from interp_plugins.metrics.subset_metrics import NEVER_MOVES
from interp_plugins.metrics.subsets import EVERY, OPTIONS, falls, single
from interp_plugins.metrics.undefined import defined

Model = Callable[..., Any]
REPLACEMENTS = ("uniform", "baseline")


@dataclass(frozen=True)
class Moves:
    """How the score moves when a feature is replaced; F features at most, J draws.

    Attributes:
        moves: float64 (N, F, J), f(x) - f(x with the feature replaced); NaN where a sample has fewer features.
        clean: float64 (N,), f(x).
        sums: float64 (N, F), the map's sum over each feature.
        totals: int64 (N,), features of each sample.
        maps: the maps as rows (N, D).
    """

    moves: Tensor
    clean: Tensor
    sums: Tensor
    totals: Tensor
    maps: Tensor


class _Drawn:
    """Rows of samples with one feature drawn anew, numbered (sample, draw, feature).

    Args:
        questions: the model and the batch.
        shapes: of the maps, per input.
        own: the feature of every element of the maps, or None.
        totals: features of each sample.
        n_draws: draws of each feature.
        numbers: of the samples, for their draws.
        data: rows to draw from, per input; None: uniform values.
    """

    def __init__(
        self,
        questions: Questions,
        shapes: Sequence[torch.Size],
        own: Tensor | None,
        totals: Tensor,
        n_draws: int,
        numbers: Tensor,
        data: tuple[Tensor, ...] | None,
    ):
        self.questions, self.shapes, self.own, self.data = questions, shapes, own, data
        self.numbers = numbers.expand(questions.n)
        most = int(totals.max())
        there = (torch.arange(most) < totals[:, None])[:, None, :].expand(-1, n_draws, -1)
        self.table, self.where = (questions.n, n_draws, most), there.nonzero()
        flat = [x.reshape(questions.n, -1) for x in questions.xs]
        self.low, self.high = ([f(one, 1) for one in flat] for f in (torch.amin, torch.amax))

    def scores(self, name: Any) -> Tensor:
        """Scores (N, J, F), NaN where a sample has fewer features."""
        found = torch.full(self.table, torch.nan, dtype=torch.float64)
        found[self.where.unbind(1)] = self.questions.changed(name, self.where[:, 0], self._rows)
        return found

    def _rows(self, at: Tensor) -> list[Tensor]:
        """The changed samples, per input."""
        device = self.questions.device
        i, j, k = self.where[at].unbind(1)
        pairs, which = torch.stack([i, j], 1).unique(dim=0, return_inverse=True)
        who, which = i.to(device), which.to(device)
        size = sum(shape.numel() for shape in self.shapes)
        if self.own is None:
            switches = torch.zeros(len(at), size, dtype=torch.bool, device=device)
            switches.scatter_(1, k[:, None].to(device), True)
        else:
            switches = self.own[who.to(self.own.device)].to(device) == k[:, None].to(device)
        parts = switches.split([shape.numel() for shape in self.shapes], dim=1)
        return [
            torch.where(part.reshape(-1, *shape), self._values(pairs, m)[which], x[who])
            for m, (part, shape, x) in enumerate(zip(parts, self.shapes, self.questions.xs))
        ]

    def _values(self, pairs: Tensor, m: int) -> Tensor:
        """New values of a whole input for (sample, draw): (P, ...)."""
        i, j = pairs.unbind(1)
        x, samples = self.questions.xs[m], self.numbers[i]
        if self.data is not None:
            rows = self.data[m]
            chosen = draw_keys(samples, j, 1)[:, 0].long() % len(rows)  # one row for all inputs of a sample
            return rows[chosen.to(rows.device)].to(x)
        share = uniform(draw_keys(samples, j + m * 2**32, x[0].numel()).to(x.device)).to(x.dtype)
        low, high = (bound[m][i.to(x.device)][:, None] for bound in (self.low, self.high))
        return (low + share * (high - low)).reshape(-1, *x.shape[1:])


def moves(
    given: tuple[Any, ...],
    n_draws: int,
    replacement: Any,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = "sum",
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Moves:
    """How the score moves when each feature is replaced.

    Args:
        given: model, inputs (or an `Explanation`), maps, baselines.
        n_draws: how often each feature is drawn anew; the baseline is put in once.
        replacement: "uniform" over the range of the sample's values, "baseline", or rows of data, (B, ...) per input.
        target: the score; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        features: numbers of what goes together; None: each element.
        reduce: how channels become one value per place, whose elements go together; None: the maps as they are.
        batch_size: rows per pass.
        seed: of the draws, and of models that draw random numbers.
        ids: numbers of the samples, int64 (N,), for their draws; None: all samples have the same draws.

    Raises:
        InputError: no draws, data that do not fit, integers that would be drawn from a range.
        UnknownNameError: another replacement.
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, int) or n_draws < 1:
        raise InputError(f"n_draws must be a positive int, got {n_draws!r}.")
    check_seed(seed)
    options = {"additional_forward_args": additional_forward_args, "batch_size": batch_size, "seed": seed}
    data = None if isinstance(replacement, str) else as_tuple(replacement)
    if data is None and replacement not in REPLACEMENTS:
        raise unknown("replacement", replacement, REPLACEMENTS, "Or give rows of data, (B, ...).")
    what = about(given[1], given[2], given[3], target, reduce)
    own, totals = feature_numbers(what.maps, features)
    maps = as_rows(what.maps)
    sums = feature_sums(maps, own, totals).cpu().double()
    if replacement == "baseline":
        more = {"target": target, "features": features, "reduce": reduce, "ids": ids}
        found = falls(single, EVERY, given, **more, **options)
        return Moves(found.scores.transpose(1, 2), found.clean, sums, totals, maps)
    with asking(given[0], what, **options) as questions:
        _check_data(data, questions.xs)
        shapes = [m.shape[1:] for m in what.maps]
        rows = _Drawn(questions, shapes, own, totals, n_draws, sample_numbers(seed, ids), data)
        clean = questions.whole(shapes)
        layout = digest((own, totals, shapes, data, ids))
        scores = rows.scores(("replaced", layout, n_draws, seed)).transpose(1, 2)
    return Moves(clean[:, None, None] - scores, clean, sums, totals, maps)


def _check_data(data: tuple[Tensor, ...] | None, xs: tuple[Tensor, ...]) -> None:
    """Refuse data of other shapes, and integers without data."""
    if data is None:
        check_values(xs, 'replacement="baseline" or rows of data')
        return
    shapes = [tuple(getattr(rows, "shape", ())) for rows in data]
    if len(data) != len(xs) or any(len(s) != x.ndim or s[1:] != x.shape[1:] or not s[0] for s, x in zip(shapes, xs)):
        raise InputError(
            f"replacement must be rows like the inputs, (B, ...) for each of {[tuple(x.shape) for x in xs]}; got "
            f"shapes {shapes}."
        )


@register_metric(
    "monotonicity_correlation",
    kind="faithfulness",
    needs="scores",
    higher_is_better=True,
    sign_invariant=True,
    chance=0.0,
    reference="Nguyen and Martinez 2020, arXiv:2007.07584",
    cost="features x n_draws + 1",
    says="rank correlation of |a| and the mean squared change of f when a feature is drawn anew",
    options=OPTIONS,
)
def monotonicity_correlation(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    n_draws: int = 10,
    replacement: Any = "uniform",
    **options: Any,
) -> Tensor:
    """Spearman's correlation of a map's sizes with how much the score moves when each feature is drawn anew.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what `replacement="baseline"` puts in; None: the `Explanation`'s, or zeros.
        n_draws: draws of each feature.
        replacement: "uniform" over the range of the sample's values, "baseline" (one draw), or rows of data, a tensor
            (B, ...) or one per input.
        **options: as for `removal_curves`; `reduce` is "sum". Without `features` each place has its rows: give
            superpixels for pictures. `seed` and `ids` decide the draws.

    Returns:
        (N,) float64 in [-1, 1]; NaN where the score never moves, or all sizes are equal.

    Raises:
        InputError: no draws, or integers that would be drawn from a range.

    Example:
        w = torch.tensor([[1.0, 2.0, -3.0, 4.0]])
        monotonicity_correlation(lambda v: (v * w).sum(1), torch.ones(1, 4), w, replacement="baseline")  # -> [1.0]
    """
    found = moves((forward_func, inputs, attributions, baselines), n_draws, replacement, **options)
    squares = found.moves.square().cumsum(2)[:, :, -1] / found.moves.shape[2]
    sizes, n = found.sums.abs(), len(found.totals)
    values = torch.full((n,), torch.nan, dtype=torch.float64)
    still, flat = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for total in found.totals.unique().tolist():
        own = found.totals == total
        pair = [v[own][:, :total].contiguous() for v in (squares, sizes)]
        still[own], flat[own] = (v.amax(1) == v.amin(1) for v in pair)
        centred = [average_ranks(v) - (total + 1) / 2 for v in pair]
        values[own] = cosine_of_rows(*centred)
    return defined(values, found.maps, {NEVER_MOVES: still, "all sizes of the map are equal": flat})

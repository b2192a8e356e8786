"""Owen values over a hierarchy, also known as Partition SHAP: features join together with their neighbours.

A binary tree groups the features: halves of a picture, of a sentence, or the user's own. Within a group the two parts
share what the group adds, as two players do (Owen 1977; Lundberg's Partition explainer):

    part L gets  w/2 (v(C + L) - v(C)) + w/2 (v(C + L + R) - v(C + R))

and the same again inside L and R, for each of the two contexts, down to single features. With all splits this is the
mean over the orders in which no group is interrupted. The splits that matter most come first: after `max_evals` rows
the groups left undivided share equally among their features, so that completeness always holds. Balanced trees need
about d^2 rows for d features instead of 2^d. Features that are as their baseline have the value 0; a part made of such
features alone adds nothing in any context, and its group goes on as its other part, without a row.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.perturbation.coalitions import Game
from interp_plugins.attr.perturbation.shapley import ShapleyValueSampling
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.attr.shared.grid_features import grid_mask, spatial_axes
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.registry import register
from interp_plugins.core.report import note
from interp_plugins.core.tensors import InputsT, describe, like

_AT_A_TIME = 16  # splits per round and sample; fixed, so that the result does not depend on chunk sizes


@dataclass(frozen=True)
class _Halves:
    """A group that is halved across its longest side: features (F,), and where the centre of each is (F, axes)."""

    features: np.ndarray
    places: np.ndarray

    @functools.cached_property
    def parts(self) -> tuple[Any, ...]:
        """Its two halves; none of a single feature."""
        if len(self.features) == 1:
            return ()
        order = self.places[:, np.ptp(self.places, axis=0).argmax()].argsort(kind="stable")
        half = len(order) // 2
        return tuple(_Halves(self.features[part], self.places[part]) for part in (order[:half], order[half:]))


@dataclass(frozen=True)
class _Given:
    """A group of the user's nested tuples."""

    features: np.ndarray
    nested: Any

    @functools.cached_property
    def parts(self) -> tuple[Any, ...]:
        """The first of its parts, and the others together; none of a single feature."""
        if not isinstance(self.nested, tuple):
            return ()
        left, *rest = self.nested
        return _given(left), _given(rest[0] if len(rest) == 1 else tuple(rest))


def _leaves(parts: Any) -> list[int]:
    return [parts] if not isinstance(parts, tuple) else [leaf for part in parts for leaf in _leaves(part)]


def _given(parts: Any) -> _Given:
    return _Given(np.array(_leaves(parts)), parts)


def _check_hierarchy(parts: Any, ids: Sequence[int]) -> Any:
    """The user's nesting with feature numbers for mask ids."""
    number = {v: k for k, v in enumerate(ids)}

    def visit(part: Any) -> Any:
        if isinstance(part, (tuple, list)):
            if not part:
                raise InputError("hierarchy has an empty group; every group needs at least one feature.")
            inner = tuple(visit(p) for p in part)
            return inner if len(inner) > 1 else inner[0]
        if isinstance(part, bool) or not isinstance(part, int):
            raise InputTypeError(f"hierarchy is nested tuples of feature_mask's numbers; got {describe(part)}.")
        if part not in number:
            raise InputError(f"hierarchy names the feature {part}, but feature_mask's numbers are {list(ids)[:12]}.")
        return number[part]

    found = visit(parts)
    leaves = _leaves(found)
    if sorted(leaves) != list(range(len(ids))):
        raise InputError(
            f"hierarchy must name each of the {len(ids)} features once; it names {len(leaves)} "
            f"({len(set(leaves))} different)."
        )
    return found


def _centres(game: Game) -> Tensor:
    """The mean place of each feature: the number of its input, then its spatial coordinates, (d, axes)."""
    axes = 1 + max(len(spatial_axes(x)) for x in game.inputs)
    sums, counts = torch.zeros(game.d, axes, dtype=torch.float64), torch.zeros(game.d, dtype=torch.float64)
    longest = max(max(x.shape[1:]) for x in game.inputs)
    for i, (x, p) in enumerate(zip(game.inputs, game.positions, strict=True)):
        which = p[0].cpu()
        place = torch.full((*which.shape, axes), 0.0, dtype=torch.float64)
        place[..., 0] = 2.0 * longest * i  # inputs part first
        for k, axis in enumerate(spatial_axes(x), start=1):
            along = torch.arange(x.shape[axis], dtype=torch.float64)
            place[..., k] = along.reshape([-1 if a == axis else 1 for a in range(1, x.ndim)])
        sums.index_add_(0, which.reshape(-1), place.reshape(-1, axes))
        counts.index_add_(0, which.reshape(-1), torch.ones(which.numel(), dtype=torch.float64))
    return sums / counts.clamp_min(1)[:, None]


@dataclass(frozen=True)
class _Open:
    """A group in a context, not yet divided: what it adds, (K,), and with which weight that counts."""

    group: Any
    context: np.ndarray  # (d,) bool
    before: np.ndarray  # v(context)
    after: np.ndarray  # v(context + group)
    weight: float


class _Sample:
    """The groups still open for one sample, most urgent first, and what is settled.

    Args:
        players: features that differ from their baseline, (d,) bool; the others are worth nothing.
        group: of all features.
        ends: scores of the baseline and of the sample, (2, K).

    Attributes:
        values: of the features, (K, d).
        evals: rows so far.
    """

    def __init__(self, players: np.ndarray, group: Any, ends: np.ndarray):
        self.players, self.evals = players, 2
        self.values = np.zeros((ends.shape[1], len(players)))
        self._heap: list[tuple[float, int, _Open]] = []
        self._numbers = itertools.count()
        if players.any():
            self._put(self._alive(group), np.zeros_like(players), ends[0], ends[1], 1.0)

    def take(self, limit: int | None) -> list[_Open]:
        """The most urgent groups, as many as are divided at a time."""
        room = len(self._heap) if limit is None else min(_AT_A_TIME, (limit - self.evals) // 2)
        taken = [heapq.heappop(self._heap)[2] for _ in range(min(max(room, 0), len(self._heap)))]
        self.evals += 2 * len(taken)
        return taken

    def divide(self, one: _Open, contexts: np.ndarray, scores: np.ndarray) -> None:
        """Open both parts, each with and without the other.

        Args:
            one: what is divided.
            contexts: its context with the one part and with the other, (2, d).
            scores: of these, (2, K).
        """
        (left, right), half = map(self._alive, one.group.parts), one.weight / 2
        self._put(left, one.context, one.before, scores[0], half)
        self._put(left, contexts[1], scores[1], one.after, half)
        self._put(right, one.context, one.before, scores[1], half)
        self._put(right, contexts[0], scores[0], one.after, half)

    def settle(self) -> None:
        """Let the groups that are still open share equally."""
        for *_, one in self._heap:
            self._share(one.group, one.weight * (one.after - one.before))
        self._heap = []

    def _alive(self, group: Any) -> Any:
        """The smallest group with the same players."""
        while group.parts:
            living = [part for part in group.parts if self.players[part.features].any()]
            if len(living) == len(group.parts):
                break
            group = living[0]
        return group

    def _put(self, group: Any, context: np.ndarray, before: np.ndarray, after: np.ndarray, weight: float) -> None:
        change = weight * (after - before)
        if group.parts:
            one = _Open(group, context, before, after, weight)
            heapq.heappush(self._heap, (-float(np.abs(change).max()), next(self._numbers), one))
        else:
            self._share(group, change)

    def _share(self, group: Any, change: np.ndarray) -> None:
        """Give a change (K,) to the players of a group in equal parts."""
        mine = group.features[self.players[group.features]]
        self.values[:, mine] += (change / len(mine))[:, None]


@register(
    "owen",
    aliases=("partition_shap", "owen_values"),
    needs="perturbation",
    title="Owen values",
    reference="Owen 1977; Lundberg's Partition explainer",
    cost="about 2d forward per sample drawn",
    axioms=("completeness", "linearity", "dummy", "implementation invariance"),
    assumes="features group into a tree; symmetric within a group",
)
class OwenValues(PerturbationAttribution):
    """Shapley values over a hierarchy of features, the important groups divided first."""

    @args_from(ShapleyValueSampling.attribute)
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        hierarchy: Any = None,
        max_evals: int | None = 500,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """Owen values, summing to F(x) - F(baseline) whatever the budget.

        Args:
            feature_mask: the features at the bottom, as in `FeatureAblation`. None: pixels of pictures (all channels
                together), steps of sequences (N, T, C), elements of anything else.
            hierarchy: nested tuples of feature_mask's numbers: ((0, 1), (2, (3, 4))); a group of more than two parts is
                cut into its first and the rest. None: halves across the longest side of each group, inputs first.
            max_evals: rows per sample, about; None divides down to single features (about d^2 rows).
            batch_size: rows per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes; (N, K, ...) for K outputs per example.

        Raises:
            InputError: a hierarchy that does not name each feature once, or a mask that differs between samples.
        """
        check_chunk("max_evals", max_evals)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            game = Game(
                forward,
                xs,
                baselines,
                _pixels(xs) if feature_mask is None else feature_mask,
                template=inputs,
                perturbations_per_eval=perturbations_per_eval,
                chunk=batch_size,
            )
            if any(p.shape[0] > 1 for p in game.positions):
                raise InputError("A hierarchy is one for all samples: give a feature_mask with batch dimension 1.")
            root = (
                _Halves(np.arange(game.d), _centres(game).numpy())
                if hierarchy is None
                else _given(_check_hierarchy(hierarchy, game.features.ids))
            )
            values, evals = _divide(game, root, max_evals, self.get_name(), progress)
            note(n_evals=evals, per_sample=("n_evals",))
            return like(inputs, game.maps(values))


def _pixels(xs: Sequence[Tensor]) -> Any:
    if all(x.ndim < 3 for x in xs):
        return None
    masks, start = [], 0
    for x in xs:
        mask = grid_mask(x, [x.shape[a] for a in spatial_axes(x)]) + start
        start = int(mask.max()) + 1
        masks.append(mask)
    return tuple(masks)


def _divide(game: Game, root: Any, limit: int | None, what: str, progress: bool | None) -> tuple[Tensor, list[int]]:
    ends = torch.stack([game.empty, game.clean.to(game.wide)], 1).cpu().double().numpy()  # (samples, 2, K)
    samples = [_Sample(p, root, e) for p, e in zip(game.differing.cpu().numpy(), ends, strict=True)]
    with game.progress(limit or 0, what, progress):
        while jobs := [(i, one) for i, sample in enumerate(samples) for one in sample.take(limit)]:
            z = np.repeat(np.stack([one.context for _, one in jobs]), 2, axis=0)
            for k, (_, one) in enumerate(jobs):
                for side, part in enumerate(one.group.parts):
                    z[2 * k + side, part.features] = True
            rows = torch.tensor([i for i, _ in jobs for _ in range(2)], device=game.device)
            found = _values(game, torch.from_numpy(z).to(game.device), rows).cpu().double().numpy()
            for k, (i, one) in enumerate(jobs):
                samples[i].divide(one, z[2 * k : 2 * k + 2], found[2 * k : 2 * k + 2])
    for sample in samples:
        sample.settle()
    values = torch.from_numpy(np.stack([s.values for s in samples])).to(game.wide)
    return values.to(game.device), [s.evals for s in samples]


def _values(game: Game, z: Tensor, samples: Tensor) -> Tensor:
    """Scores of coalition r for sample r: (R, K)."""
    if game.merged:
        return game.scores(z)[:, 0]
    rows = torch.arange(len(z), device=game.device)
    return game.scores_of_pairs(rows, samples, lambda c, who: game.spread(z.index_select(0, c), who))

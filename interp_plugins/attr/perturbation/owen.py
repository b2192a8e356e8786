"""Owen values over a hierarchy, also known as Partition SHAP: features join together with their neighbours.

A binary tree groups the features: halves of a picture, of a sentence, or the user's own. Within a group the two parts
share what the group adds, as two players do (Owen 1977; Lundberg's Partition explainer):

    part L gets  w/2 (v(C + L) - v(C)) + w/2 (v(C + L + R) - v(C + R))

and the same again inside L and R, for each of the two contexts, down to single features. With all splits this is the
mean over the orders in which no group is interrupted. The splits that matter most come first: after `max_evals` rows
the groups left undivided share equally among their features, so that completeness always holds. Balanced trees need
about d^2 rows for d features instead of 2^d.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """A group that is halved across its longest side when asked: features and the places of their centres."""

    features: Tensor
    places: Tensor  # (features, axes)

    def split(self) -> tuple[Any, Any] | None:
        if len(self.features) == 1:
            return None
        extent = self.places.amax(0) - self.places.amin(0)
        order = self.places[:, int(extent.argmax())].argsort(stable=True)
        half = len(order) // 2
        return tuple(_Halves(self.features[part], self.places[part]) for part in (order[:half], order[half:]))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Given:
    """A group of the user's nested tuples."""

    features: Tensor
    parts: Any

    def split(self) -> tuple[Any, Any] | None:
        if not isinstance(self.parts, tuple):
            return None
        left, *rest = self.parts
        right = rest[0] if len(rest) == 1 else tuple(rest)
        return _given(left), _given(right)


def _leaves(parts: Any) -> list[int]:
    return [parts] if not isinstance(parts, tuple) else [leaf for part in parts for leaf in _leaves(part)]


def _given(parts: Any) -> _Given:
    return _Given(torch.tensor(_leaves(parts)), parts)


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


@dataclass
class _Open:
    """A group in a context, not yet divided: what it adds, (K,), and with which weight that counts."""

    group: Any
    context: Tensor  # (d,) bool
    before: Tensor  # v(context)
    after: Tensor  # v(context + group)
    weight: float

    def urgency(self) -> float:
        return self.weight * float((self.after - self.before).abs().max())


@dataclass
class _Sample:
    """The groups still open for one sample, most urgent first, and what is settled."""

    values: Tensor  # (K, d)
    heap: list[tuple[float, int, _Open]] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)
    evals: int = 2

    def put(self, one: _Open) -> None:
        if len(one.group.features) == 1:
            self.settle(one)
        else:
            heapq.heappush(self.heap, (-one.urgency(), next(self.numbers), one))

    def settle(self, one: _Open) -> None:
        share = one.weight * (one.after - one.before) / len(one.group.features)
        self.values[:, one.group.features.to(self.values.device)] += share[:, None]

    def take(self, limit: int | None) -> list[_Open]:
        room = _AT_A_TIME if limit is None else min(_AT_A_TIME, (limit - self.evals) // 2)
        taken = [heapq.heappop(self.heap)[2] for _ in range(min(max(room, 0), len(self.heap)))]
        self.evals += 2 * len(taken)
        return taken


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
                _Halves(torch.arange(game.d), _centres(game))
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
    empty, whole = game.empty, game.clean.to(game.wide)
    samples = [_Sample(torch.zeros(whole.shape[1], game.d, dtype=game.wide, device=game.device)) for _ in whole]
    nobody = torch.zeros(game.d, dtype=torch.bool, device=game.device)
    for i, sample in enumerate(samples):
        sample.put(_Open(root, nobody, empty[i], whole[i], 1.0))
    with game.progress(limit or 0, what, progress):
        while True:
            jobs = [(i, one) for i, sample in enumerate(samples) for one in sample.take(limit)]
            if not jobs:
                break
            halves = [one.group.split() for _, one in jobs]
            z = torch.stack([_with(one.context, part) for (_, one), pair in zip(jobs, halves) for part in pair])
            found = _values(game, z, torch.tensor([i for i, _ in jobs for _ in range(2)], device=game.device))
            for k, ((i, one), (left, right)) in enumerate(zip(jobs, halves)):
                v_left, v_right = found[2 * k], found[2 * k + 1]
                half = one.weight / 2
                samples[i].put(_Open(left, one.context, one.before, v_left, half))
                samples[i].put(_Open(left, z[2 * k + 1], v_right, one.after, half))
                samples[i].put(_Open(right, one.context, one.before, v_right, half))
                samples[i].put(_Open(right, z[2 * k], v_left, one.after, half))
    for sample in samples:
        for _, _, one in sample.heap:
            sample.settle(one)
    return torch.stack([s.values for s in samples]), [s.evals for s in samples]


def _with(context: Tensor, group: Any) -> Tensor:
    z = context.clone()
    z[group.features.to(z.device)] = True
    return z


def _values(game: Game, z: Tensor, samples: Tensor) -> Tensor:
    """Scores of coalition r for sample r: (R, K)."""
    if game.merged:
        return game.scores(z)[:, 0]
    rows = torch.arange(len(z), device=game.device)
    return game.scores_of_pairs(rows, samples, lambda c, who: game.spread(z.index_select(0, c), who))

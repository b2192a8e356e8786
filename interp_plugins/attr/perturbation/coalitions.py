"""The model as a game: v(S) = F(x with the features outside S replaced by their baseline), for many S at once.

Everything that explains by switching features off asks the same question: what is the score when only these features
are there? `Game` answers it for a list of coalitions, sample by sample, in chunks that follow `core.batching`. A
coalition is a row of switches, one per feature; soft masks (RISE, Sobol) are switches between 0 and 1, which blend the
input with its baseline: b + m (x - b).

Rows: coalition c of sample i is row c * N + i. A model that gives one value for the whole batch gets one pass per
coalition. Outputs of several values per sample stay apart, so all classes come from the same passes.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.perturbation.perturb import clean_scores, merges_batch, perturbed_rows, replaceable
from interp_plugins.core.batching import AUTOMATIC, check_chunk, chunks, progress_bar
from interp_plugins.core.conventions import as_captum
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Forward
from interp_plugins.core.report import note
from interp_plugins.core.tensors import accumulation_dtype, widest
from interp_plugins.engine import Walker, planned, walker_for

Switches = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""(coalitions (R,), samples (R,)) -> one mask per input, broadcastable to (R, ...): bool, or numbers in [0, 1]."""


_REMEMBERED = 2**24  # scores kept for coalitions that come again
_SWITCHES = 2**24  # switches held at a time


def _blend(x: Tensor, base: Tensor, mask: Tensor) -> Tensor:
    """The baseline plus so much of the difference as the mask says; whole numbers are rounded."""
    if x.is_floating_point() or x.is_complex():
        return base + mask.to(x.dtype) * (x - base)
    return (base + mask * (x.to(mask.dtype) - base)).round().to(x.dtype)


class Game:
    """The model as a game: scores of inputs with some features present and the others replaced.

    Args:
        forward: what to evaluate; its target may leave several values per example.
        inputs: the inputs, batch first.
        baselines: what stands in for a missing feature; as `core.baseline.as_baselines` takes it.
        feature_mask: groups of elements, as `FeatureAblation` takes them.
        template: the caller's inputs (for baselines that are functions of them).
        perturbations_per_eval: coalitions per forward pass; left out: as many as fit.
        chunk: rows per forward pass; overrides the above.

    Attributes:
        features: the features; `d` is their number.
        clean: F(x), (samples, K); samples is N, or 1 for a model with one value per batch.
        shape: the shape of the clean score as the model gave it, with a first dimension of samples.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        baselines: Any = None,
        feature_mask: Any = None,
        *,
        template: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        chunk: int | None = None,
    ):
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        check_chunk("batch_size", chunk)
        self.forward = forward
        self.inputs, self.baselines = replaceable(forward, inputs, baselines, template, chunk)
        self.features = MaskFeatures(self.inputs, feature_mask)
        self.d = len(self.features)
        if self.d == 0:
            raise InputError("There are no features to perturb: the inputs have no elements.")
        self._positions: list[Tensor] | None = None
        self.n, self.device = self.inputs[0].shape[0], self.inputs[0].device
        self.size = perturbed_rows(forward, inputs, perturbations_per_eval, chunk)
        score = clean_scores(forward, self.inputs, self.size)
        self.merged = score.ndim == 0 or score.shape[0] != self.n or (self.n > 1 and merges_batch(forward, inputs))
        note(score=score if score.ndim == 1 and not self.merged else None)
        if self.merged and perturbations_per_eval > 1 and self.n > 1:
            raise InputError(
                "When perturbations_per_eval > 1, forward_func's output should be a tensor whose 1st dim grow with the "
                f"input batch size: got shape {tuple(score.shape)} for {self.n} examples. Use perturbations_per_eval=1."
            )
        self.samples = 1 if self.merged else self.n
        self.shape = (1, *score.shape) if self.merged and score.ndim == 0 else tuple(score.shape)
        self.clean = score.reshape(self.samples, -1)
        self.wide = widest(self.device)
        self._bar: Any = None
        self._plain = forward
        self._due = 0  # rows that a plan has not been made for
        self._explicit = perturbations_per_eval is not AUTOMATIC or chunk is not None
        self._walker: Walker | None = None
        self._known: dict[bytes, int] = {}  # coalition -> its row of
        self._scores: Tensor | None = None  # (coalitions, samples, K)

    # -- evaluation ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def progress(self, coalitions: int, what: str, progress: bool | None) -> Iterator[None]:
        """A bar over so many coalitions for the evaluations inside, and a plan for the model that runs them."""
        if not self.merged:
            self._due = self.n * (coalitions or self.d)
        with progress_bar(coalitions * (1 if self.merged else self.n), what, progress) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    @property
    def group(self) -> int:
        """Coalitions that fill a pass."""
        return 1 if self.merged else max(1, self.size // self.n)

    def masked_scores(self, count: int, switches: Switches, samples: Tensor | None = None) -> Tensor:
        """Scores of `count` coalitions for every sample, or for these: (count, samples, K), in the widest dtype."""
        if self.merged:
            everyone = torch.arange(self.n, device=self.device)
            parts = [
                self._run(torch.full_like(everyone, c), everyone, switches).reshape(1, 1, -1) for c in range(count)
            ]
            return torch.cat(parts)
        who = torch.arange(self.n, device=self.device) if samples is None else samples.to(self.device)
        # (count * samples,): row c * samples + s is coalition c of the s-th of these samples.
        rows = torch.arange(count * len(who), device=self.device)
        found = self.scores_of_pairs(rows // len(who), who[rows % len(who)], switches, step=len(who))
        return found.reshape(count, len(who), -1)

    def scores_of_pairs(self, coalitions: Tensor, samples: Tensor, switches: Switches, step: int = 1) -> Tensor:
        """Scores of single (coalition, sample) pairs: (pairs, K), in the widest dtype."""

        def work(start: int, stop: int) -> Tensor:
            out = self._run(coalitions[start:stop], samples[start:stop], switches)
            if out.ndim == 0 or out.shape[0] != stop - start:
                raise ModelError(
                    f"The model gave an output of shape {tuple(out.shape)} for {stop - start} rows; expected a first "
                    "dimension that is the batch."
                )
            return out.reshape(stop - start, -1)

        parts = [p for _, _, p in chunks(len(coalitions), self.size, work, step=step, bar=self._bar)]
        return torch.cat(parts)

    def _run(self, coalitions: Tensor, samples: Tensor, switches: Switches) -> Tensor:
        if self._due:
            self.forward, _ = planned(self.forward, self.inputs, rows=self._due, chunk=self.size)
            self._due = 0
        run = self.forward.selected if self.merged else self.forward.changed
        return self._widened(run(self._perturbed(switches(coalitions, samples), samples), samples))

    def _perturbed(self, masks: Sequence[Tensor], samples: Tensor) -> list[Tensor]:
        xs = []
        for x, b, m in zip(self.inputs, self.baselines, masks, strict=True):
            rows, base = x.index_select(0, samples), b.index_select(0, samples)
            xs.append(torch.where(m, rows, base) if m.dtype == torch.bool else _blend(rows, base, m))
        return xs

    def _widened(self, out: Tensor) -> Tensor:
        return out.to(self.wide) if out.is_floating_point() else out.to(torch.get_default_dtype()).to(self.wide)

    # -- features ------------------------------------------------------------------------------------------

    @property
    def positions(self) -> list[Tensor]:
        """The feature number of every element, (1 or N, ...) per input."""
        if self._positions is None:
            self._positions = self.features.positions()
        return self._positions

    @functools.cached_property
    def differing(self) -> Tensor:
        """Which features differ from their baseline, (samples, d) bool; the others are null players, of value 0."""
        found = torch.zeros(self.n, self.d, device=self.device)
        for x, b, p in zip(self.inputs, self.baselines, self.positions, strict=True):
            differ = (x != b).reshape(self.n, -1)
            found.scatter_add_(1, p.reshape(len(p), -1).expand_as(differ), differ.to(found.dtype))
        return (found.sum(0, keepdim=True) if self.merged else found) > 0

    def spread(self, rows: Tensor, samples: Tensor) -> list[Tensor]:
        """Switches (R, d) -> masks of the inputs' shapes, (R, ...)."""
        out = []
        for p in self.positions:
            if p.shape[0] == 1:
                out.append(rows.index_select(1, p.reshape(-1)).reshape(len(rows), *p.shape[1:]))
            else:
                mine = p.index_select(0, samples)  # (R, ...): each row's own features
                out.append(rows.gather(1, mine.reshape(len(samples), -1)).reshape(mine.shape))
        return out

    def scores(self, coalitions: Tensor, samples: Tensor | None = None) -> Tensor:
        """Scores of given coalitions, bool (C, d), for every sample or for these: (C, samples, K)."""
        z = coalitions.to(self.device)
        return self.masked_scores(len(z), lambda c, who: self.spread(z.index_select(0, c), who), samples)

    def scores_cached(self, coalitions: Tensor, samples: Tensor | None = None) -> Tensor:
        """As `scores`, but each coalition is evaluated once in the life of the game; samples may only become fewer.

        Coalitions that differ in null players alone are one. The empty one, which every method asks for, is evaluated
        beside the first.
        """
        who = torch.arange(self.samples, device=self.device) if samples is None else samples.to(self.device)
        coalitions = coalitions & self.differing.any(0).to(coalitions.device)
        if self._scores is None and len(who) == self.samples:
            both = torch.cat([coalitions.new_zeros(1, self.d), coalitions])
            return self._remembered(both, who)[1:]
        return self._remembered(coalitions, who)

    def _remembered(self, coalitions: Tensor, who: Tensor) -> Tensor:
        """Scores of coalitions of players for some samples, (C, samples, K), those that are known from before."""
        packed = np.packbits(coalitions.cpu().numpy(), axis=1)
        keys = packed.view(f"V{packed.shape[1]}").ravel().tolist()
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        scores = self._scores
        if new:
            fresh = coalitions if len(new) == len(keys) else coalitions[list(new.values())]
            found = self.scores(fresh, who)
            # (new, samples of the game, K): those not asked for stay NaN, and are never asked for again.
            full = found.new_full((len(new), self.samples, found.shape[2]), math.nan)
            full[:, who] = found
            first = 0 if scores is None else len(scores)
            new = dict(zip(new, range(first, first + len(new)), strict=True))
            scores = full if scores is None else torch.cat([scores, full])
        if self._bar is not None:
            self._bar.update((len(keys) - len(new)) * len(who))
        assert scores is not None
        at = [new[key] if key in new else self._known[key] for key in keys]
        if scores.numel() < _REMEMBERED:
            self._scores = scores
            self._known.update(new)
        return scores.index_select(0, torch.tensor(at, device=scores.device))[:, who]

    def scores_along(self, orders: Tensor, samples: Tensor) -> Tensor:
        """Scores of the first 1 .. a - 1 features of orders (P, a), for some samples: (P, a - 1, samples, K).

        Orders are of all features, or all of the same some; the others are in none of the coalitions. Each coalition is
        evaluated once in the life of the game, or computed from the one before (`engine.incremental`).
        """
        count, length = orders.shape
        if self._due and self._walker is None:
            self._walker = self._walker_for(self._due)
        if self._walker is not None:
            size = int(self.size) if self._explicit else None
            found = self._walker.scores(orders, samples.tolist(), size, self._bar)
            if found is not None:
                self._due = 0
                return self._widened(found).reshape(count, length - 1, len(samples), -1)
            self._walker = None
        # Coalition c of the C = P * (a - 1) is the first c % (a - 1) + 1 features of order c // (a - 1): those of a
        # rank up to that. (P, a) orders -> (P, d) ranks -> (C, d) switches, some at a time -> (C, samples, K).
        rank = torch.full((count, self.d), length, device=orders.device)
        rank.scatter_(1, orders, torch.arange(length, device=orders.device).expand(count, length))
        inner, at_once, scores = length - 1, max(1, _SWITCHES // self.d), []
        for first in range(0, count * inner, at_once):
            c = torch.arange(first, min(count * inner, first + at_once), device=orders.device)
            scores.append(self.scores_cached(rank.index_select(0, c // inner) <= (c % inner)[:, None], samples))
        return torch.cat(scores).reshape(count, inner, len(samples), -1)

    def _walker_for(self, rows: int) -> Walker | None:
        def perturbed(z: Tensor, who: Tensor) -> Tensor:
            return self._perturbed(self.spread(z, who), who)[0]

        return walker_for(self._plain, self.inputs, self.baselines, self.features, perturbed, rows)

    @functools.cached_property
    def empty(self) -> Tensor:
        """The score of the baseline, where no feature is present: (samples, K); known where `scores_cached` has run."""
        known = self._known.get(bytes(-(-self.d // 8)))
        if self._scores is None or known is None:
            value = self.scores(torch.zeros(1, self.d, dtype=torch.bool))[0]
        else:
            value = self._scores[known]
        one_each = value.shape[1] == self.forward.target.count and not self.merged
        note(baseline_score=value.reshape(-1).to(self.dtype) if one_each else None)
        return value

    # -- results -------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the maps: the score's, half precision widened, whole numbers made floats."""
        clean = self.clean.dtype
        if as_captum():
            return torch.float32
        return accumulation_dtype(clean) if clean.is_floating_point else torch.get_default_dtype()

    @property
    def rounding(self) -> Tensor:
        """Per sample, the L2 error that a map of the features may have by the rounding of its scores."""
        dtype = self.clean.dtype if self.clean.is_floating_point() else torch.get_default_dtype()
        scale = self.clean.abs().amax(1).to("cpu", torch.float64)
        return 16 * torch.finfo(dtype).eps * math.sqrt(self.d) * scale

    def maps(self, values: Tensor) -> list[Tensor]:
        """Values per feature (samples, K, d) -> maps (*score's shape, ...) of every input."""
        flat = values.to(self.dtype)
        out = []
        for p in self.positions:
            if p.shape[0] == 1 or self.merged:
                one = flat.index_select(2, p[0].reshape(-1))  # (samples, K, d) -> (samples, K, elements)
            else:
                index = p.reshape(self.n, 1, -1).expand(-1, flat.shape[1], -1)  # (N, K, elements)
                one = flat.gather(2, index)
            out.append(one.reshape(*self.shape, *p.shape[1:]))
        return out

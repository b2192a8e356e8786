"""The perturbation loop: replace a feature by its baseline, run the model, credit the change to the feature.

    attribution(feature) = F(x) - F(x with the feature replaced)

One loop serves disjoint features (FeatureAblation) and overlapping windows (Occlusion, averaged over the windows that
cover an element). No gradient is needed. Cost: one forward row per feature and sample, plus one for F(x).
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from interp_plugins.core.baseline import as_baselines, widened
from interp_plugins.core.batching import AUTOMATIC, chunks, progress_bar
from interp_plugins.core.conventions import as_captum
from interp_plugins.core.errors import InputError
from interp_plugins.core.features import MaskFeatures, Windows
from interp_plugins.core.forward import Forward
from interp_plugins.core.report import note
from interp_plugins.core.tensors import accumulation_dtype, expand_rows, widest
from interp_plugins.engine import (
    Incremental,
    MergesBatch,
    asked_precision,
    clean_scores,
    incremental_for,
    lower_of,
    planned,
)


class _Credit:
    """Running means of the changes by windows, which may overlap, per input: (N * K, ...) for K outputs per example."""

    def __init__(self, inputs: Sequence[Tensor], samples: int, outputs: int, dtype: torch.dtype):
        self.samples, self.outputs = samples, outputs
        shapes = [tuple(x.shape[1:]) for x in inputs]
        self.sums = [
            torch.zeros(samples, outputs, *s, dtype=dtype, device=x.device) for s, x in zip(shapes, inputs, strict=True)
        ]
        self.counts = [torch.zeros(s, device=x.device) for s, x in zip(shapes, inputs, strict=True)]

    def add(self, change: Tensor, windows: Windows, k: int, lo: int, hi: int) -> None:
        """Credit the changes (hi - lo, K) of the samples [lo, hi) to window k."""
        i, box = windows.box(k)
        total = self.sums[i]
        value = change.reshape(*change.shape, *(1,) * (total.ndim - 2)).to(total)
        total[(slice(lo, hi), slice(None), *box)] += value
        if lo == 0:
            self.counts[i][box] += 1

    def result(self) -> list[Tensor]:
        """The mean change over all windows of an element, per input."""
        means = [
            total / count.clamp_min(1).to(total.dtype) for total, count in zip(self.sums, self.counts, strict=True)
        ]
        return [m.reshape(self.samples * self.outputs, *m.shape[2:]) for m in means]


class Replacement(Protocol):
    """Replacement values that depend on the feature."""

    def at(self, k: int, i: int) -> Tensor:
        """The replacement values of feature k in input i, of its shape."""
        ...


def _replace(
    x: Tensor,
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    k: int,
    i: int,
    lo: int,
    hi: int,
) -> Tensor:
    """Put the baseline into feature k of input i, in place, for the samples [lo, hi); whether any differ by it (R,)."""
    baseline = baselines[i] if isinstance(baselines, Sequence) else baselines.at(k, i)
    if isinstance(features, Windows):
        _, box = features.box(k)
        part, new = x[(slice(None), *box)], baseline[(slice(lo, hi), *box)]
        changed = (part != new).reshape(len(part), -1).any(1)
        part.copy_(new)
        return changed
    mask = features.masks(k)[i]
    mask = mask[lo:hi] if mask.shape[0] > 1 else mask
    new = torch.where(mask, baseline[lo:hi], x)
    changed = (x != new).reshape(len(x), -1).any(1)
    x.copy_(new)
    return changed


def merges_batch(forward: Forward, inputs: Sequence[Tensor]) -> bool:
    """Whether the model gives one value for a batch, whatever its size: seen by sending one sample alone."""
    if forward.whole:
        return False  # then the probe has seen an output per row
    one = torch.zeros(1, dtype=torch.long, device=inputs[0].device)
    out = clean_scores(forward.of_rows(one), [x[:1] for x in inputs])
    return out.ndim == 0 or out.shape[0] != 1


def replaceable(
    forward: Forward, inputs: Sequence[Tensor], baselines: Any, template: Any, chunk: int | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and baselines of one dtype each: integers become floats where their baseline is none."""
    made = as_baselines(baselines, inputs, template=template)
    return widened(inputs, made, lambda at: clean_scores(forward, at, chunk)), made


T = TypeVar("T")
_IN_BOTH = 24  # features that are replaced in both precisions
_WORTH = 2.5  # times fewer multiplications: changes in float32 that need so few take less time than passes below it
Run = tuple[int, int, int]  # a feature, the first of its samples, the last one + 1


def perturb(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    *,
    perturbations_per_eval: int = AUTOMATIC,
    chunk: int | None = None,
    progress: bool | None = None,
    what: str = "perturbations",
) -> list[Tensor]:
    """Attributions (N * K, ...) per input for K outputs per example, or (K, ...) for a model with one value per batch.

    Args:
        forward: what to evaluate; its target may leave several values per example.
        inputs: the inputs, batch first.
        baselines: replacement values of the same shapes, or an object that makes them feature by feature.
        features: what is replaced together.
        perturbations_per_eval: features per forward pass; left out: as many as fit.
        chunk: rows per forward pass; overrides the above.
        progress: None = a bar for long work, True, False.
        what: name for the progress bar.
    """

    def all_features(changes: Changes) -> list[Tensor]:
        with changes.progress(what, progress):
            return changes.credited(changes.of(changes.everything))

    return with_changes(forward, inputs, baselines, features, all_features, perturbations_per_eval, chunk)


def with_changes(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    use: Callable[[Changes], T],
    perturbations_per_eval: int = AUTOMATIC,
    chunk: int | None = None,
) -> T:
    """What `use` makes of the changes of the score, for a model with a value per row or, failing that, per batch.

    Arguments as of `perturb`.
    """
    n = inputs[0].shape[0]
    explicit = chunk is not None or perturbations_per_eval is not AUTOMATIC
    size = perturbed_rows(forward, inputs, perturbations_per_eval, chunk)
    # The unperturbed pass of one sample gives its score as well.
    incremental = incremental_for(forward, inputs, baselines, features) if n == 1 else None
    clean = clean_scores(forward, inputs, size) if incremental is None else incremental.clean(0)
    per_row = clean.ndim > 0 and clean.shape[0] == n
    note(score=clean if clean.ndim == 1 and per_row else None)
    try:
        if per_row:
            if n > 1:
                incremental = incremental_for(forward, inputs, baselines, features)
            rows = size if incremental is None or explicit else incremental.chunk
            scores = clean.reshape(n, -1)
            if incremental is not None and _may_be_lower(incremental):
                lower = Changes(forward, inputs, baselines, features, scores, size)
                if lower.are_lower:
                    return use(lower)
            return use(Changes(forward, inputs, baselines, features, scores, rows, incremental=incremental))
    except MergesBatch:
        pass
    if perturbations_per_eval > 1:
        raise InputError(
            "When perturbations_per_eval > 1, forward_func's output should be a tensor whose 1st dim grow with the "
            f"input batch size: got shape {tuple(clean.shape)} for {n} examples. Use perturbations_per_eval=1."
        )
    return use(Changes(forward, inputs, baselines, features, clean.reshape(1, -1), n, merged=True))


def _may_be_lower(incremental: Incremental) -> bool:
    """Whether whole passes in a lower precision, where one was asked for, may take less time than changes do."""
    return asked_precision() != "float32" and incremental.gain < _WORTH


def perturbed_rows(forward: Forward, inputs: Sequence[Tensor], perturbations_per_eval: int, chunk: int | None) -> int:
    """Rows per pass: as asked for in rows or in perturbations of the whole batch, or automatic.

    One perturbation of a batch whose rows feel each other is what is done there by itself, sample by sample.
    """
    n = inputs[0].shape[0]
    asked = None if perturbations_per_eval is AUTOMATIC else perturbations_per_eval * n
    if chunk is None and asked == n > 1 and forward.row_facts(inputs).together:
        asked = None
    return forward.rows_per_pass(inputs, chunk or asked, n)


def _samples(parts: Iterable[tuple[int, int, int, int]]) -> list[int]:
    """The sample of each row."""
    return [s for _, lo, hi, _ in parts for s in range(lo, hi)]


class Changes:
    """F(x) - F(x with a feature replaced), for any features and samples, in chunks.

    Args:
        forward: what to evaluate.
        inputs: the inputs, batch first.
        baselines: replacement values.
        features: what is replaced together.
        clean: F(x), (samples, K).
        size: rows per forward pass.
        merged: the model gives one value for the whole batch, which then counts as one sample.
        incremental: the engine that computes only what changes, if there is one.

    Attributes:
        samples, outputs: samples and values per sample.
        everything: all features of all samples, in the order in which they are fastest.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        baselines: Sequence[Tensor] | Replacement,
        features: MaskFeatures | Windows,
        clean: Tensor,
        size: int,
        merged: bool = False,
        incremental: Incremental | None = None,
    ):
        self.inputs, self.baselines, self.features, self.clean = inputs, baselines, features, clean
        self.size, self.merged, self.incremental = size, merged, incremental
        self.samples, self.outputs = clean.shape
        self._n = inputs[0].shape[0]
        self._bar: Any = None
        self.everything: list[Run] = [(k, 0, self._n) for k in range(len(features))]
        if incremental is None:
            forward, _ = planned(forward, inputs, rows=self._n * len(features), chunk=size)
            if lower_of(forward) is not None and not merged:
                self._settle(forward)
        else:  # sample by sample
            self.everything = [incremental.row(r) for r in range(self._n * len(features))]
        self._forward = forward

    @property
    def are_lower(self) -> bool:
        """Whether they are differences of scores in lower precision, in which they do not drown."""
        lower = lower_of(self._forward)
        return lower is not None and lower.on

    def _settle(self, forward: Forward) -> None:
        """Let features from all over the first sample run in both precisions first: neighbours differ little."""
        self._forward = forward
        some = torch.linspace(0, len(self.features) - 1, min(_IN_BOTH, len(self.features))).long().unique().tolist()
        passes = dict(forward.passes)
        self._scores([(k, 0, 1, at) for at, k in enumerate(some)], len(some))
        forward.passes.update(passes)  # the comparison is none of the method's

    @contextlib.contextmanager
    def progress(self, what: str, progress: bool | None) -> Iterator[None]:
        """A bar over all features and samples for the evaluations inside, and threads while they go on."""
        with (
            progress_bar(len(self.features) * self._n, what, progress) as self._bar,
            self.incremental or contextlib.nullcontext(),
        ):
            yield

    def sorted(self, pairs: Iterable[tuple[int, int]]) -> list[Run]:
        """Runs of single (feature, sample) pairs, neighbours together."""
        if self.merged:
            return [(k, 0, self._n) for k, _ in sorted(pairs)]
        if self.incremental is not None:
            rank = self._rank
            return [(k, s, s + 1) for k, s in sorted(pairs, key=lambda pair: (pair[1], rank[pair[0]]))]
        return [(k, s, s + 1) for k, s in sorted(pairs)]

    @functools.cached_property
    def _rank(self) -> dict[int, int]:
        return {k: i for i, (k, *_) in enumerate(self.everything[: len(self.features)])}

    def of(self, runs: Sequence[Run]) -> Iterator[tuple[int, int, int, Tensor]]:
        """Changes (samples, K) for each run, in parts where it is long: feature, first sample, last + 1, changes."""
        ends = list(itertools.accumulate(hi - lo for _, lo, hi in runs))

        def parts(start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
            """(feature, first sample, last sample + 1, offset in the chunk) for the rows [start, stop)."""
            for at in range(bisect.bisect_right(ends, start), len(runs)):
                k, lo, hi = runs[at]
                begin = ends[at] - (hi - lo)
                if begin >= stop:
                    return
                first, last = max(start, begin), min(stop, ends[at])
                yield k, lo + first - begin, lo + last - begin, first - start

        def work(start: int, stop: int) -> Tensor:
            return self._scores(list(parts(start, stop)), stop - start)

        step = self._n if self.incremental is None else 1
        for start, stop, out in chunks(ends[-1] if ends else 0, self.size, work, step=step, bar=self._bar):
            here = list(parts(start, stop))
            change = None if self.merged or self.incremental else self.clean[_samples(here)] - out
            for k, lo, hi, at in here:
                if change is not None:
                    yield k, lo, hi, change[at : at + hi - lo]
                elif self.incremental is not None:
                    yield k, lo, hi, self.incremental.clean(lo).reshape(1, -1) - out[at : at + 1]
                else:
                    yield k, 0, 1, self.clean - out

    def _scores(self, parts: Sequence[tuple[int, int, int, int]], rows: int) -> Tensor:
        if self.incremental is not None:
            return self.incremental.selected([(k, lo, hi) for k, lo, hi, _ in parts]).reshape(rows, -1)
        who = torch.tensor(_samples(parts), device=self.inputs[0].device)
        xs, changed = self._replaced(parts, who)
        if self.merged:
            return self._forward.selected(xs, who).reshape(1, -1)
        out = self._forward.changed(xs, who)
        if out.ndim == 0 or out.shape[0] != rows:
            raise MergesBatch
        # A row that is the sample itself changes nothing, whatever another batch's rounding says of its score.
        # The output may lie on another device than the inputs.
        clean = self.clean.index_select(0, who.to(self.clean.device))
        return torch.where(changed[:, None].to(out.device), out.reshape(rows, -1), clean)

    def _replaced(self, parts: Sequence[tuple[int, int, int, int]], who: Tensor) -> tuple[list[Tensor], Tensor]:
        """The rows (R, ...) of some samples (R,) with their features replaced, and whether any differ by it (R,)."""
        changed = torch.zeros(len(who), dtype=torch.bool, device=who.device)
        if self._positions is not None and isinstance(self.baselines, Sequence):  # all rows at once
            which = torch.tensor([k for k, lo, hi, _ in parts for _ in range(lo, hi)], device=who.device)
            made = []
            for x, b, p in zip(self.inputs, self.baselines, self._positions, strict=True):
                mine = p if len(p) == 1 else p.index_select(0, who)
                row, base = (t if len(t) == 1 else t.index_select(0, who) for t in (x, b))
                new = torch.where(mine == expand_rows(which, x), base, row).to(x.dtype)
                made.append(new)
                if new.numel():
                    changed |= (new != row).reshape(len(who), -1).any(1)
            return made, changed
        xs = [x.index_select(0, who) for x in self.inputs]
        for k, lo, hi, at in parts:
            for i in self.features.inputs_of(k):
                changed[at : at + hi - lo] |= _replace(
                    xs[i][at : at + hi - lo], self.baselines, self.features, k, i, lo, hi
                )
        return xs, changed

    @functools.cached_property
    def _positions(self) -> list[Tensor] | None:
        """The number of the feature of every element; None for windows, which overlap."""
        return self.features.positions() if isinstance(self.features, MaskFeatures) else None

    def credited(self, changes: Iterable[tuple[int, int, int, Tensor]]) -> list[Tensor]:
        """Maps (samples * K, ...) per input, of the changes of all features of all samples."""
        clean = self.clean
        dtype = accumulation_dtype(clean.dtype) if clean.is_floating_point() else torch.get_default_dtype()
        if as_captum():
            dtype = torch.float32 if self.features.counts_overlap else clean.dtype
        dtype = dtype if dtype != torch.float64 else widest(self.inputs[0].device)
        if self._positions is not None:
            return self._spread(list(changes), dtype)
        assert isinstance(self.features, Windows)
        credit = _Credit(self.inputs, self.samples, self.outputs, dtype)
        for k, lo, hi, change in changes:
            credit.add(change.to(dtype), self.features, k, lo, hi)
        return credit.result()

    def _spread(self, changes: Sequence[tuple[int, int, int, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        """`credited` for features that share no element: each element has its feature's change."""
        assert self._positions is not None
        pairs = [(s, k) for k, lo, hi, _ in changes for s in range(lo, hi)]
        device = self.inputs[0].device
        values = torch.zeros(self.samples, len(self.features), self.outputs, dtype=dtype, device=device)
        if pairs:
            where = torch.tensor(pairs, device=device).unbind(1)
            values.index_put_(where, torch.cat([change for *_, change in changes]).to(values), accumulate=True)
        values = values.transpose(1, 2)  # (samples, K, features)
        maps = []
        for p in self._positions:
            if len(p) == 1 or self.merged:
                found = values.index_select(2, p[0].reshape(-1))
            else:
                found = values.gather(2, p.reshape(self.samples, 1, -1).expand(-1, self.outputs, -1))
            maps.append(found.reshape(self.samples * self.outputs, *p.shape[1:]))
        return maps

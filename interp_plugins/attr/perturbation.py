"""The perturbation loop: replace a feature by its baseline, run the model, credit the change to the feature.

    attribution(feature) = F(x) - F(x with the feature replaced)

One loop serves disjoint features (FeatureAblation) and overlapping windows (Occlusion, averaged over the windows that
cover an element). No gradient is needed. Cost: one forward row per feature and sample, plus one for F(x).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..core.batching import auto_chunk, chunks, progress_bar
from ..core.errors import ModelError
from ..core.features import MaskFeatures, Windows
from ..core.forward import Forward
from ..core.incremental import Incremental
from ..core.once import MergesBatch, clean_selected
from ..core.plan import planned
from ..core.report import note
from ..core.tensors import accumulation_dtype


class _Credit:
    """Running sums of the changes, per input: (N * K, ...) for K outputs per example."""

    def __init__(self, inputs: Sequence[Tensor], samples: int, outputs: int, dtype: torch.dtype, overlap: bool):
        self.samples, self.outputs = samples, outputs
        shapes = [tuple(x.shape[1:]) for x in inputs]
        self.sums = [
            torch.zeros(samples, outputs, *s, dtype=dtype, device=x.device) for s, x in zip(shapes, inputs, strict=True)
        ]
        self.counts = (
            [torch.zeros(s, device=x.device) for s, x in zip(shapes, inputs, strict=True)] if overlap else None
        )

    def result(self) -> list[Tensor]:
        out = []
        for i, total in enumerate(self.sums):
            if self.counts is not None:
                total = total / self.counts[i].clamp_min(1).to(total.dtype)
            out.append(total.reshape(self.samples * self.outputs, *total.shape[2:]))
        return out


class Replacement(Protocol):
    """Replacement values that depend on the feature."""

    def at(self, k: int, i: int) -> Tensor:
        """For feature k, values of the shape of input i."""
        ...


def _replace(
    x: Tensor,
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    k: int,
    i: int,
    lo: int,
    hi: int,
) -> None:
    """Put the baseline into feature k of input i, in place, for the samples [lo, hi)."""
    baseline = baselines[i] if isinstance(baselines, Sequence) else baselines.at(k, i)
    if isinstance(features, Windows):
        _, box = features.box(k)
        x[(slice(None), *box)] = baseline[(slice(lo, hi), *box)]
        return
    mask = features.masks(k)[i]
    mask = mask[lo:hi] if mask.shape[0] > 1 else mask
    x.copy_(torch.where(mask, baseline[lo:hi], x))


def _add(credit: _Credit, change: Tensor, features: MaskFeatures | Windows, k: int, lo: int, hi: int) -> None:
    """Credit the changes (hi - lo, K) of the samples [lo, hi) to feature k."""
    for i in features.inputs_of(k):
        total = credit.sums[i]
        value = change.reshape(*change.shape, *(1,) * (total.ndim - 2)).to(total)
        if isinstance(features, Windows):
            _, box = features.box(k)
            total[(slice(lo, hi), slice(None), *box)] += value
            if credit.counts is not None and lo == 0:
                credit.counts[i][box] += 1
        else:
            mask = features.masks(k)[i]
            mask = mask[lo:hi] if mask.shape[0] > 1 else mask
            total[lo:hi] += value * mask[:, None].to(total)


def merges_batch(forward: Forward, inputs: Sequence[Tensor]) -> bool:
    """Whether the model gives one value for a batch, whatever its size: seen by sending one sample alone."""
    one = torch.zeros(1, dtype=torch.long, device=inputs[0].device)
    out = clean_selected(forward.of_rows(one), [x[:1] for x in inputs])
    return out.ndim == 0 or out.shape[0] != 1


def perturb(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    *,
    perturbations_per_eval: int = 1,
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
        perturbations_per_eval: features per forward pass; 1 leaves the size to the engine.
        chunk: rows per forward pass; overrides the above.
        progress: None = a bar for long work, True, False.
        what: name for the progress bar.
    """
    n = inputs[0].shape[0]
    explicit = perturbations_per_eval > 1
    size = chunk or (perturbations_per_eval * n if explicit else max(n, auto_chunk(list(inputs))))
    # The unperturbed pass of one sample gives its score as well.
    incremental = Incremental.of(forward, inputs, baselines, features) if n == 1 else None
    clean = clean_selected(forward, inputs, size) if incremental is None else incremental.clean(0)
    per_row = clean.ndim > 0 and clean.shape[0] == n
    note(score=clean if clean.ndim == 1 and per_row else None)
    try:
        if per_row:
            if n > 1:
                incremental = Incremental.of(forward, inputs, baselines, features)
            rows = size if incremental is None or explicit or chunk is not None else incremental.chunk
            clean = clean.reshape(n, -1)
            return _loop(forward, inputs, baselines, features, clean, rows, progress, what, incremental=incremental)
    except MergesBatch:
        pass
    if explicit:
        raise ModelError(
            "When perturbations_per_eval > 1, forward_func's output should be a tensor whose 1st dim grow with the "
            f"input batch size: got shape {tuple(clean.shape)} for {n} examples. Use perturbations_per_eval=1."
        )
    return _loop(forward, inputs, baselines, features, clean.reshape(1, -1), n, progress, what, merged=True)


def _loop(
    forward: Forward,
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor] | Replacement,
    features: MaskFeatures | Windows,
    clean: Tensor,
    size: int,
    progress: bool | None,
    what: str,
    merged: bool = False,
    incremental: Incremental | None = None,
) -> list[Tensor]:
    n, device = inputs[0].shape[0], inputs[0].device
    dtype = accumulation_dtype(clean.dtype) if clean.is_floating_point() else torch.get_default_dtype()
    credit = _Credit(inputs, clean.shape[0], clean.shape[1], dtype, features.counts_overlap)
    if incremental is None:
        forward, _ = planned(forward, inputs, rows=n * len(features), chunk=size)

    def parts(start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """(feature, first sample, last sample + 1, offset in the chunk) for the rows [start, stop)."""
        if incremental is not None:  # sample by sample
            return [(*incremental.row(r), r - start) for r in range(start, stop)]
        out = []
        for k in range(start // n, (stop - 1) // n + 1):
            lo, hi = max(start, k * n) - k * n, min(stop, (k + 1) * n) - k * n
            out.append((k, lo, hi, k * n + lo - start))
        return out

    def work(start: int, stop: int) -> Tensor:
        if incremental is not None:
            return incremental.selected(start, stop).reshape(stop - start, -1)
        rows = torch.arange(start, stop, device=device) % n
        xs = [x.index_select(0, rows) for x in inputs]
        for k, lo, hi, at in parts(start, stop):
            for i in features.inputs_of(k):
                _replace(xs[i][at : at + hi - lo], baselines, features, k, i, lo, hi)
        out = forward.selected(xs, rows)
        if merged:
            return out.reshape(1, -1)
        if out.ndim == 0 or out.shape[0] != stop - start:
            raise MergesBatch
        return out.reshape(stop - start, -1)

    step = n if incremental is None else 1
    with progress_bar(len(features) * n, what, progress) as bar, incremental or contextlib.nullcontext():
        for start, stop, out in chunks(len(features) * n, size, work, step=step, bar=bar):
            for k, lo, hi, at in parts(start, stop):
                if merged:
                    _add(credit, (clean - out).to(dtype), features, k, 0, 1)
                    continue
                before = clean[lo:hi] if incremental is None else incremental.clean(lo).reshape(1, -1)
                _add(credit, (before - out[at : at + hi - lo]).to(dtype), features, k, lo, hi)
    return credit.result()

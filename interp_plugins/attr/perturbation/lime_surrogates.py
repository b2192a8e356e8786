"""What Lime fits, and to what: one surrogate per sample and output, refitted as copies come, with its error.

The error of the coefficients is the jackknife's: the surrogate is fitted again without each tenth of the copies, which
serves any surrogate (Efron and Stein 1981).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.perturb import clean_scores, merges_batch, replaceable
from interp_plugins.attr.shared.average import relative_error
from interp_plugins.core.conventions import as_captum
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Forward
from interp_plugins.core.report import note
from interp_plugins.core.tensors import like

Copies = tuple[Tensor, Tensor, Tensor]
"""Perturbed copies of a sample: interpretable samples (m, d), scores (m, K), weights (m,)."""

_PARTS = 10  # of the copies, left out in turn for the error
_MANY_FEATURES = 10_000


class Switched:
    """The samples of a call, their features and what stands in for these; each sample is a problem of its own.

    Args:
        forward: what to evaluate; its target may leave several values per example.
        inputs: the inputs, batch first.
        baselines: what stands in for a missing feature; as `core.baseline.as_baselines` takes it.
        feature_mask: groups of elements, as `FeatureAblation` takes them.
        template: the caller's inputs, whose layout (tensor or tuple) the user's functions are given.
        chunk: rows per forward pass for the unperturbed scores.

    Attributes:
        d: the number of features.
        clean: F(x) as the model gives it.
        merged: the model gives one value for the whole batch, which then is one problem.
        problems: the rows of each problem: (1,) per sample, or one (N,) if merged.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        baselines: Any,
        feature_mask: Any,
        template: Any,
        chunk: int,
    ):
        self.template = template
        self.inputs, self.baselines = replaceable(forward, inputs, baselines, template, chunk)
        features = MaskFeatures(inputs, feature_mask)
        self.d, self.positions = len(features), features.positions()
        n = inputs[0].shape[0]
        self.clean = clean = clean_scores(forward, inputs, chunk)
        self.merged = clean.ndim == 0 or clean.shape[0] != n or (n > 1 and merges_batch(forward, inputs))
        note(score=clean if clean.ndim == 1 and not self.merged else None)
        everyone = torch.arange(n, device=inputs[0].device)
        self.problems = [everyone] if self.merged else list(everyone.split(1))

    @property
    def single(self) -> bool:
        """Whether there is one score per sample (or one in all)."""
        return self.clean.numel() == max(1, self.clean.shape[0] if self.clean.ndim else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The first dimensions of a map, see `outputs_shape`."""
        return outputs_shape(self.clean, self.merged)

    def parts(self, rows: Tensor) -> tuple[Any, dict[str, Any]]:
        """A problem's inputs, and what perturb_func and the transforms are told about them."""
        masks = [p if p.shape[0] == 1 else p.index_select(0, rows) for p in self.positions]
        known = {
            "num_interp_features": self.d,
            "feature_mask": like(self.template, masks),
            "baselines": like(self.template, [b.index_select(0, rows) for b in self.baselines]),
        }
        return like(self.template, [x.index_select(0, rows) for x in self.inputs]), known

    def maps(self, coefs: Tensor) -> list[Tensor]:
        """Coefficients (problems, K, d) -> maps (*shape, ...) of every input."""
        coefs = coefs.float() if as_captum() else coefs
        return [_spread(coefs, p, self.merged).reshape(*self.shape, *p.shape[1:]) for p in self.positions]


class Coefficients:
    """The surrogates of one problem, one per output, fitted to all copies that have come so far.

    Args:
        fit: (interpretable samples (m, d), scores (m,), weights (m,)) -> coefficients of d entries.
        together: copies that were drawn together; the jackknife leaves them out together.
        estimate: whether to estimate the error, at the cost of ten fits more per output.

    Attributes:
        coefficients: (K, d).
        standard_error: (K, d), if estimated.
        count: copies so far.
    """

    coefficients: Tensor
    standard_error: Tensor

    def __init__(self, fit: Callable[[Tensor, Tensor, Tensor], Tensor], together: int, estimate: bool):
        self.fit, self.together, self.estimate = fit, together, estimate
        self.count = 0
        self._copies: list[Copies] = []

    def add(self, more: Copies) -> None:
        """Fit again, with more copies."""
        self._copies.append(more)
        z, y, w = (torch.cat(column) for column in zip(*self._copies, strict=True))
        self.count = len(z)
        if self.estimate:
            self.standard_error = torch.stack([self._jackknife(z, output, w) for output in y.unbind(1)])
        # Last, so that the user's surrogate is left fitted to all copies.
        self.coefficients = torch.stack([self.fit(z, output, w).reshape(-1) for output in y.unbind(1)])

    def map_error(self) -> Tensor:
        """The bound on the relative L2 error (1,) (`attr/shared/average.py`); infinite where none is estimated."""
        if not self.estimate:
            return torch.full((1,), math.inf, dtype=torch.float64)
        return relative_error(torch.tensor([_PARTS - 1]), [self.standard_error[None]], [self.coefficients[None]])

    def _jackknife(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """Standard error of the coefficients (d,); infinite for fewer than two copies in each part."""
        if len(z) < 2 * _PARTS:
            return torch.full_like(z[0], math.inf)
        part = torch.arange(len(z), device=z.device) // self.together % _PARTS
        without = torch.stack([self.fit(z[part != k], y[part != k], w[part != k]).reshape(-1) for k in range(_PARTS)])
        return (without.var(0, correction=0) * (_PARTS - 1)).sqrt()


def _spread(coefs: Tensor, positions: Tensor, merged: bool) -> Tensor:
    """Coefficients (problems, K, d) at every element of a mask (1 or N, ...): (problems, K, elements)."""
    if positions.shape[0] == 1 or merged:
        return coefs.index_select(2, positions[0].reshape(-1))
    return coefs.gather(2, positions.reshape(len(coefs), 1, -1).expand(-1, coefs.shape[1], -1))


def outputs_shape(clean: Tensor, merged: bool) -> tuple[int, ...]:
    """The first dimensions of a map: (N,), (N, K) for K > 1 outputs per example, those of the one value per batch."""
    if merged:
        return (1, *clean.shape) if clean.ndim == 0 else tuple(clean.shape)
    return tuple(clean.shape) if clean.numel() > clean.shape[0] else (clean.shape[0],)


def warn_of_many(count: int, what: str) -> None:
    """Say when there are more features than a regression can tell apart."""
    if count > _MANY_FEATURES:
        warnings.warn(
            f"{what} fits one coefficient to each of {count} features, which is slow and says little. Group them with "
            "feature_mask (superpixels, words).",
            InterpWarning,
            stacklevel=3,
        )

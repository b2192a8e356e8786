"""Where features lie in a picture, and what replacing them changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.features import MaskFeatures, Windows
from interp_plugins.engine.incremental.regions import Span

MAX_SHARE = 0.4  # features that fill more of the picture than this (on average) are left to the plain engine


class Boxes:
    """Bounding boxes of the features of one input (N, C, H, W), per feature and sample.

    Args:
        x: the input.
        baselines: tensors of its shape (one of them), or an object with `at(k, i)`.
        features: masks or windows.
        top, left, bottom, right: (features, samples or 1) positions, the last two exclusive.
    """

    def __init__(
        self,
        x: Tensor,
        baselines: Any,
        features: MaskFeatures | Windows,
        corners: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    ):
        self.x, self.baselines, self.features = x, baselines, features
        self.top, self.left, self.bottom, self.right = corners

    @classmethod
    def of(cls, x: Tensor, baselines: Any, features: Any) -> Boxes | None:
        """The boxes, or None where the features are spread over the picture."""
        if isinstance(features, Windows):
            found = np.array([[b[1].start, b[2].start, b[1].stop, b[2].stop] for _, b in features.boxes])
            corners = tuple(found[:, i : i + 1] for i in range(4))
        elif isinstance(features, MaskFeatures):
            corners = _bounds(features, x)
        else:
            return None
        boxes = cls(x, baselines, features, corners)  # type: ignore[arg-type]
        area = (boxes.bottom - boxes.top) * (boxes.right - boxes.left)
        return None if area.mean() > MAX_SHARE * x.shape[2] * x.shape[3] else boxes

    def order(self) -> list[int]:
        """Features such that neighbours in the list are neighbours in the picture and of like size (Morton's order)."""
        height, width = (self.bottom - self.top)[:, 0], (self.right - self.left)[:, 0]
        size = np.log2(np.maximum(height, width)).round()
        y = _rank((self.top + self.bottom)[:, 0])
        x = _rank((self.left + self.right)[:, 0])
        code = np.zeros(len(y), dtype=np.int64)
        for bit in range(20):
            code |= ((y >> bit) & 1) << (2 * bit + 1) | ((x >> bit) & 1) << (2 * bit)
        return np.lexsort((code, size)).tolist()

    def _corners(self, k: int, sample: int) -> tuple[int, int, int, int]:
        column = sample if self.top.shape[1] > 1 else 0
        return tuple(int(c[k, column]) for c in (self.top, self.left, self.bottom, self.right))  # type: ignore[return-value]

    def _difference(self, k: int, sample: int) -> tuple[Tensor, int, int]:
        """Replacement minus input (C, h, w) in the box of feature k, and its corner."""
        top, left, bottom, right = self._corners(k, sample)
        baseline = self.baselines[0] if isinstance(self.baselines, Sequence) else self.baselines.at(k, 0)
        here = (sample, slice(None), slice(top, bottom), slice(left, right))
        difference = baseline[here] - self.x[here]
        if isinstance(self.features, Windows):
            channels = self.features.box(k)[1][0]
            if channels.start > 0 or channels.stop < self.x.shape[1]:
                kept = torch.zeros_like(difference)
                kept[channels] = difference[channels]
                difference = kept
        else:
            mask = self.features.masks(k)[0]
            mask = mask[sample if mask.shape[0] > 1 else 0].expand(self.x.shape[1:])[here[1:]]
            difference = torch.where(mask, difference, 0)
        return difference, top, left

    def changes(self, features: Sequence[int], samples: Sequence[int]) -> tuple[Tensor, Span, Span]:
        """What replacing feature r of sample r changes, (R, h, w, C), in boxes of one size inside the picture."""
        corners = np.array([self._corners(k, s) for k, s in zip(features, samples, strict=True)])
        height, width = (corners[:, 2:] - corners[:, :2]).max(0).tolist()
        channels, *extents = self.x.shape[1:]
        delta = self.x.new_zeros(len(features), height, width, channels)
        starts = np.clip(corners[:, :2], 0, np.array([extents[0] - height, extents[1] - width]))
        for r, (k, sample) in enumerate(zip(features, samples, strict=True)):
            difference, top, left = self._difference(k, sample)
            _, h, w = difference.shape
            a, b = top - int(starts[r, 0]), left - int(starts[r, 1])
            delta[r, a : a + h, b : b + w] = difference.permute(1, 2, 0)
        return delta, Span(starts[:, 0], height, extents[0]), Span(starts[:, 1], width, extents[1])

    def perturbed(self, k: int, sample: int) -> Tensor:
        """The sample (1, C, H, W) with feature k replaced."""
        difference, top, left = self._difference(k, sample)
        out = self.x[sample : sample + 1].clone()
        out[0, :, top : top + difference.shape[1], left : left + difference.shape[2]] += difference
        return out


def _rank(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _bounds(features: MaskFeatures, x: Tensor) -> tuple[np.ndarray, ...]:
    """First and last row and column of each feature (features, samples or 1); empty ones get the first position."""
    (numbers,) = features.positions()
    samples, _, height, width = numbers.shape
    k = len(features)
    flat = numbers.reshape(samples, -1).cpu()
    rows = torch.arange(height)[:, None].expand(numbers.shape[1:]).reshape(1, -1).expand_as(flat)
    columns = torch.arange(width).expand(numbers.shape[1:]).reshape(1, -1).expand_as(flat)
    out = []
    for places, how, empty, add in (
        (rows, "amin", height, 0),
        (columns, "amin", width, 0),
        (rows, "amax", -1, 1),
        (columns, "amax", -1, 1),
    ):
        found = torch.full((samples, k), empty).scatter_reduce(1, flat, places, how) + add
        out.append(found.T.numpy())
    missing = out[2] <= out[0]
    out[0][missing] = out[1][missing] = 0
    out[2][missing] = out[3][missing] = 1
    return tuple(out)

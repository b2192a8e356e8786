"""Where a change can reach: intervals of rows (one per perturbation, all of one size) through kernels with a stride.

Along one axis, perturbation r changes a map of `extent` positions only inside [start[r], start[r] + size). A kernel of
size k, stride s, padding p and dilation d reads position i for the outputs ceil((i + p - d (k - 1)) / s) to
floor((i + p) / s). Intervals may hang over the border; what lies outside of the map is not computed where all rows
agree on it, and is set to zero by whoever reads it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FULL_FROM = 0.7  # share of the map from which the whole of it is computed: no gathering, one reference for all rows


@dataclass(frozen=True, eq=False)
class Span:
    """Intervals of one size, one per row, on an axis with `extent` positions."""

    start: np.ndarray
    size: int
    extent: int

    @property
    def full(self) -> bool:
        """Every row covers exactly the axis."""
        return self.size == self.extent and not self.start.any()

    @property
    def hangs(self) -> bool:
        """Some row has positions outside of the map."""
        return bool(self.start.min() < 0 or self.start.max() + self.size > self.extent)

    def whole(self) -> Span:
        """The axis itself for every row."""
        return self if self.full else Span(np.zeros_like(self.start), self.extent, self.extent)

    def aligned(self, stride: int) -> Span:
        """These intervals, or larger ones, so that all starts are equal modulo the stride."""
        rest = self.start % stride
        if (rest == rest[0]).all():
            return self
        return Span(self.start - rest, self.size + int(rest.max()), self.extent)

    def trimmed(self) -> Span:
        """The intervals without what lies outside of the map for every row."""
        before = max(0, -int(self.start.max()))
        after = max(0, int(self.start.min()) + self.size - self.extent)
        if not (before or after) or before + after >= self.size:
            return self
        return Span(self.start + before, self.size - before - after, self.extent)

    def join(self, other: Span) -> Span:
        """Intervals that hold these and the other ones."""
        if other is self or (self.size == other.size and np.array_equal(self.start, other.start)):
            return self
        start = np.minimum(self.start, other.start)
        stop = np.maximum(self.start + self.size, other.start + other.size)
        return Span(start, int((stop - start).max()), self.extent).trimmed()


@dataclass(frozen=True)
class AxisKernel:
    """A sliding kernel along one axis."""

    size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Positions between its first and last tap."""
        return self.dilation * (self.size - 1)


@dataclass(frozen=True)
class AxisStep:
    """One axis of one layer: the outputs to compute, and which inputs they read."""

    given: Span  # the input intervals, moved here first
    out: Span
    before: int  # positions read before each input interval; negative = positions of it that are not read
    after: int


def step(span: Span, kernel: AxisKernel, out_extent: int, *, whole: bool = False) -> AxisStep:
    """What the change of the input intervals can reach; `whole` asks for all outputs."""
    if whole:
        given, out = span.whole(), Span(np.zeros_like(span.start), out_extent, out_extent)
    else:
        given = span.aligned(kernel.stride)
        if kernel.reach + 1 < kernel.stride:  # some positions are read by nobody: let the box hold one that is read
            given = Span(given.start, given.size + kernel.stride - kernel.reach - 1, given.extent)
        first = -((kernel.reach - kernel.padding - given.start) // kernel.stride)
        last = (given.start + given.size - 1 + kernel.padding) // kernel.stride
        out = Span(first, int((last - first).max()) + 1, out_extent).trimmed()
        if out.size >= out_extent:
            return step(span, kernel, out_extent, whole=True)
    read = int(out.start[0]) * kernel.stride - kernel.padding
    before = int(given.start[0]) - read
    after = (out.size - 1) * kernel.stride + kernel.reach + 1 - before - given.size
    return AxisStep(given, out, before, after)


def steps(y: Span, x: Span, kernels: Sequence[AxisKernel], extents: tuple[int, int]) -> tuple[AxisStep, AxisStep]:
    """How boxes pass a layer along both axes; all of the map where they cover most of it anyway."""
    ky, kx = kernels
    sy, sx = step(y, ky, extents[0]), step(x, kx, extents[1])
    if sy.out.size * sx.out.size >= FULL_FROM * extents[0] * extents[1] or (y.full and x.full):
        return step(y, ky, extents[0], whole=True), step(x, kx, extents[1], whole=True)
    return sy, sx

"""How Lime draws copies of its input with features switched off, makes and weighs them.

Orthogonal draws: the columns of a Hadamard matrix, one per feature and with random signs, show each feature and each
two features together equally often; each row is followed by its complement (a fold-over design: Box, Hunter 1961), so
that what two features do together falls out of what each does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.tensors import Inputs, as_tuple, like


def default_perturb_func(
    original_inp: Tensor | tuple[Tensor, ...], generator: torch.Generator | None = None, **kwargs: Any
) -> Tensor:
    """Each feature there or not with probability one half: (1, num_interp_features) of 0 and 1.

    Drawn from `generator`, or from torch's global one.
    """
    half = torch.full((1, kwargs["num_interp_features"]), 0.5)
    return torch.bernoulli(half, generator=generator).long().to(as_tuple(original_inp)[0].device)


def orthogonal_perturb_generator(
    original_inp: Tensor | tuple[Tensor, ...], generator: torch.Generator | None = None, **kwargs: Any
) -> Iterator[Tensor]:
    """Switches as above, (1, num_interp_features) of 0 and 1, each followed by its complement; set after set."""
    count, device = kwargs["num_interp_features"], as_tuple(original_inp)[0].device
    while True:
        yield from _orthogonal_sets(count, 1, generator)[:, None].to(device)


def _orthogonal_sets(count: int, sets: int, generator: torch.Generator | None) -> Tensor:
    """So many sets of switches (sets * 2 * size, count), of 0 and 1, on the CPU."""
    size = _set_size(count)
    drawn = []
    for _ in range(sets):
        columns = 1 + torch.randperm(size - 1, generator=generator)[:count]  # the first column is constant
        signs = (torch.rand(count, generator=generator) < 0.5).long()
        drawn.append((torch.randperm(size, generator=generator), columns, signs))
    rows, columns, signs = (torch.stack(column) for column in zip(*drawn, strict=True))
    switches = _odd(rows[:, :, None] & columns[:, None]) ^ signs[:, None]
    return torch.stack([switches, 1 - switches], 2).reshape(-1, count)  # each, and its complement


def _set_size(count: int) -> int:
    """Rows of the matrix: a power of two above the number of features."""
    return 1 << count.bit_length()


def _odd(numbers: Tensor) -> Tensor:
    """1 for numbers with an odd number of bits, else 0; of the bits r and c share: Sylvester's matrix at (r, c)."""
    for shift in (32, 16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return numbers & 1


def default_from_interp_rep_transform(
    curr_sample: Tensor, original_inputs: Inputs, **kwargs: Any
) -> Tensor | tuple[Tensor, ...]:
    """The input with the features that are off replaced by their baseline (needs `feature_mask` and `baselines`)."""
    xs, masks = as_tuple(original_inputs), as_tuple(kwargs["feature_mask"])
    switches = curr_sample[0].bool()
    return like(
        original_inputs,
        [torch.where(switches[m], x, b) for x, m, b in zip(xs, masks, as_tuple(kwargs["baselines"]), strict=True)],
    )


def get_exp_kernel_similarity_function(
    distance_mode: str = "cosine", kernel_width: float = 1.0
) -> Callable[..., float]:
    """The similarity exp(-distance^2 / (2 width^2)) of an input and a perturbed input.

    Args:
        distance_mode: "cosine" (1 - cosine similarity of the flattened inputs) or "euclidean".
        kernel_width: its width, in units of the distance.
    """
    if distance_mode not in ("cosine", "euclidean"):
        raise InputError(f"distance_mode must be either cosine or euclidean, got {distance_mode!r}.")
    return _ExponentialKernel(distance_mode, kernel_width)


@dataclass(frozen=True)
class _ExponentialKernel:
    """A similarity that can be pickled, with the method that it belongs to."""

    distance_mode: str
    kernel_width: float

    def __call__(self, original: Any, perturbed: Any, _: Any, **kwargs: Any) -> float:
        return float(self.of(original, [p[None] for p in as_tuple(perturbed)]))

    def of(self, original: Any, copies: Sequence[Tensor]) -> Tensor:
        """Similarities (m,) of an original and copies of it, (m, ...) per input, in float64."""
        one = torch.cat([t.reshape(1, -1).float() for t in as_tuple(original)], 1)
        many = torch.cat([t.reshape(len(t), -1).float() for t in copies], 1)
        if self.distance_mode == "cosine":
            distance = 1 - torch.nn.functional.cosine_similarity(one, many, dim=1).cpu().double()
        else:
            distance = (one - many).norm(dim=1).cpu().double()
        return (-distance.square() / (2 * self.kernel_width**2)).exp()


class PlainCopies:
    """Copies that are drawn, made and weighed by the default parts above: many at a time.

    Args:
        original: the inputs of a problem, in the caller's layout.
        known: what the parts are told about it: `num_interp_features`, `feature_mask`, `baselines`.
        similarity: an exponential kernel.
        orthogonal: draw orthogonal sets, instead of each switch alone.
        generator: of the draws.
    """

    def __init__(
        self, original: Any, known: dict[str, Any], similarity: Any, orthogonal: bool, generator: torch.Generator
    ):
        self.original, self.similarity, self.generator = original, similarity, generator
        self.xs, self.masks, self.bases = (as_tuple(v) for v in (original, known["feature_mask"], known["baselines"]))
        self.d = known["num_interp_features"]
        self.orthogonal = orthogonal
        self._left = torch.zeros(0, self.d, dtype=torch.long)  # rows of the last set that are still to come

    @staticmethod
    def serve(perturb: Any, transform: Any, similarity: Any) -> bool:
        """Whether a method's parts are these."""
        return (
            perturb in (default_perturb_func, orthogonal_perturb_generator)
            and transform is default_from_interp_rep_transform
            and isinstance(similarity, _ExponentialKernel)
        )

    def draw(self, count: int) -> Tensor:
        """Switches (count, d), those that the parts draw one by one."""
        if self.orthogonal:
            sets = -(-(count - len(self._left)) // (2 * _set_size(self.d)))
            if sets > 0:
                self._left = torch.cat([self._left, _orthogonal_sets(self.d, sets, self.generator)])
            due, self._left = self._left[:count], self._left[count:]
            return due.to(self.xs[0].device)
        half = torch.full((count, self.d), 0.5)
        return torch.bernoulli(half, generator=self.generator).long().to(self.xs[0].device)

    def made(self, switches: Tensor) -> tuple[list[Tensor], Tensor]:
        """Copies (count, ...) per input, and their weights (count,)."""
        on = switches.bool()
        copies = [
            torch.where(on[:, m.reshape(-1)].reshape(len(on), *m.shape), x, b)
            for x, m, b in zip(self.xs, self.masks, self.bases, strict=True)
        ]
        return copies, self.similarity.of(self.original, copies)

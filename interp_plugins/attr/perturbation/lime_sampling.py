"""How Lime draws copies of its input with features switched off, makes and weighs them.

Orthogonal draws: the columns of a Hadamard matrix, one per feature and with random signs, show each feature and each
two features together equally often; each row is followed by its complement (a fold-over design: Box, Hunter 1961), so
that what two features do together falls out of what each does alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
    size = 1 << count.bit_length()  # of the matrix: a power of two above the number of features
    while True:
        columns = 1 + torch.randperm(size - 1, generator=generator)[:count]  # the first column is constant
        signs = (torch.rand(count, generator=generator) < 0.5).long()
        for row in torch.randperm(size, generator=generator):
            switches = (_odd(row & columns) ^ signs)[None].to(device)
            yield switches
            yield 1 - switches


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
        one, two = (torch.cat([t.reshape(-1).float() for t in as_tuple(v)]) for v in (original, perturbed))
        if self.distance_mode == "cosine":
            distance = 1 - float(torch.nn.functional.cosine_similarity(one, two, dim=0))
        else:
            distance = float((one - two).norm())
        return math.exp(-(distance**2) / (2 * self.kernel_width**2))

"""The random numbers that GradientShap has in Captum, for `captum_numbers()`: of copies of both global generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.shared.average import Draws
from interp_plugins.core.conventions import as_captum


@dataclass(frozen=True)
class CaptumDraws:
    """What Captum draws for n_samples copies of each sample: the noise of torch, baselines and places of NumPy.

    Attributes:
        noise: per input, (N, D, ...) or None.
        picks: per input, which row of its baselines, (N, D): each input has its own, as in Captum.
        alpha: the place on the path, (N, D).
    """

    noise: tuple[Tensor | None, ...]
    picks: tuple[Tensor, ...]
    alpha: Tensor


def captum_draws(
    xs: Sequence[Tensor], sizes: Sequence[int], stds: Sequence[float], draws: Draws, given: bool
) -> CaptumDraws | None:
    """Captum's draws inside of `captum_numbers()`; None outside, and where Captum has no such draws.

    Args:
        xs: the inputs.
        sizes: per input, the number of baselines.
        stds: per input, the standard deviation of the noise.
        draws: how many; a tolerance, mirror images and strata are not Captum's.
        given: whether the caller named a seed or a generator.
    """
    if not as_captum() or given or draws.tol is not None or draws.companions > 1:
        return None
    n, count = len(xs[0]), draws.n_samples
    torchs = torch.Generator()
    torchs.set_state(torch.get_rng_state())
    numpys = np.random.RandomState()
    numpys.set_state(np.random.get_state())  # noqa: NPY002 - the one that Captum draws from
    noise = []
    for x, std in zip(xs, stds, strict=True):
        wide = torch.full((n * count, *x.shape[1:]), std, dtype=torch.get_default_dtype())
        made = torch.normal(0.0, wide, generator=torchs)
        noise.append(made.to(x).unflatten(0, (n, count)) if std else None)
    picks = tuple(torch.from_numpy(numpys.choice(size, n * count)).reshape(n, count) for size in sizes)
    alpha = torch.from_numpy(numpys.uniform(0.0, 1.0, n * count)).to(xs[0].dtype).reshape(n, count)
    return CaptumDraws(tuple(noise), picks, alpha)

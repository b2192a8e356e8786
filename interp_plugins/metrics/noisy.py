"""Normal noise on samples, of (seed, sample, number of the draw) alone: the same for every map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.asking import Questions
from interp_plugins.metrics.draws import mixed

NO_SPREAD = "the sample is constant: noise of its spread is none"


class Noise:
    """Normal noise for samples, draw by draw; numbers of draws are (sample, draw) in order.

    Args:
        questions: the model and the batch.
        sd: standard deviation, as a share of each sample's spread, or in the input's units.
        relative: the former.
        n_draws: draws of each sample.
        numbers: of the samples, for their draws.
    """

    def __init__(self, questions: Questions, sd: float, relative: bool, n_draws: int, numbers: Tensor):
        self.xs, self.n_draws = questions.xs, n_draws
        flat = [x.reshape(questions.n, -1) for x in self.xs]
        self.widths = [one.shape[1] for one in flat]
        spread = [one.amax(1) - one.amin(1) if relative else torch.ones_like(one[:, 0]) for one in flat]
        self.scales = torch.stack(spread, 1) * sd
        draws = torch.arange(n_draws, dtype=torch.int64)
        self.seeds = mixed(numbers.expand(questions.n)[:, None] + mixed(draws)[None]).flatten() & (2**63 - 1)
        self.rows = torch.arange(questions.n).repeat_interleave(n_draws)

    def values(self, at: Tensor) -> list[Tensor]:
        """Noise of draws (B,): (B, D) per input, in the input's dtype."""
        generator, made = torch.Generator(), []
        for seed in self.seeds[at].tolist():
            made.append(torch.randn(sum(self.widths), generator=generator.manual_seed(seed)))
        who = self.rows[at].to(self.scales.device)
        parts = torch.stack(made).to(self.scales.device).split(self.widths, 1)
        return [p.to(x.dtype) * self.scales[who, m, None].to(x.dtype) for m, (p, x) in enumerate(zip(parts, self.xs))]

    def changed(self, at: Tensor) -> list[Tensor]:
        """Samples less their noise."""
        who = self.rows[at].to(self.scales.device)
        return [x[who] - noise.reshape(-1, *x.shape[1:]) for x, noise in zip(self.xs, self.values(at))]


def check_sd(sd: Any) -> float:
    """Refuse a standard deviation that is no positive number."""
    if isinstance(sd, bool) or not isinstance(sd, (int, float)) or not 0 < sd < math.inf:
        raise InputError(f"sd must be a positive number, got {sd!r}.")
    return float(sd)

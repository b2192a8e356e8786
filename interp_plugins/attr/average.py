"""The mean of random draws, the standard error of that mean, and what to say when a tolerance was missed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ..core.batching import check_chunk
from ..core.errors import ConvergenceWarning, InputError
from ..core.report import note
from ..core.tensors import like
from .coalitions import Game


class Average:
    """Running mean of draws (samples, K, d), with the standard error of that mean."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, draw: Tensor) -> None:
        """One more independent draw (Welford's update)."""
        self.count += 1
        step = draw - self.mean
        self.mean = self.mean + step / self.count
        self._squares = self._squares + step * (draw - self.mean)

    def standard_error(self) -> Tensor:
        """Of the mean, per value; infinite after a single draw."""
        if self.count < 2:
            return torch.full_like(self.mean, math.inf)
        return (self._squares / (self.count - 1) / self.count).clamp_min(0).sqrt()

    def map_error(self) -> list[float]:
        """Per sample: the expected L2 error of the values, relative to their L2 norm."""
        error = self.standard_error().flatten(1).norm(dim=1)
        scale = self.mean.flatten(1).norm(dim=1)
        tiny = torch.finfo(scale.dtype).tiny
        return torch.where(error == 0, error, error / scale.clamp_min(tiny)).tolist()


def check_tolerance(tol: float | None, n_samples: int, max_samples: int) -> None:
    """Refuse tolerances and counts that cannot be meant."""
    check_chunk("n_samples", n_samples)
    check_chunk("max_samples", max_samples)
    if tol is not None and not tol > 0:
        raise InputError(f"tol is a relative error of the map, a positive number such as 0.05; got {tol!r}.")


def report_error(average: Average, game: Game, template: Any, tol: float | None, what: str) -> None:
    """Report the standard error reached, and warn where a tolerance was missed."""
    error = like(template, game.maps(average.standard_error()))
    report_reached(average.count, average.map_error(), error, tol, what)


def report_reached(count: int, errors: list[float], standard_error: Any, tol: float | None, what: str) -> None:
    """Report draws, relative error per sample and standard error, and warn where a tolerance was missed."""
    note(n_draws=count, standard_error=standard_error, map_error=errors, per_sample=("map_error",))
    missed = [e for e in errors if tol is not None and not e <= tol]
    if missed:
        warnings.warn(
            f"tol={tol} was not reached for {len(missed)} of {len(errors)} samples with {count} {what}: the estimated "
            f"error of the worst map is {max(missed):.3g}. Raise max_samples or tol, or explain fewer features.",
            ConvergenceWarning,
            stacklevel=4,
        )

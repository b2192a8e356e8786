"""A registered metric as `torchmetrics` has them: state in tensors, gathered by it from all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric as Base

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.accumulate import Metric, id_number, one_value
from interp_plugins.metrics.rows import Judged

_UNNAMED = -1  # ids are never negative


class RowwiseMetric(Base):
    """The mean of a registered metric over samples, each of which counts once.

    Its states are a number and a value per sample, so that a sample that two processes have been given is known.

    Args:
        metric: what judges.
        **options: of `torchmetrics.Metric` (`sync_on_compute`, `dist_sync_on_step`, ...).
    """

    is_differentiable = False
    full_state_update = False
    keys: list[Tensor]
    found: list[Tensor]

    def __init__(self, metric: Metric, **options: Any):
        super().__init__(**options)
        self.metric = metric
        self.add_state("keys", [], dist_reduce_fx="cat")
        self.add_state("found", [], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Direction; None where neither end is better."""
        return self.metric.higher_is_better

    def update(self, exp: Judged, *, ids: Sequence[Any] | Tensor | None = None, **given: Any) -> None:
        """Judge a batch and keep what was found; the arguments are those of `interp_plugins.metrics.Metric.update`.

        Args:
            exp: maps, or an `Explanation`.
            ids: one per sample, the same for a sample wherever it arrives; None: every sample is another one.
            **given: what the metric needs beside the maps.

        Raises:
            InputError: what the metric needs is missing.
        """
        score = self.metric.of(exp, ids=ids, **given)
        keys = [_UNNAMED if ids is None else id_number(key) for key in score.ids]
        self.keys.append(torch.tensor(keys, device=self.device))
        self.found.append(score.values.to(self.device))

    def compute(self) -> Tensor:
        """The mean over the samples that have a value, float64 (); NaN where none has.

        Raises:
            InputError: nothing was judged, or a sample has two values.
        """
        keys, found = (torch.cat([p.reshape(-1) for p in _parts(s)]).cpu() for s in (self.keys, self.found))
        if not len(keys):
            raise InputError(f"{self.metric.name} has judged nothing yet: call update(exp) first.")
        once: dict[tuple[int, int], float] = {}
        for place, (key, value) in enumerate(zip(keys.tolist(), found.tolist())):
            name = (key, place if key == _UNNAMED else 0)
            once[name] = one_value(key, once.get(name, value), value)
        return torch.tensor(_mean(list(once.values())), dtype=torch.float64, device=self.device)


def _parts(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [torch.zeros(0), *state][len(state) > 0 :]


def _mean(values: list[float]) -> float:
    defined = torch.tensor(sorted(v for v in values if v == v), dtype=torch.float64)
    return float(defined.sum() / len(defined)) if len(defined) else float("nan")

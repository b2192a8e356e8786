"""`Metric`: a formula that is updated batch by batch and computed at the end, in any order and grouping.

Its state is a row per sample (value, reason, chance), not a running sum: so a sample that arrives twice counts once,
and medians, intervals and paired differences are there at the end. Nothing depends on batch mates.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins import __version__
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.report import collect
from interp_plugins.core.tensors import as_tuple
from interp_plugins.metrics.registry import ASKING, GIVEN, MetricInfo, metric_info
from interp_plugins.metrics.rows import Judged, maps_of
from interp_plugins.metrics.score import Score
from interp_plugins.metrics.undefined import collect_reasons

UNKNOWN_REASON = "the value is not finite"
_ROUNDING = 1e-4  # relative; float32 maps of one sample differ with the batch it is in
_Row = tuple[Any, str | None, float | None]  # value (or what is kept of a sample), reason, chance


def metric(name: str, **params: Any) -> Metric:
    """A registered metric that accumulates over batches.

    Args:
        name: see `list_metrics`.
        **params: of the metric's function.

    Raises:
        UnknownNameError: a metric or a parameter that there is not, with the nearest known ones.

    Example:
        m = metric("entropy", relative=True)
        m.update(exp)
        m.compute().n  # -> 2
    """
    return Metric(name, **params)


class Metric:
    """A metric with its parameters, and what it found so far.

    Args:
        name: of a registered metric.
        **params: of its function.
    """

    def __init__(self, name: str, **params: Any):
        info = metric_info(name)
        for key in params:
            if key not in info.parameters or key == "ids":
                raise unknown(f"parameter of {info.name}", key, [p for p in info.parameters if p != "ids"])
        self.name, self.params = info.name, params
        self.reset()

    @property
    def info(self) -> MetricInfo:
        """What the registry knows of it."""
        return metric_info(self.name)

    @property
    def kind(self) -> str:
        """What of the maps is judged."""
        return self.info.kind

    @property
    def higher_is_better(self) -> bool | None:
        """Direction; None where neither end is better."""
        info = self.info
        return info.higher_is_better if info.direction is None else info.direction(self.params)

    @property
    def passes(self) -> int:
        """Forward passes of all updates so far."""
        return self._passes

    @property
    def backward_passes(self) -> int:
        """Backward passes of all updates so far."""
        return self._backward

    def reset(self) -> None:
        """Forget all samples that were judged."""
        self._rows: dict[Any, _Row] = {}
        self._numbered = False
        self._passes, self._backward, self._seconds = 0, 0, 0.0

    def update(self, exp: Judged, *, ids: Sequence[Any] | Tensor | None = None, **given: Any) -> Tensor:
        """Judge a batch and keep what was found.

        Args:
            exp: maps, or an `Explanation`.
            ids: one per sample, the same for a sample wherever it arrives; None: samples are numbered as they come.
            **given: what the metric needs beside the maps: `masks=`, `truth=`, `other=` (a second map), or `model=`
                with `inputs=` where maps are given; further arguments go to the metric's function.

        Returns:
            (N,) float64: the batch's values; of a metric of data sets, as they are among the samples so far.

        Raises:
            InputError: what the metric needs is missing; ids that do not fit; a sample seen before with another value.
        """
        n = as_tuple(maps_of(exp))[0].shape[0]
        keys = self._keys(ids, n)
        begun = time.perf_counter()
        with collect_reasons() as reasons, collect() as report:
            values, chances = self._judge(exp, keys, dict(given))
        pooled = self.info.record is not None
        rows = {
            key: (value, reasons.get(i), None) if pooled else _row(value, reasons.get(i), chance)
            for i, (key, value, chance) in enumerate(
                zip(keys, values if pooled else values.tolist(), chances, strict=True)
            )
        }
        self._rows = _joined(self._rows, rows)
        if pooled:
            found = self._values()
            values = torch.tensor([found[key][0] for key in keys], dtype=torch.float64)
        self._seconds += time.perf_counter() - begun
        self._passes += report.get("forward_passes", 0)
        self._backward += report.get("backward_passes", 0)
        return values

    def _keys(self, ids: Sequence[Any] | Tensor | None, n: int) -> list[Any]:
        if self._rows and self._numbered != (ids is None):
            raise InputError("Give ids in every update or in none: numbered samples cannot be told from named ones.")
        self._numbered = ids is None
        keys = list(range(len(self._rows), len(self._rows) + n)) if ids is None else _plain(ids)
        if len(keys) != n:
            raise InputError(f"{len(keys)} ids for {n} samples: give one per sample.")
        return keys

    def _judge(self, exp: Judged, keys: list[Any], given: dict[str, Any]) -> tuple[Any, list[float | None]]:
        """Values (N,), or what is kept of each sample, and what a map without knowledge gets, per sample."""
        info, params = self.info, dict(self.params)
        needed = GIVEN.get(info.needs)
        second = given.pop(needed, None) if needed else None
        if needed and second is None and not (needed == "masks" and getattr(exp, "region", None) is not None):
            raise InputError(f"{self.name} needs {needed}= beside the maps: update(exp, {needed}=...).")
        if "ids" in info.parameters:
            params["ids"] = torch.tensor([id_number(key) for key in keys])
        if info.needs in ASKING:
            inputs = given.pop("inputs", None)
            own = inputs is None and maps_of(exp) is not exp
            if inputs is None and not own:
                raise InputError(f"{self.name} asks the model: give an Explanation, or inputs= beside the maps.")
            arguments: tuple[Any, ...] = (second, exp, None) if own else (second, inputs, exp)
        else:
            arguments = (exp, second) if needed else (exp,)
        for key in given:
            if key not in info.parameters and not (key == "baselines" and info.needs in ASKING):
                raise unknown(f"argument of {self.name}", key, [*filter(None, [needed]), *info.parameters])
        if info.record is not None:
            baselines = given.pop("baselines", None)
            return info.record((*arguments, baselines), **params, **given), [None] * len(keys)
        values = info.function(*arguments, **params, **given)
        if not callable(info.chance):
            return values, [info.chance] * len(keys)
        return values, info.chance(*arguments, **params, **given).tolist()

    def of(self, exp: Judged, *, ids: Sequence[Any] | Tensor | None = None, **given: Any) -> Score:
        """The score of one batch, beside what was kept so far; the arguments are those of `update`."""
        fresh = Metric(self.name, **self.params)
        fresh.update(exp, ids=ids, **given)
        return fresh.compute()

    def _values(self) -> dict[Any, _Row]:
        """Value, reason and chance of each sample, in the order of their ids."""
        rows = dict(sorted(self._rows.items(), key=lambda item: (str(type(item[0])), item[0])))
        if self.info.compare is None:
            return rows
        values, why = self.info.compare([record for record, _, _ in rows.values()], **self.params)
        return {
            key: (value, reason or alone, None)
            for (key, (_, reason, _)), value, alone in zip(rows.items(), values, why, strict=True)
        }

    def compute(self) -> Score:
        """The score of all samples so far.

        Raises:
            InputError: nothing was judged yet.
        """
        if not self._rows:
            raise InputError(f"{self.name} has judged nothing yet: call update(exp) first.")
        rows = self._values()
        chances = [chance for _, _, chance in rows.values() if chance is not None and not math.isnan(chance)]
        return Score(
            self.name,
            torch.tensor([value for value, _, _ in rows.values()], dtype=torch.float64),
            tuple(rows),
            {key: reason for key, (_, reason, _) in rows.items() if reason is not None},
            self.kind,
            self.higher_is_better,
            math.fsum(sorted(chances)) / len(chances) if chances else None,
            dict(self.params),
            self._passes,
            self._seconds,
            self.params.get("seed", 0),
            {"interp_plugins": __version__, "torch": torch.__version__, **self.info.versions},
            self._backward,
        )

    def merge(self, *others: Metric) -> Metric:
        """One metric with the samples of all; a sample that several have counts once. None of them changes.

        Raises:
            InputError: other metrics or parameters, or a sample with two values.
        """
        found = Metric(self.name, **self.params)
        for one in (self, *others):
            if (one.name, one.params) != (self.name, self.params):
                raise InputError(
                    f"{self.name}({self.params}) and {one.name}({one.params}) are two metrics: merge one with its like."
                )
            if not one._rows:
                continue
            if found._rows and found._numbered != one._numbered:
                raise InputError("Samples with ids cannot be merged with numbered ones: give ids in every update.")
            shift = len(found._rows) if one._numbered else None
            rows = one._rows if shift is None else {key + shift: row for key, row in one._rows.items()}
            found._rows, found._numbered = _joined(found._rows, rows), one._numbered
            found._passes, found._seconds = found._passes + one._passes, found._seconds + one._seconds
            found._backward += one._backward
        return found

    def sync(self) -> Metric:
        """The metric of all processes, where `torch.distributed` runs several; else itself.

        Every process must call it. Samples that a sampler gave to two processes (`DistributedSampler` repeats some to
        fill up) count once, if `update` was given their ids.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, self.state_dict())
        parts = [Metric(self.name, **self.params) for _ in states]
        for part, state in zip(parts, states):
            part.load_state_dict(state)
        return parts[0].merge(*parts[1:])

    def state_dict(self) -> dict[str, Any]:
        """What was found so far, in plain Python."""
        return {
            "rows": dict(self._rows),
            "numbered": self._numbered,
            "passes": self._passes,
            "backward": self._backward,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._rows, self._numbered = dict(state["rows"]), state["numbered"]
        self._passes, self._backward, self._seconds = state["passes"], state["backward"], state["seconds"]

    def __repr__(self) -> str:
        params = "".join(f", {key}={value!r}" for key, value in self.params.items())
        return f"metric({self.name!r}{params}) of {len(self._rows)} samples"


def _plain(ids: Sequence[Any] | Tensor) -> list[Any]:
    """Ids as ints and strings, each once.

    Raises:
        InputError: other ids, or one that stands twice.
    """
    keys = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, (int, str)):
            raise InputError(f"An id is an int or a text, got {key!r}.")
    if len(set(keys)) != len(keys):
        raise InputError("An id stands twice in one batch: ids tell samples apart.")
    return keys


def id_number(key: int | str) -> int:
    """A number for draws of a sample: the id, or one that its text decides on every machine."""
    if isinstance(key, int):
        return key
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")


def _row(value: float, reason: str | None, chance: float | None) -> _Row:
    known = reason or UNKNOWN_REASON
    return (value, known if math.isnan(value) else None, chance)


def one_value(key: Any, before: Any, now: Any) -> Any:
    """The value of a sample that was judged twice, in other company: the smaller one of two that rounding tells apart.

    Raises:
        InputError: they are two values.
    """
    if before == now or (before != before and now != now):  # NaN is NaN
        return before
    plain = isinstance(before, float) and isinstance(now, float)
    if plain and abs(before - now) <= _ROUNDING * max(1.0, abs(before), abs(now)):
        return min(before, now)
    raise InputError(
        f"Sample {key!r} has two values, {str(before)[:60]} and {str(now)[:60]}: one id is one sample, with one map."
    )


def _joined(rows: dict[Any, _Row], more: dict[Any, _Row]) -> dict[Any, _Row]:
    """Rows of both; a sample in both has one value."""
    found = {**more, **rows}
    for key in rows.keys() & more.keys():
        found[key] = (one_value(key, rows[key][0], more[key][0]), *rows[key][1:])
    return found

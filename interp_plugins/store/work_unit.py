"""One unit in the making: its samples are explained, and become rows of the table and of the arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from interp_plugins.core import files
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.random import sample_seed
from interp_plugins.core.tensors import all_finite, as_tuple
from interp_plugins.store import arrays, table_parts
from interp_plugins.store.errors import StoreError
from interp_plugins.store.job import Explained, Job, Settings
from interp_plugins.store.layout import Layout, Map, to_json
from interp_plugins.store.source import Failure


class Unit:
    """The rows and maps of a unit in the making.

    Args:
        job: the work.
        layout: the run's layout.
        settings: how it is done.
        samples: the unit's samples.
        alone: whether samples are known to feel each other, so that each is explained alone where nobody said how many
            go together.
    """

    def __init__(self, job: Job, layout: Layout, settings: Settings, samples: range, alone: bool = False):
        self.job, self.layout, self.settings, self.samples = job, layout, settings, samples
        self.alone = alone
        self.rows: list[dict[str, Any]] = []
        self.values = {a.name: arrays.blank(a, len(samples)) for a in layout.arrays}

    def add(self, numbers: list[int], samples: list[Any], reading: float) -> None:
        """Explain the next samples; `reading` is the time in seconds that it took to get them."""
        good = [(i, s) for i, s in zip(numbers, samples) if not isinstance(s, Failure)]
        found: dict[int, dict[str, Any]] = {
            i: {"status": table_parts.FAILED, "error": s.text}
            for i, s in zip(numbers, samples)
            if isinstance(s, Failure)
        }
        found |= self._explained(good)
        for i in numbers:
            row = {"sample": i, "seconds": reading / len(numbers), **found[i]}
            row["seconds"] += sum(v for k, v in row.items() if k.endswith(".seconds") and v is not None)
            if self.job.names is not None:
                row["name"] = str(self.job.names[i])
            self.rows.append(row)

    def _explained(self, good: list[tuple[int, Any]]) -> dict[int, dict[str, Any]]:
        """Rows for samples that could be read; where a batch fails, each of its samples is tried alone."""
        if not good:
            return {}
        numbers = [i for i, _ in good]
        try:
            done = self._done(good)
            if done is None:
                return {i: row for one in good for i, row in self._explained([one]).items()}
            self._check(done.explanations, len(good))
            return {i: self._row(done, at, i) for at, i in enumerate(numbers)}
        except Exception as error:
            if len(good) > 1:
                return {i: row for one in good for i, row in self._explained([one]).items()}
            if self.settings.on_error == "raise" or _is_fatal(error):
                raise
            return {numbers[0]: {"status": table_parts.FAILED, "error": Failure.of(error).text}}

    def _done(self, good: list[tuple[int, Any]]) -> Explained | None:
        """What the job gives for these samples; None where nobody asked for batches and the samples feel each other."""
        chosen = len(good) > 1 and self.settings.batch_size is None
        if chosen and self.alone:
            return None
        done = self.job.explain([s for _, s in good], sample_seed(self.settings.seed, good[0][0]))
        self.alone = chosen and any(exp.meta.get("rows") for exp in done.explanations)
        return None if self.alone else done

    def _check(self, found: Explanations, n: int) -> None:
        if len(found) != len(self.layout.maps):
            raise StoreError(f"{len(found)} maps came, but the run has {len(self.layout.maps)} per sample.")
        for one, exp in zip(self.layout.maps, found):
            wanted = [(one.arrays, as_tuple(exp.attributions))]
            if self.layout.inputs:
                wanted.append((self.layout.inputs, as_tuple(exp.inputs)))
            for kept, many in wanted:
                shapes = [a.shape for a in kept]
                came = [tuple(t.shape[1:]) for t in many]
                if shapes != came or any(t.shape[0] != n for t in many):
                    raise StoreError(
                        f"{one.key}: tensors of shape {came} came, but this run holds {shapes} per sample (as for its "
                        "first one). All samples of a run have one size: resize them in the data set."
                    )

    def _row(self, done: Explained, at: int, number: int) -> dict[str, Any]:
        """The columns of one sample; its maps go into the arrays."""
        slot = number - self.samples.start
        found = done.explanations
        self._check_numbers(found, at)
        spec = found[0].spec
        label = done.labels[at] if done.labels is not None else None
        row: dict[str, Any] = {"status": table_parts.OK, "label": label}
        if done.names is not None:
            row["name"] = str(done.names[at])
        if label is not None and spec.vocab is not None and 0 <= label < len(spec.vocab):
            row["label_name"] = str(spec.label(label))
        for name, column in (("prediction", "prediction"), ("prediction_label", "prediction_label")):
            row[column] = _at(getattr(found[0], name), at, text=name.endswith("label"))
        for one, exp in zip(self.layout.maps, found):
            tensors = as_tuple(exp.attributions)
            for array, tensor in zip(one.arrays, tensors):
                self._keep(array.name, slot, tensor[at])
            for name in ("target", "target_label", "probability", "score"):
                row[table_parts.target_column(name, one.target)] = _at(
                    getattr(exp, name), at, text=name == "target_label"
                )
            row |= {f"{one.key}.{name}": value for name, value in _map_columns(exp, at, one).items()}
        if self.layout.inputs:
            for array, tensor in zip(self.layout.inputs, as_tuple(found[0].inputs)):
                self._keep(array.name, slot, tensor[at])
        return row

    def _check_numbers(self, found: Explanations, at: int) -> None:
        """Refuse maps of a sample that are not finite, or will not be as they are stored; NaN stands for no map."""
        for one, exp in zip(self.layout.maps, found):
            for array, tensor in zip(one.arrays, as_tuple(exp.attributions)):
                if not all_finite(tensor[at]):
                    raise StoreError(f"{one.key}: the map holds NaN or infinite values.")
                if not all_finite(tensor[at].to(getattr(torch, array.dtype))):
                    raise StoreError(
                        f"{one.key}: the map's values reach {tensor[at].abs().max():.3g}, which {array.dtype} cannot "
                        "hold. Begin a run with dtype='float32' or None."
                    )

    def _keep(self, name: str, slot: int, value: torch.Tensor) -> None:
        self.values[name][slot] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _map_columns(exp: Explanation, at: int, one: Map) -> dict[str, Any]:
    n = len(exp)
    tensors = [t[at].double() for t in as_tuple(exp.attributions)]
    count = max(1, sum(t.numel() for t in tensors))
    per_sample = exp.meta.get("per_sample", {})
    params = to_json(exp.params)
    return {
        "baseline_score": _at(exp.baseline_score, at),
        "delta": _at(exp.convergence_delta, at),
        "relative_delta": exp.relative_error(at),
        "sum": float(sum(t.sum().item() for t in tensors)),
        "mean_abs": float(sum(t.abs().sum().item() for t in tensors)) / count,
        "seconds": exp.seconds / n if exp.seconds is not None else None,
        **{k: _passes(exp.meta.get(k), n) for k in ("forward_passes", "backward_passes")},
        **{k: float(per_sample[k][at]) if k in per_sample else None for k in one.measures},
        "params": None if params == one.params else json.dumps(params),
    }


def _passes(count: Any, n: int) -> int | None:
    return None if count is None else round(count / n)


def _at(values: Any, at: int, text: bool = False) -> Any:
    """A column's value for a sample: a number, a text, or None for what is neither."""
    if values is None:
        return None
    value = values[at]
    if text:
        return None if value is None else str(value)
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else None
    return value if isinstance(value, (int, float, np.integer, np.floating)) else None


def _is_fatal(error: BaseException) -> bool:
    """Whether nothing after this error can work: the accelerator is lost, or this machine's disk is full."""
    return type(error).__name__ == "AcceleratorError" or files.no_room(error) is not None

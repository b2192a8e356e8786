"""The work itself: units that are not done yet, sample by sample, written and committed one unit after the other.

Every process takes the units whose number leaves the remainder `rank` when divided by `world_size`, and skips those
that are done. Nothing is shared between processes but the directory, so one that dies costs its unfinished unit only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.batching import progress_bar
from ..core.errors import InputError
from ..core.explanation import Explanation, Explanations
from ..core.guard import preserved_rng
from ..core.tensors import as_tuple
from . import arrays, manifest, parts
from .errors import DiskFullError, StoreError, disk_full, need
from .fingerprint import described, digest
from .layout import Layout, Map, layout_of, to_json
from .manifest import Manifest
from .source import Failure, Seeded, read_batches, sample_seed

_UNITS = 64  # so many units, where the data allow it, keep up to as many processes busy
_LARGEST = 64  # samples of a unit: what a crash costs, and what is held in memory
_PROBES = 8  # samples that are tried to learn the shapes of the maps


@dataclass(frozen=True)
class Explained:
    """What a face gives for a batch.

    Attributes:
        explanations: of the batch.
        labels: ground truth per sample (class indices), or None.
    """

    explanations: Explanations
    labels: Sequence[int | None] | None = None


@dataclass(frozen=True)
class Job:
    """What is to be done; every face (plain torch, fastai, Lightning) makes one.

    Attributes:
        data: the samples: `__getitem__` and `__len__`.
        explain: samples and a seed -> their explanations.
        identity: what makes this run what it is (JSON values): methods, parameters, model.
        draws: whether random numbers are drawn; such samples are explained one by one, each with its own seed.
        names: one per sample, or None.
        options: how samples are read ahead (a DataLoader's arguments).
    """

    data: Any
    explain: Callable[[list[Any], int], Explained]
    identity: dict[str, Any]
    draws: bool = True
    names: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How a run is done; see `explain_dataset`."""

    unit_size: int | None = None
    batch_size: int = 1
    dtype: str | None = None
    save_inputs: bool = True
    seed: int = 0
    on_error: str = "record"
    retry_failed: bool = False
    rank: int | None = None
    world_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("unit_size", "batch_size"):
            value = getattr(self, name)
            if value is None and name == "unit_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a positive int, got {value!r}.")
        if self.dtype not in (None, "float16", "float32", "float64"):
            raise InputError(
                f"dtype must be None (as computed), 'float16', 'float32' or 'float64', got {self.dtype!r}."
            )
        if self.on_error not in ("record", "raise"):
            raise InputError(f"on_error must be 'record' or 'raise', got {self.on_error!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed must be an int, got {self.seed!r}: a run without one could not be resumed.")


def place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which process this is, and of how many: as told, else as torchrun says (RANK, WORLD_SIZE), else the only one.

    Raises:
        InputError: only one of the two, or a rank outside.
    """
    if rank is None and world_size is None:
        told = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        if all(value is not None and value.isdigit() for value in told):
            rank, world_size = int(told[0] or 0), int(told[1] or 1)
        else:
            return 0, 1
    if rank is None or world_size is None:
        raise InputError(f"Give rank and world_size, or neither (got rank={rank}, world_size={world_size}).")
    if not 0 <= rank < world_size:
        raise InputError(f"rank={rank} does not fit world_size={world_size}: it runs from 0 to {world_size - 1}.")
    return rank, world_size


def run(job: Job, path: str | Path, settings: Settings) -> None:
    """Do this process's units of a run, beginning it or going on with it.

    Raises:
        RunDiffersError: the run at `path` is another one.
        DiskFullError: no room left.
        StoreError: `path` cannot be a run directory.
    """
    need("zarr"), need("pyarrow")
    path = Path(path)
    rank, world = place(settings.rank, settings.world_size)
    with preserved_rng(), _room(path, "the manifest"):
        made = _prepare(job, path, settings)
        layout = Layout.from_json(made.layout)
        arrays.create(path, made, layout)
    finished = parts.done(path)
    again = parts.with_failures(path, sorted(finished)) if settings.retry_failed else set()
    mine = [u for u in range(made.units) if u % world == rank and (u not in finished or u in again)]
    quiet = rank > 0 and settings.progress is None
    bar = progress_bar(sum(len(made.samples(u)) for u in mine), "Explaining", False if quiet else settings.progress)
    batch = 1 if job.draws else settings.batch_size
    cut = {u: [made.samples(u)[i : i + batch] for i in range(0, len(made.samples(u)), batch)] for u in mine}
    data = Seeded(job.data, settings.seed, catch=settings.on_error == "record")
    with preserved_rng(), contextlib.closing(bar):
        batches = read_batches(data, [b for u in mine for b in cut[u]], job.options)
        for unit in mine:
            work = _Unit(job, layout, settings, made.samples(unit))
            for _ in cut[unit]:
                begin = time.perf_counter()
                numbers, samples = next(batches)
                work.add(numbers, samples, time.perf_counter() - begin)
                bar.update(len(numbers))
            with _room(path, f"unit {unit} (samples {work.samples.start} to {work.samples.stop - 1})"):
                arrays.write_unit(path, made, unit, work.values)
                parts.commit(path, unit, layout, work.rows)


@contextlib.contextmanager
def _room(path: Path, what: str) -> Iterator[None]:
    """A clear error where there is no room; what was committed before stays."""
    try:
        yield
    except Exception as error:
        why = disk_full(error)
        if why is None:
            raise
        raise DiskFullError(
            f"Writing {what} to {path} failed: {why} ({error}). Everything that was committed before is safe. Make "
            "room (dtype='float16' and save_inputs=False need less, in a new run) and run again with the same "
            "arguments: the run goes on with the units that are missing."
        ) from error


def _prepare(job: Job, path: Path, settings: Settings) -> Manifest:
    """The run's manifest: read and compared, or made from the first sample that can be explained."""
    size = len(job.data)
    if job.names is not None and len(job.names) != size:
        raise InputError(f"names has {len(job.names)} entries for {size} samples; give one per sample, or None.")
    found = manifest.read(path)
    if found is None:
        manifest.check_free(path)
    unit_size = settings.unit_size or (found.unit_size if found else max(1, min(_LARGEST, size // _UNITS)))
    data = Seeded(job.data, settings.seed)
    identity = {
        **job.identity,
        "data": {"size": size, **_data_facts(data, job.names)},
        "seed": settings.seed,
        "unit_size": unit_size,
        "batch_size": 1 if job.draws else settings.batch_size,
        "dtype": settings.dtype,
        "save_inputs": settings.save_inputs,
    }
    if found is not None:
        manifest.check_same(path, found, identity)
        manifest.warn_of_changes(found)
        return found
    layout = layout_of(probe(job, settings), settings.dtype, settings.save_inputs)
    return manifest.publish(path, identity, layout.to_json())


def _data_facts(data: Seeded, names: Sequence[str] | None) -> dict[str, Any]:
    """A fingerprint of the data: of some samples, since reading all of them would take as long as a run."""
    n = len(data)
    chosen = sorted({0, n // 4, n // 2, 3 * n // 4, n - 1})
    contents = [described(data[i]) for i in chosen]
    facts = {"samples": digest(*(repr(c).encode() for c in contents))}
    if names is not None:
        facts["names"] = digest(*(str(n).encode() for n in names))
    return facts


def probe(job: Job, settings: Settings) -> Explanations:
    """The explanations of the first sample that can be explained; wrong arguments are said here, before any work.

    Raises:
        StoreError: none of the first samples can be read.
        Exception: what went wrong with the first one, where none can be explained.
    """
    data = Seeded(job.data, settings.seed)
    reasons = []
    first_error: Exception | None = None
    for i in range(min(_PROBES, len(data))):
        sample = data[i]
        if isinstance(sample, Failure):
            reasons.append(f"sample {i}: {sample.text}")
            continue
        try:
            return job.explain([sample], sample_seed(settings.seed, i)).explanations
        except Exception as error:
            first_error = first_error or error
            reasons.append(f"sample {i}: {Failure.of(error).text}")
    if first_error is not None:
        raise first_error
    raise StoreError(f"None of the first {len(reasons)} samples can be read, so the run is not begun. {reasons[0]}")


class _Unit:
    """The rows and maps of a unit in the making.

    Args:
        job: the work.
        layout: the run's layout.
        settings: how it is done.
        samples: the unit's samples.
    """

    def __init__(self, job: Job, layout: Layout, settings: Settings, samples: range):
        self.job, self.layout, self.settings, self.samples = job, layout, settings, samples
        self.rows: list[dict[str, Any]] = []
        self.values = {a.name: arrays.blank(a, len(samples)) for a in layout.arrays}

    def add(self, numbers: list[int], samples: list[Any], reading: float) -> None:
        """Explain the next samples; `reading` is the time in seconds that it took to get them."""
        good = [(i, s) for i, s in zip(numbers, samples) if not isinstance(s, Failure)]
        found: dict[int, dict[str, Any]] = {
            i: {"status": parts.FAILED, "error": s.text} for i, s in zip(numbers, samples) if isinstance(s, Failure)
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
            done = self.job.explain([s for _, s in good], sample_seed(self.settings.seed, numbers[0]))
            self._check(done.explanations, len(good))
            return {i: self._row(done, at, i) for at, i in enumerate(numbers)}
        except Exception as error:
            if len(good) > 1:
                return {i: row for one in good for i, row in self._explained([one]).items()}
            if self.settings.on_error == "raise" or _is_fatal(error):
                raise
            return {numbers[0]: {"status": parts.FAILED, "error": Failure.of(error).text}}

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
        spec = found[0].spec
        label = done.labels[at] if done.labels is not None else None
        row: dict[str, Any] = {"status": parts.OK, "label": label}
        if label is not None and spec.vocab is not None and 0 <= label < len(spec.vocab):
            row["label_name"] = str(spec.label(label))
        for name, column in (("prediction", "prediction"), ("prediction_label", "prediction_label")):
            row[column] = _at(getattr(found[0], name), at, text=name.endswith("label"))
        for one, exp in zip(self.layout.maps, found):
            tensors = as_tuple(exp.attributions)
            for array, tensor in zip(one.arrays, tensors):
                self._keep(array.name, slot, tensor[at])
            for name in ("target", "target_label", "probability", "score"):
                row[parts.target_column(name, one.target)] = _at(getattr(exp, name), at, text=name == "target_label")
            row |= {f"{one.key}.{name}": value for name, value in _map_columns(exp, at, one).items()}
        if self.layout.inputs:
            for array, tensor in zip(self.layout.inputs, as_tuple(found[0].inputs)):
                self._keep(array.name, slot, tensor[at])
        return row

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
        "relative_delta": _at(exp.relative_delta, at),
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
    return type(error).__name__ == "AcceleratorError" or disk_full(error) is not None

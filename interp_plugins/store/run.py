"""The work itself: units that are not done yet, sample by sample, written and committed one unit after the other.

Every process takes the units whose number leaves the remainder `rank` when divided by `world_size`, and skips those
that are done. A thread writes and commits a unit while the next is explained, so a process holds two units at most.
Nothing is shared between processes but the directory, so one that dies costs those two only; Ctrl-C and errors let the
thread finish first.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.random import sample_seed
from interp_plugins.store import arrays, check, manifest, table_parts
from interp_plugins.store.behind import Behind
from interp_plugins.store.errors import DamagedError, StoreError, need, writing
from interp_plugins.store.fingerprint import described, digest
from interp_plugins.store.job import Job, Settings, place
from interp_plugins.store.layout import Layout, layout_of
from interp_plugins.store.manifest import Manifest
from interp_plugins.store.source import Failure, Seeded, read_batches
from interp_plugins.store.work_unit import Unit

_UNITS = 8  # so many units at least, and as many as processes: what is written costs by the unit
_LARGEST = 64  # samples of a unit: what a crash costs, and what is held in memory
_PROBES = 8  # samples that are tried to learn the shapes of the maps


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
    with preserved_rng():
        made = _prepare(job, path, settings)
    layout = Layout.from_json(made.layout)
    with writing(path, "the arrays"):
        files.sweep(path)
        files.sweep(path / table_parts.FOLDER)
        arrays.create(path, made, layout)
    mine, metadata = _to_do(path, made, layout, range(rank, made.units, world), settings.retry_failed)
    quiet = rank > 0 and settings.progress is None
    bar = progress_bar(sum(len(made.samples(u)) for u in mine), "Explaining", False if quiet else settings.progress)
    batch = _together(job, made.identity.get("batch_size"), layout)
    work = _Work(job, layout, settings, path, made, metadata, f"{rank} of {world}")
    with preserved_rng(), contextlib.closing(bar):
        cut = {u: [made.samples(u)[i : i + batch] for i in range(0, len(made.samples(u)), batch)] for u in mine}
        _explain(work, cut, bar)


@dataclass(frozen=True)
class _Work:
    """What the units of a process have in common: the run, where it lies, its descriptions of arrays, and the rank."""

    job: Job
    layout: Layout
    settings: Settings
    path: Path
    made: Manifest
    metadata: Mapping[str, str]
    rank: str

    def write(self, unit: Unit) -> bool:
        """Write a unit and commit it. False: another process has done so in the meantime."""
        number = unit.samples.start // self.made.unit_size
        with writing(self.path, f"unit {number} (samples {unit.samples.start} to {unit.samples.stop - 1})"):
            shards = arrays.write_unit(self.path, self.made, number, unit.values)
            return table_parts.commit(self.path, number, self.made, self.layout, unit.rows, shards, self.metadata)

    def tell(self, unit: Unit, mine: bool) -> None:
        """Warn where another process has done a unit."""
        if not mine:
            warnings.warn(
                f"Unit {unit.samples.start // self.made.unit_size} of the run at {self.path} was done by another "
                f"process in the meantime: more than one has rank {self.rank}. Their results are equal and nothing is "
                "lost, but work is done twice; give each process a rank of its own.",
                InterpWarning,
                stacklevel=6,
            )


def _explain(work: _Work, cut: Mapping[int, Sequence[range]], bar: Any) -> None:
    """Explain units, of which the last one is written meanwhile.

    Args:
        work: what they have in common.
        cut: unit -> its samples in batches.
        bar: is told of every batch.
    """
    data = Seeded(work.job.data, work.settings.seed, catch=work.settings.on_error == "record")
    batches = read_batches(data, [b for many in cut.values() for b in many], work.job.options)
    alone = False
    with Behind(work.write, work.tell) as writer:
        for number, many in cut.items():
            unit = Unit(work.job, work.layout, work.settings, work.made.samples(number), alone)
            twice = False
            for _ in many:
                begin = time.perf_counter()
                numbers, samples = next(batches)
                writer.look()
                twice = twice or table_parts.path_of(work.path, number).exists()
                if not twice:
                    unit.add(numbers, samples, time.perf_counter() - begin)
                bar.update(len(numbers))
            alone = unit.alone
            if twice:
                work.tell(unit, False)
            else:
                writer.hand(unit)


def _together(job: Job, batch_size: int | None, layout: Layout) -> int:
    """How many samples are explained together: as the run began, else as many as are no burden to hold.

    It follows from the run's shapes and the device, so that an interrupted run goes on in the same batches.
    """
    if job.draws or batch_size is not None:
        return 1 if job.draws else batch_size or 1
    if not job.together:
        return 1
    return max(1, min(_LARGEST, job.held // max(math.prod(a.shape) for a in layout.arrays)))


def _to_do(
    path: Path, made: Manifest, layout: Layout, mine: range, retry_failed: bool
) -> tuple[list[int], dict[str, str]]:
    """This process's units that are missing, damaged or to be tried again; none of them counts as done any more.

    Returns:
        The units, and what the arrays' descriptions are.
    """
    whole, damaged = check.units(path, table_parts.done(path) & set(mine), made, layout, deep=True)
    recorded = next((part.metadata for part in whole.values() if part.metadata), None)
    with writing(path, "the arrays"):
        arrays.mend(path, made, layout, recorded or _recorded(path, damaged, made, layout))
        if any("zarr.json" in why for why in damaged.values()):  # it is mended: what is wrong beside it?
            whole, damaged = check.units(path, [*whole, *damaged], made, layout, deep=True)
        check.warn(path, damaged, "They are done again.", level=4)
        again = {u for u, part in whole.items() if retry_failed and table_parts.has_failures(part)}
        for unit in again | set(damaged):
            table_parts.discard(path, unit)
    metadata = {a.name: arrays.described(path, a.name) or "" for a in layout.arrays}
    return [u for u in mine if u not in whole or u in again], metadata


def _recorded(path: Path, damaged: Iterable[int], made: Manifest, layout: Layout) -> dict[str, str]:
    """What the arrays' descriptions were, from parts whose unit is damaged but that are whole themselves."""
    for unit in damaged:
        with contextlib.suppress(DamagedError):
            return dict(table_parts.load(path, unit, made, layout).metadata)
    return {}


def _prepare(job: Job, path: Path, settings: Settings) -> Manifest:
    """The run's manifest: read and compared, or made from the first sample that can be explained."""
    size = len(job.data)
    if job.names is not None and len(job.names) != size:
        raise InputError(f"names has {len(job.names)} entries for {size} samples; give one per sample, or None.")
    found = manifest.read(path)
    if found is None:
        manifest.check_free(path)
    world = place(settings.rank, settings.world_size)[1]
    least = max(_UNITS, world)
    unit_size = settings.unit_size or (found.unit_size if found else _even(size, least, world))
    data = Seeded(job.data, settings.seed)
    identity = {
        **job.identity,
        "data": {"size": size, **_data_facts(data, job.names)},
        "seed": settings.seed,
        "unit_size": unit_size,
        "batch_size": 1 if job.draws else settings.batch_size or (found.identity.get("batch_size") if found else None),
        "dtype": settings.dtype,
        "save_inputs": settings.save_inputs,
    }
    if found is not None:
        manifest.check_same(path, found, identity)
        manifest.warn_of_changes(found)
        return found
    first = probe(job, settings)
    layout = layout_of(first, settings.dtype, settings.save_inputs)
    made = {
        name: {one.key: exp.meta.get(name) for one, exp in zip(layout.maps, first, strict=True)}
        for name in ("engine", "precision")
    }
    with writing(path, "the manifest"):
        return manifest.publish(path, identity, layout.to_json(), made)


def _even(size: int, least: int, world: int) -> int:
    """Samples of a unit, such that processes of one speed end together: there are as many units for each of them."""
    units = -(-size // max(1, min(_LARGEST, size // least)))
    return -(-size // (-(-units // world) * world))


def _data_facts(data: Seeded, names: Sequence[str] | None) -> dict[str, Any]:
    """A fingerprint of the data: of some samples, since reading all of them would take as long as a run."""
    n = len(data)
    chosen = sorted({0, n // 4, n // 2, 3 * n // 4, n - 1})
    contents = [described(data[i]) for i in chosen]
    facts = {"samples": digest(*(repr(c).encode() for c in contents))}
    if names is not None:
        facts["names"] = digest(*(str(n).encode("utf-8", "surrogatepass") for n in names))
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

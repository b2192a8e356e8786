"""`ExplanationStore`: a run read back, sample by sample, as a table, or as arrays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp_plugins.api.binding import canonical_name, variant
from interp_plugins.core.errors import InputError, InputTypeError, concise, unknown
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.metrics.scores import Scores
from interp_plugins.store import arrays, check, manifest, table_parts
from interp_plugins.store.errors import DamagedError, StoreError, need
from interp_plugins.store.fingerprint import digest
from interp_plugins.store.judging import Judgement, StoredMaps, evaluated
from interp_plugins.store.layout import Array, Layout, Map
from interp_plugins.store.query import condition, summary
from interp_plugins.store.restore import restored
from interp_plugins.store.shards import AGAIN

if TYPE_CHECKING:
    import pandas as pd


class ExplanationStore:
    """The explanations of a data set, in a run directory that `explain_dataset` made.

    A run that is not finished can be read as far as it is; `missing` names the units that are not there. Samples keep
    the numbers that they have in the data set, in selections too.

    Args:
        path: the run directory.

    Attributes:
        path: the run directory.
        manifest: what the run is: methods, parameters, model, data, seed, versions.
        damaged: units that are not what was written, and what is wrong with them; they count as missing. A store looks
            at parts and at the sizes of shards when it is made, at a shard's digest when it is first read, and at
            everything in `verify`.

    Raises:
        StoreError: no run, or one of another version.

    Example:
        explain_dataset(model, dataset, "run", methods="ig", target="label")
        store = ExplanationStore("run")
        store[17]["ig"].show()
        store.where(correct=False, probability=(0.9, None)).table()
        store.summary(by="label")
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        found = manifest.read(self.path)
        if found is None:
            raise StoreError(
                f"No run of explanations at {self.path}: there is no {manifest.NAME}. explain_dataset(model, data, "
                "path) makes one."
            )
        self.manifest = found
        self._layout = Layout.from_json(found.layout)
        self._parts: dict[int, table_parts.Part] = {}  # of the units that are whole
        self._shards: dict[int, Any] = {}  # the same units' shards, which open arrays look at
        self._table: Any = None
        self._selected: Any = None
        self._open: dict[str, Any] = {}
        self.damaged: dict[int, str] = {}
        self._look(level=3)

    def refresh(self) -> ExplanationStore:
        """Look again which units are there, while a run is going on. Returns itself."""
        self._look(level=3)
        return self

    def verify(self) -> dict[int, str]:
        """Read all that is on the disk and compare it with what was written: parts, shards, descriptions of arrays.

        Returns:
            What is wrong, by unit; such units count as missing (`missing`), and `explain_dataset` with the same
            arguments does them again. Empty: every unit that is done is as it was written. Units that were written
            before parts held digests are compared as far as that can be done (`unchecked`).

        Example:
            store = explain_dataset(model, dataset, "run", methods="ig")
            len(store.verify())  # -> 0
        """
        self._look(level=3, deep=True)
        return dict(self.damaged)

    def _look(self, *, level: int, deep: bool = False) -> None:
        """Read the parts; of units that are damaged nothing is kept."""
        there = table_parts.done(self.path) & set(range(self.manifest.units))
        before = self.damaged
        parts, self.damaged = check.units(self.path, there, self.manifest, self._layout, deep=deep)
        if self.damaged and self.damaged != before:
            check.warn(self.path, self.damaged, "explain_dataset with the same arguments does them again.", level=level)
        self._parts = parts
        self._table = table_parts.joined([parts[u].table for u in sorted(parts)], self._layout)
        self._shards.clear()
        self._shards.update({u: part.shards for u, part in parts.items()})

    # -- what is there ---------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of samples of the whole run, done or not."""
        return self.manifest.size

    @property
    def methods(self) -> list[str]:
        """The names of the maps: methods, with a number where one was asked for several times."""
        return [m.key for m in self._layout.maps]

    @property
    def missing(self) -> list[int]:
        """Numbers of the units that are not done, or damaged."""
        return [u for u in range(self.manifest.units) if u not in self._parts]

    @property
    def unchecked(self) -> list[int]:
        """Numbers of the units that were written before parts held digests: damage to them may not be noticed."""
        return [u for u, part in self._parts.items() if part.shards is None]

    @property
    def complete(self) -> bool:
        """Whether every unit is done."""
        return not self.missing

    @property
    def samples(self) -> list[int]:
        """Numbers of the samples that have maps, in the selection."""
        table = self.table()
        return [i for i, s in zip(table["sample"].to_pylist(), table["status"].to_pylist()) if s == table_parts.OK]

    @property
    def failed(self) -> dict[int, str]:
        """The samples that failed, in the selection, and why."""
        table = self.table()
        columns = (table[name].to_pylist() for name in ("sample", "status", "error"))
        return {i: error for i, status, error in zip(*columns) if status != table_parts.OK}

    def __len__(self) -> int:
        """Number of samples that have maps, in the selection."""
        return len(self.samples)

    def __repr__(self) -> str:
        count = f"{len(self)} of {self.size} samples"
        state = "" if self.complete else f", {len(self.missing)} of {self.manifest.units} units missing"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"ExplanationStore({str(self.path)!r}: {count}, {', '.join(self.methods)}{state}{failed})"

    # -- samples -----------------------------------------------------------------------------------------------

    def __getitem__(self, i: int) -> Explanations:
        """All maps of the data set's sample i, as `explain` gave them (baselines are not kept).

        Raises:
            IndexError: no such sample in the data set.
            StoreError: its unit is missing, or the sample failed.
        """
        if isinstance(i, slice):
            return self.load(list(range(*i.indices(self.size))))
        return self.load([i])

    def __iter__(self) -> Iterator[Explanations]:
        return (self[i] for i in self.samples)

    def load(self, samples: Sequence[int]) -> Explanations:
        """Several samples together: one `Explanation` of N samples per method and target.

        Args:
            samples: their numbers in the data set.
        """
        numbers = [self._number(i) for i in samples]
        if not numbers:
            raise InputError("No samples are asked for; give their numbers in the data set.")
        if not self._layout.inputs:
            raise StoreError(
                "This run keeps no inputs (save_inputs=False), so its maps cannot be shown as explanations. "
                "store.array(method) and store.table() have what is there."
            )
        table = self._rows(numbers)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        inputs = self._read(self._layout.inputs, numbers, self._layout.inputs_several)
        return Explanations([self._explanation(one, numbers, columns, inputs) for one in self._layout.maps])

    def _explanation(self, one: Map, numbers: Sequence[int], columns: dict[str, list[Any]], inputs: Any) -> Explanation:
        maps = self._read(one.arrays, numbers, one.several)
        return restored(one, numbers, columns, inputs, maps, self._layout, self.manifest)

    def _number(self, i: Any) -> int:
        if isinstance(i, bool) or not isinstance(i, (int, np.integer)):
            raise InputTypeError(f"A sample is asked for by its number in the data set, got {i!r}.")
        if not -self.size <= i < self.size:
            raise IndexError(f"Sample {i} asked for, but the run has {self.size} samples.")
        number = int(i) % self.size
        unit = number // self.manifest.unit_size
        if unit in self.damaged:
            raise DamagedError(f"Sample {number} belongs to unit {unit}: {self.damaged[unit]}. {AGAIN}")
        if unit not in self._parts:
            raise StoreError(
                f"Sample {number} belongs to unit {unit}, which is not done (missing: {_some(self.missing)}). Run "
                "explain_dataset again with the same arguments to go on."
            )
        return number

    def _rows(self, numbers: Sequence[int]) -> Any:
        """The table's rows of some samples, in this order."""
        sizes = {u: at for at, u in enumerate(sorted(self._parts))}
        unit_size = self.manifest.unit_size
        rows = self._table.take([sizes[i // unit_size] * unit_size + i % unit_size for i in numbers])
        for i, status, error in zip(numbers, rows["status"].to_pylist(), rows["error"].to_pylist()):
            if status != table_parts.OK:
                raise StoreError(
                    f"Sample {i} has no maps: {error}. store.failed lists all such samples; retry_failed=True does "
                    "their units again."
                )
        return rows

    def _read(self, wanted: Sequence[Array], numbers: Sequence[int], several: bool) -> Any:
        tensors = []
        for array in wanted:
            source = self.array(array.name)
            tensors.append(torch.from_numpy(np.stack([np.asarray(source[i]) for i in numbers])))
        return tuple(tensors) if several else tensors[0]

    # -- arrays and tables ---------------------------------------------------------------------------------------

    def array(self, method: str = "") -> Any:
        """A map of all samples as a Zarr array (samples, ...); rows that are missing or failed are NaN.

        Args:
            method: name or alias of a method, "inputs", or "name/j" for one of several tensors; may be left out where
                there is one method.
        """
        names = {a.name for a in self._layout.arrays}
        name = method
        if not method and len(self._layout.maps) == 1:
            name = self._layout.maps[0].arrays[0].name
        if name not in names and method:
            name = self._map(method).arrays[0].name
        if name not in names:
            raise unknown("array of this run", method, sorted(names))
        if name not in self._open:
            self._open[name] = arrays.open_array(self.path, name, self._shards)
        return self._open[name]

    def _map(self, method: str) -> Map:
        full = canonical_name(method, default=method)
        asked = {method, full, variant(full, "layer") or full}
        for one in self._layout.maps:
            if asked & {one.key, one.title}:
                return one
        raise unknown("method in this run", method, [*self.methods, *(a.name for a in self._layout.inputs)])

    def table(self) -> Any:
        """One row per sample that is done (in the selection), in the order of the data, as a `pyarrow.Table`."""
        return self._table if self._selected is None else self._table.filter(self._selected)

    def to_df(self) -> pd.DataFrame:
        """`table()` as a pandas DataFrame."""
        frame: pd.DataFrame = _frame(self.table())
        return frame

    def where(self, *conditions: Any, **columns: Any) -> ExplanationStore:
        """Those samples that meet all conditions, as a store over the same run.

        Args:
            *conditions: pyarrow expressions, such as `pyarrow.compute.field("score") > 3`.
            **columns: a column's value; a list or set of values; or a range `(low, high)`, both ends included, None
                for an open end. `label`, `prediction` and `target` take numbers or class names; `correct=True` means
                that the prediction is the label.

        Raises:
            UnknownNameError: no such column, with the nearest names.
        """
        pc = need("pyarrow.compute")
        found = copy.copy(self)
        for one in (*conditions, *(condition(self._layout, name, wanted) for name, wanted in columns.items())):
            found._selected = one if found._selected is None else found._selected & one
        if found._selected is not None and not isinstance(found._selected, pc.Expression):
            raise InputTypeError(f"where() takes pyarrow expressions and columns by name, got {found._selected!r}.")
        found.table()  # wrong conditions are said here
        return found

    def summary(self, by: str | None = None) -> pd.DataFrame:
        """Counts, accuracy, probability and what each method's maps are like, in all or per group.

        Args:
            by: a column, such as "label", "prediction" or "status"; classes are shown by name where known.

        Returns:
            A row per group: samples, failed, accuracy, mean probability and score; and per method the median
            completeness error, the mean size of an attribution and the mean seconds and passes per sample.
        """
        return summary(self.to_df(), self.methods, by)

    # -- metrics -------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        metrics: Any = None,
        *,
        model: Callable[..., Any] | None = None,
        target: Any = None,
        masks: Any = None,
        truth: Any = None,
        baselines: Any = None,
        features: Any = None,
        controls: Sequence[str] = (),
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        progress: bool | None = None,
    ) -> Scores:
        """Judge the stored maps by metrics, in the selection; nothing is explained anew.

        Scores are kept in the run directory (`scores/`), unit by unit: the same call goes on where it was interrupted,
        judges what the run has gained since, and otherwise reads. Values are those of `interp_plugins.evaluate` on the
        same maps, whatever the units and the number of processes.

        Args:
            metrics: names, (name, parameters), `metric(...)` objects, or a mapping name -> parameters; None:
                `gini_index`, with a model `srg`, and with masks or truth those that need them.
            model: the model that was explained, for metrics that ask it; its weights are compared with the run's, its
                output with the scores that were explained. It gets the stored inputs.
            target: what was explained, where it was no class: a function output -> (N,), `Probability(c)`, ...
            masks: where the thing lies: one per sample of the data (see `metrics.masks.FORMS`), or a dict by number.
            truth: what is true of the elements: one per sample of the data, or a dict by number.
            baselines: what removed parts are replaced by, as for `interp_plugins.explain`. None: black for normalised
                pictures, else zeros.
            features: numbers of what goes together where parts are removed, as for `removal_curves`.
            controls: maps that ignore the model, judged beside: "control.random", "control.constant",
                "control.input", "control.edges", "control.centre".
            seed: of all draws.
            rank: number of this process, from 0. None: torchrun's RANK, else 0.
            world_size: number of processes. None: torchrun's WORLD_SIZE, else 1.
            progress: None = a bar for long work, True, False.

        Returns:
            `Scores` by the run's names of maps and by the samples' numbers, of what is there; other processes may still
            be at work.

        Raises:
            InputError: what a metric needs is missing, or another model than the one that was explained.
            StoreError: the run keeps no inputs, or scores cannot be written.

        Example:
            store = explain_dataset(model, dataset, "run", methods=("ig", "saliency"))
            scores = store.evaluate(["gini_index", "srg"], model=model, controls=["control.random"])
            scores["integrated_gradients", "srg"].n
        """
        with concise():
            wanted = Judgement(metrics, model, target, masks, truth, baselines, features, tuple(controls), seed)
            there = set(self.samples)
            samples = {u: [i for i in self.manifest.samples(u) if i in there] for u in self._parts}
            written = {u: digest(json.dumps(p.shards, sort_keys=True).encode()) for u, p in self._parts.items()}
            stored = StoredMaps(self.path, self.manifest, self._by_key, samples, written, self.missing)
            return evaluated(stored, wanted, rank, world_size, progress)

    def _by_key(self, numbers: Sequence[int]) -> dict[str, Explanation]:
        return dict(zip(self.methods, self.load(numbers), strict=True))


def _frame(table: Any) -> Any:
    need("pandas")
    return table.to_pandas()


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > 8 else "")

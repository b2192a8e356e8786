"""`ExplanationStore`: a run read back, sample by sample, as a table, or as arrays."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, InputTypeError, unknown
from ..core.explanation import Explanation, Explanations
from ..core.registry import canonical_name
from . import arrays, manifest, parts
from .errors import StoreError, need
from .layout import Array, Layout, Map, from_json
from .source import sample_seed

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

    Raises:
        StoreError: no run, or one of another version.

    Example:
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
        self._done: set[int] = set()
        self._table: Any = None
        self._selected: Any = None
        self._open: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> ExplanationStore:
        """Look again which units are there, while a run is going on. Returns itself."""
        done = parts.done(self.path)
        if done != self._done or self._table is None:
            self._done = done
            self._table = parts.read(self.path, sorted(done), self._layout)
        return self

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
        """Numbers of the units that are not done."""
        return [u for u in range(self.manifest.units) if u not in self._done]

    @property
    def complete(self) -> bool:
        """Whether every unit is done."""
        return not self.missing

    @property
    def samples(self) -> list[int]:
        """Numbers of the samples that have maps, in the selection."""
        table = self.table()
        return [i for i, s in zip(table["sample"].to_pylist(), table["status"].to_pylist()) if s == parts.OK]

    @property
    def failed(self) -> dict[int, str]:
        """The samples that failed, in the selection, and why."""
        table = self.table()
        columns = (table[name].to_pylist() for name in ("sample", "status", "error"))
        return {i: error for i, status, error in zip(*columns) if status != parts.OK}

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

    def _number(self, i: Any) -> int:
        if isinstance(i, bool) or not isinstance(i, (int, np.integer)):
            raise InputTypeError(f"A sample is asked for by its number in the data set, got {i!r}.")
        if not -self.size <= i < self.size:
            raise IndexError(f"Sample {i} asked for, but the run has {self.size} samples.")
        number = int(i) % self.size
        unit = number // self.manifest.unit_size
        if unit not in self._done:
            raise StoreError(
                f"Sample {number} belongs to unit {unit}, which is not done (missing: {_some(self.missing)}). Run "
                "explain_dataset again with the same arguments to go on."
            )
        return number

    def _rows(self, numbers: Sequence[int]) -> Any:
        """The table's rows of some samples, in this order."""
        sizes = {u: at for at, u in enumerate(sorted(self._done))}
        unit_size = self.manifest.unit_size
        rows = self._table.take([sizes[i // unit_size] * unit_size + i % unit_size for i in numbers])
        for i, status, error in zip(numbers, rows["status"].to_pylist(), rows["error"].to_pylist()):
            if status != parts.OK:
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

    def _explanation(
        self, one: Map, numbers: Sequence[int], columns: Mapping[str, list[Any]], inputs: Any
    ) -> Explanation:
        maps = self._read(one.arrays, numbers, one.several)
        first = maps[0] if isinstance(maps, tuple) else maps
        kind = first.dtype if first.is_floating_point() and first.dtype != torch.float16 else torch.float32

        def column(name: str) -> list[Any] | None:
            values = columns[name]
            return None if all(v is None for v in values) else values

        def numeric(name: str) -> Tensor | None:
            values = column(name)
            return None if values is None else torch.tensor([np.nan if v is None else v for v in values], dtype=kind)

        def listed(name: str) -> tuple[Any, ...] | None:
            values = column(name)
            return None if values is None else tuple(values)

        def of_target(name: str) -> str:
            return parts.target_column(name, one.target)

        passes = {k: column(f"{one.key}.{k}") for k in ("forward_passes", "backward_passes")}
        measures = {k: columns[f"{one.key}.{k}"] for k in one.measures}
        seconds = column(f"{one.key}.seconds")
        return Explanation(
            attributions=maps,
            inputs=inputs,
            method=one.method,
            title=one.title,
            target=listed(of_target("target")),
            target_label=listed(of_target("target_label")),
            prediction=listed("prediction"),
            prediction_label=listed("prediction_label"),
            probability=numeric(of_target("probability")),
            score=numeric(of_target("score")),
            baseline_score=numeric(f"{one.key}.baseline_score"),
            convergence_delta=numeric(f"{one.key}.delta"),
            params=_params(one, columns[f"{one.key}.params"]),
            layer=one.layer,
            spec=self._layout.spec,
            names=listed("name"),
            seed=sample_seed(self.manifest.identity["seed"], numbers[0]) if len(numbers) == 1 else None,
            seconds=sum(seconds) if seconds is not None else None,
            meta={
                **self._layout.model,
                **{k: sum(v) for k, v in passes.items() if v is not None},
                "versions": self.manifest.made["versions"],
                "samples": list(numbers),
                **({"per_sample": measures} if measures else {}),
            },
        )

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
            self._open[name] = arrays.open_array(self.path, name)
        return self._open[name]

    def _map(self, method: str) -> Map:
        full = canonical_name(method, default=method)
        asked = {method, full, canonical_name(f"layer_{full}", default=full)}
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
        for name, wanted in columns.items():
            conditions = (*conditions, self._condition(name, wanted))
        found = copy.copy(self)
        for condition in conditions:
            found._selected = condition if found._selected is None else found._selected & condition
        if found._selected is not None and not isinstance(found._selected, pc.Expression):
            raise InputTypeError(f"where() takes pyarrow expressions and columns by name, got {found._selected!r}.")
        found.table()  # wrong conditions are said here
        return found

    def _condition(self, name: str, wanted: Any) -> Any:
        field = need("pyarrow.compute").field
        known = parts.columns(self._layout)
        if name == "correct":
            equal = field("prediction") == field("label")
            return equal if wanted else ~equal
        if name not in known:
            raise unknown("column", name, [*known, "correct"])
        if name in ("label", "prediction") or name.startswith("target"):
            name, wanted = self._class_column(name, wanted)
        if isinstance(wanted, tuple) and len(wanted) == 2 and known[name] != "string":
            low, high = wanted
            if low is None and high is None:
                return field(name).is_valid()
            above = field(name) >= low if low is not None else None
            below = field(name) <= high if high is not None else None
            return above & below if above is not None and below is not None else (below if above is None else above)
        if isinstance(wanted, (list, set, frozenset, tuple, np.ndarray, range)):
            return field(name).isin(list(wanted))
        return field(name).is_null() if wanted is None else field(name) == wanted

    def _class_column(self, name: str, wanted: Any) -> tuple[str, Any]:
        """The column of names where classes are asked for by name."""
        many = wanted if isinstance(wanted, (list, set, tuple)) else [wanted]
        names = {"label": "label_name", "prediction": "prediction_label"}
        if name.startswith("target") and not name.startswith("target_label"):
            names[name] = name.replace("target", "target_label", 1)
        return (names.get(name, name) if many and all(isinstance(v, str) for v in many) else name), wanted

    def summary(self, by: str | None = None) -> pd.DataFrame:
        """Counts, accuracy, probability and what each method's maps are like, in all or per group.

        Args:
            by: a column, such as "label", "prediction" or "status"; classes are shown by name where known.

        Returns:
            A row per group: samples, failed, accuracy, mean probability and score; and per method the median
            completeness error, the mean size of an attribution and the mean seconds and passes per sample.
        """
        frame = self.to_df()
        known = [*frame.columns, "correct"]
        if by is not None and by not in known:
            raise unknown("column", by, known)
        frame["correct"] = (frame["prediction"] == frame["label"]).astype(float)
        frame.loc[frame["prediction"].isna() | frame["label"].isna(), "correct"] = np.nan
        frame["failed"] = (frame["status"] != parts.OK).astype(int)
        named = {"label": "label_name", "prediction": "prediction_label", "target": "target_label"}.get(by or "", by)
        key = named if named in frame.columns and frame[named].notna().any() else by
        made = {
            "samples": ("sample", "count"),
            "failed": ("failed", "sum"),
            "accuracy": ("correct", "mean"),
            "probability": ("probability", "mean"),
            "score": ("score", "mean"),
        }
        for method in self.methods:
            made[f"{method}.completeness_error"] = (f"{method}.relative_delta", "median")
            for name in ("mean_abs", "seconds", "forward_passes"):
                made[f"{method}.{name}"] = (f"{method}.{name}", "mean")
        if key is None:
            whole = frame.assign(all="all").groupby("all").agg(**made)
            return whole.reset_index(drop=True)
        return frame.groupby(key, dropna=False).agg(**made)


def _params(one: Map, own: Sequence[str | None]) -> dict[str, Any]:
    """The parameters of some samples together; what is not the same for all of them is said to vary."""
    each = [from_json(one.params if text is None else json.loads(text)) for text in own]
    return {k: v if all(p.get(k) == v for p in each) else "varies" for k, v in each[0].items()}


def _frame(table: Any) -> Any:
    need("pandas")
    return table.to_pandas()


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > 8 else "")

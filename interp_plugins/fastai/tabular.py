"""Table rows (tabular and collaborative filtering): one value per column, categories and numbers jointly.

Rows go through the data's own procs; the model's columns are then explained together (categories at their embeddings,
numbers as they are), and the maps of both are put side by side: `attributions` and `inputs` are (N, columns),
`feature_names` the model's columns in its order, `values` what people read. A column that `FillMissing` adds
("age_na") is a column of its own, as it is for the model.

The reference is by default the mean training row: the mean of the numbers and of the categories' embeddings (for
methods that replace values: each category column's most frequent value). Zero would be no row at all for categories,
and `#na#`, code 0, is a row that the model has seldom or never been trained on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.data.transforms import Normalize
from fastai.tabular.core import Categorify, Tabular
from torch import Tensor, nn

from interp_plugins.core.baseline import Sample
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, did_you_mean
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe, is_float
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.fastai.batch import QUIET, ReadBatch, no_data, read
from interp_plugins.fastai.items import indices
from interp_plugins.fastai.learner_info import class_names
from interp_plugins.fastai.reader import Reader, register_reader

_SAMPLE = 4096  # training rows that stand for all of them in the reference


def _table(dls: Any) -> Any:
    loaders = getattr(dls, "loaders", None)
    return getattr(loaders[0], "dataset", None) if loaders else None


@register_reader
class TabularReader(Reader):
    """Rows of a table, which go through the data's own procs."""

    baseline_names = ("mean", "zero")

    def __init__(self, learn: Any):
        super().__init__(learn)
        self.table = _table(self.dls)
        self.categories, self.numbers = list(self.table.cat_names), list(self.table.cont_names)

    @classmethod
    def reads(cls, learn: Any) -> bool:
        """Whether the data are rows of a table."""
        return isinstance(_table(learn.dls), Tabular)

    # -- reading -------------------------------------------------------------------------------------------------

    def from_items(self, item: Any, *, labelled: bool = False, rm_type_tfms: Any = None) -> list[ReadBatch]:
        """Encode raw rows: a Series, a dict, a DataFrame, or a list of Series or dicts.

        Raises:
            InputError: a column is missing, or a value where the training data had none missing.
            InputTypeError: no rows.
        """
        raw = _frame(item)
        filled = {f"{name}_na" for proc in self.table.procs.fs for name in getattr(proc, "na_dict", {})}
        needed = [name for name in (*self.categories, *self.numbers) if name not in filled]
        missing = [name for name in needed if name not in raw.columns]
        if missing:
            raise InputError(
                f"The row has no column {missing[0]!r}.{did_you_mean(missing[0], raw.columns)} The model needs "
                f"{', '.join(map(str, needed))}."
            )
        frame = raw.copy()
        for name in self.numbers:
            try:
                frame[name] = pd.to_numeric(frame[name])
            except (TypeError, ValueError) as err:
                raise InputError(f"The column {name!r} is a number for the model: {err}.") from err
        for name in self.categories:
            if name in raw.columns:
                frame[name] = self._seen(raw[name])
        try:
            dl = self.dls.test_dl(frame, **QUIET)
        except AssertionError as err:
            raise InputError(
                f"A row has a missing value where the training data had none ({err}). Fill it in, or train with "
                "FillMissing on data that have missing values there."
            ) from err
        return self._named(dl, raw.index)

    def from_dl(self, dl: Any, idxs: Any = None) -> list[ReadBatch]:
        """Rows of a loader of the data, which are encoded already, in the order asked for."""
        table = getattr(dl, "dataset", None)
        if not isinstance(table, Tabular):
            return super().from_dl(dl, idxs)
        if len(table) == 0:
            raise InputError(no_data(self.dls, dl, "its procs and classes", "rows, or dl=learn.dls.test_dl(df)"))
        chosen = table.iloc[indices(idxs, len(table))]
        return self._named(self.dls.valid.new(chosen, **QUIET), chosen.items.index)

    def _named(self, dl: Any, index: Any) -> list[ReadBatch]:
        return self.ready(replace(read(dl, self.dls.n_inp), names=tuple(str(label) for label in index)))

    def ready(self, batch: ReadBatch) -> list[ReadBatch]:
        """The batch with one label per row (N,), not a column of one (N, 1)."""
        labels = tuple(y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in batch.labels)
        return [replace(batch, labels=labels)]

    def _seen(self, column: pd.Series) -> pd.Series:
        """A category column without values that training has not seen; with a warning, since the model sees `#na#`."""
        values = column.astype(object)  # a categorical column would be read by its own codes
        classes = list(self._classes(column.name))
        if not classes:
            return column
        seen = values.isin(classes[1:])
        unseen = values[~seen & values.notna()]
        if len(unseen):
            warnings.warn(
                f"{column.name}={unseen.iloc[0]!r} is none of the {len(classes) - 1} values seen in training; the "
                "model takes it for a missing one (#na#).",
                InterpWarning,
                stacklevel=6,
            )
        return values.where(seen, None)

    # -- the model's inputs --------------------------------------------------------------------------------------

    def call(self, batch: ReadBatch) -> tuple[Any, ReadBatch]:
        """The model as a function of the inputs that have columns, and the batch of these."""
        used = [i for i, x in enumerate(batch.inputs) if x.numel()]
        if len(used) == len(batch.inputs):
            return self.model, batch
        return _Partial(self.model, batch.inputs, used), replace(batch, inputs=tuple(batch.inputs[i] for i in used))

    def spec(self, inputs: Any, batch: ReadBatch) -> InputSpec:
        """Kind of data, class names and column names."""
        return InputSpec(kind="tabular", vocab=class_names(self.dls), feature_names=(*self.categories, *self.numbers))

    def encoded_baselines(self, given: Any, rm_type_tfms: Any = None) -> Any:
        """As they came: raw rows are encoded by `baselines`, which knows the columns that are explained."""
        return given

    def baselines(self, given: Any, inputs: Any) -> Any:
        """Baselines of the inputs that have columns.

        Args:
            given: None or "mean" (the mean training row), "zero", a row (Series, dict), a DataFrame (one row, or a
                sample of rows), or what `interp_plugins.explain` takes for the encoded inputs.
            inputs: the encoded inputs.
        """
        single = not isinstance(inputs, tuple)
        found = self._reference(given, 1 if single else len(inputs))
        return found[0] if single and isinstance(found, tuple) and len(found) == 1 else found

    def _reference(self, given: Any, n_inputs: int) -> Any:
        name = _baseline_name(given)
        if name == "mean":
            return self._mean(n_inputs)
        if name is not None:
            rows = [x for x in self.from_items(given)[0].inputs if x.numel()]
            return tuple(Sample(x) for x in rows) if name == "sample" else tuple(rows)
        return (given,) * n_inputs if isinstance(given, (str, int, float)) else given

    def _mean(self, n_inputs: int) -> tuple[Any, ...]:
        n = len(self.table)
        if n == 0:
            warnings.warn(
                "An exported Learner keeps no training rows: its reference is zero for the normalised numbers, which "
                "is their mean, and rows of zeros (no category) for the categories; methods that replace values put "
                "in #na#. Give baselines= a row or a DataFrame for another.",
                InterpWarning,
                stacklevel=8,
            )
            return (None,) * n_inputs
        rows = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).round().astype(int))
        encoded = read(self.dls.valid.new(self.table.iloc[rows], **{**QUIET, "bs": len(rows)}), self.dls.n_inp)
        return tuple(Sample(x) for x in encoded.inputs if x.numel())

    # -- the result ----------------------------------------------------------------------------------------------

    def told(self, exps: Explanations, batch: ReadBatch, baselines: Any = None) -> Explanations:
        """The explanations with one value per column, the columns' values in raw units, and the baseline's name."""
        name = _baseline_name(baselines)
        return super().told(Explanations([self._by_column(exp, name) for exp in exps]), batch, baselines)

    def _by_column(self, exp: Explanation, baseline: str | None) -> Explanation:
        params = {**exp.params, "baselines": baseline} if baseline and "baselines" in exp.params else exp.params
        inputs = exp.inputs if isinstance(exp.inputs, tuple) else (exp.inputs,)
        changes: dict[str, Any] = {"params": params, "values": self.raw(inputs), "inputs": _side_by_side(inputs)}
        if exp.baselines is not None:
            changes["baselines"] = _side_by_side(
                exp.baselines if isinstance(exp.baselines, tuple) else (exp.baselines,)
            )
        maps = exp.attributions if isinstance(exp.attributions, tuple) else (exp.attributions,)
        if exp.layer is None and [m.shape for m in maps] == [x.shape for x in inputs]:
            changes["attributions"] = _side_by_side(maps)
        return replace(exp, **changes)

    def raw(self, inputs: Sequence[Tensor]) -> tuple[tuple[Any, ...], ...]:
        """The columns' values as people read them, per sample: categories by name, numbers before `Normalize`."""
        columns: list[list[Any]] = []
        for x in inputs:
            if not is_float(x):
                for name, codes in zip(self.categories, x.T.tolist(), strict=True):
                    names = self._classes(name)
                    columns.append([_plain(names[c]) if 0 <= c < len(names) else c for c in codes])
                continue
            proc = next((p for p in self.table.procs.fs if isinstance(p, Normalize) and hasattr(p, "means")), None)
            for name, values in zip(self.numbers, x.T.double().tolist(), strict=True):
                mean, std = (float(proc.means[name]), float(proc.stds[name])) if proc else (0.0, 1.0)
                digits = 5 - math.floor(math.log10(max(abs(mean), std, 1e-30)))  # float32 holds no more
                columns.append([round(v * std + mean, digits) + 0.0 for v in values])
        return tuple(zip(*columns, strict=True))

    def decoded_samples(self, x: Any) -> Any:
        """The rows with their labels: a table decodes as a whole."""
        return [(x, *row) for row in x.decode().items[list(x.y_names)].itertuples(index=False)]

    def _classes(self, name: str) -> Any:
        proc = next((p for p in self.table.procs.fs if isinstance(p, Categorify)), None)
        return proc.classes[name] if proc is not None and name in proc.classes else []


def _baseline_name(given: Any) -> str | None:
    """What an explanation calls its baseline where it was given in words of the table; else None."""
    if given is None or (isinstance(given, str) and given.lower() == "mean"):
        return "mean"
    if isinstance(given, (pd.Series, pd.DataFrame, Mapping)):
        return "sample" if isinstance(given, pd.DataFrame) and len(given) > 1 else "row"
    return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    wide = next((p.dtype for p in parts if is_float(p)), torch.get_default_dtype())
    return torch.cat([p.to(wide) for p in parts], 1)


class _Partial(Wrapper):
    """A model called with some of its inputs; the others, without columns, are made for as many rows."""

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor], used: Sequence[int]):
        self.func, self.used, self.__name__ = model, list(used), type(model).__name__
        self.empty = [x[:0] for x in inputs]

    def wrapped_callables(self) -> list[Any]:
        """The model inside (for the guard and for layers)."""
        return [self.func]

    def __call__(self, *inputs: Tensor) -> Any:
        """Call the model with empty tensors for the inputs left out."""
        given = dict(zip(self.used, inputs, strict=True))
        rows, device = len(inputs[0]), inputs[0].device
        whole = [given.get(i, x.new_empty((rows, *x.shape[1:]), device=device)) for i, x in enumerate(self.empty)]
        return self.func(*whole)


def _frame(item: Any) -> pd.DataFrame:
    """Rows as a DataFrame with a type per column (a Series of mixed values has none)."""
    if isinstance(item, pd.DataFrame):
        frame = item
    else:
        rows = list(item) if isinstance(item, (list, tuple)) else [item]
        bad = [r for r in rows if not isinstance(r, (pd.Series, Mapping))]
        if bad:
            raise InputTypeError(
                f"A row of a table is a pandas Series, a dict, or a DataFrame (or a list of Series or dicts); got "
                f"{describe(bad[0])}."
            )
        labels = [r.name if isinstance(r, pd.Series) and r.name is not None else i for i, r in enumerate(rows)]
        frame = pd.DataFrame([r.to_dict() if isinstance(r, pd.Series) else dict(r) for r in rows], index=labels)
    if len(frame) == 0:
        raise InputError("There is nothing to explain: the table has no rows.")
    return frame

"""`Learner.influence`: which training items made the model say so?

Queries and training items are read with the validation transforms, in the order of the data, as `learn.explain` reads
them: what counts is the item, not one of its augmentations. Checkpoints of the last fit are found where
`SaveModelCallback(every_epoch=True)` put them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner
from fastai.torch_core import get_model
from fastcore.basics import patch

from interp_plugins.core.errors import InputError, InterpError, concise
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.weights import Checkpoint, read_state
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.batch import ReadBatch, length, to_model
from interp_plugins.fastai.items import SampleSource, at
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.tabular import TabularReader
from interp_plugins.fastai.text import TextReader
from interp_plugins.influence.ask import influence as core_influence
from interp_plugins.influence.result import Influences, joined

HINT = "one checkpoint, the weights as they are: fit(..., cbs=SaveModelCallback(every_epoch=True)) keeps more"


@patch
def influence(
    self: Learner,
    item: Any = None,  # items as for `explain`
    k: int = 8,  # training items of each kind per query
    method: str = "auto",  # as for `interp_plugins.influence.influence`
    target: Any = "predicted",  # or "label", a class by name or index, a `RatherThan` of two
    layers: Any = None,  # names of modules whose weights count; None: all that are trained
    checkpoints: Any = "auto",  # "auto": those of the last fit, "last": the weights as they are; or files, a folder
    ds_idx: int | None = None,  # the split that `idxs` are of: 0 training, 1 validation
    idxs: Any = None,  # which rows of it
    opponents: bool = True,  # also the items that speak against it
    *,
    train: Any = 0,  # whose items are looked at: a split of the data, or a loader of labelled items
    **params: Any,  # further arguments of `interp_plugins.influence.influence`: `normalize`, `check`, ...
) -> Influences:
    """Find the training items that made the Learner say so; it stays as it was.

    Returns:
        `Influences`: `.show()`, `.to_df()`, `.to_html(path)`, `.indices`, `.scores`.

    Raises:
        InputError: no query, or rows that the data do not have.

    Example:
        learn.influence(ds_idx=1, idxs=[0], k=3, checkpoints="last").to_df()
    """
    with concise():
        reader = reader_of(self)
        with reader.unchanged():
            batches = reader.read(SampleSource(item, None, ds_idx, idxs), labelled=target == "label")
            train = TrainingItems(reader, train)
            moments, note = _moments(self, checkpoints)
            asked = (train, moments, k, method, target, layers, opponents, params)
            found = [_of(self, reader, batch, *asked) for batch in batches]
        whole = joined(found)
        return whole if note is None else whole.noted(note)


class TrainingItems:
    """Training items of a Learner, in the order of its data, with validation transforms.

    Args:
        reader: of the data.
        train: a split, 0 for training, or a loader.

    Raises:
        InputError: the split is empty, or there is none.
    """

    def __init__(self, reader: Reader, train: Any = 0):
        self.reader = reader
        self.loader = reader.loader(train, "train") if isinstance(train, int) else train
        self._n = length(self.loader) or 0
        if not self._n:
            raise InputError(
                "There are no training items: an exported Learner keeps none of its data. "
                "train=learn.dls.test_dl(files, with_labels=True) gives them."
            )

    def __len__(self) -> int:
        return self._n

    def batches_in_order(self, size: int) -> Iterator[tuple[Any, ...]]:
        """(inputs, ..., labels) of so many items at a time."""
        for begin in range(0, self._n, size):
            rows = list(range(begin, min(self._n, begin + size)))
            for batch in self.reader.from_dl(self.loader, rows):
                yield (*self.inputs(batch), _labels(batch))

    def inputs(self, batch: ReadBatch) -> tuple[Any, ...]:
        """What the model is called with."""
        _, used = self.reader.call(batch)
        return (*as_tuple(to_model(used, self.reader.model)), *used.gone_along(self.reader.model))

    def name(self, number: int) -> str:
        """The name of an item; "" where it has none."""
        items = getattr(self.loader.dataset, "items", None)
        if items is None or isinstance(items, pd.DataFrame) or len(items) != self._n:
            return ""
        return self.reader.name(at(items, [number])[0])


def _labels(batch: ReadBatch) -> Any:
    """The labels of a batch: of one target as they are, of several as a tuple."""
    if not batch.labels:
        raise InputError("The training items have no labels, so there is no loss that they could have changed.")
    return batch.labels[0] if len(batch.labels) == 1 else batch.labels


def _of(
    learn: Any, reader: Reader, batch: ReadBatch, train: TrainingItems, checkpoints: Any, k: int, method: str,
    target: Any, layers: Any, opponents: bool, params: dict[str, Any],
) -> Influences:  # fmt: skip
    func, used = reader.call(batch)
    inputs = to_model(used, reader.model)
    loss = learn.loss_func
    known: dict[str, Any] = {
        "loss": getattr(getattr(loss, "__self__", None), "old_lf", None) or loss,  # MixUp hides it while it trains
        "labels": batch.labels[0] if target == "label" and batch.labels else None,
        "input_spec": reader.spec(inputs, used),
        "item_names": train.name,
        "query_names": batch.names,
        "words": _words(reader),
        "output": reader.outputs().get("output"),
    }
    return core_influence(
        func, train.inputs(batch), train, k=k, method=method, target=target, layers=layers, checkpoints=checkpoints,
        opponents=opponents, **{**known, **params},
    )  # fmt: skip


def _words(reader: Reader) -> Any:
    """What people read of the inputs: names of tokens, or values of columns."""
    if isinstance(reader, TextReader):
        return reader.tokens.names
    return reader.raw if isinstance(reader, TabularReader) else None


# -- checkpoints of the last fit -------------------------------------------------------------------------------------


def _moments(learn: Any, checkpoints: Any) -> tuple[Any, str | None]:
    if not isinstance(checkpoints, str) or checkpoints not in ("auto", "last"):
        return checkpoints, None
    if checkpoints == "last":
        return None, None
    found = checkpoints_of_fit(learn)
    return (found, None) if found else (None, HINT)


def checkpoints_of_fit(learn: Any) -> list[Checkpoint]:
    """The files that `SaveModelCallback(every_epoch=True)` wrote in the last fit, each with its epoch's mean rate.

    Args:
        learn: the Learner.

    Returns:
        One per epoch, in order; empty where there are none.
    """
    folder = Path(learn.path) / learn.model_dir if learn.path is not None else Path(str(learn.model_dir))
    if not folder.is_dir():
        return []
    stems = _series(folder)
    own = [cb.fname for cb in learn.cbs if isinstance(cb, SaveModelCallback) and cb.every_epoch]
    stems = {s: n for s, n in stems.items() if s in own} if own else stems
    if not stems:
        return []
    stem = max(stems, key=lambda s: (folder / f"{s}_{stems[s] - 1}.pth").stat().st_mtime)
    files = [folder / f"{stem}_{i}.pth" for i in range(stems[stem])]
    if not _are_now(files[-1], get_model(learn.model)):
        return []
    rates = mean_rates(rates_of_fit(learn), len(files))
    return [Checkpoint(f, lr=r) for f, r in zip(files, rates)]


def _series(folder: Path) -> dict[str, int]:
    """Names under which there are files numbered from 0 on, and how many."""
    numbers: dict[str, set[int]] = {}
    for file in folder.glob("*_*.pth"):
        found = re.fullmatch(r"(.+)_(\d+)", file.stem)
        if found:
            numbers.setdefault(found[1], set()).add(int(found[2]))
    return {stem: len(held) for stem, held in numbers.items() if held == set(range(len(held)))}


def _are_now(file: Path, model: Any) -> bool:
    """Whether a file holds the weights that the model has: files of an earlier training say nothing of this one."""
    with contextlib.suppress(InterpError):
        state, _ = read_state(file)
        own = dict(model.named_parameters())
        return state.keys() >= own.keys() and all(torch.equal(state[k], p.detach().cpu()) for k, p in own.items())
    return False


def rates_of_fit(learn: Any) -> list[float]:
    """The learning rate of each step of the last fit; empty where it is not known.

    The Recorder forgets its own when `learn.validate` or `learn.get_preds` runs, which nearly everybody calls before
    asking; what a schedule wrote down stays, and belongs to the last fit if the optimiser still has its last value.

    Args:
        learn: the Learner.
    """
    own = list(getattr(learn.recorder, "lrs", None) or [])
    scheduled = list((getattr(learn.recorder, "hps", None) or {}).get("lr", []))
    now = learn.opt.hypers[-1]["lr"] if learn.opt is not None else None
    return own or (scheduled if scheduled and scheduled[-1] == now else [])


def mean_rates(rates: Sequence[float], epochs: int) -> list[float | None]:
    """The mean learning rate of each epoch: at its end that of a one-cycle schedule is near 0."""
    steps = len(rates) // epochs
    if not steps:
        return [None] * epochs
    return [sum(rates[e * steps : (e + 1) * steps]) / steps for e in range(epochs)]

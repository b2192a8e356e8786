"""`Learner.suspects`: which labels of the training data are likely wrong; `MarginHistory`: what training says of it.

Items go through the validation transforms in the order of the data set; what is found, and how, is
`interp_plugins.influence.suspects`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixHandler
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastcore.basics import patch
from torch import Tensor

from interp_plugins.api.items import ItemReader
from interp_plugins.api.samples import PIECE
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.batch import ReadBatch, length, no_data, to_model, unpacked
from interp_plugins.fastai.labels import label_number, label_of
from interp_plugins.fastai.learner_info import class_names, n_inputs, threshold_of
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.tabular import TabularReader
from interp_plugins.fastai.text import TextReader
from interp_plugins.influence.features import ItemBatch
from interp_plugins.influence.margins import Margins, as_margins
from interp_plugins.influence.ranking import Options
from interp_plugins.influence.suspected import Suspects
from interp_plugins.influence.suspecting import found_in, visible


class MarginHistory(Callback):
    """Keep the margin of every training item as it passes, by item number: AUM for the price of a gather.

    The margin is the logit of the item's label less the largest other, in the batch that is trained on anyway; its
    mean over the epochs (Pleiss et al. 2020, arXiv:2001.10528) is a third vote of `learn.suspects()`. Training is the
    same to the last bit. Batches of MixUp and CutMix are left out, since they hold no item.

    Attributes:
        margins: `Margins`, by item number; later fits add to them.

    Example:
        from interp_plugins.fastai import MarginHistory

        history = MarginHistory()
        learn.fit(1, cbs=history)
        learn.suspects(history=history).votes
    """

    def __init__(self) -> None:
        super().__init__()
        self.margins = Margins()

    def after_loss(self) -> None:
        """Note the margins of the batch that was trained on."""
        if not self.training:
            return
        if any(isinstance(cb, MixHandler) for cb in self.learn.cbs):
            self.margins.tell("the pictures of a batch are mixed (MixUp, CutMix), so it has no margins.")
            return
        numbers = self._numbers()
        if numbers is None or len(self.yb) != 1 or not isinstance(self.pred, Tensor):
            self.margins.tell("the loader does not say which items a batch holds, or they have several targets.")
            return
        self.margins.add(numbers, self.pred, self.yb[0])

    def _numbers(self) -> Sequence[int] | None:
        """The numbers of the batch's items: the part of the epoch's order at its place."""
        order, size = getattr(self.dl, "_DataLoader__idxs", None), getattr(self.dl, "bs", None)
        if not isinstance(order, Sequence) or size is None:
            return None
        return [int(i) for i in order[self.iter * size : (self.iter + 1) * size]]


@patch
def suspects(
    self: Learner,
    ds_idx: int = 0,  # the split that is searched: 0 training, 1 validation
    *,
    dl: Any = None,  # or a loader
    valid: Any = "auto",  # where copies of its items are looked for: a split or loader; "auto": the other split; None
    k: int = 50,  # neighbours that vote
    by: Any = None,  # reasons whose ranks are averaged, of "knn", "head", "margin", "loss"; None: as the data allow
    kind: str | None = None,  # "classes", "labels", "values", "pixels"; None: by the labels' form
    layer: Any = None,  # whose output are the features; None: what goes into the last layer
    history: Any = "auto",  # a MarginHistory; "auto": that of the Learner's callbacks, for the training split
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of the folds
    progress: bool | None = None,  # None: a bar for long work
) -> Suspects:
    """Find items whose labels are likely wrong, copies across training and validation (leakage), and outliers.

    One pass with validation transforms, in the order of the data set, reads the features before the last layer; its
    nearest neighbours and a head that has not learned it judge each label. `interp_plugins.influence.suspects` says
    more. Pictures, tables, collaborative filtering, texts; classes, several labels, values, points and masks. Nothing
    of the Learner, the data or the files is changed.

    Returns:
        `Suspects`: `.show()`, `.to_df()`, `.to_html(path)` with tags, `.cleaner()`, `.leakage()`, `.outliers()`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        found = learn.suspects()
        found.show()
        found.to_df().head()
    """
    with concise():
        check_seed(seed)
        reader = reader_of(self)
        loader = reader.loader(ds_idx) if dl is None else dl
        if history == "auto":
            own = next((cb for cb in self.cbs if isinstance(cb, MarginHistory) and len(cb.margins)), None)
            history = own if dl is None and ds_idx == 0 else None
        number = label_number(label_key, output)
        spec = InputSpec(vocab=class_names(self.dls, number))
        kind = kind or ("labels" if threshold_of(self.loss_func) is not None and _several(spec) else None)
        options = Options(k, by, kind, as_margins(history), spec, seed)
        output = output if output is not None else reader.outputs().get("output")
        source = LearnerSource(reader, loader, number)
        beside = _other(reader, ds_idx, dl, valid, number)
        with reader.unchanged():
            return found_in(source, beside, options, layer=layer, output=output, progress=progress)


def _several(spec: InputSpec) -> bool:
    return spec.vocab is not None and len(spec.vocab) > 1


def _other(reader: Reader, ds_idx: int, dl: Any, valid: Any, number: int | None) -> LearnerSource | None:
    """The items among which copies are looked for."""
    if valid is None:
        return None
    if isinstance(valid, str):
        if valid != "auto":
            raise InputError(f"valid= takes a split (1), a loader, 'auto' or None, got {valid!r}.")
        loaders = getattr(reader.dls, "loaders", [])
        if dl is not None or ds_idx not in (0, 1) or len(loaders) < 2 or not length(loaders[1 - ds_idx]):
            return None
        valid = 1 - ds_idx
    return LearnerSource(reader, reader.loader(valid, "valid") if isinstance(valid, int) else valid, number)


class LearnerSource:
    """Items of a Learner's data as its model takes them.

    Args:
        reader: of the Learner's data.
        dl: a loader of fastai's or of PyTorch's, or batches.
        number: which of the data's targets is the label.

    Raises:
        InputError: a loader without items.
    """

    def __init__(self, reader: Reader, dl: Any, number: int | None):
        self.reader, self.dl, self.number = reader, dl, number
        self.items = None if isinstance(dl, DataLoader) else ItemReader(dl)
        self.total = (
            length(dl) if self.items is None else None if self.items.numbers is None else len(self.items.numbers)
        )
        if self.items is None and not self.total:
            raise InputError(no_data(reader.dls, dl, "its transforms and classes", "dl=learn.dls.test_dl(items)"))
        self.spec: InputSpec | None = None

    def batches(self) -> Iterator[ItemBatch]:
        """All items, in order."""
        for numbers, read in self._read(range(self.total or 0)):
            yield self._item_batch(numbers, read)

    def _item_batch(self, numbers: Sequence[int], read: ReadBatch) -> ItemBatch:
        func, used = self.reader.call(read)
        inputs = as_tuple(to_model(used, self.reader.model))
        if self.spec is None:
            self.spec = self.reader.spec(inputs if len(inputs) > 1 else inputs[0], used) or InputSpec()
            vocab = class_names(self.reader.dls, self.number)
            self.spec = self.spec if vocab is None else _with_vocab(self.spec, vocab)
        truth = label_of(read.labels, self.number)
        if isinstance(truth, Tensor) and isinstance(self.reader, TabularReader) and truth.ndim == 2:
            truth = truth[:, 0] if truth.shape[1] == 1 else truth
        return ItemBatch(func, inputs, numbers, truth, used.gone_along(self.reader.model), read.names)

    def _read(self, rows: Sequence[int]) -> Iterator[tuple[list[int], ReadBatch]]:
        """Rows as batches with their numbers, each text alone."""
        if self.items is not None:
            found = self.items.batches() if self.total == len(rows) or self.total is None else self.items.some(rows)
            for numbers, raw in found:
                whole = unpacked(beside_weights(raw, self.reader.model), n_inputs(self.reader.dls))
                yield from _numbered(numbers, self.reader.ready(whole))
            return
        for at in range(0, len(rows), PIECE):
            some = list(rows[at : at + PIECE])
            yield from _numbered(some, self.reader.from_dl(self.dl, some))

    def gallery(self, spec: InputSpec) -> Callable[[Sequence[int]], list[Any]] | None:
        """What shows items; None where they cannot be read again."""
        if self.items is not None and not self.items.again:
            return None
        return LearnerGallery(self, spec)

    def path(self, number: int) -> Any:
        """The item itself as the data set holds it: a path, say; None where it has none."""
        items = getattr(getattr(self.dl, "dataset", None), "items", None)
        return None if items is None or isinstance(items, torch.Tensor) else items[number]


class LearnerGallery:
    """What is shown of a Learner's items: pictures, texts by their tokens, rows by their columns.

    Args:
        source: the items.
        spec: kind of data and normalisation.
    """

    def __init__(self, source: LearnerSource, spec: InputSpec):
        self.source, self.spec = source, spec

    def __call__(self, numbers: Sequence[int]) -> list[Any]:
        """What is shown of these items."""
        found: dict[int, Any] = {}
        with self.source.reader.unchanged():
            for some, read in self.source._read(list(numbers)):
                found |= {number: self._of(read, i) for i, number in enumerate(some)}
        return [found[number] for number in numbers]

    def _of(self, read: ReadBatch, i: int) -> Any:
        reader = self.source.reader
        if isinstance(reader, TextReader):
            return " ".join(map(str, (reader.tokens.names(t) for t in read.inputs[0][i].tolist())))
        if isinstance(reader, TabularReader):
            used = [x for x in read.inputs if x.numel()]
            return dict(zip((*reader.categories, *reader.numbers), reader.raw(used)[i], strict=True))
        return visible(read.inputs, i, self.spec)

    def cleaner(self, found: Suspects, n: int) -> Any:
        """Fastai's `ImageClassifierCleaner` on the first n suspects; its own order is by loss.

        Raises:
            InputError: items that are no files, or labels that are no classes.
        """
        from interp_plugins.fastai.cleaner import suspects_cleaner

        return suspects_cleaner(self.source, found, n)


def _with_vocab(spec: InputSpec, vocab: Sequence[Any]) -> InputSpec:
    return replace(spec, vocab=tuple(vocab))


def _numbered(numbers: Sequence[int], batches: Sequence[ReadBatch]) -> Iterator[tuple[list[int], ReadBatch]]:
    first = 0
    for batch in batches:
        yield list(numbers[first : first + len(batch)]), batch
        first += len(batch)

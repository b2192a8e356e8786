"""`Reader`: all that depends on the kind of data. `reader_of(learn)` chooses it, once per call.

A reader turns what the user names (items, rows of a loader, an encoded batch) into tensors, says how the model is
called with them, and tells the maps in words of the data. The verbs on `Learner` ask it alone, so that a new kind of
data is one class in one file:

    @register_reader
    class SpectrumReader(Reader):
        @classmethod
        def reads(cls, learn):
            return isinstance(learn.dls, SpectrumLoaders)

        def from_items(self, item, *, labelled=False, rm_type_tfms=None):
            return [Batch((torch.stack([spectrum.values for spectrum in item]),))]

Pictures (`vision.py`), tables (`tabular.py`) and texts (`text.py`) are such classes. The base serves all data that
fastai's transforms turn into a batch of tensors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from fastai.data.load import DataLoader
from fastai.torch_core import get_model
from torch import Tensor

from interp_plugins.api.explain import explain as core_explain
from interp_plugins.core.baseline import BASELINES
from interp_plugins.core.concat import joined as joined_explanations
from interp_plugins.core.errors import InputError, InputTypeError, InterpError, TargetError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import exclusive
from interp_plugins.core.literals import rather_than
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.fastai.batch import QUIET, ReadBatch, Repacked, joined, length, no_data, read, to_model, unpacked
from interp_plugins.fastai.items import SampleSource, alike, apart, as_values, at, indices, is_item, name_of, names_of
from interp_plugins.fastai.labels import label_number, wants_label
from interp_plugins.fastai.learner_info import (
    activation_of,
    body_of,
    class_names,
    n_inputs,
    reads_items,
    spec_of,
    threshold_of,
    valid,
)
from interp_plugins.fastai.pictures import is_path, readable
from interp_plugins.fastai.restore import restored_state, transforms
from interp_plugins.fastai.targets import as_asked

R = TypeVar("R", bound="type[Reader]")

_READERS: list[type[Reader]] = []


def register_reader(kind: R) -> R:
    """Class decorator: `reader_of` chooses this reader where its `reads` says so, before those registered earlier."""
    _READERS.append(kind)
    return kind


def reader_of(learn: Any) -> Reader:
    """The reader of a Learner's data: the one registered last that reads them, else the base.

    Args:
        learn: the Learner.
    """
    kind = next((kind for kind in reversed(_READERS) if kind.reads(learn)), Reader)
    return kind(learn)


class Reader:
    """The kind of data of a Learner; this base serves whatever fastai's transforms turn into a batch of tensors.

    Kinds override what is different for them. `explain` gives a batch to the core in the steps `call`, `baselines`,
    `spec` and `outputs`, and gets the maps back through `told` and `merged`.

    Args:
        learn: the Learner; nothing is kept on it.

    Attributes:
        dls: its DataLoaders.
        baseline_names: the baselines that the viewer offers.
        plural: what the samples are called in messages.
        pad: what shorter samples are filled up with where their explanations are put together.
    """

    baseline_names: Sequence[str] = tuple(BASELINES)
    plural: str = "samples"
    pad: int = 0

    def __init__(self, learn: Any):
        self.learn, self.dls = learn, learn.dls

    @classmethod
    def reads(cls, learn: Any) -> bool:
        """Whether this is the reader of a Learner's data."""
        return True

    @property
    def model(self) -> Any:
        """The Learner's bare model, as it is now."""
        return get_model(self.learn.model)

    @property
    def channels(self) -> int | None:
        """Colour channels of the data's pictures; None where the inputs are none."""
        return None

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Random generators, transforms and hooks are as they were after the block, also when it raises.

        Other threads that explain the model, or read by the same transforms, wait for the whole of it.
        """
        with exclusive(self.model, transforms(self.dls)), preserved_rng(), restored_state(self.dls, self.model):
            yield

    def explain_source(
        self,
        source: SampleSource,
        methods: Any,
        *,
        target: Any = None,
        against: Any = None,
        baselines: Any = None,
        rm_type_tfms: Any = None,
        **params: Any,
    ) -> Explanations:
        """What `Learner.explain` does: read, encode the baselines, explain; the Learner stays as it was.

        Args:
            source: what is to be explained.
            methods: names, objects or a mapping name -> parameters; None: those for this kind of data.
            target: what is explained of them; None: what is predicted.
            against: why `target` rather than this; None: nothing is subtracted.
            baselines: what stands for nothing, raw items too; None: the methods' own.
            rm_type_tfms: how many type transforms are left out; None: by the item's type.
            **params: further arguments of `explain`.
        """
        target = rather_than(target, against)
        with self.unchanged():
            batches = self.read(source, labelled=wants_label(target), rm_type_tfms=rm_type_tfms)
            baselines = self.encoded_baselines(baselines, rm_type_tfms)
            return self.explain(batches, methods, target=target, baselines=baselines, **params)

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, source: SampleSource, *, labelled: bool = False, rm_type_tfms: Any = None) -> list[ReadBatch]:
        """The batches of the one source that is given.

        Args:
            source: what is to be explained.
            labelled: read the ground truth of raw items as well.
            rm_type_tfms: as for `Learner.explain`.

        Raises:
            InputError: a split that the data do not have, or what the reading methods raise.
            InputTypeError: no source or several, or rows of something that has none.
        """
        item, dl, ds_idx, idxs, xb = source
        given = [name for name, v in (("item", item), ("dl", dl), ("ds_idx", ds_idx), ("xb", xb)) if v is not None]
        if len(given) > 1:
            raise InputTypeError(
                f"explain() takes one source of samples, got {' and '.join(given)}. Leave out all but one."
            )
        if idxs is not None and given and given[0] in ("item", "xb"):
            raise InputTypeError(f"idxs= chooses rows of dl= or ds_idx=; it does not go with {given[0]}.")
        if item is not None:
            return self.from_items(item, labelled=labelled, rm_type_tfms=rm_type_tfms)
        if xb is not None:
            return self.from_xb(xb)
        if dl is not None:
            return self.from_dl(dl, idxs)
        if ds_idx is None and idxs is None:
            raise InputTypeError(
                "There is nothing to explain. Give an item (learn.explain('cat.jpg')), rows of the data (ds_idx=1, "
                "idxs=[0, 1]), a loader (dl=), or an encoded batch (xb=)."
            )
        return self.from_dl(self.loader(1 if ds_idx is None else ds_idx), idxs)

    def loader(self, split: int, name: str = "ds_idx") -> Any:
        """The loader of a split: 0 training, 1 validation.

        Args:
            split: its number.
            name: the argument it was given as, for the error.

        Raises:
            InputError: the data have no such split.
        """
        loaders = getattr(self.dls, "loaders", [])
        if not isinstance(split, int) or not -len(loaders) <= split < len(loaders):
            raise InputError(f"{name}={split!r}, but the data have {len(loaders)} splits (0 training, 1 validation).")
        return loaders[split]

    def from_items(self, item: Any, *, labelled: bool = False, rm_type_tfms: Any = None) -> list[ReadBatch]:
        """Encode raw items by the data's validation transforms.

        Args:
            item: one item, or a list, `L` or DataFrame of items.
            labelled: read the items' ground truth as well, by the data's own label functions.
            rm_type_tfms: as for `learn.predict`: how many type transforms to leave out (None: by the item's type).

        Raises:
            InputError: an item that cannot be read, or items that do not fit into one batch.
            TargetError: `labelled`, and the items have no ground truth.
        """
        if not reads_items(self.dls):
            raise InputError(
                "This Learner's data are PyTorch loaders or datasets, without transforms that read raw items. Give an "
                "encoded batch: xb=."
            )
        values = as_values(apart(item, valid(self.dls)) if self.channels is None else item)
        names = self.names(values)
        if not isinstance(values, pd.DataFrame):
            values = [self.prepared(value) for value in values]
        with readable(values if isinstance(values, list) else []):
            parts = [self._encode(group, labelled, rm_type_tfms) for group in alike(values)]
        return self.ready(replace(joined(parts), names=names))

    def _encode(self, values: Any, labelled: bool, rm_type_tfms: Any) -> ReadBatch:
        kwargs = {**QUIET, "rm_type_tfms": rm_type_tfms}
        if not labelled:
            return read(self.dls.test_dl(values, **kwargs), n_inputs(self.dls))
        if isinstance(values, list):  # label functions read the path, which fastai takes a text for if it is no Path
            values = [Path(v) if isinstance(v, str) and os.path.isfile(v) else v for v in values]
        try:
            return read(self.dls.test_dl(values, with_labels=True, **kwargs), n_inputs(self.dls))
        except InterpError:
            raise
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as err:
            reason = " ".join(str(err).split())
            raise TargetError(
                "target='label' needs the ground truth, and the data's label function finds none for this item: "
                f"{reason}. Give the class by name or index, or take the items from the data: ds_idx=1, idxs=[...]."
            ) from err

    def from_dl(self, dl: Any, idxs: Any = None) -> list[ReadBatch]:
        """Read a loader's rows with validation transforms, in the order of its items.

        Args:
            dl: a fastai DataLoader, or any iterable of batches (read as it is).
            idxs: which rows (an int, a slice, a sequence of ints); None: all.
        """
        return self.ready(self.collated(dl, idxs))

    def collated(self, dl: Any, idxs: Any = None) -> ReadBatch:
        """The rows of a loader as one batch, as its own transforms put them together; the arguments of `from_dl`."""
        if not isinstance(dl, DataLoader):
            return self._of_batches(dl, idxs)
        n = length(dl)
        if n is None:
            raise InputError("The loader has no length. Give its batches as a list (dl=[batch]), or one batch as xb=.")
        if n == 0:
            raise InputError(no_data(self.dls, dl, "its transforms and classes", "items (paths, pictures)"))
        rows = indices(idxs, n)
        items = getattr(dl.dataset, "items", None)
        chosen = at(items, rows) if items is not None and len(items) == n else None
        with readable([v for v in chosen if is_path(v)] if isinstance(chosen, list) else []):
            if getattr(dl.dataset, "split_idx", None) == 0 and chosen is not None:
                made = self.dls.test_dl(chosen, rm_type_tfms=0, with_labels=True, **QUIET)  # a training loader augments
            else:
                made = dl.new(get_idxs=lambda: rows, **QUIET)
            batch = read(made, n_inputs(self.dls))
        return replace(batch, names=None if chosen is None else self.names(chosen))

    def _of_batches(self, batches: Any, idxs: Any) -> ReadBatch:
        if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, Tensor)):
            raise InputTypeError(f"dl= takes a DataLoader or a list of batches, got {describe(batches)}.")
        batch = read(batches, n_inputs(self.dls))
        return batch if idxs is None else batch.rows(indices(idxs, len(batch)))

    def from_xb(self, xb: Any) -> list[ReadBatch]:
        """A batch that is encoded already.

        Args:
            xb: a tensor, a tuple of inputs, or a dict of them; labels may follow, as a loader gives them.
        """
        if not isinstance(xb, (Tensor, tuple, list, Mapping)):
            raise InputTypeError(
                f"xb= takes an encoded tensor, a tuple or dict of tensors, got {describe(xb)}. Raw data are items."
            )
        return self.ready(unpacked(xb, n_inputs(self.dls, default=None)))

    def ready(self, batch: ReadBatch) -> list[ReadBatch]:
        """A batch in the parts in which this kind is explained: here as a whole."""
        return [batch]

    def prepared(self, value: Any) -> Any:
        """A raw item as `dls.test_dl` takes it."""
        return value

    def name(self, value: Any) -> str:
        """The name of a raw item: of a file, of a row; "" where it has none."""
        return name_of(value)

    def names(self, values: Any) -> tuple[str, ...] | None:
        """The names of raw items, or of the rows of a DataFrame; None where none has one."""
        return names_of(values, self.name)

    # -- the model ---------------------------------------------------------------------------------------------

    def explain(
        self,
        batches: Sequence[ReadBatch],
        methods: Any,
        *,
        target: Any = None,
        baselines: Any = None,
        output: Any = None,
        label_key: int | None = None,
        each: Callable[[ReadBatch, dict[str, Any], Explanations], Any] | None = None,
        **params: Any,
    ) -> Explanations:
        """Explain what was read, with what the Learner knows of it.

        Args:
            batches: what `read` or one of the reading methods gave.
            methods: names, objects or a mapping name -> parameters; None: those for this kind of data.
            target: what is explained; None: what is predicted.
            baselines: what stands for nothing, a raw item encoded (`encoded_baselines`); None: the methods' own.
            output: which of several outputs is explained.
            label_key: which of the data's targets belongs to it; None: that at the output's place.
            each: called with every batch, the arguments it was explained with, and what the core gave for it.
            **params: further arguments of `interp_plugins.explain`.
        """
        found = []
        for batch in batches:
            known = self.arguments(batch, target=target, baselines=baselines, output=output, label_key=label_key)
            options = batch.with_more(known, {"methods": methods, **params})
            exps = core_explain(options.pop("model"), options.pop("inputs"), **options)
            if each is not None:
                each(batch, known, exps)
            found.append(self.told(exps, batch, baselines))
        return self.merged(found)

    def arguments(
        self,
        batch: ReadBatch,
        *,
        target: Any = None,
        baselines: Any = None,
        output: Any = None,
        label_key: int | None = None,
    ) -> dict[str, Any]:
        """What `interp_plugins.explain` is called with for a batch, but for the methods.

        Args:
            batch: one of those that were read.
            target: what is explained; None: what is predicted.
            baselines: what stands for nothing, a raw item encoded; None: the methods' own.
            output: which of several outputs is explained.
            label_key: which of the data's targets belongs to it; None: that at the output's place.
        """
        func, used = self.call(batch)
        inputs, more = to_model(used, self.model), used.gone_along(self.model)
        number, spec = label_number(label_key, output), self.spec(inputs, used)
        if number is not None and spec is not None:
            spec = replace(spec, vocab=class_names(self.dls, number))
        return {
            "model": func,
            "inputs": inputs,
            **({"additional_forward_args": more} if more else {}),
            "target": as_asked(target, self.dls, batch.labels, number),
            "baselines": self.baselines(baselines, inputs),
            "input_spec": spec,
            "output": output,
            **self.outputs(),
        }

    def call(self, batch: ReadBatch) -> tuple[Any, ReadBatch]:
        """The model as a function of a batch's inputs, and the batch of those that are explained."""
        return (self.model if batch.packing is None else Repacked(self.model, batch.packing)), batch

    def encoded_baselines(self, given: Any, rm_type_tfms: Any = None) -> Any:
        """Baselines of which a raw item is encoded as the items are; all others as they came.

        Args:
            given: what stands for nothing: a raw item, or what the core takes.
            rm_type_tfms: how many type transforms are left out; None: by the item's type.
        """
        if not is_item(given):
            return given
        return to_model(joined(self.from_items(given, rm_type_tfms=rm_type_tfms)), self.model)

    def baselines(self, given: Any, inputs: Any) -> Any:
        """The baselines of these inputs, as `interp_plugins.explain` takes them."""
        return given

    def spec(self, inputs: Any, batch: ReadBatch) -> InputSpec | None:
        """What is known of the inputs; None: the core guesses."""
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        if batch.along and isinstance(first, Tensor) and first.ndim == 2 and not first.is_floating_point():
            return InputSpec("text", vocab=class_names(self.dls))  # ids with their mask
        return spec_of(self.dls, first, batch.image) if isinstance(first, Tensor) else None

    def outputs(self) -> dict[str, Any]:
        """What the Learner knows of the model and its outputs, as arguments of `interp_plugins.explain`."""
        return {
            "activation": activation_of(self.learn.loss_func),
            "threshold": threshold_of(self.learn.loss_func),
            "body": body_of(self.model),
        }

    # -- the result --------------------------------------------------------------------------------------------

    def told(self, exps: Explanations, batch: ReadBatch, baselines: Any = None) -> Explanations:
        """A batch's explanations in words of the data: the samples' names, a kind's tokens or columns.

        Args:
            exps: what the core gave.
            batch: the batch.
            baselines: as for `explain`.
        """
        return Explanations([replace(e, names=batch.names) for e in exps])

    def merged(self, found: Sequence[Explanations]) -> Explanations:
        """The explanations of all batches as one per method and target.

        Raises:
            TargetError: the batches have different numbers of targets.
        """
        if len({len(exps) for exps in found}) > 1:
            raise TargetError(
                f"The {self.plural} have different numbers of predicted labels. Name them: target=['...', '...']."
            )
        return Explanations([joined_explanations(column, self.pad) for column in zip(*found, strict=True)])

    def decoded_samples(self, x: Any) -> Any:
        """The decoded items of a batch that fastai decodes as a whole; None: not known."""
        return None

"""From items or loaders to one batch of plain tensors, through fastai's own validation transforms.

The only road is `dls.test_dl(...)`, or a validation loader made anew, and iterating it: then every random transform is
off, `Resize` crops the centre, and the tensors are those that `predict` gives to the model. `dls.after_item` and
`dls.after_batch` are the training loader's, and `predict` and `get_preds` would wipe the recorder. Making a loader and
iterating it draws random numbers, so the caller holds the generators.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fastai.data.load import DataLoader
from fastai.vision.core import TensorImageBase
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError, InterpError, TargetError
from interp_plugins.core.tensors import describe
from interp_plugins.fastai.items import Items, as_items, at, indices, names_of
from interp_plugins.fastai.learner_info import image_class, n_inputs, reads_items
from interp_plugins.fastai.pictures import is_path, readable

QUIET = {"num_workers": 0, "pin_memory": False, "shuffle": False, "drop_last": False}


@dataclass(frozen=True)
class Batch:
    """What the model is called with, and what is known of its rows.

    Attributes:
        inputs: plain tensors, batch first: one per input of the model, tuples among them taken apart.
        labels: plain tensors, one per target of the data; empty without ground truth.
        names: one per row, or None.
        image: whether the first input is a picture (N, C, H, W).
        packing: how the model takes the inputs where they are nested: numbers of `inputs` in tuples; else None.
    """

    inputs: tuple[Any, ...]
    labels: tuple[Any, ...] = ()
    names: tuple[str, ...] | None = None
    image: bool = False
    packing: Any = None

    def __len__(self) -> int:
        return len(self.inputs[0])


def from_items(dls: Any, item: Any, *, labelled: bool = False, rm_type_tfms: Any = None) -> Batch:
    """Encode raw items.

    Args:
        dls: the Learner's DataLoaders.
        item: see `as_items`.
        labelled: read the items' ground truth as well, by the data's own label functions.
        rm_type_tfms: as for `learn.predict`: how many type transforms to leave out (None: by the item's type).

    Raises:
        InputError: an item that cannot be read, or items that do not fit into one batch.
        TargetError: `labelled`, and the items have no ground truth.
    """
    if not reads_items(dls):
        raise InputError(
            "This Learner's data are PyTorch loaders or datasets, without transforms that read raw items. Give an "
            "encoded batch: xb=."
        )
    cls = image_class(dls)
    items = as_items(item, cls)
    groups = [items] if items.alike else items.single()
    with readable(list(items.values) if isinstance(items.values, list) else []):
        parts = [_encode(dls, group, labelled, rm_type_tfms) for group in groups]
    return replace(joined(parts), names=items.names)


def _encode(dls: Any, items: Items, labelled: bool, rm_type_tfms: Any) -> Batch:
    kwargs = {**QUIET, "rm_type_tfms": rm_type_tfms}
    if not labelled:
        return read(dls.test_dl(items.values, **kwargs), n_inputs(dls))
    values = items.values
    if isinstance(values, list):  # label functions read the path, which fastai takes a text for if it is no Path
        values = [Path(v) if isinstance(v, str) and os.path.isfile(v) else v for v in values]
    try:
        return read(dls.test_dl(values, with_labels=True, **kwargs), n_inputs(dls))
    except InterpError:
        raise
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as err:
        reason = " ".join(str(err).split())
        raise TargetError(
            f"target='label' needs the ground truth, and the data's label function finds none for this item: {reason}. "
            "Give the class by name or index, or take the items from the data: ds_idx=1, idxs=[...]."
        ) from err


def from_dl(dls: Any, dl: Any, idxs: Any = None) -> Batch:
    """Read a loader's rows with validation transforms, in the order of its items.

    Args:
        dls: the Learner's DataLoaders; the items of a training loader go through its `test_dl`.
        dl: a fastai DataLoader, or any iterable of batches (read as it is).
        idxs: which rows (an int, a slice, a sequence of ints); None: all.
    """
    if not isinstance(dl, DataLoader):
        return _from_iterable(dls, dl, idxs)
    n = len(dl.dataset) if hasattr(dl.dataset, "__len__") else dl.n
    if n is None:
        raise InputError("The loader has no length. Give its batches as a list (dl=[batch]), or one batch as xb=.")
    if n == 0:
        raise InputError(
            "The loader holds no data: an exported Learner keeps its transforms and classes, but not its data. Give "
            "items (paths, pictures), or dl=learn.dls.test_dl(items)."
        )
    rows = indices(idxs, n)
    items = getattr(dl.dataset, "items", None)
    chosen = at(items, rows) if items is not None and len(items) == n else None
    names = names_of(chosen, image_class(dls)) if chosen is not None else None
    with readable([v for v in chosen if is_path(v)] if isinstance(chosen, list) else []):
        if getattr(dl.dataset, "split_idx", None) == 0 and chosen is not None:
            made = dls.test_dl(chosen, rm_type_tfms=0, with_labels=True, **QUIET)  # a training loader augments
        else:
            made = dl.new(get_idxs=lambda: rows, **QUIET)
        batch = read(made, n_inputs(dls))
    return replace(batch, names=names)


def _from_iterable(dls: Any, batches: Any, idxs: Any) -> Batch:
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes, Tensor)):
        raise InputTypeError(f"dl= takes a DataLoader or a list of batches, got {describe(batches)}.")
    batch = read(batches, n_inputs(dls))
    if idxs is None:
        return batch
    rows = torch.tensor(indices(idxs, len(batch)))
    return replace(batch, inputs=tuple(x[rows] for x in batch.inputs), labels=tuple(y[rows] for y in batch.labels))


def from_xb(dls: Any, xb: Any) -> Batch:
    """A batch that is encoded already: a tensor, or a tuple of inputs (labels may follow, as a loader gives them)."""
    if not isinstance(xb, (Tensor, tuple, list)):
        raise InputTypeError(
            f"xb= takes an encoded tensor or tuple of tensors, got {describe(xb)}. Raw data are items."
        )
    batch = _split(tuple(xb) if isinstance(xb, (tuple, list)) else (xb,), n_inputs(dls, default=None))
    first = batch.inputs[0]
    if not batch.image and image_class(dls) is not None and isinstance(first, Tensor):
        if first.ndim != 4 or not first.is_floating_point():
            raise InputError(
                f"xb= takes an encoded batch of pictures, floats (N, C, H, W), got {describe(first)}. Raw pictures are "
                "items: learn.explain(picture)."
            )
        batch = replace(batch, image=True)
    return batch


def read(dl: Iterable[Any], n_inp: int) -> Batch:
    """All batches of a loader as one, of plain tensors."""
    try:
        return joined([_split(tuple(b) if isinstance(b, (tuple, list)) else (b,), n_inp) for b in dl])
    except RuntimeError as err:
        if "collating" not in str(err) and "collate" not in str(err):
            raise
        raise InputError(
            "The items have different sizes after the transforms, so they make no batch. Explain them one by one, or "
            f"build the data with item_tfms=Resize(...). fastai says: {' '.join(str(err).split())}"
        ) from err


def _split(batch: tuple[Any, ...], n_inp: int | None) -> Batch:
    if not batch:
        raise InputError("The batch is empty; expected the model's inputs.")
    cut = len(batch) if n_inp is None else n_inp
    flat: list[Any] = []
    packing = tuple(_unpacked(part, flat) for part in batch[:cut])
    image = isinstance(flat[0], TensorImageBase) and flat[0].ndim == 4
    nested = packing if any(isinstance(part, tuple) for part in packing) else None
    return Batch(plain(flat), plain(batch[cut:]), image=image, packing=nested)


def _unpacked(part: Any, flat: list[Any]) -> Any:
    """Append the tensors of an input, which may be a tuple of tensors, and say where they went."""
    if isinstance(part, (tuple, list)):
        return tuple(_unpacked(p, flat) for p in part)
    flat.append(part)
    return len(flat) - 1


def plain(values: Sequence[Any]) -> tuple[Any, ...]:
    """Without fastai's tensor classes, which torch functions refuse to mix."""
    return tuple(v.detach().as_subclass(Tensor) if isinstance(v, Tensor) else v for v in values)


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch from several; names are not kept.

    Raises:
        InputError: no parts, or parts of different sizes.
    """
    if not parts:
        raise InputError("The loader gave no batch.")
    if len(parts) == 1:
        return parts[0]
    sizes = sorted({tuple(x.shape[1:]) for part in parts for x in part.inputs[:1] if isinstance(x, Tensor)})
    if len(sizes) > 1:
        raise InputError(
            f"The items have different sizes after the transforms: {', '.join(map(str, sizes[:4]))}. Explain them one "
            "by one, or build the data with item_tfms=Resize(...)."
        )

    def cat(columns: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
        return tuple(torch.cat(list(column)) for column in zip(*columns))

    return replace(parts[0], inputs=cat(p.inputs for p in parts), labels=cat(p.labels for p in parts))


class Repacked:
    """A model that takes nested inputs, called with its inputs side by side."""

    def __init__(self, model: nn.Module, packing: Any):
        self.model, self.packing, self.__name__ = model, packing, type(model).__name__

    def wrapped_callables(self) -> list[Any]:
        """The model inside (for the guard and for layers)."""
        return [self.model]

    def __call__(self, *inputs: Any) -> Any:
        """Call the model with the inputs put together again."""

        def packed(part: Any) -> Any:
            return tuple(packed(p) for p in part) if isinstance(part, tuple) else inputs[part]

        return self.model(*packed(self.packing))


def to_model(batch: Batch, model: nn.Module) -> Any:
    """The inputs on the model's device and in its floating-point type: a tensor, or a tuple for several inputs."""
    known = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)

    def moved(x: Any) -> Any:
        if known is None or not isinstance(x, Tensor):
            return x
        return x.to(known.device, known.dtype if x.is_floating_point() else None)

    inputs = tuple(moved(x) for x in batch.inputs)
    return inputs[0] if len(inputs) == 1 else inputs

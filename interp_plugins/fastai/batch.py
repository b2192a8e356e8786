"""`ReadBatch`: plain tensors from fastai's loaders, through its own validation transforms.

The only road is `dls.test_dl(...)`, or a validation loader made anew, and iterating it: then every random transform is
off, `Resize` crops the centre, and the tensors are those that `predict` gives to the model. `dls.after_item` and
`dls.after_batch` are the training loader's, and `predict` and `get_preds` would wipe the recorder. Making a loader and
iterating it draws random numbers, so the caller holds the generators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from fastai.data.load import DataLoader
from fastai.torch_core import find_bs
from fastai.vision.core import TensorImageBase
from torch import Tensor, nn

from interp_plugins.api.named_inputs import explained_names
from interp_plugins.core.errors import InputError
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.wrapper import Wrapper

QUIET = {"num_workers": 0, "pin_memory": False, "shuffle": False, "drop_last": False}


@dataclass(frozen=True)
class ReadBatch:
    """What the model is called with, and what is known of its rows.

    Attributes:
        inputs: plain tensors, batch first: one per input of the model, tuples among them taken apart.
        labels: plain tensors, one per target of the data; empty without ground truth.
        names: one per row, or None.
        image: whether the first input is a picture (N, C, H, W).
        packing: how the model takes the inputs where they are nested: numbers of `inputs` in tuples and dicts; else
            None.
        along: how many of the inputs, the last ones, are passed to the model and not explained: masks, say.
    """

    inputs: tuple[Any, ...]
    labels: tuple[Any, ...] = ()
    names: tuple[str, ...] | None = None
    image: bool = False
    packing: Any = None
    along: int = 0

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, chosen: Sequence[int]) -> ReadBatch:
        """Some rows as a batch, in the order given; what is no tensor is for all rows."""
        index = torch.tensor(chosen)

        def cut(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(v[index] if isinstance(v, Tensor) else v for v in values)

        names = tuple(self.names[i] for i in chosen) if self.names else None
        return replace(self, inputs=cut(self.inputs), labels=cut(self.labels), names=names)

    def gone_along(self, model: nn.Module) -> tuple[Any, ...]:
        """What is passed to the model and not explained, on its device; empty where there is none."""
        return beside_weights(tuple(self.inputs[len(self.inputs) - self.along :]), model)

    @staticmethod
    def with_more(known: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `explain` that are known, and the user's, whose further model arguments come after ours."""
        name = "additional_forward_args"
        found = {**known, **params}
        if name in known and params.get(name) is not None:
            found[name] = (*known[name], *as_tuple(params[name]))
        return found


def length(dl: Any) -> int | None:
    """The number of rows of a loader or of a list of batches; None for a loader that does not know it."""
    if not isinstance(dl, DataLoader):
        return sum(find_bs(b) for b in dl)
    return len(dl.dataset) if hasattr(dl.dataset, "__len__") else dl.n


def no_data(dls: Any, dl: Any, kept: str, give: str) -> str:
    """What is said of a loader without data: an empty split of data that are there, or a Learner that has none.

    Args:
        dls: the Learner's DataLoaders.
        dl: the loader.
        kept: what an exported Learner keeps.
        give: what can be given instead.
    """
    loaders = getattr(dls, "loaders", [])
    at = next((k for k, one in enumerate(loaders) if one is dl), None)
    others = [k for k, one in enumerate(loaders) if length(one)]
    if at is not None and others:
        name = ("training", "validation")[at] if at < 2 else f"{at}-th"
        return (
            f"The {name} set is empty. Take the samples from another split (ds_idx={others[0]}), give {give}, or build "
            "the data with a splitter that leaves some for it."
        )
    return f"The loader holds no data: an exported Learner keeps {kept}, but not its data. Give {give}."


def read(dl: Iterable[Any], n_inp: int) -> ReadBatch:
    """All batches of a loader as one, of plain tensors."""
    try:
        return joined([unpacked(b, n_inp) for b in dl])
    except RuntimeError as err:
        if "collating" not in str(err) and "collate" not in str(err):
            raise
        raise InputError(
            "The items have different sizes after the transforms, so they make no batch. Explain them one by one, or "
            f"build the data with item_tfms=Resize(...). fastai says: {' '.join(str(err).split())}"
        ) from err


def unpacked(values: Any, n_inp: int | None) -> ReadBatch:
    """A loader's batch as plain tensors, side by side.

    Args:
        values: a tensor, or a tuple or list of inputs and targets; an input may be a tuple or a dict of tensors. Of a
            dict the floating-point entries with features are explained, else the first; the others go along.
        n_inp: how many of them are inputs; None: all.
    """
    batch = tuple(values) if isinstance(values, (tuple, list)) else (values,)
    if not batch:
        raise InputError("The batch is empty; expected the model's inputs.")
    cut = len(batch) if n_inp is None else n_inp
    flat: list[Any] = []
    along: set[int] = set()
    packing = tuple(_flattened(part, flat, along) for part in batch[:cut])
    image = isinstance(flat[0], TensorImageBase) and flat[0].ndim == 4
    nested = any(isinstance(part, (tuple, dict)) for part in packing)
    order = sorted(range(len(flat)), key=lambda i: i in along)  # what is explained comes first
    return ReadBatch(
        plain([flat[i] for i in order]),
        plain(batch[cut:]),
        image=image,
        packing=mapped(packing, order.index) if nested else None,
        along=len(along),
    )


def _flattened(part: Any, flat: list[Any], along: set[int], explained: bool = True) -> Any:
    """Append the tensors of an input, which may be nested, say where they went, and which go along."""
    if isinstance(part, Mapping):
        chosen = explained_names(part)
        return {k: _flattened(v, flat, along, k in chosen) for k, v in part.items()}
    if isinstance(part, (tuple, list)):
        return tuple(_flattened(p, flat, along, explained) for p in part)
    flat.append(part)
    if not explained:
        along.add(len(flat) - 1)
    return len(flat) - 1


def mapped(packing: Any, function: Callable[[int], Any]) -> Any:
    """Nested tuples and dicts with a function of each number in them."""
    if isinstance(packing, dict):
        return {k: mapped(v, function) for k, v in packing.items()}
    return tuple(mapped(p, function) for p in packing) if isinstance(packing, tuple) else function(packing)


def plain(values: Sequence[Any]) -> tuple[Any, ...]:
    """Without fastai's tensor classes, which torch functions refuse to mix."""
    return tuple(v.detach().as_subclass(Tensor) if isinstance(v, Tensor) else v for v in values)


def joined(parts: Sequence[ReadBatch]) -> ReadBatch:
    """One batch from several.

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

    names = [name for p in parts for name in p.names or ("",) * len(p)]
    return replace(
        parts[0],
        inputs=cat(p.inputs for p in parts),
        labels=cat(p.labels for p in parts),
        names=tuple(names) if any(names) else None,
    )


class Repacked(Wrapper):
    """A model that takes nested inputs (tuples, dicts), called with its inputs side by side."""

    def __init__(self, model: nn.Module, packing: Any):
        self.func, self.packing, self.__name__ = model, packing, type(model).__name__

    def __call__(self, *inputs: Any) -> Any:
        """Call the model with the inputs put together again; further ones go along by position."""
        seen: list[int] = []

        def at(i: int) -> Any:
            seen.append(i)
            return inputs[i]

        packed = mapped(self.packing, at)
        return self.func(*packed, *inputs[len(seen) :])


def to_model(batch: ReadBatch, model: nn.Module) -> Any:
    """What is explained, on the model's device and in its floating-point type: a tensor, or a tuple for several."""
    inputs = beside_weights(tuple(batch.inputs[: len(batch.inputs) - batch.along]), model)
    return inputs[0] if len(inputs) == 1 else inputs

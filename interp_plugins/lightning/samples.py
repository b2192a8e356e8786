"""The samples that are explained: the first rows of the first batches, copied to the CPU once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.lightning.batch import ModelInput
from interp_plugins.lightning.several import padded, rows_of


class Samples:
    """Collects up to `n` samples; the batches given are neither kept nor changed.

    Batches that do not fit together (pictures of another size, longer sequences) end the collection, so that fewer
    samples than asked for may be there.

    Args:
        n: number of samples.
    """

    def __init__(self, n: int):
        self.n = n
        self.closed = False
        self._parts: list[ModelInput] = []
        self._passed_over = 0  # samples without a label

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, batch: ModelInput) -> None:
        """Copy what is still missing from a batch."""
        rows = self.n - len(self)
        if self.closed or rows <= 0:
            return
        self._passed_over += batch.passed_over
        if len(batch) == 0:
            return
        part = _head(batch, rows)
        if self._parts and _layout(part) != _layout(self._parts[0]):
            self.closed = True
            return
        self._parts.append(part)
        self.closed = len(self) >= self.n

    def nothing(self, source: str, stage: str) -> str:
        """Why no sample is there."""
        if self._passed_over:
            return (
                f'target="label" needs the ground truth, and none of the {self._passed_over} samples of {source} has a '
                "label among the classes. Choose other data, or target=None for the predicted class."
            )
        return (
            f"No batch of {source} came in this {stage} epoch, so there is nothing to explain. Choose a dataloader "
            "that exists and is not empty."
        )

    def joined(self) -> ModelInput:
        """All samples as one batch on the CPU."""
        if len(self._parts) > 1:
            self._parts = [_join(self._parts)]
        return self._parts[0]


def joined_parts(parts: list[ModelInput]) -> ModelInput | None:
    """One batch of several; None where they do not fit together."""
    return _join(parts) if all(_layout(part) == _layout(parts[0]) for part in parts[1:]) else None


def _head(batch: ModelInput, rows: int) -> ModelInput:
    """Plain CPU copies of the first rows, usable by autograd wherever the batch was made."""
    n = len(batch)

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.as_subclass(Tensor).detach()
        return (value[:rows] if value.ndim and value.shape[0] == n else value).to("cpu", copy=True)

    with torch.inference_mode(False), torch.no_grad():
        return replace(
            batch,
            inputs=tuple(cut(x) for x in batch.inputs),
            kwargs=pytree.tree_map(cut, dict(batch.kwargs)),
            labels=cut(batch.labels),
            ids=None if batch.ids is None else batch.ids[:rows],
            sizes=cut(batch.sizes),
        )


def _layout(part: ModelInput) -> Any:
    """What has to be equal in two parts that are put together."""
    leaves, tree = pytree.tree_flatten((part.inputs, dict(part.kwargs), part.labels))
    rows = len(part)
    shapes = [
        (v.dtype, tuple(v.shape[1:]) if v.ndim and v.shape[0] == rows else ("whole", *v.shape))
        for v in leaves
        if isinstance(v, Tensor)
    ]
    return part.names, tree, None if part.sizes is not None else shapes  # pictures of any size go side by side


def _join(parts: list[ModelInput]) -> ModelInput:
    """One part from several; what is no row per sample is taken from the first."""
    if parts[0].sizes is not None:
        pictures = [x[:, :h, :w] for p in parts for x, (h, w) in zip(p.inputs[0], rows_of(p.sizes), strict=True)]
        stacked, sizes = padded(pictures)
        return replace(parts[0], inputs=(stacked,), sizes=sizes)
    trees = [(part.inputs, dict(part.kwargs), part.labels) for part in parts]
    flat = [pytree.tree_flatten(tree)[0] for tree in trees]

    def join(values: tuple[Any, ...]) -> Any:
        batched = all(isinstance(v, Tensor) and v.ndim and v.shape[0] == len(p) for v, p in zip(values, parts))
        return torch.cat(values) if batched else values[0]

    leaves = [join(values) for values in zip(*flat, strict=True)]
    inputs, kwargs, labels = pytree.tree_unflatten(leaves, pytree.tree_flatten(trees[0])[1])
    ids = [name for part in parts for name in part.ids or ()]
    names = tuple(ids) if len(ids) == sum(map(len, parts)) else None
    return replace(parts[0], inputs=tuple(inputs), kwargs=kwargs, labels=labels, ids=names)

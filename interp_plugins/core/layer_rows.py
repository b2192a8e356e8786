"""Layers with several rows per sample: frames of a clip, crops or views of a picture, folded into the batch.

A layer's tensor should have a row per sample. Where it has k of them, and those of a sample stand together, they become
an axis of their own: (N * k, ...) is read as (N, k, ...). Whether they stand together is seen by running two samples
side by side and alone. All else is refused, by one check for every method that reads a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward
from interp_plugins.core.layers import AtLayer, Layer, layer_name, run_and_read
from interp_plugins.core.report import note

Read = Callable[[Tensor], Sequence[Tensor]]
"""The layer's tensors for some samples (R,), of a pass of these alone."""

_TOLERANCE = 1e-3  # of the largest value: rounding of passes of other sizes


def not_apart(func: object, layer: Layer, shape: Sequence[int], samples: int) -> LayerError:
    """The error for a tensor of a layer that cannot be told apart per sample."""
    name = layer_name(func, layer.module)  # type: ignore[arg-type]
    return LayerError(
        f"The layer {name!r} gave a tensor of shape {tuple(shape)} for {samples} samples: its first dimension is not "
        "the batch, so its map cannot be told apart per sample. Choose a layer whose tensors have the batch first."
    )


def by_sample(
    forward: Forward, layers: Sequence[Layer], counts: Sequence[int], maps: Sequence[Tensor], steps: bool = False
) -> list[Tensor]:
    """Maps with a row per sample (and target) first; k rows per sample become (N, k, ...).

    Args:
        forward: the model call, with its samples.
        layers: the layers that were read.
        counts: tensors per layer.
        maps: of all layers, (N * targets * k, ...).
        steps: several rows of one sample went through together; else all rows of a pass of one sample are its own.

    Raises:
        LayerError: rows that are not the samples', or do not stand sample by sample.
    """
    n, rows = forward.n, forward.n * forward.target.count
    if all(m.ndim and m.shape[0] == rows for m in maps):
        return list(maps)
    owners = [(layer, j) for layer, count in zip(layers, counts, strict=True) for j in range(count)]
    found = []
    for i, ((layer, j), m) in enumerate(zip(owners, maps, strict=True)):
        # A recurrent layer gives its states beside its outputs, (1, N, ...): they stay as they are.
        if m.ndim and (m.shape[0] == rows or (j and n in m.shape[1:2])):
            found.append(m)
            continue

        def read(who: Tensor) -> Sequence[Tensor]:
            args, kwargs = forward.arguments([x.index_select(0, who.to(x.device)) for x in forward.samples], who)
            with torch.no_grad():
                _, tensors = run_and_read(forward.func, layers, *args, **kwargs)
            return [t for part in tensors for t in part]

        k = entries(m.shape, rows)
        if k is None or not ((n == 1 and not steps) or sample_by_sample(read, i, k, forward.samples)):
            raise not_apart(forward.func, layer, m.shape, n)
        note(entries_per_sample=k)
        found.append(m.reshape(rows, k, *m.shape[1:]))
    return found


def folded(at: AtLayer, read: Read, inputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Activations (n, ...), those with k rows per sample as (n, k, ...), which `at` takes apart again.

    Raises:
        LayerError: as for `by_sample`.
    """
    n, found = len(inputs[0]), []
    for i, t in enumerate(tensors):
        if t.ndim and t.shape[0] == n:
            found.append(t)
            continue
        k = entries(t.shape, n)
        if k is None or not (n == 1 or at.entries.get(i) == k or sample_by_sample(read, i, k, inputs)):
            raise not_apart(at.func, at.layers[0], t.shape, n)
        at.entries[i] = k
        note(entries_per_sample=k)
        found.append(t.reshape(n, k, *t.shape[1:]))
    return tuple(found)


def entries(shape: Sequence[int], rows: int) -> int | None:
    """How many rows each of so many samples has in a tensor; None if not equally many."""
    return shape[0] // rows if shape and shape[0] >= rows and shape[0] % rows == 0 else None


def sample_by_sample(read: Read, i: int, k: int, inputs: Sequence[Tensor]) -> bool:
    """Whether the k rows of a sample stand together in tensor i of a layer: seen at two samples, or at one twice."""
    n = len(inputs[0])
    other = next((j for j in range(1, n) if any(not torch.equal(x[j], x[0]) for x in inputs)), 0)
    two = torch.tensor([0, other])
    alone = [read(two[j : j + 1])[i] for j in range(2)]
    try:
        pair = read(two)[i]
    except Exception:
        if n == 1:  # the model takes one sample at a time, so all rows of a pass are this sample's
            return alone[0].shape[0] == k
        raise
    if pair.shape[0] != 2 * k or any(t.shape[0] != k for t in alone):
        return False
    expected = torch.cat(alone)
    return bool((pair - expected).abs().max() <= _TOLERANCE * expected.abs().max())

"""Items with concepts: what is kept of a stream, and one item taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.arranged import arranged
from interp_plugins.api.prediction import predict
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.target import Asked, ask
from interp_plugins.core.tensors import check_inputs


@dataclass(frozen=True)
class OpenBatch:
    """A batch whose model is frozen, as the core calls it.

    Attributes:
        forward: the call, with the target.
        xs: checked inputs.
        spec: what is known of them.
        asked: what is asked of each sample.
        said: the predicted classes, or None.
        words: the prediction in words per sample, or None.
    """

    forward: Forward
    xs: tuple[Tensor, ...]
    spec: InputSpec
    asked: Asked
    said: tuple[int, ...] | None
    words: tuple[Any, ...] | None


@contextmanager
def opened(batch: SampleBatch, target: Any) -> Iterator[OpenBatch]:
    """A batch as methods take it, for the length of a `with` block.

    Args:
        batch: the samples, with the arguments of `interp_plugins.explain` that belong to them.
        target: one target of each sample.
    """
    options = dict(batch.options)
    given = arranged(
        batch.model,
        batch.inputs,
        (),
        {},
        options.get("input_spec"),
        None,
        None,
        options.get("forward_kwargs"),
        options.get("output"),
        options.get("preprocess"),
    )
    with frozen(given.func):
        xs = check_inputs(given.inputs)
        forward = Forward.of(given.func, len(xs[0]), None, options.get("additional_forward_args"))
        forward.samples = xs
        spec = as_spec(given.spec, xs[0])
        activation, threshold = options.get("activation"), options.get("threshold")
        prediction = predict(forward, xs, activation, threshold, False, spec.vocab)
        asked = ask(target, prediction, spec, len(xs[0]))
        forward.target = asked.target
        yield OpenBatch(forward, xs, spec, asked, prediction.classes, prediction.in_words(spec))


def chosen(stream: Iterable[SampleBatch], target: Any, items: Any, most: int) -> tuple[list[SampleBatch], str]:
    """The samples that concepts are found in, and the target in words.

    Args:
        stream: batches.
        target: one target.
        items: None: those that the model says are of the target; "all"; or their ids.
        most: how many at most, the first ones.

    Raises:
        InputError: no sample is left.
    """
    wanted = None if items is None or (isinstance(items, str) and items == "all") else set(items)
    found: list[SampleBatch] = []
    left, seen, said, label = most, 0, set(), "output"
    for batch in stream:
        with opened(batch, target) as one:
            label = str(one.asked.labels[0])
            said |= set(one.words or ())
            rows = [i for i in range(len(batch)) if _is_wanted(one, batch, i, items, wanted)][:left]
        seen += len(batch)
        if rows:
            found.append(batch.rows(rows))
            left -= len(rows)
        if left == 0:
            break
    if not found:
        listed = ", ".join(sorted(map(str, said))[:8])
        raise InputError(
            f"None of {seen} items is one that the model calls {label!r} (it says {listed}). Give more data, items= "
            'the ids of some of them, or items="all".'
        )
    return found, label


def _is_wanted(one: OpenBatch, batch: SampleBatch, i: int, items: Any, wanted: set[Any] | None) -> bool:
    if wanted is not None:
        return batch.keys[i] in wanted
    if items is not None or one.said is None or one.asked.indices is None:
        return True
    return bool(one.said[i] == one.asked.indices[i])


def labels_of(batches: Iterable[SampleBatch]) -> list[int]:
    """The class of every sample, -1 where none is known."""
    return [c for b in batches for c in (b.labels.tolist() if b.labels is not None else [-1] * len(b))]


def keys_of(batches: Iterable[SampleBatch]) -> list[Any]:
    """The id of every sample."""
    return [key for batch in batches for key in batch.keys]


def is_picture(one: OpenBatch) -> bool:
    """Whether the input is one picture (n, C, H, W)."""
    return one.spec.kind == "image" and len(one.xs) == 1 and one.xs[0].ndim == 4 and torch.is_floating_point(one.xs[0])

"""Samples of a Learner as the core takes them, batch by batch, each with its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from interp_plugins.api.samples import PIECE, SampleBatch, cut
from interp_plugins.core.explanation import Explanations
from interp_plugins.fastai.batch import ReadBatch, length
from interp_plugins.fastai.items import SampleSource, indices
from interp_plugins.fastai.labels import class_indices, label_number, wants_label
from interp_plugins.fastai.reader import Reader


def named_or_first(reader: Reader, source: SampleSource, n: int) -> SampleSource:
    """What was named; where no rows were, the first n of the loader, of the validation set at last."""
    if source.item is not None or source.idxs is not None:
        return source
    loader = source.dl
    if loader is None:
        loader = reader.loader(1 if source.ds_idx is None else source.ds_idx)
    size = length(loader)
    return SampleSource(dl=loader, idxs=None if size is None else range(min(n, size)))


def sample_stream(
    reader: Reader,
    source: SampleSource,
    target: Any,
    *,
    masks: Any,
    truth: Any,
    output: Any,
    label_key: int | None,
    baselines: Any,
) -> Iterator[SampleBatch]:
    """What was read, batch by batch, as the core takes it."""
    batches = reader.read(source, labelled=wants_label(target))
    encoded = reader.encoded_baselines(baselines)
    number, first = label_number(label_key, output), 0
    numbers = _numbers(reader, source, sum(map(len, batches)))
    for whole in batches:
        for start in range(0, len(whole), PIECE):
            rows = list(range(start, min(len(whole), start + PIECE)))
            batch = whole if len(rows) == len(whole) else whole.rows(rows)
            known = reader.arguments(batch, target=target, baselines=encoded, output=output, label_key=label_key)
            places = range(first, first + len(batch))
            first += len(batch)
            beside = {"masks": cut(masks, places), "truth": cut(truth, places)}
            labels = class_indices(batch.labels, len(batch), number)
            keys = tuple(numbers[place] for place in places)
            yield _batch(reader, batch, known, keys, labels, beside, baselines)


def watched_batches(
    reader: Reader,
    seen: Sequence[tuple[ReadBatch, dict[str, Any], Explanations]],
    baselines: Any,
    numbers: Sequence[int] | None,
) -> list[tuple[SampleBatch, Explanations]]:
    """What `Reader.explain` told of its batches, as metrics take samples with their maps.

    Args:
        reader: that explained them.
        seen: batches, the arguments that they were explained with, what the core gave.
        baselines: what stands for nothing, as the user named it.
        numbers: of the samples, as `sample_stream` has them; None: their places.
    """
    found, first = [], 0
    for batch, known, exps in seen:
        places = range(first, first + len(batch))
        keys = tuple(places if numbers is None else (numbers[place] for place in places))
        found.append((_batch(reader, batch, known, keys, None, {}, baselines), exps))
        first += len(batch)
    return found


def _numbers(reader: Reader, source: SampleSource, n: int) -> list[int]:
    """The samples' numbers: of rows those that they have in their loader, of items their places."""
    if source.item is not None or source.idxs is None:
        return list(range(n))
    loader = source.dl if source.dl is not None else reader.loader(1 if source.ds_idx is None else source.ds_idx)
    size = length(loader)
    return list(range(n)) if size is None else list(indices(source.idxs, size))


def _batch(
    reader: Reader,
    batch: ReadBatch,
    known: dict[str, Any],
    keys: tuple[int, ...],
    labels: Any,
    beside: dict[str, Any],
    baselines: Any,
) -> SampleBatch:
    options = {k: v for k, v in known.items() if k not in ("model", "inputs", "target") and v is not None}
    return SampleBatch(
        known["model"],
        known["inputs"],
        keys,
        known["target"],
        options,
        labels=labels,
        told=lambda exps: reader.told(exps, batch, baselines),
        **beside,
    )

"""What a callback's metrics are asked of: its samples and maps as `metrics.watching` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.placement import moved
from interp_plugins.lightning.batch import ModelInput
from interp_plugins.lightning.run import as_function, ground_truth
from interp_plugins.lightning.several import rows_of
from interp_plugins.lightning.subject import ExplainedModule
from interp_plugins.metrics.watching import MetricWatch, Watched


def judged(
    watch: MetricWatch,
    exps: Explanations,
    subject: ExplainedModule,
    sample: ModelInput,
    target: Any,
    options: Mapping[str, Any],
    batch_size: int | None,
) -> list[dict[str, float]]:
    """The metrics' numbers, an entry per explanation.

    Args:
        watch: the metrics.
        exps: what was found of the samples.
        subject: the module that was explained.
        sample: the samples.
        target: what was asked, "label" for the ground truth.
        options: further arguments of `interp_plugins.explain` that the maps were made with.
        batch_size: rows per pass; None: automatic.
    """
    if not watch.columns:
        return []
    return watch.numbers(_watched(exps, subject, sample, target, options), batch_size)


def _watched(
    exps: Explanations, subject: ExplainedModule, sample: ModelInput, target: Any, options: Mapping[str, Any]
) -> Sequence[Watched]:
    """The samples with their maps, in one batch; pictures of different sizes each alone."""
    sizes = rows_of(sample.sizes)
    if len(set(sizes)) < 2:
        return [(_batch(exps, subject, sample, target, options, tuple(range(len(sample)))), exps)]
    return list(_one_by_one(exps, subject, sample, target, options, sizes))


def _one_by_one(
    exps: Explanations,
    subject: ExplainedModule,
    sample: ModelInput,
    target: Any,
    options: Mapping[str, Any],
    sizes: Sequence[tuple[int, int]],
) -> Iterator[Watched]:
    for i, (height, width) in enumerate(sizes):
        alone = sample.rows([i])
        alone = replace(alone, inputs=tuple(x[..., :height, :width] for x in alone.inputs))
        one = Explanations([exp[i] for exp in exps])
        yield _batch(one, subject, alone, target, options, (i,)), one


def _batch(
    exps: Explanations,
    subject: ExplainedModule,
    sample: ModelInput,
    target: Any,
    options: Mapping[str, Any],
    keys: tuple[int, ...],
) -> SampleBatch:
    with torch.inference_mode(False), torch.no_grad():
        inputs = tuple(x.to(subject.device) for x in sample.inputs)
        more = moved(dict(sample.kwargs), subject.device)
    known = {**options, "input_spec": exps[0].spec}
    return SampleBatch(
        as_function(subject.module, sample),
        inputs if len(inputs) > 1 else inputs[0],
        keys,
        ground_truth(target, sample.labels),
        known | ({"forward_kwargs": more} if more else {}),
    )

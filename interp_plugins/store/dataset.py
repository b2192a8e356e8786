"""`explain_dataset`: a whole data set with any torch model, resumable, on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.api.binding import draws
from interp_plugins.api.explain import DEFAULT_METHODS, explain
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InputTypeError, TargetError, concise
from interp_plugins.core.literals import literals, map_literals, rather_than, wants_truth, with_truth
from interp_plugins.core.multi_target import AllClasses
from interp_plugins.core.numbered import Numbered
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import Reading, missing
from interp_plugins.store.fingerprint import described, method_facts, model_facts
from interp_plugins.store.job import Explained, Job, Settings, held_by
from interp_plugins.store.reader import ExplanationStore
from interp_plugins.store.run import run
from interp_plugins.store.source import as_source, find_names


def explain_dataset(
    model: Callable[..., Any],
    data: Any,
    path: str | Path,
    methods: Methods = DEFAULT_METHODS,
    *,
    target: Any = None,
    against: Any = None,
    input_key: str | int | None = None,
    input_fn: Callable[[Any], Tensor | tuple[Tensor, ...]] | None = None,
    label_key: str | int | None = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: str | int | None = None,
    names: Sequence[str] | None = None,
    n_samples: int | None = None,
    unit_size: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    save_inputs: bool = True,
    seed: int = 0,
    on_error: str = "record",
    retry_failed: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> ExplanationStore:
    """Explain every sample of a data set into a run directory, or go on with a run that was interrupted.

    The run is cut into units of `unit_size` samples; each is written and committed as a whole, in a thread while the
    next is explained. A process that is killed costs the two that it holds, an error or Ctrl-C the one that is being
    explained. Call it again with the same arguments, with any number of processes, and it goes on with what is missing;
    the result is the same bit for bit as without the interruption (same machine, same number of threads). A sample's
    result depends on the model, the sample, its number and `seed` alone.

    Args:
        model: an `nn.Module` or any callable, as for `interp_plugins.explain`; on the device where it is to run.
        data: a data set with `__getitem__` and `__len__`, or a DataLoader of one: its `collate_fn` and workers are
            used, its order is not. A sample (input, label) brings its ground truth along.
        path: the run directory; on several machines, one that all of them see.
        methods: as for `interp_plugins.explain`.
        target: as for `interp_plugins.explain`, and "label": the ground truth; a tensor with one class index per sample
            of the data.
        against: why `target` rather than this one, of any kind that `target` may be; None: nothing is subtracted.
        input_key: the part of a batch that is the input: a key, attribute or position. None: a tensor, or the first
            element of a tuple or list.
        input_fn: batch -> tensor or tuple of tensors, instead.
        label_key: the part of a batch that is the ground truth: class indices (N,), or one-hot or soft rows (N, C).
            None: the other part of two. A label outside the model's classes (-100, 255) is none.
        label_fn: batch -> ground truth, instead.
        id_key: the part of a batch that names the samples, instead of `names`.
        names: one per sample (a file name, an identifier). None: the files of torchvision's folders, else none.
        n_samples: only the first so many samples.
        unit_size: samples of a unit. None: 64 or somewhat fewer, so that there are as many units for each process; of
            small data sets an eighth.
        batch_size: samples that are explained together. None: as many as are no burden to hold (on CPUs what eight
            pictures of 224 x 224 take, since larger passes wait for the memory), up to a unit, where each gets what it
            gets alone (up to rounding). Methods that draw random numbers are explained one by one whatever it says, as
            are samples whose rows feel each other, and several labels per sample with None.
        dtype: type in which maps are kept ("float16" halves the room). None: as computed.
        save_inputs: keep the inputs beside the maps, so that pictures can be drawn without the data.
        seed: the run's seed; each sample's draws come from it and the sample's number.
        on_error: "record" writes down a sample that fails and goes on; "raise" stops.
        retry_failed: do the units again that hold samples that failed.
        rank: number of this process, from 0. None: torchrun's RANK, else 0.
        world_size: number of processes. None: torchrun's WORLD_SIZE, else 1.
        progress: None = a bar for long work on rank 0, True, False.
        **options: further arguments of `interp_plugins.explain`: `baselines`, `layer`, `input_spec`, `n_steps`,
            `compile` (compiled code is made for the first sample and used for all of one shape), ...

    Returns:
        The store, with what is there now; other processes may still be at work (`store.missing`).

    Raises:
        RunDiffersError: `path` holds a run of another model, other data or other parameters.
        DiskFullError: no room left; what was committed is safe.
        ImportError: Zarr or pyarrow is missing: pip install 'interp-plugins[store]'.

    Example:
        store = explain_dataset(model, dataset, "run", methods=("ig", "gradcam"), target="label", n_steps=100)
        store[17]["ig"].show()
    """
    with concise():
        taken = sorted({"additional_forward_args", "forward_kwargs"} & set(options))
        if taken:
            raise InputTypeError(
                f"explain_dataset() takes no {taken[0]}: it would be the same for every sample. Give a function of the "
                "input as the model, functools.partial(model, ...) for example."
            )
        target, output = rather_than(target, against), options.get("output")
        reading = Reading(
            input_key, input_fn, label_key, label_fn, id_key, output if isinstance(output, (int, str)) else None
        )
        settings = Settings(
            unit_size, batch_size, dtype, save_inputs, seed, on_error, retry_failed, rank, world_size, progress
        )
        source = as_source(data, n_samples)
        count = len(source.data)
        check_per_sample(target, count)

        def explained(samples: list[Any], at: int) -> Explained:
            numbers, plain = zip(*samples)
            batch = source.collate(list(plain))
            inputs = reading.inputs(batch)
            labels = reading.labels(batch, len(samples), isinstance(inputs, Tensor))
            asked = ground_truth(of_samples(target, list(numbers), count), labels)
            found = explain(
                model, beside_weights(inputs, model), methods, target=asked, seed=at, progress=False, **options
            )
            return Explained.of(found, labels, reading.ids(batch, len(samples)))

        job = Job(
            data=Numbered(source.data),
            explain=explained,
            identity=run_facts(model, methods, target, options, **reading.facts()),
            draws=draws(methods, options),
            together=apart(target, options.get("threshold")),
            held=held_by(model),
            names=names if names is not None else find_names(source.data) if id_key is None else None,
            options=source.options,
        )
        run(job, path, settings)
        return ExplanationStore(path)


def run_facts(model: Any, methods: Any, target: Any, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What makes a run what it is, as far as the data and the way it is cut are left aside."""
    return {
        "methods": method_facts(methods),
        "target": described(target),
        "options": described({k: v for k, v in {**options, **more}.items() if v is not None}),
        "model": model_facts(model),
    }


def apart(target: Any, threshold: float | None) -> bool:
    """Whether a sample's explanations are the same alone and among others: which there are depends on no other sample.

    Args:
        target: what is explained.
        threshold: as for `interp_plugins.explain`: where it is one, the predicted labels of any sample are explained.
    """
    many = target if isinstance(target, list) else [target]
    if any(isinstance(one, AllClasses) or (isinstance(one, str) and one == "all") for one in many):
        return False
    return threshold is None or not any(one is None or wants_truth(one) for one in literals(target))


def check_per_sample(target: Any, n: int) -> None:
    """Refuse a tensor or array as target that has not one class index for each of the n samples of the data."""
    if not isinstance(target, (Tensor, np.ndarray)) or target.ndim == 0:
        return
    values = torch.as_tensor(target)
    if values.ndim != 1 or len(values) != n or values.is_floating_point():
        raise TargetError(
            f"A target tensor must hold one class index per sample of the data, ({n},), got {describe(target)}."
        )


def of_samples(target: Any, numbers: list[int], n: int) -> Any:
    """A target with the entries of some samples in place of every tensor of one class index for each of n samples."""

    def chosen(literal: Any) -> Any:
        if not isinstance(literal, (Tensor, np.ndarray)) or tuple(literal.shape) != (n,):
            return literal
        return torch.as_tensor(literal).as_subclass(Tensor).cpu().long()[numbers]

    return map_literals(target, chosen)


def ground_truth(target: Any, labels: Tensor | None) -> Any:
    """The target with "label", wherever it stands in it, replaced by the samples' class indices."""
    return with_truth(target, labels, missing("a batch of these samples"))

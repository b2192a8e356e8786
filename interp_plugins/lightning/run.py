"""From a LightningModule and samples to explanations: `interp_plugins.explain`, with the model and its inputs found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.api.explain import explain as core_explain
from interp_plugins.api.named_inputs import NamedInputs
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.concat import joined_pictures
from interp_plugins.core.errors import InputError, InputTypeError, TargetError, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.literals import rather_than, with_truth
from interp_plugins.core.placement import moved
from interp_plugins.core.spec import InputSpec, guess_aloud
from interp_plugins.core.tensors import own_tree
from interp_plugins.core.truth import Reading, known_classes, missing
from interp_plugins.lightning.batch import ModelInput, read_batch
from interp_plugins.lightning.several import AsList, rows_of
from interp_plugins.lightning.subject import ExplainedModule, explained_inference_error, find_subject

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


def explain(
    pl_module: nn.Module,
    x_or_batch: Any,
    methods: Methods = DEFAULT_METHODS,
    *,
    target: Any = None,
    against: Any = None,
    layer: str | None = None,
    module: str | None = None,
    input_key: str | int | None = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: str | int | None = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: str | int | None = None,
    output_key: str | int | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    class_names: list[str] | list[list[str]] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    batch_size: int | None = None,
    autocast: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    trainer: Trainer | None = None,
    **params: Any,
) -> Explanations:
    """Explain a LightningModule's outputs, inside or outside a Trainer; the module is left exactly as it was.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        x_or_batch: the input tensor, or a batch as the dataloader gives it: the first element of a tuple or list (a
            tuple there being several inputs), or the entries of a dict that are named like parameters of `forward`.
            A batch is moved to the module's device, floating-point tensors to its dtype.
        methods: as for `interp_plugins.explain`.
        target: as for `interp_plugins.explain`, and "label": the ground truth of a batch (input, label), or that which
            `label_key` names.
        against: why `target` rather than this one, as for `interp_plugins.explain`; "label" works here, too.
        layer: dotted name of a layer, seen from the module explained or from the LightningModule.
        module: dotted name of the module inside `pl_module` that is explained; None: itself.
        input_key: the part of the batch that is the input: a key, attribute or position.
        input_fn: batch -> tensor, tuple of tensors, or dict of arguments, instead.
        label_key: the part of the batch that is the ground truth, class indices (N,) or one-hot or soft rows (N, C).
            Without it: the other part of two, or the one entry called "label", "target" or "y".
        label_fn: batch -> ground truth, instead.
        id_key: the part of the batch that names the samples.
        output_key: the part of the module's output that is explained: a key, attribute or position. Of several labels
            and several lists of class names those at the same place are taken.
        output_fn: output -> tensor, instead.
        class_names: names of the classes, in the order of the output; of several outputs a list each.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        batch_size: rows per pass; None = automatic.
        autocast: run under the Trainer's precision (`trainer` is needed) instead of in the weights' own dtype.
        seed: seed of all random draws. The global generators are left as they were.
        progress: None = a bar for long work, True, False.
        trainer: the Trainer, whose transfer hooks (`on_before_batch_transfer`, ...) and precision then treat the batch
            as in a validation step.
        **params: the methods' own parameters and further arguments of `interp_plugins.explain` (`baselines`,
            `feature_mask`, `input_spec`, ...).

    Returns:
        Explanations, one per method and target; tensors on the CPU.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        exps = explain(model, next(iter(loader)), methods=("ig", "gradcam"), target="label")
        exps["ig"].show()
    """
    with concise():
        if autocast and trainer is None:
            raise InputError("autocast=True takes the precision from the Trainer: give trainer= as well.")
        subject = find_subject(pl_module, module, layer)
        output = choose_output(output_key, output_fn)
        reading = Reading(input_key, input_fn, label_key, label_fn, id_key, output_key)
        batch = prepared_batch(x_or_batch, pl_module, subject, trainer)
        sample = read_batch(batch, subject.module, reading)
        spec = params.pop("input_spec", None)
        if spec is None:
            spec = make_spec(sample, names_of(class_names, output_key), mean, std)
        elif class_names is not None or mean is not None or std is not None:
            raise InputError("Give input_spec=, or class_names, mean and std, not both.")
        found = run(
            subject,
            sample,
            context=precision_context(trainer) if autocast else contextlib.nullcontext(),
            methods=methods,
            target=rather_than(target, against),
            output=output,
            input_spec=spec,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
            **params,
        )
        return with_labels(found, sample.labels)


def run(
    subject: ExplainedModule, sample: ModelInput, *, context: AbstractContextManager[Any], target: Any, **kwargs: Any
) -> Explanations:
    """Explain samples that were read; `kwargs` are those of `interp_plugins.explain`."""
    if sample.sizes is not None and len(set(rows_of(sample.sizes))) > 1:
        return _one_by_one(subject, sample, context=context, target=target, **kwargs)
    model = as_function(subject.module, sample)
    with torch.inference_mode(False), torch.no_grad():
        inputs = tuple(x.to(subject.device) for x in sample.inputs)
        more = moved(dict(sample.kwargs), subject.device)
    try:
        with context:
            found = core_explain(
                model,
                inputs if len(inputs) > 1 else inputs[0],
                target=ground_truth(target, sample.labels),
                layer=subject.layer,
                forward_kwargs=more or None,
                **kwargs,
            )
    except RuntimeError as error:
        clear = explained_inference_error(error)
        if clear is None:
            raise
        raise clear from error
    return found if sample.ids is None else Explanations([replace(exp, names=sample.ids) for exp in found])


def with_labels(exps: Explanations, labels: Tensor | None) -> Explanations:
    """The explanations with the true class of each sample in words, `meta["per_sample"]["label"]`, where it is known.

    Args:
        exps: explanations of the same samples.
        labels: class indices (N,); what lies outside the classes is no label.
    """
    told = []
    for exp in exps:
        classes = known_classes(labels, len(exp.spec.vocab) if exp.spec.vocab is not None else None)
        if classes is None or len(classes) != len(exp):
            told.append(exp)
            continue
        texts = ["" if c is None else exp.spec.label(c) for c in classes]
        told.append(replace(exp, meta={**exp.meta, "per_sample": {**exp.meta.get("per_sample", {}), "label": texts}}))
    return Explanations(told)


def as_function(module: nn.Module, sample: ModelInput) -> Any:
    """The module as a function of the inputs by position, as the core calls it."""
    if sample.sizes is not None:
        return AsList(module)
    if sample.names is None:
        return module
    return NamedInputs(module, sample.names, sample.whole, tuple(sample.kwargs) if sample.whole else ())


def _one_by_one(
    subject: ExplainedModule, sample: ModelInput, *, context: AbstractContextManager[Any], **kwargs: Any
) -> Explanations:
    """Pictures of different sizes, each alone; their maps are filled up to one size, and cut again by `exp[i]`."""
    found = []
    with context:
        for i, (height, width) in enumerate(rows_of(sample.sizes)):
            [x] = sample.inputs
            alone = replace(sample, inputs=(x[i : i + 1, :, :height, :width],), sizes=sample.sizes[i : i + 1])  # type: ignore[index]
            found.append(run(subject, alone, context=contextlib.nullcontext(), **kwargs))
    if len({len(exps) for exps in found}) > 1:
        raise TargetError("The pictures have different numbers of targets. Name one that all have: target=...")
    return Explanations([joined_pictures(column) for column in zip(*found, strict=True)])


def ground_truth(target: Any, labels: Tensor | None) -> Any:
    """`target` with "label", wherever it stands in it, replaced by the class indices that came with the samples.

    Raises:
        TargetError: there are none.
    """
    return with_truth(target, labels, missing("the batch"))


def names_of(class_names: Sequence[Any] | None, output: Any) -> list[Any] | None:
    """The class names of the output that is explained: where each output has a list of its own, that at its place."""
    if class_names is None or not any(isinstance(one, (list, tuple)) for one in class_names):
        return None if class_names is None else list(class_names)
    if not isinstance(output, int) or not -len(class_names) <= output < len(class_names):
        raise InputError(
            f"class_names holds {len(class_names)} lists, one per output, and output_key={output!r} names none of "
            f"them. Give output_key= a position from 0 to {len(class_names) - 1}, or the names of one output."
        )
    return list(class_names[output])


def make_spec(
    sample: ModelInput, class_names: list[str] | None, mean: list[float] | None, std: list[float] | None
) -> InputSpec:
    """What is known of the input, its kind guessed from its shape."""
    return guess_aloud(
        sample.inputs[0],
        vocab=tuple(class_names) if class_names is not None else None,
        mean=tuple(mean) if mean is not None else None,
        std=tuple(std) if std is not None else None,
    )


def choose_output(key: str | int | None, fn: Callable[[Any], Tensor] | None) -> Any:
    """The core's `output=` from the two ways to say it."""
    if key is not None and fn is not None:
        raise InputError("Give output_key or output_fn, not both.")
    if fn is not None and not callable(fn):
        raise InputTypeError(f"output_fn must be a function from the output to a tensor, got {fn!r}.")
    return fn if fn is not None else key


def precision_context(trainer: Any) -> AbstractContextManager[Any]:
    """The context in which the Trainer runs its steps (autocast, default dtype)."""
    context: AbstractContextManager[Any] = trainer.precision_plugin.forward_context()
    return context


def prepared_batch(batch: Any, pl_module: nn.Module, subject: ExplainedModule, trainer: Trainer | None) -> Any:
    """A private copy of the batch, as the module's step would get it."""
    with torch.inference_mode(False), torch.no_grad(), preserved_rng():
        batch = own_tree(batch)
        if trainer is not None:
            batch = trainer.precision_plugin.convert_input(batch)
            before = getattr(pl_module, "_on_before_batch_transfer", None)  # also serves the datamodule's hook
            if before is not None:
                batch = before(batch)
            return trainer.strategy.batch_to_device(batch, device=subject.device)
        return moved(batch, subject.device, subject.dtype)


def method_options(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """`method_kwargs` with tuples for lists of numbers, checked for names that are arguments of their own.

    Raises:
        InputTypeError: such a name.
    """
    own = ("methods", "target", "layer", "batch_size", "seed", "progress", "output", "forward_kwargs", "input_spec")
    wrong = [name for name in params or {} if name in own]
    if wrong:
        raise InputTypeError(
            f"method_kwargs holds {wrong[0]!r}, which is no parameter of a method; "
            + ("it is an argument of its own." if wrong[0] in own[:5] else "it is set from the other arguments.")
        )
    return {name: tuples(value) for name, value in (params or {}).items()}


def tuples(value: Any) -> Any:
    """Tuples for lists of numbers: shapes and strides are tuples, and a YAML file can only say lists."""
    if isinstance(value, (list, tuple)):
        inner = tuple(tuples(v) for v in value)
        return inner if all(isinstance(v, (int, float, tuple)) for v in inner) else value
    return value

"""`top_losses`: the samples of a loader that a module gets most wrong (or right), explained."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from interp_plugins.api.explain import DEFAULT_METHOD
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.concat import joined, joined_pictures
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, concise
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen
from interp_plugins.core.literals import rather_than
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import NONE, Reading, class_labels, missing
from interp_plugins.lightning import run as running
from interp_plugins.lightning.batch import ModelInput, read_batch, read_truth
from interp_plugins.lightning.losses import find_loss, labelled_rows, losses_of
from interp_plugins.lightning.samples import joined_parts
from interp_plugins.lightning.subject import ExplainedModule, find_subject

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


def top_losses(
    pl_module: nn.Module,
    loader: Iterable[Any],
    k: int = 9,
    methods: Methods = DEFAULT_METHOD,
    *,
    largest: bool = True,
    loss_fn: Callable[..., Any] | None = None,
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
    autocast: bool = False,
    seed: int = 0,
    trainer: Trainer | None = None,
    **params: Any,
) -> Explanations:
    """Explain the samples with the largest (or smallest) losses: what did the model look at when it erred?

    The loader is read once, in eval mode and without gradients; only the k samples are kept. The module, its buffers
    and the random generators stay as they were. Pictures of the result name prediction, truth and loss, in green where
    they agree and in red where they do not; `to_df()` has columns "label" and "loss".

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        loader: batches, as a DataLoader gives them, or a list of them.
        k: number of samples.
        methods: as for `interp_plugins.explain`.
        largest: the largest losses, the largest first; False: the smallest.
        loss_fn: a loss of `torch.nn` or `torch.nn.functional`, or a function (output, label) -> a loss per sample (N,).
            None: the one loss module inside `pl_module`; without one, the cross entropy of class indices.
        target: as for `interp_plugins.lightning.explain`: None explains the predicted class, "label" the true one,
            [None, "label"] both side by side.
        against: why `target` rather than this one: one target of any kind, "label" for the true class; None: nothing.
        layer: dotted name of a layer, for methods at a layer.
        module: dotted name of the module inside `pl_module` whose output the loss takes; None: itself.
        input_key: the part of the batch that is the input, as for `interp_plugins.lightning.explain`.
        input_fn: batch -> input, instead.
        label_key: the part of the batch that the loss takes; None: guessed where the batch has two parts.
        label_fn: batch -> label, instead.
        id_key: the part of the batch that names the samples; None: their numbers in the loader.
        output_key: the part of the output that loss and explanation take.
        output_fn: output -> tensor, instead.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        autocast: run under the Trainer's precision (`trainer` is needed).
        seed: seed of all random draws.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
        **params: as for `interp_plugins.lightning.explain`.

    Returns:
        Explanations, one per method and target, of the k samples in the order of their losses; `names` are the ids, or
        "sample 17" for the loader's 17th (from 0). `meta["per_sample"]` holds "loss", "label" and "number".

    Raises:
        InputError: no sample, no label or no loss per sample, with what to give.

    Example:
        worst = top_losses(model, val_loader, 4, "gradcam", target=[None, "label"])
        worst.show()
    """
    with concise():
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a number of samples of at least 1, got {k!r}.")
        if autocast and trainer is None:
            raise InputError("autocast=True takes the precision from the Trainer: give trainer= as well.")
        loss, loss_name = find_loss(pl_module, loss_fn)
        known = params.pop("input_spec", None)
        if known is not None and (class_names is not None or mean is not None or std is not None):
            raise InputError("Give input_spec=, or class_names, mean and std, not both.")
        search = _Search(
            pl_module,
            find_subject(pl_module, module, layer),
            trainer,
            running.choose_output(output_key, output_fn),
            Reading(input_key, input_fn, label_key, label_fn, id_key, output_key),
            loss,
            (lambda: running.precision_context(trainer)) if autocast else contextlib.nullcontext,
            seed,
        )
        best = search.best(loader, k, largest)
        spec = known or running.make_spec(best[0].sample, running.names_of(class_names, output_key), mean, std)
        found = search.explained(best, methods=methods, target=rather_than(target, against), input_spec=spec, **params)
        return Explanations([_told(exp, best, spec, loss_name) for exp in found])


class Ranked(NamedTuple):
    """A sample and its loss.

    Attributes:
        loss: its loss.
        number: its number in the loader, from 0.
        sample: what the model is called with, one row.
        truth: its class, or its true value in words; None where the label is neither.
    """

    loss: float
    number: int
    sample: ModelInput
    truth: int | str | None


@dataclass(frozen=True)
class _Search:
    """A pass over a loader that keeps the samples with the largest or smallest losses."""

    pl_module: nn.Module
    subject: ExplainedModule
    trainer: Any
    output: Any
    reading: Reading
    loss: Callable[..., Any] | None
    context: Callable[[], AbstractContextManager[Any]]
    seed: int

    def best(self, loader: Iterable[Any], k: int, largest: bool) -> list[Ranked]:
        """The k samples in the order of their losses; of equal ones the first of the loader."""
        sign = -1.0 if largest else 1.0
        kept: list[Ranked] = []
        total, odd, unlabelled = 0, 0, 0
        with preserved_rng():
            for batch in _batches(loader):
                sample, truth, losses, rows = self._measured(batch)
                values = losses.tolist()
                order = sorted((j for j, v in enumerate(values) if not math.isnan(v)), key=lambda j: sign * values[j])
                odd, unlabelled = odd + len(values) - len(order), unlabelled + len(sample) - len(rows)
                bar = sign * kept[-1].loss if len(kept) == k else math.inf
                kept += [
                    Ranked(values[j], total + rows[j], sample.rows([rows[j]]), _truth(sample, truth, rows[j]))
                    for j in order[:k]
                    if sign * values[j] < bar or len(kept) < k
                ]
                kept = sorted(kept, key=lambda one: (sign * one.loss, one.number))[:k]
                total += len(sample)
        _tell(total, odd, unlabelled, kept)
        return kept

    def _measured(self, batch: Any) -> tuple[ModelInput, Any, Tensor, list[int]]:
        """A batch as the model takes it, its labels as they came, and the losses of the rows that have a label."""
        batch = running.prepared_batch(batch, self.pl_module, self.subject, self.trainer)
        sample = read_batch(batch, self.subject.module, replace(self.reading, label_key=None, label_fn=None))
        if sample.sizes is not None:
            raise InputError(
                "A detector gives no loss per picture outside of its training mode: there is none to rank."
            )
        truth = read_truth(batch, sample, self.reading)
        if truth is None:
            raise InputError(missing("the batch").replace('target="label"', "top_losses"))
        sample = replace(sample, labels=class_labels(truth, len(sample)))
        output = self._output(sample)
        if not output.ndim or len(output) != len(sample):
            raise InputError(
                f"The output of shape {tuple(output.shape)} has not a row for each of {len(sample)} samples."
            )
        rows = labelled_rows(output, truth)
        if len(rows) < len(sample):
            output, truth_of_rows = output[rows], truth[rows]
        else:
            truth_of_rows = truth
        losses = losses_of(self.loss, output, truth_of_rows) if rows else torch.zeros(0)
        return sample, truth, losses, rows

    def _output(self, sample: ModelInput) -> Tensor:
        func = Call(running.as_function(self.subject.module, sample), dict(sample.kwargs), self.output)
        with self.context(), frozen(func, seed=self.seed), torch.no_grad():
            return Forward.of(func, len(sample)).raw(sample.inputs).detach()

    def explained(self, best: list[Ranked], **kwargs: Any) -> Explanations:
        """Their explanations: in one batch, or one by one where they have not one size."""

        def explain(sample: ModelInput) -> Explanations:
            return running.run(
                self.subject, sample, context=self.context(), output=self.output, seed=self.seed, **kwargs
            )

        together = joined_parts([one.sample for one in best])
        if together is not None:
            return explain(together)
        alone = [explain(one.sample) for one in best]
        if len({len(exps) for exps in alone}) > 1:
            raise InputError("The samples have different numbers of targets. Name one that all have: target=...")
        pictures = best[0].sample.inputs[0].ndim == 4
        return Explanations([(joined_pictures if pictures else joined)(column) for column in zip(*alone, strict=True)])


def _batches(loader: Any) -> Iterator[Any]:
    if isinstance(loader, (Tensor, dict, str)) or not hasattr(loader, "__iter__"):
        more = " Give loader=datamodule.val_dataloader()." if hasattr(loader, "val_dataloader") else ""
        raise InputTypeError(f"The loader is a {describe(loader)}; expected a DataLoader, or a list of batches.{more}")
    yield from loader


def _truth(sample: ModelInput, truth: Any, row: int) -> int | str | None:
    """A row's class, or its true value in words."""
    if sample.labels is not None and int(sample.labels[row]) != NONE:
        return int(sample.labels[row])
    single = isinstance(truth, Tensor) and truth.numel() == len(sample)
    return f"{float(truth.reshape(-1)[row]):.4g}" if single else None


def _tell(total: int, odd: int, unlabelled: int, kept: list[Ranked]) -> None:
    """Say what was left out; refuse where nothing is left."""
    if not kept:
        why = "is empty" if not total else f"has {total} samples, of which none has a label and a loss"
        raise InputError(f"The loader {why}, so there is no loss to rank.")
    if odd or unlabelled:
        parts = [f"{unlabelled} have no label among the classes"] if unlabelled else []
        parts += [f"{odd} have a loss that is NaN"] if odd else []
        warnings.warn(
            f"Of {total} samples {' and '.join(parts)}; they were left out of the ranking.", InterpWarning, stacklevel=4
        )


def _told(exp: Explanation, best: list[Ranked], spec: InputSpec, loss_name: str) -> Explanation:
    """The explanation with what is known of its samples."""
    texts = [spec.label(one.truth) if isinstance(one.truth, int) else one.truth or "" for one in best]
    names = exp.names or tuple(f"sample {one.number}" for one in best)
    known = {
        **exp.meta.get("per_sample", {}),
        "loss": [one.loss for one in best],
        "label": texts,
        "number": [one.number for one in best],
    }
    return replace(exp, names=names, meta={**exp.meta, "per_sample": known, "loss_fn": loss_name})

"""Attacks, corruptions, counterfactuals and certificates of a LightningModule, and a callback of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from interp_plugins.api.callbacks import ON_ERROR, check_choice, check_count, contained
from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.placement import moved
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading, class_labels
from interp_plugins.lightning import run as running
from interp_plugins.lightning.batch import ModelInput, read_batch, read_truth
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.subject import ExplainedModule, find_subject
from interp_plugins.robust.certificate import Certificate, joined_certificates
from interp_plugins.robust.certifying import certify as core_certify
from interp_plugins.robust.corrupting import Corrupted
from interp_plugins.robust.counterfactuals import counterfactual as core_counterfactual
from interp_plugins.robust.explained import ExplanationRobustness
from interp_plugins.robust.explaining import explanation_robustness as core_explanation_robustness
from interp_plugins.robust.measured import Robustness
from interp_plugins.robust.measuring import SIZES, AttackedSizes
from interp_plugins.robust.perturbed import Perturbed, joined
from interp_plugins.robust.watching import RobustnessWatch

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


@dataclass(frozen=True)
class ModuleData:
    """How batches of a LightningModule are read, and what is known of them.

    Attributes:
        module: dotted name of the module inside that is asked; None: itself.
        input_key: the part of the batch that is the input, as for `interp_plugins.lightning.explain`.
        label_key: the part that is the label; None: guessed where the batch has two parts.
        output_key: the part of the output that is meant.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all of these at once, instead.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
    """

    module: str | None = None
    input_key: str | int | None = None
    label_key: str | int | None = None
    output_key: str | int | None = None
    class_names: list[str] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    input_spec: InputSpec | None = None
    trainer: Any = None

    def __post_init__(self) -> None:
        if self.input_spec is not None and (self.class_names is not None or self.mean is not None):
            raise InputError("Give input_spec=, or class_names, mean and std, not both.")

    def batches(self, pl_module: nn.Module, data: Any, n: int | None) -> Iterator[SampleBatch]:
        """Samples of a loader, of batches, or one batch, with their labels."""
        subject = find_subject(pl_module, self.module)
        reading = Reading(input_key=self.input_key, label_key=self.label_key, output=self.output_key)
        single = isinstance(data, (Tensor, tuple, dict)) or not isinstance(data, (DataLoader, Iterable))
        seen = 0
        for batch in [data] if single else data:
            if n is not None and seen >= n:
                return
            prepared = running.prepared_batch(batch, pl_module, subject, self.trainer)
            unlabelled = Reading(input_key=self.input_key)
            sample = read_batch(prepared, subject.module, unlabelled)
            labels = class_labels(read_truth(prepared, sample, reading), len(sample))
            made = self._batch(subject, sample, labels, seen)
            made = made if n is None or seen + len(made) <= n else made.rows(range(n - seen))
            seen += len(made)
            yield made
        if not seen:
            raise InputError("The data hold no sample.")

    def _batch(self, subject: ExplainedModule, sample: ModelInput, labels: Tensor | None, first: int) -> SampleBatch:
        if sample.sizes is not None:
            raise InputError("A detector has no class per picture that could be turned.")
        options: dict[str, Any] = {}
        spec = self.input_spec
        if spec is None and (self.class_names is not None or self.mean is not None):
            spec = running.make_spec(sample, self.class_names, self.mean, self.std)
        if spec is not None:
            options["input_spec"] = spec
        if sample.kwargs:
            options["forward_kwargs"] = moved(dict(sample.kwargs), subject.device)
        if self.output_key is not None:
            options["output"] = self.output_key
        inputs = tuple(x.to(subject.device) for x in sample.inputs)
        keys = tuple(range(first, first + len(sample)))
        model = running.as_function(subject.module, sample)
        return SampleBatch(model, inputs if len(inputs) > 1 else inputs[0], keys, None, options, labels=labels)


def robustness(
    pl_module: nn.Module,
    data: Any,
    *,
    attack: str = "pgd",
    eps: Sequence[float | str] = SIZES,
    norm: str = "Linf",
    methods: Any = None,
    n: int | None = 64,
    check: bool = True,
    read: ModuleData | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> Robustness:
    """Attack samples with growing size, and tell how many a LightningModule still says right.

    As `interp_plugins.robust.robustness`, which says more. The module stays as it was.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        data: a DataLoader, batches, or one batch.
        attack: "pgd" or "fgsm", for each size anew; "fmn" or "deepfool", one search for the smallest change.
        eps: sizes in raw units.
        norm: "Linf", "L2" or "L1".
        methods: whose maps are compared before and after, as for `explain`; None: none.
        n: samples at most; None: all.
        check: look for masked gradients.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        seed: of random points.
        progress: None: a bar for long work.
        **params: `steps`, `restarts` of `attack`; `explain=` a dict for the methods.

    Returns:
        `Robustness`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        from interp_plugins.lightning import robustness

        robustness(model, loader, eps=(0.1,), steps=2, check=False).to_df()
    """
    with concise():
        plan = AttackedSizes(attack, eps, norm, methods, check, seed, progress, params)
        return plan.measured((read or ModuleData()).batches(pl_module, data, n))


def corruptions(
    pl_module: nn.Module,
    data: Any,
    names: Any = "all",
    *,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    methods: Any = None,
    n: int | None = 64,
    read: ModuleData | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **params: Any,
) -> Robustness:
    """Corrupt pictures, and tell what a LightningModule still says right; as `interp_plugins.robust.corruptions`.

    Args:
        pl_module: the LightningModule.
        data: a DataLoader, batches, or one batch.
        names: corruptions, by name; "all".
        severities: whole numbers from 1 to 5.
        methods: whose maps are compared with the clean ones; None: none.
        n: samples at most; None: all.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        seed: of all draws.
        progress: None: a bar for long work.
        **params: further arguments of `explain`, and the methods' own.

    Returns:
        `Robustness`.

    Raises:
        InterpError: one of its kinds.

    Example:
        from interp_plugins.lightning import corruptions

        corruptions(model, [x.sigmoid()], "fog", severities=(1,)).to_df()
    """
    with concise():
        plan = Corrupted(names, severities, methods, seed, progress, params)
        return plan.measured((read or ModuleData()).batches(pl_module, data, n))


def explanation_robustness(
    pl_module: nn.Module,
    batch: Any,
    methods: Any = None,
    *,
    n: int | None = 4,
    read: ModuleData | None = None,
    **asked: Any,
) -> ExplanationRobustness:
    """How much maps can change while the prediction stays; as `interp_plugins.robust.explanation_robustness`.

    Args:
        pl_module: the LightningModule.
        batch: one batch, or a loader whose first batch counts.
        methods: as for `explain`.
        n: samples at most; None: all of the batch.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        **asked: further arguments of `interp_plugins.robust.explanation_robustness`.

    Returns:
        `ExplanationRobustness`.

    Raises:
        InterpError: one of its kinds.

    Example:
        from interp_plugins.lightning import explanation_robustness

        explanation_robustness(model, x, "saliency", n=1, n_random=2, steps=2).summary()
    """
    with concise():
        first = next((read or ModuleData()).batches(pl_module, batch, n))
        return core_explanation_robustness(first.model, first.inputs, methods, **{**first.options, **asked})


def counterfactual(
    pl_module: nn.Module, batch: Any, *, n_samples: int | None = 4, read: ModuleData | None = None, **asked: Any
) -> Perturbed:
    """What would have to be different for a LightningModule to say something else.

    Args:
        pl_module: the LightningModule.
        batch: one batch, or a loader.
        n_samples: samples at most; None: all.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        **asked: further arguments of `interp_plugins.robust.counterfactual` (`goal`, `kind`, `data`, `immutable`).

    Returns:
        `Perturbed`.

    Raises:
        InterpError: one of its kinds.

    Example:
        from interp_plugins.lightning import counterfactual

        counterfactual(model, x, kind="regions", n_samples=1).to_df()
    """
    with concise():
        found = [
            core_counterfactual(one.model, one.inputs, **{**one.options, **asked})
            for one in (read or ModuleData()).batches(pl_module, batch, n_samples)
        ]
        return joined(found)


def certify(
    pl_module: nn.Module,
    data: Any,
    method: str = "smoothing",
    *,
    sigma: float = 0.25,
    n: int = 1000,
    n_samples: int | None = 4,
    read: ModuleData | None = None,
    **asked: Any,
) -> Certificate:
    """How far samples can be changed, in any way, without what holds of them ceasing to hold.

    As `interp_plugins.robust.certify`, which says more. The module stays as it was.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        data: a DataLoader, batches, or one batch.
        method: "smoothing", or "region": within it the gradient map is constant.
        sigma: deviation of the noise, in raw units: of a picture from 0 to 1.
        n: draws that bound the class's probability.
        n_samples: samples at most; None: all.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        **asked: further arguments of `interp_plugins.robust.certify` (`n0`, `alpha`, `norm`, `batch_size`, `seed`).

    Returns:
        `Certificate`: `.radius`, `.prediction`, `.to_df()`.

    Raises:
        InterpError: one of its kinds.

    Example:
        from interp_plugins.lightning import certify

        certify(model, loader, sigma=0.1, n=50, n_samples=2).to_df()
    """
    with concise():
        asked |= {"method": method, "sigma": sigma, "n": n}
        return joined_certificates(
            [
                core_certify(one.model, one.inputs, **{**one.options, **asked})
                for one in (read or ModuleData()).batches(pl_module, data, n_samples)
            ]
        )


class RobustnessCallback(Callback):
    """Attack the same validation samples while a module trains, and log a few numbers.

    `robust_acc@0`, `robust_acc@2/255` (of each size), `median_l2`, `map_stability` go to `trainer.callback_metrics` and
    to the loggers, so that a checkpoint can be chosen by them (`ModelCheckpoint(monitor="robust_acc@2/255")`). Training
    is bit-identical with and without it.

    Args:
        n_samples: the first samples of the first validation loader.
        eps: sizes of attacks in Linf, in raw units.
        steps: of each attack.
        every_n_epochs: every n-th validation from the first.
        min_norm: search the smallest changes in L2 as well.
        explanations: a method whose maps are compared before and after the largest attack, or None.
        read: how batches are read, and names and normalisation: a `ModuleData`.
        seed: of all draws.
        on_error: "warn": an error is a warning, and training goes on; "raise".

    Attributes:
        history: a dict per measured validation: "epoch" and the numbers.

    Raises:
        InputError: sizes or counts that are none.

    Example:
        from interp_plugins.lightning import RobustnessCallback

        RobustnessCallback(n_samples=16, eps=("2/255", "8/255")).history  # -> []
    """

    def __init__(
        self,
        n_samples: int = 64,
        eps: Sequence[float | str] = (2 / 255,),
        steps: int = 10,
        every_n_epochs: int = 1,
        min_norm: bool = True,
        explanations: Any = None,
        read: ModuleData | None = None,
        seed: int = 0,
        on_error: str = "warn",
    ):
        super().__init__()
        check_count("n_samples", n_samples, 1)
        check_count("every_n_epochs", every_n_epochs, 1)
        check_choice("on_error", on_error, ON_ERROR)
        self.n_samples, self.every_n_epochs, self.on_error = n_samples, every_n_epochs, on_error
        self.watch, self.read = RobustnessWatch(eps, steps, min_norm, explanations, seed), read or ModuleData()
        self.history: list[dict[str, float]] = []
        self._batches: list[Any] = []
        self._seen = self._epochs = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the samples of the last validation."""
        self._batches, self._seen = [], 0

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first samples, before a step that works on its batch in place."""
        wanted = trainer.is_global_zero and not trainer.sanity_checking and dataloader_idx == 0
        if wanted and self._seen < self.n_samples:
            with contained("RobustnessCallback", self.on_error):
                for one in self._reading(trainer).batches(pl_module, [batch], self.n_samples - self._seen):
                    self._batches.append(one)
                    self._seen += len(one)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure, and log what was found."""
        if trainer.sanity_checking or not self._batches:
            return
        due, batches = self._epochs % self.every_n_epochs == 0, self._batches
        self._epochs, self._batches = self._epochs + 1, []
        if not due:
            return
        with contained("RobustnessCallback", self.on_error):
            with torch.inference_mode(False), running.precision_context(trainer):
                numbers = self.watch.numbers(batches)
            self.history.append({"epoch": trainer.current_epoch, **numbers})
            for name, value in numbers.items():
                pl_module.log(name, value, rank_zero_only=True)

    def _reading(self, trainer: Trainer) -> ModuleData:
        known = {name: getattr(self.read, name) for name in self.read.__dataclass_fields__}
        return ModuleData(**{**known, "trainer": None})  # batches of a loop are on the device already

    def to_df(self) -> Any:
        """A row per measured validation."""
        import pandas as pd

        return pd.DataFrame(self.history)

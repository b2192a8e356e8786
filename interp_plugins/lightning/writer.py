"""`AttributionWriter`: the explanations of a whole data set, made by `Trainer.predict` on as many processes as it has.

The Trainer brings the processes, the devices, the data set and its transfer hooks; what is done by which process is the
store's business. The prediction loop's own batches cannot be the units of work: process r of W sees the samples
r, r + W, ..., so another number of processes cuts the data differently, and nothing that was written would fit. So the
writer reads the loader's data set itself, in units numbered by the data, before the loop begins. It needs no indices
from the loop, which hands none to a writer of the other Lightning package.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from interp_plugins.api.binding import draws
from interp_plugins.api.callbacks import check_names
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.core.errors import InputError
from interp_plugins.core.literals import rather_than
from interp_plugins.core.numbered import Numbered
from interp_plugins.core.truth import Reading
from interp_plugins.lightning import run
from interp_plugins.lightning.arguments import check_layer_methods
from interp_plugins.lightning.batch import read_batch
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.subject import ExplainedModule, check_strategy, find_subject
from interp_plugins.store import ExplanationStore
from interp_plugins.store.dataset import apart, run_facts
from interp_plugins.store.job import Explained, Job, Settings, held_by
from interp_plugins.store.run import probe
from interp_plugins.store.run import run as run_job
from interp_plugins.store.source import as_source, find_names

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import LightningModule, Trainer


class AttributionWriter(Callback):
    """Explains every sample of the predict dataloader into a run directory, or goes on with one.

    The samples are those of the loader's data set, all of them, in its order: shuffling and `limit_predict_batches` do
    not matter (`n_samples` limits). The loop's own predictions are made as ever; with
    `Trainer(limit_predict_batches=1)` they cost nothing. Works with every strategy that holds the whole model in each
    process. A killed run goes on when it is started again, with any number of processes; see
    `interp_plugins.store.explain_dataset`.

    Args:
        output_dir: the run directory; on several machines, one that all of them see.
        methods: name, list of names, or dict name -> parameters; see `interp_plugins.list_methods()`.
        target: None = the predicted class; int = index of the output; str = class name, "label" = ground truth of a
            batch (input, label); list = several explanations per sample; function output -> (N,).
        layer: dotted name of a layer, for methods at a layer; seen from the LightningModule or from `module`.
        module: dotted name of the module inside the LightningModule that is explained; None: itself.
        input_key: the part of the batch that is the input, as for `AttributionCallback`.
        input_fn: batch -> tensor, tuple of tensors (several inputs) or dict of arguments by name, instead.
        label_key: the part of the batch that is the ground truth, as for `AttributionCallback`.
        label_fn: batch -> ground truth, instead.
        id_key: the part of the batch that names the samples: the column `name`.
        output_key: the part of the model's output that is explained (key, attribute or position).
        output_fn: output -> tensor, instead.
        dataloader_idx: which predict dataloader the samples come from.
        n_samples: only the first so many samples of the data set.
        unit_size: samples of a unit, which is written as a whole. None: 64, fewer for small data sets.
        batch_size: samples that are explained together; None: as many as get what each gets alone. Methods that draw
            random numbers go one by one.
        dtype: type in which maps are kept ("float16" halves the room). None: as computed.
        save_inputs: keep the inputs beside the maps.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        autocast: run under the Trainer's precision instead of in the weights' own dtype.
        seed: the run's seed; each sample's draws come from it and the sample's number.
        on_error: "record" writes down a sample that fails and goes on; "raise" stops.
        retry_failed: do the units again that hold samples that failed.
        method_kwargs: parameters of the methods and further arguments of `interp_plugins.explain`, as a dict.
        against: why `target` rather than this one: a class, "label" or a function.

    Attributes:
        store: the run read back, with what is there now.

    Example:
        writer = AttributionWriter("run", methods=["ig", "gradcam"], target="label")
        trainer = Trainer(devices=2, strategy="ddp", callbacks=[writer], limit_predict_batches=1)
        trainer.predict(model, loader, return_predictions=False)
        writer.store.summary(by="label")
    """

    def __init__(
        self,
        output_dir: str,
        methods: str | list[str] | dict[str, dict[str, Any]] = DEFAULT_METHODS,  # type: ignore[assignment]
        target: int | Callable | str | list[int] | None = None,  # a path to a function is text too: functions first
        layer: str | None = None,
        module: str | None = None,
        input_key: str | int | None = None,
        input_fn: Callable | None = None,
        label_key: str | int | None = None,
        label_fn: Callable | None = None,
        id_key: str | int | None = None,
        output_key: str | int | None = None,
        output_fn: Callable | None = None,
        dataloader_idx: int = 0,
        n_samples: int | None = None,
        unit_size: int | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        save_inputs: bool = True,
        class_names: list[str] | list[list[str]] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        autocast: bool = False,
        seed: int = 0,
        on_error: Literal["record", "raise"] = "record",
        retry_failed: bool = False,
        method_kwargs: dict[str, Any] | None = None,
        against: int | Callable | str | None = None,
    ):
        super().__init__()
        check_names(methods)
        self.output_dir, self.methods = Path(output_dir), methods
        self.target = rather_than(target, against)
        self.layer, self.module = layer, module
        self.reading = Reading(input_key, input_fn, label_key, label_fn, id_key, output_key)
        self.output = run.choose_output(output_key, output_fn)
        self.dataloader_idx, self.n_samples = dataloader_idx, n_samples
        self.class_names, self.mean, self.std = run.names_of(class_names, output_key), mean, std
        self.autocast = autocast
        self.method_kwargs = run.method_options(method_kwargs)
        if layer is not None:
            check_layer_methods(methods, self.method_kwargs)
        self.settings: dict[str, Any] = {
            "unit_size": unit_size,
            "batch_size": batch_size,
            "dtype": dtype,
            "save_inputs": save_inputs,
            "seed": seed,
            "on_error": on_error,
            "retry_failed": retry_failed,
        }
        Settings(**self.settings)  # wrong ones are said at once

    @property
    def store(self) -> ExplanationStore:
        """The run read back, with what is there now."""
        return ExplanationStore(self.output_dir)

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Refuse what cannot work before anything runs."""
        if stage != "predict":
            return
        check_strategy(trainer, type(self).__name__)
        if trainer.limit_predict_batches == 0:
            raise InputError(
                "limit_predict_batches=0 leaves out the whole prediction loop, and AttributionWriter with it. Use "
                "limit_predict_batches=1: the writer explains the whole data set anyway."
            )

    def on_predict_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Explain the work units of this process."""
        with torch.inference_mode(False), torch.no_grad():
            job = self._job(trainer, pl_module)
            if getattr(trainer, "fast_dev_run", 0):  # a try-out writes nothing
                probe(job, Settings(**self.settings))
                return
            place: dict[str, Any] = {"rank": trainer.global_rank, "world_size": trainer.world_size}
            if getattr(trainer, "progress_bar_callback", None) is None:
                place["progress"] = False
            run_job(job, self.output_dir, Settings(**self.settings, **place))
            where = self.output_dir
            trainer.print(f"The explanations are in {where}. To look at them: interp-plugins insights {where}")

    def _job(self, trainer: "Trainer", pl_module: "LightningModule") -> Job:
        subject = find_subject(pl_module, self.module, self.layer)
        source = as_source(self._loader(trainer), self.n_samples)

        def explained(samples: list[Any], seed: int) -> Explained:
            batch = source.collate([sample for _, sample in samples])
            return self._explained(trainer, pl_module, subject, batch, seed)

        return Job(
            data=Numbered(source.data),
            explain=explained,
            identity=run_facts(subject.module, self.methods, self.target, self._facts(trainer)),
            draws=draws(self.methods, self.method_kwargs),
            together=apart(self.target, self.method_kwargs.get("threshold")),
            held=held_by(subject.module),
            names=find_names(source.data) if self.reading.id_key is None else None,
            options=source.options,
        )

    def _explained(
        self, trainer: "Trainer", pl_module: "LightningModule", subject: ExplainedModule, batch: Any, seed: int
    ) -> Explained:
        """A batch's explanations, after the Trainer's own transfer hooks."""
        prepared = run.prepared_batch(batch, pl_module, subject, trainer)
        sample = read_batch(prepared, subject.module, self.reading)
        context = run.precision_context(trainer) if self.autocast else contextlib.nullcontext()
        found = run.run(
            subject,
            sample,
            context=context,
            methods=self.methods,
            target=self.target,
            output=self.output,
            input_spec=run.make_spec(sample, self.class_names, self.mean, self.std),
            seed=seed,
            progress=False,
            **self.method_kwargs,
        )
        return Explained.of(found, sample.labels, sample.ids)

    def _loader(self, trainer: "Trainer") -> Any:
        loaders = pytree.tree_leaves(trainer.predict_dataloaders)
        if not 0 <= self.dataloader_idx < len(loaders):
            raise InputError(f"dataloader_idx={self.dataloader_idx}, but there are {len(loaders)} predict dataloaders.")
        loader = loaders[self.dataloader_idx]
        if not isinstance(loader, DataLoader):
            raise InputError(
                f"The predict dataloader is a {type(loader).__name__}. AttributionWriter reads single samples by their "
                "numbers: give a torch.utils.data.DataLoader."
            )
        return loader

    def _facts(self, trainer: "Trainer") -> dict[str, Any]:
        """What makes the run what it is, beside methods, target, model and data."""
        return {
            **self.method_kwargs,
            "layer": self.layer,
            "module": self.module,
            **self.reading.facts(),
            "output": self.output,
            "class_names": self.class_names,
            "mean": self.mean,
            "std": self.std,
            "autocast": str(trainer.precision) if self.autocast else None,
        }

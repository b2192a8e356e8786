"""`AttributionCallback`: what the model looks at, picture by picture, while it trains.

A fixed set of samples is copied from the first validation batches. In every n-th validation epoch their maps are
computed in `on_validation_batch_end`, where the weights are those that are validated (an averaging callback swaps them
back before the epoch ends), and drawn and measured in `on_validation_epoch_end`, where loggers accept them. Everything
happens on the first process and on the bare module, and nothing of the training changes: not a weight, a mode or a
random number.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from interp_plugins.api import callbacks
from interp_plugins.api.callbacks import ON_ERROR, check_choice, check_count, check_folder, check_names, check_tag
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.literals import literals, rather_than, wants_truth
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import own_tree
from interp_plugins.core.truth import Reading
from interp_plugins.lightning import arguments, run
from interp_plugins.lightning.batch import read_batch
from interp_plugins.lightning.judging import judged
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.report import GrowingReport
from interp_plugins.lightning.sinks import Sinks, directory_of, logged_step, shown
from interp_plugins.lightning.stage_state import StageState, is_last_batch
from interp_plugins.lightning.subject import ExplainedModule, built_late, check_strategy, find_subject
from interp_plugins.metrics import series
from interp_plugins.metrics.watching import BUDGET, MetricWatch

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import LightningModule, Trainer

_LOGGERS = ("auto", "files", "both", "none")
_STAGES_OF = {"fit": ("validate", "train"), "validate": ("validate",), "test": ("test",)}


class AttributionCallback(Callback):
    """Explains the same samples again and again while the model trains, and logs pictures and numbers.

    Works in `fit` (in the validation epochs), `trainer.validate` and `trainer.test`; it neither iterates a dataloader
    nor changes a batch. Under DDP the samples are those of the first process, which the others wait for.

    A picture is called `tag/stage/method` (of more than four samples `tag/stage/method/1`, `/2`, ...), says the true
    class in green or red, and stands at the Trainer's `global_step`, as a checkpoint does. For each method these
    numbers, `tag/stage/method/...`, are logged at the step of the Trainer's own metrics: `cosine_to_previous` and
    `rank_correlation_to_previous` (mean similarity of the samples' maps to those of the run before: the reasons have
    settled where both stay near 1), `target_changed` (share of samples whose explained class is another one than
    before), `sparseness` (mean Gini index of the absolute map) and `completeness_error` (median of |convergence delta|
    relative to the change of the score). Several targets of one method are numbered: `method.0`, `method.1`.

    Args:
        methods: name, list of names, or dict name -> parameters; see `interp_plugins.list_methods()`.
        n_samples: number of samples, from the first batches.
        every_n_epochs: the first validation epoch of a run is explained and every n-th after it.
        target: None = the predicted class; int = index of the output; str = class name, "label" = ground truth of a
            batch (input, label); list = several explanations per sample; function output -> (N,).
        layer: dotted name of a layer, for methods at a layer; seen from the LightningModule or from `module`.
        module: dotted name of the module inside the LightningModule that is explained; None: itself.
        input_key: the part of the batch that is the input (key, attribute or position). Without it: a tensor, the
            first element of a tuple or list, the entries of a dict named like parameters of `forward`.
        input_fn: batch -> tensor, tuple of tensors (several inputs) or dict of arguments by name, instead.
        label_key: the part of the batch that is the ground truth: class indices (N,), or one-hot or soft rows (N, C).
            Without it: the other part of two, or the one entry called "label", "target" or "y". Where "label" is a
            target, samples without a label (below 0, or beyond `class_names`) are passed over.
        label_fn: batch -> ground truth, instead.
        id_key: the part of the batch that names the samples, in pictures and tables.
        output_key: the part of the model's output that is explained (key, attribute or position). Of several labels and
            several lists of class names those at the same place are taken.
        output_fn: output -> tensor, instead.
        dataloader_idx: which validation or test dataloader the samples come from.
        stages: "validate" (in `fit` and `trainer.validate`), "test", "train" (batches as the training step got them,
            explained at the end of the training epoch).
        fixed_samples: keep the samples of the first epoch; False takes the first of every epoch.
        loggers: "auto" = the Trainer's loggers, and PNG files if none takes pictures (or `dirpath` is given); "files";
            "both"; "none" = only `last` and `history`. Numbers go to loggers alone.
        dirpath: directory for PNG files and reports; None: `attributions` in the logger's directory.
        report: "html" writes the viewer beside the PNG files: one file per stage, with a slider over its runs, which
            grows with every run and opens without a network (also with `loggers="none"`).
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        autocast: run under the Trainer's precision, as the validation step does, instead of in the weights' own dtype.
        batch_size: rows per pass; None = automatic.
        seed: seed of all random draws; the same in every epoch, so that maps are comparable.
        tag: name of the pictures, and of this callback's state in checkpoints; several callbacks need several tags.
        on_error: "warn" = an error in explaining or logging is a warning and training goes on; "raise".
        method_kwargs: further parameters of the methods, and `baselines`.
        metrics: as for `interp_plugins.evaluate`, without masks or truth: logged as `tag/stage/method/metric`.
        metric_budget: rows that the metrics of one run may send through the model; fewer samples are judged beyond.
        against: why `target` rather than this one: a class, "label" or a function.

    Attributes:
        last: the latest explanations, on the CPU; empty before the first. They stay after the run.
        n_runs: how often samples were explained; continued by a resumed run.
        history: the numbers of all runs of this process, a dict per run and series, with epoch, step, seconds and
            passes; `numbers()` is their table.

    Raises:
        InterpError: one of its kinds, at construction or in `setup`, for arguments that cannot work.

    Example:
        watch = AttributionCallback("saliency", n_samples=4, target="label", class_names=names)
        Trainer(callbacks=[watch]).fit(model, train_loader, val_loader)
        watch.numbers()[["epoch", "method", "sparseness"]], watch.last[0].attribution.shape
    """

    def __init__(
        self,
        methods: str | list[str] | dict[str, dict[str, Any]] = DEFAULT_METHODS,  # type: ignore[assignment]
        n_samples: int = 8,
        every_n_epochs: int = 1,
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
        stages: Sequence[Literal["validate", "test", "train"]] = ("validate",),
        fixed_samples: bool = True,
        loggers: Literal["auto", "files", "both", "none"] = "auto",
        dirpath: str | None = None,
        report: Literal["html"] | None = None,
        class_names: list[str] | list[list[str]] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        autocast: bool = False,
        batch_size: int | None = None,
        seed: int = 0,
        tag: str = "attribution",
        on_error: Literal["warn", "raise"] = "warn",
        method_kwargs: dict[str, Any] | None = None,
        against: int | Callable | str | None = None,
        metrics: Any = None,
        metric_budget: int = BUDGET,
    ):
        super().__init__()
        check_names(methods)
        check_count("n_samples", n_samples, 1)
        check_count("every_n_epochs", every_n_epochs, 1)
        check_count("dataloader_idx", dataloader_idx, 0)
        check_seed(seed)
        check_folder("dirpath", dirpath)
        arguments.check_class_names(class_names)
        arguments.check_choices(target, layer, against)
        stages = arguments.checked_stages(stages)  # type: ignore[assignment]
        check_choice("loggers", loggers, _LOGGERS)
        check_choice("on_error", on_error, ON_ERROR)
        if report is not None:
            check_choice("report", report, ("html",))
        check_tag(tag)
        InputSpec(mean=tuple(mean) if mean else None, std=tuple(std) if std else None)  # both or neither, and positive
        if isinstance(methods, dict):
            methods = {name: run.method_options(options) for name, options in methods.items()}
        self.methods, self.method_kwargs = methods, run.method_options(method_kwargs)
        self.n_samples, self.every_n_epochs, self.fixed_samples = n_samples, every_n_epochs, fixed_samples
        self.target, self.layer, self.module = rather_than(target, against), layer, module
        self.input_key, self.input_fn = input_key, input_fn
        self.label_key, self.label_fn, self.id_key = label_key, label_fn, id_key
        self.reading = Reading(input_key, input_fn, label_key, label_fn, id_key, output_key)
        self.output_key, self.output_fn = output_key, output_fn
        self.output = run.choose_output(output_key, output_fn)
        self.dataloader_idx, self.stages = dataloader_idx, stages
        self.loggers, self.dirpath, self.report = loggers, dirpath, report
        self.class_names, self.mean, self.std = run.names_of(class_names, output_key), mean, std
        self.autocast, self.batch_size, self.seed = autocast, check_chunk("batch_size", batch_size), seed
        self.tag, self.on_error, self.against = tag, on_error, against
        self._who = f"AttributionCallback(tag={tag!r})"
        self.metrics, self.metric_budget, watch = metrics, metric_budget, MetricWatch(metrics, metric_budget, seed)
        self._watch, self.n_runs, self._resumed, self.last = watch, 0, False, Explanations()
        self._states: dict[str, StageState] = {}
        self.history: list[dict[str, Any]] = []
        self._sinks: Sinks | None = None
        self._reports: dict[str, GrowingReport] = {}

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """The key in checkpoints: class and tag, so that other arguments may change between runs."""
        return f"{type(self).__qualname__}{{'tag': {self.tag!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the number of runs."""
        return {"n_runs": self.n_runs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting runs where a checkpoint stopped."""
        self.n_runs = int(state_dict["n_runs"])
        self._resumed = True

    def __getstate__(self) -> dict[str, Any]:
        """Say which function cannot be pickled (processes that are spawned get a pickled callback)."""
        arguments.check_picklable(
            {name: getattr(self, name) for name in ("input_fn", "label_fn", "output_fn", "target")}
        )
        return dict(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AttributionCallback":
        """A copy, for which no function needs to be picklable."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def numbers(self) -> Any:
        """A table (DataFrame) of `history`: a row per run and series, which is a method, of several targets each."""
        import pandas as pd

        return pd.DataFrame(self.history)

    # -- hooks -----------------------------------------------------------------------------------------------

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Check what can be checked before the work starts, and settle where files go (on all processes)."""
        wanted = [s for s in _STAGES_OF.get(str(getattr(stage, "value", stage)), ()) if s in self.stages]
        if not wanted:
            return
        check_strategy(trainer)
        if not built_late(pl_module):
            self._subject(pl_module)
        if self.layer is not None:
            arguments.check_layer_methods(self.methods, self.method_kwargs)
        for one in wanted:
            self._states[one] = StageState(self.n_samples, self.every_n_epochs, self.fixed_samples)
        asked = self.loggers != "none" or self.report is not None
        directory = directory_of(trainer, self.dirpath) if asked else None
        self._sinks = Sinks.of(directory, self.loggers, self.dirpath) if directory is not None else None
        if self.report is not None and directory is not None:
            for one in wanted:
                self._reports.setdefault(one, GrowingReport(directory, f"{self.tag}-{one}", f"{self.tag}, {one}"))

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check the names again: by now all modules are built."""
        self._check(pl_module)

    def on_validation_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check the names again: by now all modules are built."""
        self._check(pl_module)

    def on_test_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Check the names again: by now all modules are built."""
        self._check(pl_module)

    def on_validation_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Decide whether this validation epoch is explained."""
        self._begin("validate", trainer)

    def on_test_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Decide whether this test epoch is explained."""
        self._begin("test", trainer)

    def on_train_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Decide whether this training epoch is explained."""
        self._begin("train", trainer)

    def on_validation_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect samples, before a step that works on its batch in place."""
        self._gather("validate", trainer, pl_module, batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the samples as soon as they are complete."""
        self._look("validate", trainer, pl_module, batch_idx, dataloader_idx)

    def on_test_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect samples, before a step that works on its batch in place."""
        self._gather("test", trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the samples as soon as they are complete."""
        self._look("test", trainer, pl_module, batch_idx, dataloader_idx)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Collect samples; they are explained at the end of the epoch."""
        self._gather("train", trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Draw and log what was found."""
        self._end("validate", trainer, pl_module)

    def on_test_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Draw and log what was found."""
        self._end("test", trainer, pl_module)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Explain the samples of the training epoch, draw and log."""
        self._end("train", trainer, pl_module)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Say it where nothing was explained: Lightning leaves out an empty validation without a word."""
        for name, state in self._states.items():
            why = state.never_ran(trainer, name)
            if why and trainer.is_global_zero:
                warnings.warn(f"{self._who}: {why}", InterpWarning, stacklevel=2)

    # -- work ------------------------------------------------------------------------------------------------

    def _context(self, trainer: "Trainer") -> contextlib.AbstractContextManager[Any]:
        return run.precision_context(trainer) if self.autocast else contextlib.nullcontext()

    def _subject(self, pl_module: "LightningModule") -> ExplainedModule:
        return find_subject(pl_module, self.module, self.layer)

    def _check(self, pl_module: "LightningModule") -> None:
        if self._states:
            self._subject(pl_module)

    def _begin(self, stage: str, trainer: "Trainer") -> None:
        state = self._states.get(stage)
        if state is not None and not trainer.sanity_checking:
            state.begin()

    def _due(self, stage: str, trainer: "Trainer") -> StageState | None:
        """The stage's state if this process has something to do in this epoch."""
        state = self._states.get(stage)
        if state is None or not state.due or trainer.sanity_checking or not trainer.is_global_zero:
            return None
        return state

    def _gather(
        self,
        stage: str,
        trainer: "Trainer",
        pl_module: "LightningModule",
        batch: Any,
        loader: int | None = None,
    ) -> None:
        """Take what is still missing from a batch of the dataloader that is asked about."""
        state = self._due(stage, trainer)
        if state is None or state.samples.closed or loader not in (None, self.dataloader_idx):
            return
        with self._errors(state):
            self._collect(state, pl_module, batch)

    def _look(
        self, stage: str, trainer: "Trainer", pl_module: "LightningModule", batch_idx: int, dataloader_idx: int
    ) -> None:
        """Explain the samples once they are complete, or no more come."""
        state = self._due(stage, trainer)
        if state is None or state.found is not None or dataloader_idx != self.dataloader_idx:
            return
        with self._errors(state):
            if state.samples.closed or is_last_batch(trainer, stage == "test", batch_idx, dataloader_idx):
                self._explain(state, trainer, pl_module, stage)

    def _collect(self, state: StageState, pl_module: "LightningModule", batch: Any) -> None:
        if self.input_fn is not None or self.label_fn is not None:
            batch = own_tree(batch)  # a user's function may work in place
        sample = read_batch(batch, self._subject(pl_module).module, self.reading)
        labelled = any(map(wants_truth, literals(self.target)))
        state.samples.add(sample.labelled(self.class_names) if labelled else sample)

    def _explain(self, state: StageState, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        if len(state.samples) == 0:
            raise InputError(state.samples.nothing(f"dataloader_idx={self.dataloader_idx}", stage))
        state.samples.closed = True
        sample, subject = state.samples.joined(), self._subject(pl_module)
        found = run.run(
            subject,
            sample,
            context=self._context(trainer),
            methods=self.methods,
            target=self.target,
            output=self.output,
            input_spec=run.make_spec(sample, self.class_names, self.mean, self.std),
            batch_size=self.batch_size,
            seed=self.seed,
            progress=False,
            **self.method_kwargs,
        )
        state.found = run.with_labels(found, sample.labels)
        state.judged, known = [], {"output": self.output, **self.method_kwargs}
        with callbacks.contained(self._who, self.on_error), self._context(trainer):  # maps stay where metrics fail
            state.judged = judged(self._watch, found, subject, sample, self.target, known, self.batch_size)
        self.last = state.found
        self.n_runs += 1

    def _end(self, stage: str, trainer: "Trainer", pl_module: "LightningModule") -> None:
        state = self._due(stage, trainer)
        if state is None:
            return
        with self._errors(state):
            if state.found is None:
                self._explain(state, trainer, pl_module, stage)
            exps, before = state.found or self.last, state.before
            state.before = exps
            self._publish(exps, before, trainer, stage)
            if stage in self._reports:
                name = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
                known = {"same": self.fixed_samples, "resumed": self._resumed}
                self._reports[stage].add(exps, state.samples.joined().labels, name, **known)
            self._tell(state, trainer, stage)

    def _publish(self, exps: Explanations, before: Explanations | None, trainer: "Trainer", stage: str) -> None:
        """The numbers and pictures of one run."""
        step = logged_step(trainer, stage)
        facts = {"run": self.n_runs, "stage": stage, "epoch": trainer.current_epoch, "step": step}
        found = series.rows(exps, before, self._states[stage].judged, **facts)
        self.history += found
        if self._sinks is not None:
            self._sinks.numbers(found, trainer, self.tag, stage, self._watch.names)
            self._sinks.pictures(exps, trainer, self.tag, stage, self.n_runs)

    def _tell(self, state: StageState, trainer: "Trainer", stage: str) -> None:
        """Say once where the results of a stage are."""
        places = self._sinks.places(trainer, f"{self.tag}/{stage}") if self._sinks is not None else []
        places += [f"the report {shown(str(self._reports[stage].path))}"] if stage in self._reports else []
        state.tell_once(trainer, self._who, places)

    def _errors(self, state: StageState) -> contextlib.AbstractContextManager[None]:
        """An error ends this epoch's work, and is a warning or raised."""
        return callbacks.contained(self._who, self.on_error, state.give_up)

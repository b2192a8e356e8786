"""`suspects` for a LightningModule, with its data and its way to read a batch; `MarginHistory` while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.hooks import OwnHook
from interp_plugins.core.placement import moved
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading
from interp_plugins.influence.features import ItemBatch
from interp_plugins.influence.margins import Margins, as_margins
from interp_plugins.influence.ranking import Options
from interp_plugins.influence.suspected import Suspects
from interp_plugins.influence.suspecting import DataSource, found_in
from interp_plugins.lightning import run as running
from interp_plugins.lightning.batch import ModelInput, read_batch, read_truth
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.subject import ExplainedModule, find_subject

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


def suspects(
    pl_module: nn.Module,
    data: Any,
    *,
    valid: Any = None,
    k: int = 50,
    by: str | Sequence[str] | None = None,
    kind: str | None = None,
    layer: Any = None,
    module: str | None = None,
    history: Any = None,
    input_key: str | int | None = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: str | int | None = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: str | int | None = None,
    output_key: str | int | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    class_names: list[str] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    seed: int = 0,
    trainer: Trainer | None = None,
    progress: bool | None = None,
) -> Suspects:
    """Find items whose labels are likely wrong, copies across training and validation (leakage), and outliers.

    As `interp_plugins.influence.suspects`, which says more of what is done, for a LightningModule and its loaders: the
    data set is read in item order, whatever its loader shuffles or drops, and the module stays as it was.

    Args:
        pl_module: the trained LightningModule (any `nn.Module` will do).
        data: a DataLoader, a LightningDataModule (then its training data, and its validation data as `valid`), a data
            set, or batches.
        valid: validation data, a DataLoader, a data set or batches: items of theirs that are in `data` are listed and
            warned of.
        k: neighbours that vote.
        by: reasons whose ranks are averaged ("knn", "head", "margin", "loss"); None: the first two, and a history's
            margins.
        kind: "classes", "labels", "values" or "pixels"; None: by the labels' form.
        layer: whose output are the features: a module or its dotted name; None: what goes into the last layer.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        history: a `MarginHistory` that it was trained with.
        input_key: the part of the batch that is the input, as for `interp_plugins.lightning.explain`.
        input_fn: batch -> input, instead.
        label_key: the part that is the label; None: guessed where the batch has two parts.
        label_fn: batch -> label, instead.
        id_key: the part that names the items.
        output_key: the part of the output that is meant.
        output_fn: output -> tensor, instead.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units, for the pictures.
        std: per-channel standard deviation by which they were divided.
        input_spec: all of these at once, instead.
        seed: of the folds.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
        progress: None: a bar for long work.

    Returns:
        `Suspects`: `.show()`, `.to_df()`, `.to_html(path)` with tags, `.top(n)`, `.leakage()`, `.outliers()`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        from interp_plugins.lightning import suspects

        suspects(model, loader).to_df().head()
    """
    with concise():
        check_seed(seed)
        if input_spec is not None and (class_names is not None or mean is not None or std is not None):
            raise InputError("Give input_spec=, or class_names, mean and std, not both.")
        subject = find_subject(pl_module, module)
        reading = Reading(input_key, input_fn, label_key, label_fn, id_key, output_key)
        reader = ModuleReader(pl_module, subject, reading, trainer)
        data, valid = _parts(data, valid)
        source = DataSource(data, reader, seed)
        beside = None if valid is None else DataSource(valid, reader, seed)
        output = running.choose_output(output_key, output_fn)
        options = Options(k, by, kind, as_margins(history), input_spec or InputSpec(), seed)
        spec = input_spec
        if spec is None and (class_names is not None or mean is not None):
            first = next(iter(source.batches()))
            spec = running.make_spec(ModelInput(first.inputs), class_names, mean, std)
        return found_in(source, beside, options, layer=layer, output=output, progress=progress, spec=spec)


def _parts(data: Any, valid: Any) -> tuple[Any, Any]:
    """The data to search and the validation data; of a datamodule its own."""
    if not hasattr(data, "train_dataloader"):
        return data, valid
    if getattr(data, "trainer", None) is None:
        data.prepare_data()
        data.setup("fit")
    if valid is None:
        found = data.val_dataloader()
        valid = found if isinstance(found, DataLoader) else None
    return data.train_dataloader(), valid


class ModuleReader:
    """How a batch of a module's data is read.

    Args:
        pl_module: the LightningModule.
        subject: the module in it that is asked.
        reading: which part of a batch is what.
        trainer: the Trainer, or None.
    """

    def __init__(self, pl_module: nn.Module, subject: ExplainedModule, reading: Reading, trainer: Any):
        self.pl_module, self.subject, self.reading, self.trainer = pl_module, subject, reading, trainer

    def __call__(self, batch: Any, numbers: list[int]) -> ItemBatch:
        """A batch as the module takes it, with its labels as they came."""
        batch = running.prepared_batch(batch, self.pl_module, self.subject, self.trainer)
        unlabelled = Reading(self.reading.input_key, self.reading.input_fn, id_key=self.reading.id_key)
        sample = read_batch(batch, self.subject.module, unlabelled)
        if sample.sizes is not None:
            raise InputError("A detector has no layer whose features are a row per picture: suspects need one.")
        truth = read_truth(batch, sample, self.reading)
        more = moved(dict(sample.kwargs), self.subject.device)
        model = running.as_function(self.subject.module, sample)
        func = model if not more else _With(model, more)
        return ItemBatch(
            func, tuple(x.to(self.subject.device) for x in sample.inputs), numbers, truth, names=sample.ids
        )


class _With:
    """A model with the further arguments of one batch by name."""

    def __init__(self, func: Any, kwargs: dict[str, Any]):
        self.func, self.kwargs = func, kwargs

    def wrapped_callables(self) -> list[Any]:
        """The model inside, for the guard and for layers."""
        return [self.func]

    def __call__(self, *inputs: Tensor) -> Any:
        """Call the model with the arguments by name."""
        return self.func(*inputs, **self.kwargs)


class _Recorded:
    """A sampler of batches that notes what it gave, in order."""

    def __init__(self, inner: Any):
        self.inner, self.given = inner, deque[list[int]]()

    def __iter__(self) -> Iterator[Any]:
        self.given.clear()
        for batch in self.inner:
            self.given.append([int(i) for i in batch])
            yield batch

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class MarginHistory(Callback):
    """Keep the margin of every training item as it passes, by item number: AUM for the price of a gather.

    The margin is the logit of the item's label less the largest other, in the batch that is trained on anyway; its mean
    over the epochs (Pleiss et al. 2020, arXiv:2001.10528) is a third vote of `suspects(..., history=...)`. Training is
    the same to the last bit. The logits are the output of the module in `training_step`; the items' numbers come from
    the loader's batch sampler. Where Lightning makes the loader anew (several devices), nothing is kept, and a warning
    says so.

    Args:
        module: dotted name of the module inside the LightningModule whose output are the logits; None: itself.
        label_key: the part of the batch that is the label; None: guessed where the batch has two parts.
        label_fn: batch -> label, instead.
        output_key: the part of the output that is meant.

    Attributes:
        margins: `Margins`, by item number; later fits add to them.

    Example:
        from interp_plugins.lightning import MarginHistory

        MarginHistory(module="net").margins
    """

    def __init__(
        self,
        module: str | None = None,
        *,
        label_key: str | int | None = None,
        label_fn: Callable[[Any], Any] | None = None,
        output_key: str | int | None = None,
    ):
        super().__init__()
        self.margins = Margins()
        self.module, self.output_key = module, output_key
        self.reading = Reading(label_key=label_key, label_fn=label_fn, output=output_key)
        self._samplers: list[tuple[DataLoader[Any], _Recorded]] = []
        self._undo: list[Callable[[], Any]] = []
        self._said: Any = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Watch what the loader of the training data will draw, and the module's output."""
        if stage != "fit":
            return
        subject = find_subject(pl_module, self.module)
        handle = subject.module.register_forward_hook(OwnHook(subject.module, self._output))
        source = trainer.fit_loop._data_source
        own = source.dataloader

        def recorded() -> Any:
            return self._watched(own())

        vars(source)["dataloader"] = recorded
        self._undo = [handle.remove, lambda: vars(source).pop("dataloader", None)]

    def _output(self, module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            self._said = output

    def _watched(self, loaders: Any) -> Any:
        if isinstance(loaders, DataLoader) and loaders.batch_sampler is not None:
            recorded = _Recorded(loaders.batch_sampler)
            object.__setattr__(loaders, "batch_sampler", recorded)
            self._samplers.append((loaders, recorded))
        return loaders

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Forget outputs of before."""
        self._said = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the margins of the batch that was trained on."""
        said, self._said = self._said, None
        recorded = self._samplers[-1][1] if self._samplers else None
        if recorded is None or not recorded.given:
            self.margins.tell(
                "which items a training batch holds is not known: its loader was made anew, or is a stream."
            )
            return
        numbers = recorded.given.popleft()
        if said is not None and self.output_key is not None:
            said = said[self.output_key]
        labels = self.reading.truth(batch)
        if not isinstance(said, Tensor) or not isinstance(labels, Tensor):
            self.margins.tell(
                "no logits or no labels were seen in a training step. Name the module that gives them (module='net'), "
                "and the label's part of the batch (label_key=)."
            )
            return
        self.margins.add(numbers, said, labels)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave loader and module as they were."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave loader and module as they were, also when training fails."""
        self._restore()

    def _restore(self) -> None:
        for undo in self._undo:
            undo()
        for loader, recorded in reversed(self._samplers):
            object.__setattr__(loader, "batch_sampler", recorded.inner)
        self._undo, self._samplers, self._said = [], [], None

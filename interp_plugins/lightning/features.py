"""`visualize` and `dataset_examples` for a LightningModule and a loader or a LightningDataModule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading, class_labels
from interp_plugins.influence.suspecting import DataSource
from interp_plugins.lightning import run as running
from interp_plugins.lightning.batch import ModelInput
from interp_plugins.lightning.concepts import loader_of
from interp_plugins.lightning.subject import find_subject
from interp_plugins.lightning.suspects import ModuleReader
from interp_plugins.optim.examples import dataset_examples as core_examples
from interp_plugins.optim.found import Examples
from interp_plugins.optim.source import ExampleBatch, ExampleSource
from interp_plugins.optim.units import full_name
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize as core_visualize

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


def visualize(
    pl_module: nn.Module,
    layer: Any = None,
    data: Any = None,
    *,
    module: str | None = None,
    reading: Reading | None = None,
    class_names: list[str] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    trainer: Trainer | None = None,
    **options: Any,
) -> Visualization:
    """Climb from noise to the pictures that units of a LightningModule are most active for; it stays as it was.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`.
        data: a loader, tensors, or a LightningDataModule, whose validation loader is read; None: no data, and then
            `like=` an example of the input.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        reading: which part of a batch is what; None: guessed.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all of these at once, instead.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
        **options: those of `interp_plugins.visualize`: `channel`, `target`, `param`, `size`, `steps`, ...

    Returns:
        `Visualization`: `.show()`, `.examples`, `.scores`, `.to_html(path)`, `.save(path)`.

    Raises:
        LayerError: no such layer.
        InputError: a DataModule without a validation loader.

    Example:
        from interp_plugins.lightning import visualize

        visualize(model, "body.0", val_loader, channel=1, steps=8).names
    """
    with concise():
        items = ModuleItems(pl_module, module, data, reading, trainer)
        spec = items.spec(class_names, mean, std, input_spec)
        beside: dict[str, Any] = {} if items.source is None else {"data": items.source}
        return core_visualize(items.model, full_name(items.model, layer), input_spec=spec, **beside, **options)


def dataset_examples(
    pl_module: nn.Module,
    data: Any,
    layer: Any = None,
    *,
    module: str | None = None,
    reading: Reading | None = None,
    class_names: list[str] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    trainer: Trainer | None = None,
    **options: Any,
) -> Examples:
    """Find the items of the data that units of a LightningModule are most active for; it stays as it was.

    Args:
        pl_module: the LightningModule.
        data: a loader, tensors, or a LightningDataModule, whose validation loader is read.
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        reading: which part of a batch is what; None: guessed.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all of these at once, instead.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
        **options: those of `interp_plugins.dataset_examples`: `channel`, `k`, `bottom`, `crop`, ...

    Returns:
        `Examples`: `.show()`, `.to_df()`, `.to_html(path)`, `.save(path)`.

    Raises:
        LayerError: no such layer.

    Example:
        from interp_plugins.lightning import dataset_examples

        dataset_examples(model, val_loader, "body.0", channel=1, k=2).index.shape
    """
    with concise():
        items = ModuleItems(pl_module, module, data, reading, trainer)
        if items.source is None:
            raise InputError("dataset_examples looks for examples among data: give a loader or a DataModule.")
        spec = items.spec(class_names, mean, std, input_spec)
        return core_examples(items.model, items.source, full_name(items.model, layer), input_spec=spec, **options)


class ModuleItems:
    """A LightningModule and its data, as features take them.

    Args:
        pl_module: the LightningModule.
        module: dotted name of the module inside that is asked, or None.
        data: as for `visualize`.
        reading: which part of a batch is what, or None.
        trainer: the Trainer, or None.
    """

    def __init__(self, pl_module: nn.Module, module: str | None, data: Any, reading: Reading | None, trainer: Any):
        self.model: Any = find_subject(pl_module, module).module
        self.source: ExampleSource | None = None
        self.vocab: tuple[Any, ...] | None = None
        if data is None:
            return
        reader = ModuleReader(pl_module, find_subject(pl_module, module), reading or Reading(), trainer)
        self.items = DataSource(loader_of(data), reader, 0)
        self.source = ExampleSource(self._batches, self.items.total)
        self.model = next(iter(self.items.batches())).model

    def spec(self, class_names: Any, mean: Any, std: Any, given: InputSpec | None) -> InputSpec | None:
        """What is known of the inputs.

        Raises:
            InputError: the same thing said twice.
        """
        if given is not None and (class_names is not None or mean is not None or std is not None):
            raise InputError("Give input_spec=, or class_names, mean and std, not both.")
        self.vocab = tuple(class_names) if class_names is not None else given.vocab if given is not None else None
        if given is not None or (class_names is None and mean is None and std is None):
            return given
        if self.source is None:
            return InputSpec("image", None if mean is None else tuple(mean), None if std is None else tuple(std),
                             vocab=self.vocab)  # fmt: skip
        first = next(iter(self.items.batches()))
        return running.make_spec(ModelInput(first.inputs), class_names, mean, std)

    def _batches(self) -> Iterator[ExampleBatch]:
        names = InputSpec(vocab=self.vocab)
        for item in self.items.batches():
            classes = class_labels(item.truth, len(item.numbers))
            labels = None
            if classes is not None:
                labels = ["" if c < 0 else str(names.label(c)) for c in classes.tolist()]
            yield ExampleBatch((*item.inputs, *item.more), item.numbers, labels, item.names)

"""`caricature`, `invert`, `accentuate` and `atlas` for a LightningModule: what does a layer make of the data?

What is made is `interp_plugins.optim`'s; here the module, its data and what is known of them are found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import Reading
from interp_plugins.lightning.features import ModuleItems
from interp_plugins.optim import inverting as from_item
from interp_plugins.optim.atlas import atlas as core_atlas
from interp_plugins.optim.atlas_result import Atlas
from interp_plugins.optim.units import full_name
from interp_plugins.optim.visualization import Visualization

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer


def caricature(
    pl_module: nn.Module,
    image: Any,
    layer: Any,
    *,
    module: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> Visualization:
    """Climb to a picture whose activations point where those of this one point; the LightningModule stays as it was.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do).
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all that is known of the inputs, instead.
        **options: those of `interp_plugins.optim.caricature`: `power`, `param`, `size`, `steps`, ...

    Returns:
        `Visualization` of one row.

    Raises:
        InputError: several pictures.
        LayerError: no such layer.

    Example:
        from interp_plugins.lightning import caricature

        caricature(model, x[:1], "body.0", steps=8).names
    """
    with concise():
        items = ModuleItems(pl_module, module, None, None, None)
        spec = items.spec(None, mean, std, input_spec)
        return from_item.caricature(items.model, image, full_name(items.model, layer), input_spec=spec, **options)


def invert(
    pl_module: nn.Module,
    image: Any,
    layer: Any,
    *,
    module: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> Visualization:
    """Climb from noise to a picture that gives a layer of a LightningModule the activations of this one.

    Args:
        pl_module: the LightningModule; it stays as it was.
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all that is known of the inputs, instead.
        **options: those of `interp_plugins.optim.invert`: `loss`, `smooth`, `param`, `size`, `steps`, ...

    Returns:
        `Visualization` of one row; its activation is 0 at best for the loss "l2".

    Raises:
        InputError: several pictures.
        LayerError: no such layer.

    Example:
        from interp_plugins.lightning import invert

        invert(model, x[:1], "body.0", steps=8).activation
    """
    with concise():
        items = ModuleItems(pl_module, module, None, None, None)
        spec = items.spec(None, mean, std, input_spec)
        return from_item.invert(items.model, image, full_name(items.model, layer), input_spec=spec, **options)


def accentuate(
    pl_module: nn.Module,
    image: Any,
    layer: Any = None,
    *,
    module: str | None = None,
    class_names: list[str] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> Visualization:
    """Climb from a picture itself, and stay near it: what a unit of a LightningModule sees there, made stronger.

    Args:
        pl_module: the LightningModule; it stays as it was.
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`; None with `target=` or
            `objective=`.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all that is known of the inputs, instead.
        **options: those of `interp_plugins.optim.accentuate`: `channel`, `target`, `penalty`, `steps`, ...

    Returns:
        `Visualization`, a row per unit.

    Raises:
        InputError: several pictures; none or several units.

    Example:
        from interp_plugins.lightning import accentuate

        accentuate(model, x[:1], target=1, steps=8).images.shape
    """
    with concise():
        items = ModuleItems(pl_module, module, None, None, None)
        spec = items.spec(class_names, mean, std, input_spec)
        return from_item.accentuate(items.model, image, full_name(items.model, layer), input_spec=spec, **options)


def atlas(
    pl_module: nn.Module,
    data: Any,
    layer: Any,
    *,
    module: str | None = None,
    reading: Reading | None = None,
    class_names: list[str] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_spec: InputSpec | None = None,
    trainer: Trainer | None = None,
    **options: Any,
) -> Atlas:
    """Show all directions that the data take in a layer of a LightningModule, as a map of pictures.

    Args:
        pl_module: the LightningModule; it stays as it was.
        data: a loader, tensors, or a LightningDataModule, whose validation loader is read.
        layer: module, dotted name (its end is enough where only one module has it), or `Layer`.
        module: dotted name of the module inside `pl_module` that is asked; None: itself.
        reading: which part of a batch is what; None: guessed.
        class_names: names of the classes, in the order of the output.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        input_spec: all of these at once, instead.
        trainer: the Trainer, whose transfer hooks treat the batches as in a validation step.
        **options: those of `interp_plugins.optim.atlas`: `grid`, `n`, `min_count`, `embed`, `steps`, ...

    Returns:
        `Atlas`: `.show()`, `.to_html(path)`, `.save(path)`.

    Raises:
        InputError: no data; too few items for a single cell.

    Example:
        from interp_plugins.lightning import atlas

        atlas(model, val_loader, "body.0", grid=(2, 2), min_count=2, embed="pca", steps=4).images.shape
    """
    with concise():
        items = ModuleItems(pl_module, module, data, reading, trainer)
        if items.source is None:
            raise InputError("atlas lays out what data do in a layer: give a loader or a DataModule.")
        spec = items.spec(class_names, mean, std, input_spec)
        return core_atlas(items.model, items.source, full_name(items.model, layer), input_spec=spec, **options)

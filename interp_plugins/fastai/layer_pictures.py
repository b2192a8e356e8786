"""`Learner.caricature`, `Learner.invert`, `Learner.accentuate`, `Learner.atlas`: what does a layer make of the data?

Items go through the validation transforms; what is made of them is `interp_plugins.optim`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.tensors import as_tuple
from interp_plugins.fastai.features import learner_items
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.reader import reader_of
from interp_plugins.fastai.sample_stream import sample_stream
from interp_plugins.optim import inverting as from_item
from interp_plugins.optim.atlas import atlas as core_atlas
from interp_plugins.optim.atlas_result import Atlas
from interp_plugins.optim.units import full_name
from interp_plugins.optim.visualization import Visualization

_ITEMS = {"masks": None, "truth": None, "label_key": None, "baselines": None}


@patch
def caricature(
    self: Learner,
    item: Any,  # one item as for `explain`: a path, an array, a row, or the number of a row of the validation set
    layer: Any,  # module, dotted name (its end is enough: "layer4"), or `Layer`
    *,
    power: float = 1.0,  # of the cosine with the item's activations
    **params: Any,  # `param`, `size`, `steps`, `transform`, `seed`, ... of `interp_plugins.visualize`
) -> Visualization:
    """Climb to a picture whose activations point where those of an item point, as far as can be.

    Returns:
        `Visualization` of one row: `.show()`, `.images`, `.to_html(path)`.

    Raises:
        InputError: several items.
        LayerError: no such layer.

    Example:
        learn.caricature(0, "0.0", steps=8).show()
    """
    return _of_item(self, item, layer, lambda m, x, at, spec: from_item.caricature(
        m, x, at, power=power, input_spec=spec, **params))  # fmt: skip


@patch
def invert(
    self: Learner,
    item: Any,  # one item as for `explain`, or the number of a row of the validation set
    layer: Any,  # module, dotted name (its end is enough: "layer4"), or `Layer`
    *,
    loss: str = "l2",  # minus the relative squared distance of the activations; or "dot", their product
    smooth: float = 0.0,  # how much the total variation of the picture costs
    **params: Any,  # `param`, `size`, `steps`, `transform`, `seed`, ... of `interp_plugins.visualize`
) -> Visualization:
    """Climb from noise to a picture that gives a layer the activations of an item: what the layer keeps of it.

    Returns:
        `Visualization` of one row; its activation is 0 at best for "l2".

    Raises:
        InputError: several items, or another loss.
        LayerError: no such layer.

    Example:
        learn.invert(0, "0.0", steps=8).show()
    """
    return _of_item(self, item, layer, lambda m, x, at, spec: from_item.invert(
        m, x, at, loss=loss, smooth=smooth, input_spec=spec, **params))  # fmt: skip


@patch
def accentuate(
    self: Learner,
    item: Any,  # as for `caricature`
    layer: Any = None,  # for `channel`, `neuron` and `direction`
    *,
    channel: Any = None,  # an int, several, a slice, or "all"
    neuron: Any = None,  # (channel, row, column), or (channel,): the centre
    direction: Any = None,  # a vector in the layer's channels, or several
    target: Any = None,  # a class by name or index, that the item is moved towards
    objective: Any = None,  # as for `visualize`
    penalty: float = 1.0,  # how dear distance from the item is
    output: Any = None,  # as for `explain`
    **params: Any,  # `param`, `size`, `steps`, `transform`, `seed`, ... of `interp_plugins.visualize`
) -> Visualization:
    """Climb from an item itself, and stay near it: what a unit sees in this picture, made stronger.

    Returns:
        `Visualization`, a row per unit.

    Raises:
        InputError: several items; none or several units.

    Example:
        learn.accentuate(0, target=1, steps=8).show()
    """
    asked = {"channel": channel, "neuron": neuron, "direction": direction, "target": target, "objective": objective}
    return _of_item(self, item, layer, lambda m, x, at, spec: from_item.accentuate(
        m, x, at, **asked, penalty=penalty, input_spec=spec, output=output, **params), output)  # fmt: skip


@patch
def atlas(
    self: Learner,
    layer: Any,  # module, dotted name (its end is enough: "layer4"), or `Layer`
    *,
    dl: Any = None,  # the data: a loader
    ds_idx: int = 1,  # or a split: 0 training, 1 validation
    n: int = 100_000,  # items at most, one place of each
    grid: tuple[int, int] = (20, 20),  # rows and columns of the map
    min_count: int = 8,  # items that a cell needs to have a picture
    output: Any = None,  # as for `explain`
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `embed`, `size`, `steps`, `param`, `seed`, `batch_size` of `interp_plugins.optim.atlas`
) -> Atlas:
    """Show all directions that the data take in a layer, as a map of pictures.

    Returns:
        `Atlas`: `.show()`, `.to_html(path)`, `.save(path)`.

    Raises:
        InputError: too few items for a single cell.

    Example:
        learn.atlas("0.0", grid=(2, 2), min_count=2, embed="pca", steps=4).show()
    """
    with concise():
        reader = reader_of(self)
        with reader.unchanged():
            items = learner_items(reader, ds_idx, dl, output, None)
            how = {"n": n, "grid": grid, "min_count": min_count, "progress": progress, **params}
            known = {"input_spec": items.spec, "output": items.output}
            return core_atlas(items.model, items.source, full_name(items.model, layer), **how, **known)


def _of_item(
    learn: Learner, item: Any, layer: Any, made: Callable[..., Visualization], output: Any = None
) -> Visualization:
    """What is made of one item of a Learner."""
    with concise():
        reader = reader_of(learn)
        numbered = isinstance(item, int) and not isinstance(item, bool)
        source = SampleSource(None, None, 1, [item]) if numbered else SampleSource(item, None, None, None)
        with reader.unchanged():
            batch = next(iter(sample_stream(reader, source, None, **_ITEMS, output=output)))
            inputs = as_tuple(batch.inputs)
            if len(inputs[0]) != 1:
                raise InputError(f"A picture is made of one item; got {len(inputs[0])}. Call it for each.")
            return made(batch.model, inputs, full_name(batch.model, layer), batch.options.get("input_spec"))

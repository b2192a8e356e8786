"""`Learner.visualize`, `Learner.dataset_examples`: what do units of this network look for?

Normalisation, size, device, class names and data come from the Learner; items go through the validation transforms.
What is found is `interp_plugins.optim`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.spec import InputSpec
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.batch import ReadBatch
from interp_plugins.fastai.labels import class_indices, label_number
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.suspects import LearnerGallery, LearnerSource
from interp_plugins.fastai.tabular import TabularReader
from interp_plugins.fastai.text import TextReader
from interp_plugins.optim.examples import dataset_examples as core_examples
from interp_plugins.optim.found import Examples
from interp_plugins.optim.source import ExampleBatch, ExampleSource
from interp_plugins.optim.units import full_name
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize as core_visualize

DATA = 2000  # items that are looked at


@patch
def visualize(
    self: Learner,
    layer: Any = None,  # module, dotted name (its end is enough: "layer4"), or `Layer`
    *,
    channel: Any = None,  # an int, several, a slice, or "all"
    neuron: Any = None,  # (channel, row, column), or (channel,): the centre
    direction: Any = None,  # a vector in the layer's channels, or several
    target: Any = None,  # a class by name or index, or a list: its logit
    objective: Any = None,  # an objective of `interp_plugins.optim.objectives`
    param: Any = "fft",  # how the picture is made: "fft", "maco", "pixel"
    size: Any = None,  # of the picture; None: that of the data
    steps: int = 512,  # at most
    dl: Any = None,  # the data beside the pictures: a loader
    ds_idx: int = 1,  # or a split: 0 training, 1 validation
    max_items: int | None = DATA,  # of the data that are looked at; 0: no data
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    seed: int = 0,  # of the beginnings
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `n`, `transform`, `examples`, `init`, ... of `interp_plugins.visualize`
) -> Visualization:
    """Climb from noise to the pictures that units of the network are most active for, beside the data that excite them.

    Returns:
        `Visualization`: `.show()`, `.images`, `.examples`, `.scores`, `.to_html(path)`, `.save(path)`.

    Raises:
        InputTypeError: words or other ids, which do not change by a little; `dataset_examples` is for these.
        LayerError: no such layer.

    Example:
        learn.visualize("0.0", channel=3, steps=8).show()
    """
    with concise():
        reader = reader_of(self)
        with reader.unchanged():
            items = learner_items(reader, ds_idx, dl, output, label_key)
            named = full_name(items.model, layer)
            asked = {"channel": channel, "neuron": neuron, "direction": direction, "target": target}
            how = {"param": param, "size": size, "steps": steps, "seed": seed, "progress": progress, **params}
            beside = {"data": items.source, "max_items": max_items} if max_items != 0 else {"like": items.example}
            known = {"input_spec": items.spec, "output": items.output, "objective": objective}
            return core_visualize(items.model, named, **asked, **how, **beside, **known)


@patch
def dataset_examples(
    self: Learner,
    layer: Any = None,  # module, dotted name (its end is enough: "layer4"), or `Layer`
    *,
    channel: Any = None,  # an int, several, a slice; None: all
    neuron: Any = None,  # (channel, row, column), or (channel,): the centre
    direction: Any = None,  # a vector in the layer's channels, or several
    target: Any = None,  # a class by name or index, or a list
    k: int = 9,  # items of each unit
    dl: Any = None,  # the data: a loader
    ds_idx: int = 1,  # or a split: 0 training, 1 validation
    max_items: int | None = None,  # items that are looked at; None: all
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # `bottom`, `reduce`, `crop` of `interp_plugins.dataset_examples`
) -> Examples:
    """Find the items of the data that units are most active for: pictures, rows, texts.

    Returns:
        `Examples`: `.show()`, `.to_df()`, `.to_html(path)` (a page of all channels, sortable), `.save(path)`.

    Raises:
        LayerError: no such layer.

    Example:
        learn.dataset_examples("0.0", channel=[3, 7], k=2).to_df()
    """
    with concise():
        reader = reader_of(self)
        with reader.unchanged():
            items = learner_items(reader, ds_idx, dl, output, label_key)
            asked = {"channel": channel, "neuron": neuron, "direction": direction, "target": target}
            how = {"k": k, "max_items": max_items, "progress": progress, **params}
            known = {"input_spec": items.spec, "output": items.output}
            return core_examples(items.model, items.source, full_name(items.model, layer), **asked, **how, **known)


@dataclass(frozen=True)
class LearnerItems:
    """A Learner's data as features take them.

    Attributes:
        model: the bare model, as it is called.
        source: the items.
        example: one item, as the model takes it.
        spec: what is known of the inputs.
        output: which part of the output is meant.
    """

    model: Any
    source: ExampleSource
    example: tuple[Any, ...]
    spec: InputSpec | None
    output: Any


def learner_items(reader: Reader, ds_idx: int, dl: Any, output: Any, label_key: int | None) -> LearnerItems:
    """The items of a split or loader, with validation transforms, in the order of the data set.

    Args:
        reader: of the Learner's data, inside `unchanged`.
        ds_idx: the split.
        dl: a loader instead, or None.
        output: as for `explain`.
        label_key: which of the data's targets belongs to that output; None: that at the output's place.

    Raises:
        InputError: no items.
    """
    number = label_number(label_key, output)
    found = LearnerSource(reader, reader.loader(ds_idx) if dl is None else dl, number)
    begun = next(iter(_batches(found, number, range(min(1, found.total or 1)))), None)
    if begun is None:
        raise InputError("The data hold no item.")
    func, first = begun
    output = output if output is not None else reader.outputs().get("output")
    source = ExampleSource(
        lambda: (batch for _, batch in _batches(found, number, range(found.total or 0))), found.total
    )
    return LearnerItems(func, source, tuple(x[:1] for x in first.inputs), found.spec, output)


def _batches(found: LearnerSource, number: int | None, rows: Sequence[int]) -> Iterator[tuple[Any, ExampleBatch]]:
    for numbers, read in found._read(rows):
        made = found._item_batch(numbers, read)
        classes = class_indices(read.labels, len(numbers), number)
        labels = None
        if classes is not None and found.spec is not None:
            labels = ["" if c < 0 else str(found.spec.label(c)) for c in classes.tolist()]
        words = _Words(found, read) if isinstance(found.reader, (TextReader, TabularReader)) else None
        yield made.model, ExampleBatch((*made.inputs, *made.more), numbers, labels, made.names, words=words)


class _Words(Sequence[Any]):
    """What people read of a batch's items, made when an item is asked for."""

    def __init__(self, found: LearnerSource, read: ReadBatch):
        self.gallery, self.read = LearnerGallery(found, found.spec or InputSpec()), read

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, i: Any) -> Any:
        return self if isinstance(i, slice) else self.gallery._of(self.read, i)

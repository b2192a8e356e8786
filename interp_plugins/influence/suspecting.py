"""`suspects`: which labels of a data set are likely wrong, from one pass and no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interp_plugins.api.items import ItemReader, rows_of
from interp_plugins.core.errors import concise
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.truth import Reading
from interp_plugins.influence.features import ItemBatch, ItemFeatures, read_features
from interp_plugins.influence.margins import as_margins
from interp_plugins.influence.ranking import Options, ranked
from interp_plugins.influence.suspected import Suspects

Readers = Callable[[Any, list[int]], ItemBatch]


def suspects(
    model: Callable[..., Any],
    data: Any,
    *,
    valid: Any = None,
    k: int = 50,
    by: str | Sequence[str] | None = None,
    kind: str | None = None,
    layer: Any = None,
    history: Any = None,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: Any = None,
    output: Any = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Suspects:
    """Find items whose labels are likely wrong, copies of items (also across to `valid`: leakage), and outliers.

    One pass in eval mode reads the features before the last layer. Two votes judge each label: its 50 nearest
    neighbours there (weights cosine^8), and a linear head that is refitted five times, each time without the fold of
    the item, exact copies in one fold. Items are ranked by the mean rank of both. The data set is read in item order,
    whatever the loader shuffles, repeats or drops, so items are numbers of the data set; nothing of model or data is
    changed. Give training data with the transforms of validation: an augmentation is drawn once, by the item's own
    seed.

    Args:
        model: a trained `nn.Module`, or any callable around one.
        data: a DataLoader, a data set of (input, label), a tuple (inputs, labels) of tensors, or batches. Labels are
            classes (indices or one-hot), marks of 0 and 1 (N, L), values (N,) or (N, K), or masks (N, H, W).
        valid: the validation data, in any form that `data` may have: items of theirs that are in `data` are listed and
            warned of.
        k: neighbours that vote.
        by: the reasons whose ranks are averaged, of "knn", "head", "margin" and "loss"; None: the first two, and with a
            history its margin as a third.
        kind: what the labels are: "classes", "labels" (any number of an item), "values", "pixels"; None: by their form.
        layer: whose output are the features: a module, its dotted name, or a `Layer`; None: what goes into the last
            linear or convolutional layer.
        history: a `MarginHistory` that was trained with; its margins (AUM, Pleiss et al. 2020) are a reason and a vote.
        input_spec: kind of data, normalisation and class names; guessed from the shape if None.
        input_key: the part of a batch that is the input; None: the first.
        input_fn: batch -> input, instead.
        label_key: the part that is the label; None: guessed where the batch has two parts.
        label_fn: batch -> label, instead.
        id_key: the part that names the items.
        output: which part of the model's output is meant, as for `explain`.
        seed: of the folds, the places of masks, and of a model or data set that draws.
        progress: None: a bar for long work.

    Returns:
        `Suspects`: `.show()`, `.to_df()`, `.to_html(path)` with tags, `.top(n)`, `.likely`, `.leakage()`.

    Raises:
        InputError: no labels, labels of no known form, or a stream that has no order.
        LayerError: no layer to read features at: name one.

    Example:
        from interp_plugins.influence import suspects

        found = suspects(model, (torch.rand(60, 3, 24, 24), torch.arange(60) % 10), k=5)
        len(found.top(3))  # -> 3
    """
    with concise():
        check_seed(seed)
        reading = Reading(input_key, input_fn, label_key, label_fn, id_key, output)
        options = Options(k, by, kind, as_margins(history), input_spec or InputSpec(), seed)
        source = DataSource(data, plain_reader(model, reading), seed)
        beside = None if valid is None else DataSource(valid, source.reader, seed)
        return found_in(source, beside, options, layer=layer, output=output, progress=progress, spec=input_spec)


class DataSource:
    """Items as a model takes them, read from the data of plain torch; again where they are to be shown.

    Args:
        data: as for `suspects`.
        reader: a batch and its items' numbers -> `ItemBatch`.
        seed: of data sets that draw.
    """

    def __init__(self, data: Any, reader: Readers, seed: int):
        self.items, self.reader = ItemReader(data, seed), reader
        self.spec: InputSpec | None = None

    @property
    def total(self) -> int | None:
        """The number of items; None for a stream."""
        return None if self.items.numbers is None else len(self.items.numbers)

    def batches(self) -> Iterator[ItemBatch]:
        """All items, in order."""
        for numbers, batch in self.items.batches():
            made = self.reader(batch, numbers)
            if self.spec is None:
                self.spec = InputSpec.guess(made.inputs[0])
            yield made

    def gallery(self, spec: InputSpec) -> Callable[[Sequence[int]], list[Any]] | None:
        """What shows items: pictures as colours, other inputs as columns; None where they cannot be read again."""
        if not self.items.again:
            return None

        def shown(numbers: Sequence[int]) -> list[Any]:
            found: dict[int, Any] = {}
            with preserved_rng():
                for some, batch in self.items.some(numbers):
                    made = self.reader(batch, some)
                    found |= {number: visible(made.inputs, i, spec) for i, number in enumerate(some)}
            return [found[number] for number in numbers]

        return shown


def plain_reader(model: Callable[..., Any], reading: Reading) -> Readers:
    """How a batch of plain torch is read."""

    def read(batch: Any, numbers: list[int]) -> ItemBatch:
        inputs = as_tuple(beside_weights(reading.inputs(batch), model))
        names = reading.ids(batch, rows_of(batch))
        return ItemBatch(model, inputs, numbers, reading.truth(batch, len(inputs) == 1), names=names)

    return read


def visible(inputs: Sequence[Tensor], i: int, spec: InputSpec) -> Any:
    """One item as it is shown: a picture (H, W, 3) in [0, 1], or its numbers by the features' names."""
    x = inputs[0][i].detach().cpu()
    if spec.kind == "image" and x.ndim == 3:
        from interp_plugins.viz.pixels import photo_of

        return photo_of(x.movedim(-1, 0) if spec.layout == "last" else x, replace(spec, layout=None)).rgb
    flat = spec.denormalise(x[None])[0].flatten() if x.is_floating_point() and spec.kind == "tabular" else x.flatten()
    names = spec.feature_names or tuple(f"feature {j}" for j in range(len(flat)))
    return {str(name): f"{float(v):.4g}" for name, v in zip(names, flat.tolist())}


def found_in(
    source: Any,
    valid: Any,
    options: Options,
    *,
    layer: Any = None,
    output: Any = None,
    progress: bool | None = None,
    spec: InputSpec | None = None,
) -> Suspects:
    """The suspects of a source of items; the global random generators stay where they are.

    Args:
        source: `batches()`, `total`, `spec` and `gallery(spec)`.
        valid: the same of the validation data; None: without.
        options: how they are ranked.
        layer: whose output are the features; None: what goes into the last linear or convolutional layer.
        output: which part of the model's output is meant, as for `explain`.
        progress: None: a bar for long work.
        spec: kind of data and class names; None: as the source guesses.
    """

    def read(one: Any) -> ItemFeatures:
        how = {"layer": layer, "output": output, "seed": options.seed, "progress": progress}
        return read_features(one.batches(), total=one.total, **how)

    with preserved_rng():
        train = read(source)
        other = None if valid is None else read(valid)
    known = spec or source.spec or InputSpec()
    return ranked(train, other, replace(options, spec=known), source.gallery(known))

"""`dataset_examples`: the items of a data set that units are most active for, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import samples_chunk
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.progress import progress_bar
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import is_float
from interp_plugins.core.truth import Reading
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.collect import Collected, collect
from interp_plugins.optim.fields import SeenField, field_of
from interp_plugins.optim.found import Examples
from interp_plugins.optim.readout import Readout, channels_of, grid_of
from interp_plugins.optim.source import ExampleBatch, ExampleSource, source_of
from interp_plugins.optim.units import AskedUnits, name_of_layer

_FIELD_ITEMS = 16


@dataclass(frozen=True)
class Looking:
    """How data are looked at; arguments as of `dataset_examples`."""

    k: int = 9
    bottom: int = 0
    spread: int = 0
    reduce: Any = "max"
    crop: Any = "effective"
    most: int | None = None
    chunk: int | None = None
    progress: bool | None = None


def dataset_examples(
    model: Callable[..., Any],
    data: Any,
    layer: Any = None,
    *,
    channel: Any = None,
    neuron: Any = None,
    direction: Any = None,
    target: Any = None,
    objective: Any = None,
    token: Any = None,
    k: int = 9,
    bottom: int = 0,
    spread: int = 0,
    reduce: str | Callable[[Tensor], Tensor] = "max",
    crop: str | None = "effective",
    max_items: int | None = None,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: Any = None,
    output: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Examples:
    """Find the items of a data set that units are most active for, and show what the units see of them.

    One forward pass up to the layer serves all its channels. Works for pictures, series, tables and texts. Items are
    numbers of the data set in its own order, whatever a loader shuffles; of equal values the earlier item comes first,
    and an item counts once for a unit. The model is left as it was.

    Args:
        model: an `nn.Module` or any callable around one.
        data: a DataLoader, a data set of (input, label), a tensor or tuple (inputs, labels), or batches.
        layer: module, dotted name or `Layer`, for `channel`, `neuron` and `direction`.
        channel: an int, several, a slice, or "all"; None, and none of the others either: "all".
        neuron: (channel, row, column), (channel, token) or (channel,), the centre; or a list of these.
        direction: a vector (D,) or several (K, D) in the layer's channels.
        target: a class, by index or name, or several in a list; a `Target`; a function of the output: the items with
            the largest output.
        objective: an `Objective` of `optim.objectives`, or a list.
        token: "cls" or a raw token's number, for `channel` of layers of tokens.
        k: items of each unit.
        bottom: items of the other end, in `.bottom`.
        spread: items at even steps from the strongest to the weakest, in `.spread`: what the unit does in between.
        reduce: how a channel's values over space become one: "max", "mean", or a function (R, U, S) -> (R, U).
        crop: what is shown of an item: "effective", the box that holds 95 % of what moves the unit there; "field", all
            that moves it; None: the whole item.
        max_items: items that are looked at; None: all.
        input_spec: kind of data, normalisation, class names; guessed from the first batch if None.
        input_key: the part of a batch that is the input; None: the first.
        input_fn: batch -> input, instead.
        label_key: the part that is the label; None: guessed.
        output: which part of the model's output is meant.
        forward_kwargs: keyword arguments of the model.
        batch_size: items per pass; None: automatic.
        progress: None: a bar for long work.

    Returns:
        `Examples`: numbers, values, places, crops, quantiles; `.show()`, `.to_df()`, `.to_html(path)`, `.save(path)`.

    Raises:
        InputError: no items; values that are NaN; a channel that the layer does not have.
        LayerError: no such layer, or one that does not run.

    Example:
        from interp_plugins import dataset_examples

        found = dataset_examples(model, x, "0", channel=2, k=1)
        found.index.shape  # -> (1, 1)
    """
    with concise():
        given = {"channel": channel, "neuron": neuron, "direction": direction, "target": target, "objective": objective}
        if layer is not None and all(v is None for v in given.values()):
            given["channel"] = "all"
        asked = AskedUnits.of(layer, token, **given)
        counts = _count("k", k, 1), _count("bottom", bottom, 0), _count("spread", spread, 0)
        how = Looking(*counts, reduce, crop, max_items, batch_size, progress)
        reading = Reading(input_key, input_fn, label_key)
        source = source_of(data, model, input_spec, reading, max_items)
        with frozen(model):
            return looked_at(model, source, asked, how, input_spec, output, forward_kwargs)[0]


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an int from {least}, got {value!r}.")
    return value


def looked_at(
    model: Any,
    source: ExampleSource,
    asked: AskedUnits,
    how: Looking,
    input_spec: InputSpec | None,
    output: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[Examples, Collected]:
    """Examples of the units that are asked for, inside `frozen`; and what was kept of the data."""
    few = _first(source)
    spec = as_spec(input_spec, few.inputs[0])
    capture = capture_for(model, few, asked, output, kwargs)
    units = asked.units(model, channels_of(asked, capture.shapes, capture.grids), spec)
    readout = Readout(asked, units, how.reduce)
    chunk = how.chunk or samples_chunk(few.inputs)
    total = min(how.most or source.total or len(few.numbers), source.total or how.most or len(few.numbers))
    fast = capture if few.kwargs else capture.faster(few.inputs, total, chunk, backward=False)
    with progress_bar(total if how.most or source.total else 0, "data", how.progress) as bar:
        found = collect(fast, readout, source, spec, how.k, how.bottom, how.most, chunk, bar)
    if how.spread:
        found.spread_out(source, how.spread, how.most)
    sees = _sees(capture, asked, few, spec, how.crop)
    where = name_of_layer(model, asked.layer) if asked.layer is not None else "output"
    return found.examples(sees, spec, where, how.k), found


def capture_for(
    model: Any, few: ExampleBatch, asked: AskedUnits, output: Any, kwargs: Mapping[str, Any] | None
) -> Capture:
    """The model at the layers that are asked for, for batches like these."""
    forward = Forward.of(Call(model, kwargs, output), 1)
    forward.samples = tuple(x[:1] for x in few.inputs)
    own = {k: v[:1] if isinstance(v, Tensor) else v for k, v in few.kwargs.items()}
    forward.kwargs = {**forward.kwargs, **own}
    made = Capture.of(forward, forward.samples, asked.places, asked.needs_output)
    made.forward.kwargs = {k: v for k, v in made.forward.kwargs.items() if k not in own}
    return made


def _first(source: ExampleSource) -> ExampleBatch:
    batch = next(source.batches(_FIELD_ITEMS), None)
    if batch is None or not len(batch.numbers):
        raise InputError("The data hold no item.")
    return batch


def _sees(capture: Capture, asked: AskedUnits, few: ExampleBatch, spec: InputSpec, crop: Any) -> SeenField:
    grid = grid_of(asked, capture.shapes, capture.grids)
    if not grid or not is_float(few.inputs[0]) or few.kwargs or few.inputs[0].ndim < 3:
        return SeenField((), (), ())
    if spec.channel_axis(few.inputs[0].ndim) != 1:
        crop = None
    items = [x[:_FIELD_ITEMS] for x in few.inputs]
    with torch.enable_grad():
        return field_of(capture, asked.layer, items, grid, crop)

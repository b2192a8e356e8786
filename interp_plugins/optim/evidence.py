"""A picture and what the data say: the climb, the pass over the data, and the scores that put one beside the other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.guard import frozen
from interp_plugins.core.truth import Reading
from interp_plugins.optim import scores
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.collect import Collected
from interp_plugins.optim.examples import Looking, looked_at
from interp_plugins.optim.found import Examples
from interp_plugins.optim.loop import Ascending
from interp_plugins.optim.making import Making, ModelCall, Recipe, climbed
from interp_plugins.optim.readout import channels_of
from interp_plugins.optim.source import SAMPLE, ExampleSource, first_inputs, raw_sample, source_of
from interp_plugins.optim.subject import BOUNDED, PictureSubject
from interp_plugins.optim.transforms import resized
from interp_plugins.optim.units import AskedUnits, FeatureUnit
from interp_plugins.optim.visualization import Visualization

SOFTMAX = (
    "The model's output is probabilities, which give no gradient where the model is sure, and rise as well where other "
    "classes fall. Give the model without its last softmax, so that the class itself is climbed."
)
_FEW = 64  # items by which the data's spectrum is compared


@dataclass(frozen=True)
class Data:
    """The data beside the pictures.

    Attributes:
        data: as the user gives them, an `ExampleSource`, or None.
        k: examples of each unit.
        most: items that are looked at.
        reading: which part of a batch is what.
    """

    data: Any = None
    k: int = 9
    most: int | None = 2000
    reading: Reading = field(default_factory=Reading)

    def source(self, call: ModelCall) -> ExampleSource | None:
        """The data as a source; None without."""
        if self.data is None:
            return None
        return source_of(self.data, call.model, call.input_spec, self.reading, self.most)


def pictures_of(
    call: ModelCall, asked: AskedUnits, recipe: Recipe, data: Data, progress: bool | None, units: Any = None
) -> Visualization:
    """Pictures of units, with what the data say of them.

    Args:
        call: the model.
        asked: which units.
        recipe: how pictures climb.
        data: the data beside them.
        progress: None: a bar for long work.
        units: the units themselves, where they are no plain ones: (Making) -> units.
    """
    source = data.source(call)
    with frozen(call.model, seed=recipe.seed):
        if source is not None and call.like is None:
            call = replace(call, like=tuple(x[:1] for x in first_inputs(source)))
        subject = call.subject(recipe.size)
        sample = raw_sample(source, subject.spec, subject.place, _measured(recipe, subject)) if source else None
        if sample is not None and sample.shape[1] != subject.channels:
            sample = None
        capture = Capture.of(subject.forward, subject.row, asked.places, asked.needs_output)
        if asked.kind == "target" and capture.probabilities:
            warnings.warn(SOFTMAX, InterpWarning, stacklevel=3)
        making = Making.of(subject, capture, recipe, sample)
        channels = channels_of(asked, capture.shapes, capture.grids)
        rows = asked.units(call.model, channels, subject.spec) if units is None else units(making)
        found = climbed(making, rows, sample, progress)
        looked = None
        if source is not None:
            how = Looking(data.k, most=data.most, chunk=recipe.chunk, progress=progress)
            looked = looked_at(
                call.model, source, asked, how, call.input_spec or subject.spec, call.output, call.kwargs
            )
        return _judged(making, found, rows, looked, sample)


def _measured(recipe: Recipe, subject: PictureSubject) -> int:
    """How many items are read before the climb: more where colours, spectra or the range of values are theirs."""
    own = any(isinstance(x, str) and x == "data" for x in (recipe.colour, recipe.magnitude))
    return SAMPLE if own or subject.spec.kind not in BOUNDED else _FEW


def _judged(
    making: Making,
    found: Visualization,
    units: Sequence[FeatureUnit],
    looked: tuple[Examples, Collected] | None,
    sample: Tensor | None,
) -> Visualization:
    """Pictures with their scores."""
    problem = making.problem(sample, 1)
    pictures = found.images.to(problem.device, problem.dtype)
    objectives = [units[u].objective for u in found.unit]
    known = {"robust": scores.robust(problem, pictures, objectives, found.activation, making.recipe.seed)}
    if looked is None:
        return replace(found, scores=known)
    examples, kept = looked
    rows = torch.tensor(found.unit)
    known["ratio"] = scores.ratio(found.activation, examples.largest[rows])
    if sample is not None and problem.space:
        known["spectrum"] = scores.spectrum(pictures.double().cpu(), sample[:_FEW])
        known["path"] = _paths(making, problem, pictures, found, examples, kept)
    order = [name for name in ("ratio", "robust", "spectrum", "path") if name in known]
    return replace(found, scores={k: known[k] for k in order}, examples=examples, reference=examples.level[rows])


def _paths(
    making: Making, problem: Ascending, pictures: Tensor, found: Visualization, examples: Examples, kept: Collected
) -> Tensor:
    """The `path` of each picture; NaN where the items differ in size."""

    def as_inputs(raw: Tensor) -> Sequence[Tensor]:
        return problem.model_inputs(resized(raw.to(problem.device, problem.dtype), problem.size))

    def stacked(numbers: Sequence[int]) -> Tensor:
        return torch.cat([resized(kept.kept.raw(i), problem.size) for i in numbers])

    tops = [stacked([i for i in row if i >= 0]) for row in examples.index.tolist()]
    others = stacked([i for i in kept.strangers if i in kept.kept.inputs])
    return scores.all_paths(making.capture, as_inputs, pictures, [tops[u] for u in found.unit], others)

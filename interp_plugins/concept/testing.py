"""`concept_test`: does a network use a concept for a class? In one call, from examples and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.concept.concept import Concept
from interp_plugins.concept.items import chosen, opened
from interp_plugins.concept.place import Place
from interp_plugins.concept.significance import ConceptTest
from interp_plugins.concept.tcav import TCAV
from interp_plugins.core.errors import InputError, InputTypeError, concise
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import Reading


def concept_test(
    model: Callable[..., Any],
    concept: Any,
    random: Any,
    data: Any,
    target: Any,
    layers: Any = None,
    *,
    runs: int = 30,
    permutations: int = 1000,
    items: Any = None,
    most: int = 200,
    pool: str | None = None,
    seed: int = 0,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    label_key: Any = None,
) -> ConceptTest:
    """Test whether a class's score rises towards concepts that examples show; the model stays as it was.

    Args:
        model: an `nn.Module`, also a LightningModule.
        concept: examples of it as the model takes them (a tensor, a list of batches, a loader), several by name in a
            dict, or `Concept`s.
        random: examples of anything else of the same kind.
        data: samples of which those of the class are asked: tensor, tuple or dict of tensors, or a
            data set or loader of (input, label).
        target: the class, by index or by a name of `input_spec.vocab`.
        layers: names, modules or `Layer`s; None: the last one with places that the score depends on.
        runs: random halvings of the examples, for the stability of the vector.
        permutations: shuffled labels; the smallest p-value is 1 / (permutations + 1).
        items: which samples: None, those that the model says are of the class; "all"; or their ids.
        most: how many samples at most.
        pool: as for `TCAV`.
        seed: of the shuffles.
        input_spec: kind of data, normalisation and class names.
        input_key: the part of a batch that is the input; None: the batch, or its first element.
        label_key: the part that is the label; None: the other part of two.

    Returns:
        A `ConceptTest`: a row per concept and layer with score, p, p after Holm, accuracy and stability.

    Raises:
        InputError: no sample of the class, too few examples.

    Example:
        from interp_plugins.concept import concept_test

        found = concept_test(model, torch.rand(9, 3, 24, 24) + 0.5, torch.rand(9, 3, 24, 24), x, 3, items="all")
        0 < found[0].p <= 1  # -> True
    """
    with concise():
        options = {} if input_spec is None else {"input_spec": input_spec}
        stream = SampleStream(model, data, None, options, Reading(input_key, None, label_key))
        many, other = _concepts(concept), _concepts(random)[-1]
        made = {"runs": runs, "permutations": permutations}
        with preserved_rng():
            return of_stream(model, stream, many, other, target, layers, items, most, pool=pool, seed=seed, **made)


def of_stream(
    model: Any,
    stream: Iterable[SampleBatch],
    concepts: Sequence[Concept],
    random: Concept,
    target: Any,
    layers: Any,
    items: Any,
    most: int,
    *,
    pool: str | None = None,
    seed: int = 0,
    runs: int = 30,
    permutations: int = 1000,
) -> ConceptTest:
    """Test concepts on the samples of a stream; see `concept_test`.

    Args:
        model: an `nn.Module`.
        stream: batches.
        concepts: the concepts.
        random: the others.
        target: the class.
        layers: names, modules or `Layer`s; None: the last one with places that the score depends on.
        items: which samples: None, those that the model says are of the class; "all"; or their ids.
        most: how many samples at most.
        pool: "mean" or "max" over a layer's places, "none": all numbers; None: by the layer's size.
        seed: of the shuffles.
        runs: random halvings of the examples, for the stability of the vector.
        permutations: shuffled labels; the smallest p-value is 1 / (permutations + 1).
    """
    batches, label = chosen(stream, target, items, most)
    with opened(batches[0], target) as one:
        if layers is None:
            layers = Place.of(one.forward, one.xs, None).layer
        indices = one.asked.indices
        asked = indices[0] if indices is not None and len(set(indices)) == 1 else target
    numbered = [Concept(i, c.name, c.data_iter) for i, c in enumerate([*concepts, random])]
    tcav = TCAV(model, layers, save_path=None, pool=pool, seed=seed)
    inputs = _together([batch.inputs for batch in batches])
    found = tcav.test(inputs, numbered[:-1], numbered[-1], asked, runs=runs, permutations=permutations)
    return replace(found, target=label)


def _concepts(given: Any) -> list[Concept]:
    """What was given as examples, as concepts."""
    if isinstance(given, Concept):
        return [given]
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, Concept) for one in given):
        return list(given)
    named = isinstance(given, Mapping) and not all(isinstance(v, Tensor) and v.ndim < 2 for v in given.values())
    return [Concept(i, str(name), data) for i, (name, data) in enumerate(given.items())] if named else [
        Concept(0, "concept", given)
    ]  # fmt: skip


def _together(inputs: Sequence[Any]) -> Any:
    """Batches of inputs as one."""
    first = inputs[0]
    try:
        if isinstance(first, Mapping):
            return {name: torch.cat([one[name] for one in inputs]) for name in first}
        if isinstance(first, tuple):
            return tuple(torch.cat(column) for column in zip(*inputs, strict=True))
        return torch.cat(list(inputs))
    except RuntimeError as err:
        raise InputError(f"The samples of the class differ in size: give items= of one size ({err}).") from err
    except TypeError:
        raise InputTypeError(f"The samples are no tensors: {describe(first)}.") from None

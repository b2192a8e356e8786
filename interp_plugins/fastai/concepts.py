"""`Learner.concepts` and `Learner.concept_test`: with which concepts does this network see a class?

Items go through the same validation transforms as in `learn.explain`; what is found is `interp_plugins.concept`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastai.data.transforms import get_files
from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.api.samples import SampleBatch
from interp_plugins.concept.bank import BankSource, ConceptBank
from interp_plugins.concept.concept import Concept
from interp_plugins.concept.discover import find
from interp_plugins.concept.significance import ConceptTest
from interp_plugins.concept.testing import of_stream
from interp_plugins.core.errors import InputError, concise
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.sample_stream import named_or_first, sample_stream

_BESIDE: dict[str, Any] = {"masks": None, "truth": None, "label_key": None, "baselines": None}


@patch
def concepts(
    self: Learner,
    target: Any = None,  # the class, by name or index; None: each item's predicted class
    n_concepts: int = 10,
    *,
    layer: Any = None,  # module, name or `Layer`; None: the last one with places
    crops: bool | float | str = True,  # parts: half the side, another share, "segments"; False: places of the layer
    items: Any = None,  # None: what the model says is of the class; "all"; or row numbers
    item: Any = None,  # items to look through, as for `explain`; None: the first `n` rows of a split
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    n: int = 1000,  # rows that are looked through
    most: int = 100,  # items of the class that are used
    seed: int = 0,  # of what judges: other beginnings, halves
    output: Any = None,  # as for `explain`
) -> ConceptBank:
    """Find the concepts that a Learner's network goes by for a class, without labels of them; nothing is changed.

    Returns:
        A `ConceptBank`: `.show()`, `.explain("cat.jpg").show()`, `.name(3, "whiskers")`, `.to_html(path)`, `.save`.

    Raises:
        InputError: no item of the class among the rows, or more concepts than parts.

    Example:
        learn.concepts(target="cat", n_concepts=2, items="all").importance
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx), n)
        beside = {**_BESIDE, "output": output}
        with reader.unchanged():
            found = find(
                sample_stream(reader, source, target, **beside),
                BankSource(lambda one: _one(reader, one, target, beside), target),
                n_concepts,
                layer=layer,
                crops=crops,
                items=items,
                most=most,
                seed=seed,
            )
        return found


def _one(reader: Reader, item: Any, target: Any, beside: dict[str, Any]) -> SampleBatch:
    """An item as a batch of one."""
    with reader.unchanged():
        return next(iter(sample_stream(reader, SampleSource(item), target, **beside)))


@patch
def concept_test(
    self: Learner,
    concept: Any,  # a folder of examples, a list of items, or several of these by name in a dict
    random: Any,  # examples of anything else of the same kind: a folder, a list of items
    target: Any,  # the class, by name or index
    layers: Any = None,  # names, modules or `Layer`s; None: the last one with places
    *,
    items: Any = None,  # None: what the model says is of the class; "all"; or row numbers
    item: Any = None,  # items to look through, as for `explain`; None: the first `n` rows of a split
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    n: int = 1000,  # rows that are looked through
    most: int = 200,  # items of the class that are asked
    runs: int = 30,  # random halvings, for the vector's stability
    permutations: int = 1000,  # shuffled labels
    pool: str | None = None,  # "mean" or "max" over places, "none": all numbers; None: by the layer's size
    seed: int = 0,  # of the shuffles
) -> ConceptTest:
    """Test whether a class's score rises towards concepts that examples show (TCAV); the Learner stays as it was.

    Returns:
        A `ConceptTest`: a row per concept and layer with score, p, p after Holm, accuracy and stability.

    Raises:
        InputError: an empty folder, fewer than two examples, no item of the class.

    Example:
        learn.concept_test("pictures/cat", random="pictures/dog", target="cat", items="all")
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx), n)
        beside = {**_BESIDE, "output": None}
        with reader.unchanged():
            found = [_concept(reader, i, name, of) for i, (name, of) in enumerate(_by_name(concept).items())]
            other = _concept(reader, len(found), "random", random)
            options: dict[str, Any] = {"runs": runs, "permutations": permutations, "pool": pool, "seed": seed}
            stream = sample_stream(reader, source, target, **beside)
            return of_stream(self.model, stream, found, other, target, layers, items, most, **options)


def _by_name(concept: Any) -> Mapping[str, Any]:
    if isinstance(concept, Mapping):
        return concept
    folder = isinstance(concept, (str, os.PathLike)) and Path(concept).is_dir()
    return {Path(concept).name if folder else "concept": concept}


def _concept(reader: Reader, number: int, name: str, of: Any) -> Concept:
    """A concept of the items in a folder, or of those in a list."""
    listed = of
    if isinstance(of, (str, os.PathLike)):
        if not Path(of).is_dir():
            raise InputError(f"The examples of {name!r} are a folder or a list of items, and {str(of)!r} is no folder.")
        listed = sorted(get_files(of))
        if not listed:
            raise InputError(f"The folder {str(of)!r} holds no file, so there is no example of {name!r}.")
    stream: Iterator[SampleBatch] = sample_stream(reader, SampleSource(listed), None, **_BESIDE, output=None)
    return Concept(number, name, [batch.inputs for batch in stream])

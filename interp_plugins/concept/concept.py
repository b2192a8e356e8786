"""`Concept`: a name for what some examples have in common, and how their batches are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.random import drawing_from, make_generator
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import Reading


class Concept:
    """A name for what some examples have in common: stripes, a mood, an age.

    Two concepts of one id and name are the same concept, whichever object holds them.

    Args:
        id: a number of its own.
        name: a name of its own.
        data_iter: batches of examples as the model takes them: tensors (N, ...), tuples of tensors for a model with
            several inputs, dicts by name, or the lists that a `DataLoader` makes of (input, label), of which the input
            counts. None for a concept whose examples are not at hand (one that was read from a file).

    Example:
        from interp_plugins.concept import Concept

        Concept(0, "striped", [torch.rand(8, 3, 24, 24)]).identifier  # -> 'striped-0'
    """

    def __init__(self, id: int, name: str, data_iter: Iterable[Any] | None) -> None:
        self.id, self.name, self.data_iter = id, name, data_iter

    @property
    def identifier(self) -> str:
        """Name and id: "striped-0"."""
        return f"{self.name}-{self.id}"

    def __repr__(self) -> str:
        return f"Concept({self.id!r}, {self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Concept) and (self.id, self.name) == (other.id, other.name)

    def __hash__(self) -> int:
        return hash((self.id, self.name))


class ConceptInterpreter:
    """Base class of what interprets a model by concepts; a subclass has `interpret`.

    Args:
        model: an `nn.Module`.
    """

    interpret: Callable[..., Any]

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def key_of(concepts: Iterable[Concept]) -> str:
    """Several concepts as results name them: their ids with a dash between, "0-1"."""
    return "-".join(str(concept.id) for concept in concepts)


def batches_of(concept: Concept) -> Iterator[Any]:
    """The batches of a concept's examples, each a tensor, a tuple of tensors or a dict.

    Raises:
        InputError: no examples.
        InputTypeError: no batches.
    """
    data = concept.data_iter
    if data is None:
        raise InputError(
            f"{concept!r} has no examples (data_iter is None): a vector can be made of a concept with batches only."
        )
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise InputTypeError(
            f"data_iter of {concept!r} must give batches (a DataLoader, a list of tensors), got {describe(data)}."
        )
    if iter(data) is data:  # it can be read once: kept, since vectors, keys and tests read it again
        data = concept.data_iter = list(data)
    found = False
    for batch in _repeatable([data] if isinstance(data, Tensor) else data):
        found = True
        yield Reading().inputs(batch) if isinstance(batch, list) else batch
    if not found:
        raise InputError(
            f"{concept!r} has no examples: its data_iter gave no batch. An iterator can be read only once."
        )


def _repeatable(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches in the same order every time, also of a loader that shuffles; the global generator stays as it is."""
    generator, end = make_generator(0), object()
    with drawing_from(generator):
        left = iter(batches)
    while True:
        with drawing_from(generator):
            batch = next(left, end)
        if batch is end:
            return
        yield batch

"""What Captum's influence classes have in common: their base, their results, and how they read what they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.other_weights import held_by
from interp_plugins.core.persample import Measure
from interp_plugins.core.tensors import describe
from interp_plugins.core.weights import Checkpoint, as_checkpoints, matched, read_state
from interp_plugins.influence.losses import SampleLoss
from interp_plugins.influence.passes import GradientPasses
from interp_plugins.influence.walk import Items, ItemWalk


class KMostInfluentialResults(NamedTuple):
    """The training items with the largest or smallest scores, per query.

    Attributes:
        indices: (Q, k) numbers of the items in the data set; equal scores in the order of the numbers.
        influence_scores: (Q, k).
    """

    indices: Tensor
    influence_scores: Tensor


class DataInfluence(ABC):
    """Which training items made a model say so: the base of all classes under Captum's names."""

    @classmethod
    def get_name(cls: type[DataInfluence]) -> str:
        """The name of the class itself."""
        return cls.__name__

    @abstractmethod
    def influence(self, inputs: Any = None, **kwargs: Any) -> Any:
        """Scores of the training items.

        Args:
            inputs: the queries.
            **kwargs: of the class.
        """


def load_weights(model: Module, path: str) -> float:
    """Load a checkpoint of torch, fastai or Lightning into a model: the default of `checkpoints_load_func`.

    Args:
        model: whose weights are set.
        path: a file or a state dict.

    Returns:
        The learning rate that the file tells of, 1 where it tells of none.
    """
    state, lr = read_state(path)
    places = held_by(model)
    found = matched(state, {p.path: p.tensor for p in places}, str(path))
    with torch.no_grad():
        for place in places:
            if place.path in found:
                place.tensor.copy_(found[place.path])
    return 1.0 if lr is None else lr


def passes_of(
    model: Module, checkpoints: Any, load: Callable[..., Any], layers: Sequence[str] | None, batch_size: Any
) -> GradientPasses:
    """The loop of Captum's arguments; a batch size of 1, the default, leaves the size to the engine."""
    if not isinstance(model, Module):
        raise InputTypeError(f"model must be an nn.Module, got {describe(model)}.")
    size = check_chunk("batch_size", batch_size)
    names = [layers] if isinstance(layers, str) else layers
    return GradientPasses(
        model,
        checkpoints_of(checkpoints, load),
        names,
        load=None if load is load_weights else load,
        batch_size=None if size == 1 else size,
        progress=False,
    )


def checkpoints_of(given: Any, load: Callable[..., Any]) -> list[Checkpoint]:
    """Captum's `checkpoints`: a folder, or whatever the function that loads understands."""
    if load is load_weights:
        return as_checkpoints(given)
    if isinstance(given, str):
        return as_checkpoints(given)
    found = [c if isinstance(c, Checkpoint) else Checkpoint(c) for c in given]
    if not found:
        raise InputError("There is no checkpoint: checkpoints is empty.")
    return found


def measure_of(loss_fn: Any) -> Measure:
    """Captum's loss: one with "none", "sum" or "mean"; None: the model's output is the loss itself."""
    if loss_fn is None:
        return _itself
    return SampleLoss(loss_fn)


def _itself(output: Any, labels: Any) -> Tensor:
    n = len(output)
    if output.numel() != n:
        raise InputError(
            f"Without loss_fn the model's output is the loss, a number per sample; its shape is {tuple(output.shape)}."
        )
    return output.reshape(n)


def walk_of(data: Any, model: Module, labelled: bool = True, batch_size: Any = None) -> ItemWalk:
    """Items of one batch (a tuple, its labels last), a data set or a loader."""
    size = check_chunk("batch_size", batch_size)
    return ItemWalk(data, model, size if size not in (None, 1) else None, labelled)


def queries_of(inputs: Any, model: Module) -> list[Items]:
    """Captum's `inputs`: a tuple whose last part is the labels, or a loader of such."""
    if not isinstance(inputs, (tuple, list, DataLoader)):
        raise InputTypeError(f"inputs is a tuple (inputs, ..., labels) or a loader of such, got {describe(inputs)}.")
    return list(ItemWalk(tuple(inputs) if isinstance(inputs, list) else inputs, model))


def check_k(k: Any) -> int | None:
    """A number of items, or None for all of them."""
    if k is None:
        return None
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is a number of items of at least 1, or None for all scores; got {k!r}.")
    return k


def top(scores: Tensor, k: int | None, proponents: bool = True) -> Tensor | KMostInfluentialResults:
    """All scores (Q, N), or the k largest (proponents) or smallest of each row; ties by number."""
    if check_k(k) is None:
        return scores
    order = scores.sort(dim=1, descending=proponents, stable=True)
    return KMostInfluentialResults(order.indices[:, :k].contiguous(), order.values[:, :k].contiguous())

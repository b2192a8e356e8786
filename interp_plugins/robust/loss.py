"""What an attack climbs: one number per row that grows as the model turns away from a class.

For classes it is the margin

    u = log sum_{j != t} exp(z_j) - z_t,

z the logits (the logarithms of outputs that are probabilities). Cross entropy is log(1 + exp(u)): both have gradients
of the same direction, and where an attack steps by direction alone they are the same attack. But cross entropy is flat
where the model is sure, and its gradient is rounded to zero; the margin's is not.

A search for the smallest change takes max_{j != t} z_j - z_t instead: it is zero just where the model turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import ModelError
from interp_plugins.core.forward import one_per_row
from interp_plugins.core.indices import IndexTuple, check_index
from interp_plugins.core.target import Target
from interp_plugins.core.tensors import describe, take_rows
from interp_plugins.core.two_classes import OneLogit


def margins(output: Tensor, at: Tensor, largest: bool = False) -> Tensor:
    """By how much all other classes together stand above one class, per row.

    Args:
        output: (R, C, ...) logits or probabilities, at least two classes.
        at: per row the class, and its place where the output has places, (R, 1 + places).
        largest: the largest of the others instead of all together.

    Returns:
        (R,), in nats; negative where the class is the likeliest by more than all others together, with `largest` where
        it is the likeliest.
    """
    own, others = own_and_others(output, at)
    return (others.amax(1) if largest else others.logsumexp(1)) - own


def own_and_others(output: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of one class (R,), and those of all classes (R, C) with that one's minus infinity; as for `margins`."""
    rows, at = torch.arange(len(at), device=output.device), at.to(output.device)
    places = tuple(at[:, 1:].unbind(1))
    output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
    classes = output.movedim(1, -1)[(rows, *places)] if places else output  # (R, C)
    if are_probabilities(classes):
        classes = classes.clamp_min(torch.finfo(classes.dtype).tiny).log()
    own = classes[rows, at[:, 0]]
    return own, classes.scatter(1, at[:, :1] % classes.shape[1], -torch.inf)


def are_probabilities(rows: Tensor) -> bool:
    """Whether rows (R, C) are probabilities already: none negative, and each adds up to one."""
    seen = rows.detach()
    return bool((seen >= 0).all()) and bool((seen.sum(1) - 1).abs().max() < 1e-3)


class Loss:
    """What an attack on a target climbs.

    Args:
        target: what the attack leads away from: a class by its index, or any other scalar, which is lowered.
        n: number of samples.
        largest: compare a class with the largest of the others, so that the loss is zero where the model turns.
    """

    def __init__(self, target: Target, n: int, largest: bool = False):
        self.target, self.largest, self._indices = target, largest, target.indices_of_rows(n)
        self._at = _one_each(self._indices)
        self._fits: set[tuple[int, ...]] = set()  # shapes of outputs that have all of them

    def __call__(self, output: Tensor, rows: Tensor) -> Tensor:
        """One number per row (R,), of outputs (R, ...) that belong to the samples `rows`."""
        chosen = self.classes(output, rows)
        if chosen is not None:
            return margins(output, chosen, self.largest)
        lowered = -one_per_row(self.target.at(rows)(output), len(rows))
        return lowered + self.target.total / 2 if self.largest and isinstance(self.target, OneLogit) else lowered

    def classes(self, output: Tensor, rows: Tensor) -> Tensor | None:
        """The class of each row, (R, 1 + places), where the target is one of several; None: it is another scalar."""
        if self._at is None or output.ndim < 2 or output.shape[1] < 2 or self._at.shape[1] != output.ndim - 1:
            return None
        shape = tuple(output.shape[1:])
        if shape not in self._fits:
            for index in self._indices or ():
                check_index(output, index)
            self._fits.add(shape)
        if self._at.device != output.device:
            self._at = self._at.to(output.device)
        return self._at[rows.to(output.device)]


def _one_each(indices: Sequence[IndexTuple] | None) -> Tensor | None:
    """Indices as rows of numbers, where each names one number of every output; else None."""
    if not indices or len({len(index) for index in indices}) > 1 or not indices[0]:
        return None
    whole = all(isinstance(i, int) for index in indices for i in index)
    return torch.tensor([list(index) for index in indices]) if whole else None


class UsersLoss:
    """A loss function of outputs and labels, as Captum's classes take it.

    Args:
        function: (outputs, target) -> a loss per row, or one for all of them.
        target: the labels, in whatever form the function takes them; what has one row per sample follows the samples.
        n: number of samples.
    """

    def __init__(self, function: Callable[[Tensor, Any], Any], target: Any, n: int):
        self.function, self.target, self.n = function, target, n

    def __call__(self, output: Tensor, rows: Tensor) -> Tensor:
        """What the function returns, of outputs (R, ...) that belong to the samples `rows`."""
        labels = self.target
        if isinstance(labels, list) and len(labels) == self.n:
            labels = [labels[r] for r in rows.tolist()]
        found = self.function(output, take_rows(labels, rows, self.n))
        if not isinstance(found, Tensor):
            raise ModelError(f"loss_func returned a {describe(found)}; expected a tensor: a loss per row, or one.")
        return found

"""`Objective`: what is climbed, one number per picture, with an algebra in which rows never meet.

    channel("layer4", 3) - 0.01 * tv()        repr: (channel(layer4, 3) - 0.01 * tv())

`+ - * /`, a minus in front and numbers on either side make objectives of objectives; all of it is done per row, so that
nothing is averaged over a batch in passing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.grid import Grid
from interp_plugins.core.layers import Layer, plain_name
from interp_plugins.core.tensors import describe


def whole(x: Tensor) -> Tensor:
    """Numbers in half precision as float32, so that their means are exact; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass(frozen=True)
class SeenLayer:
    """A layer's tensor in one pass, and how it lies.

    Attributes:
        tensor: as the layer gave it, batch first.
        grid: how it is laid out as (R, C, *space).
        whole: the tensor that these rows were cut from, in the graph; None: they are all.
        start: where in it they begin.
    """

    tensor: Tensor
    grid: Grid
    whole: Tensor | None = None
    start: int = 0

    def split(self, counts: Sequence[int]) -> list[SeenLayer]:
        """The same for consecutive groups of rows."""
        whole, start, found = self.tensor if self.whole is None else self.whole, self.start, []
        for part in self.tensor.split(list(counts)):
            found.append(SeenLayer(part, self.grid, whole, start))
            start += len(part)
        return found

    def gradient_of(self, score: Tensor) -> Tensor:
        """The gradient of a score with respect to these rows."""
        source = self.tensor if self.whole is None else self.whole
        (found,) = torch.autograd.grad(score, source, retain_graph=True)
        return found[self.start : self.start + len(self.tensor)].detach()

    def laid_out(self) -> Tensor:
        """(R, C, *space), class and register tokens left out; float32 of half precision."""
        return whole(self.grid.lay_out(self.tensor))


@dataclass(frozen=True)
class Seen:
    """What one pass showed of some rows.

    Attributes:
        layers: per layer as the objectives name it.
        picture: (R, C, ...) in raw units, as it is, before any transform.
        output: the model's output, where an objective asks for it.
    """

    layers: Mapping[Any, SeenLayer]
    picture: Tensor
    output: Tensor | None = None

    def at(self, layer: Any, token: int | None = None) -> Tensor:
        """A layer's tensor laid out as (R, C, *space); of one of its raw tokens (R, C)."""
        found = self.layers[layer]
        if token is None:
            return found.laid_out()
        if found.tensor.ndim != 3:
            raise InputError(f"token= is of layers of tokens (N, T, C); this one gives {describe(found.tensor)}.")
        return whole(found.tensor[:, token])

    def split(self, counts: Sequence[int]) -> list[Seen]:
        """The same for consecutive groups of rows; their gradients are put side by side, not added up."""
        layers = {k: s.split(counts) for k, s in self.layers.items()}
        pictures = self.picture.split(list(counts))
        outputs = [None] * len(counts) if self.output is None else self.output.split(list(counts))
        return [Seen({k: parts[i] for k, parts in layers.items()}, pictures[i], outputs[i]) for i in range(len(counts))]


class Objective:
    """Base: maps what a pass showed to one number per row (R,), bigger is better."""

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers that it reads, as the user named them."""
        return ()

    @property
    def needs_output(self) -> bool:
        """Whether the model has to run to its end."""
        return False

    @property
    def mates(self) -> bool:
        """Whether rows of one unit are compared with each other."""
        return False

    @property
    def graph(self) -> bool:
        """Whether it differentiates inside, so that its value needs a pass with gradients."""
        return False

    def __call__(self, seen: Seen) -> Tensor:
        """The number of each row, (R,)."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Objective:
        return _joined("+", self, other)

    def __radd__(self, other: Any) -> Objective:
        return self if isinstance(other, int) and other == 0 else _joined("+", other, self)  # sum() begins at 0

    def __sub__(self, other: Any) -> Objective:
        return _joined("-", self, other)

    def __rsub__(self, other: Any) -> Objective:
        return _joined("-", other, self)

    def __mul__(self, other: Any) -> Objective:
        return _joined("*", self, other)

    def __rmul__(self, other: Any) -> Objective:
        return _joined("*", other, self)

    def __truediv__(self, other: Any) -> Objective:
        return _joined("/", self, other)

    def __rtruediv__(self, other: Any) -> Objective:
        return _joined("/", other, self)

    def __neg__(self) -> Objective:
        return _joined("*", -1, self)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True, eq=False)
class Joined(Objective):
    """Two objectives, or an objective and a number, joined by an operation per row.

    Args:
        sign: "+", "-", "*" or "/".
        left: objective or number.
        right: objective or number.
    """

    sign: str
    left: Any
    right: Any

    @property
    def layers(self) -> tuple[Any, ...]:
        """Those of both sides."""
        return tuple(dict.fromkeys(layer for one in self._parts() for layer in one.layers))

    @property
    def needs_output(self) -> bool:
        """Whether one of the sides needs it."""
        return any(one.needs_output for one in self._parts())

    @property
    def mates(self) -> bool:
        """Whether one of the sides compares rows."""
        return any(one.mates for one in self._parts())

    @property
    def graph(self) -> bool:
        """Whether one of the sides differentiates."""
        return any(one.graph for one in self._parts())

    def __call__(self, seen: Seen) -> Tensor:
        """The operation on the numbers of both sides."""
        left, right = (one(seen) if isinstance(one, Objective) else one for one in (self.left, self.right))
        found: Tensor = _OPERATORS[self.sign](left, right)
        return found

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"

    def _parts(self) -> list[Objective]:
        return [one for one in (self.left, self.right) if isinstance(one, Objective)]


def _joined(sign: str, left: Any, right: Any) -> Objective:
    for one in (left, right):
        number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if not (isinstance(one, Objective) or number or (isinstance(one, Tensor) and one.ndim == 0)):
            raise InputTypeError(f"Objectives are joined with objectives and numbers, not with {describe(one)}.")
    return Joined(sign, left, right)


def weighted(objectives: Mapping[Objective, float]) -> Objective:
    """The sum of objectives, each times its number.

    Example:
        from interp_plugins.optim import objectives as o

        o.weighted({o.channel("0", 1): 1.0, o.tv(): -0.1})
    """
    return sum((weight * one for one, weight in objectives.items()), start=0)  # type: ignore[return-value]


def in_words(layer: Any) -> str:
    """A layer as it stands in the text of an objective."""
    if isinstance(layer, Layer):
        side = "" if layer.io == "output" else " input"
        return in_words(layer.module) + side + ("" if layer.call is None else f" call {layer.call}")
    if isinstance(layer, nn.Module):
        return type(layer).__name__
    return plain_name(layer) if isinstance(layer, str) else describe(layer)


def over_space(a: Tensor) -> Tensor:
    """The mean over all but the first two axes, (R, C)."""
    return a.flatten(2).mean(2) if a.ndim > 2 else a


def numbers(objectives: Sequence[Objective], seen: Seen, views: int = 1) -> Tensor:
    """The number of each row, each by its own objective, (R,); the mean over its views.

    Consecutive rows of one objective are judged together.

    Args:
        objectives: one per row.
        seen: what was seen of all views of all rows, those of a row together.
        views: per row.

    Raises:
        InputError: an objective that does not give one number per row.
    """
    starts = [i for i in range(len(objectives)) if i == 0 or objectives[i] is not objectives[i - 1]]
    ends = [*starts[1:], len(objectives)]
    counts = [(end - start) * views for start, end in zip(starts, ends, strict=True)]
    groups = [seen] if len(counts) == 1 else seen.split(counts)
    found = []
    for start, count, group in zip(starts, counts, groups, strict=True):
        one = objectives[start]
        values = one(group)
        if not isinstance(values, Tensor) or tuple(values.shape) != (count,):
            raise InputError(f"The objective {one!r} gave {describe(values)} for {count} rows; one number per row.")
        found.append(values.reshape(-1, views).mean(1) if views > 1 else values)
    return found[0] if len(found) == 1 else torch.cat(found)

"""What objectives are made of: a class for each kind, which maps what a pass showed to one number per row.

`interp_plugins.optim.objectives` has the functions that make them, and says where each comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import describe
from interp_plugins.optim.objective import Objective, Seen, in_words, over_space

_LEAST_COSINE = 0.1


@dataclass(frozen=True, eq=False)
class AtPlace(Objective):
    """An objective on one layer.

    Args:
        where: the layer.
    """

    where: Any

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layer that is read."""
        return (self.where,)


@dataclass(frozen=True, eq=False)
class ChannelMean(AtPlace):
    """The mean of a channel over space; of one raw token where one is named."""

    index: int = 0
    token: int | None = None

    def __call__(self, seen: Seen) -> Tensor:
        """The mean of each row, (R,)."""
        a = seen.at(self.where, self.token)
        check_channel(self.index, a.shape[1], self.where)
        return over_space(a[:, self.index : self.index + 1 or None])[:, 0]

    def __repr__(self) -> str:
        token = "" if self.token is None else f", token={self.token}"
        return f"channel({in_words(self.where)}, {self.index}{token})"


@dataclass(frozen=True, eq=False)
class OneNeuron(AtPlace):
    """A channel at one place; the centre where no place is named."""

    index: int = 0
    place: tuple[int, ...] = ()

    def __call__(self, seen: Seen) -> Tensor:
        """The value in each row, (R,)."""
        a = seen.at(self.where)
        check_channel(self.index, a.shape[1], self.where)
        return at_place(a[:, self.index], self.place)

    def __repr__(self) -> str:
        place = "".join(f", {p}" for p in self.place)
        return f"neuron({in_words(self.where)}, {self.index}{place})"


@dataclass(frozen=True, eq=False)
class LayerMean(AtPlace):
    """The mean of a whole layer, or of its squares."""

    squared: bool = False

    def __call__(self, seen: Seen) -> Tensor:
        """The mean of each row, (R,)."""
        a = seen.at(self.where).flatten(1)
        return (a.square() if self.squared else a).mean(1)

    def __repr__(self) -> str:
        return f"{'deepdream' if self.squared else 'layer'}({in_words(self.where)})"


@dataclass(frozen=True, eq=False)
class AlongDirection(AtPlace):
    """How far the layer's vectors lie along a direction, weighed by how well they point there."""

    vector: Tensor = field(default_factory=lambda: torch.zeros(1))
    power: float = 0.0
    at: tuple[int, ...] | None = None

    def __call__(self, seen: Seen) -> Tensor:
        """Mean over space of <a, v> max(0.1, cos(a, v))^power, (R,)."""
        a = seen.at(self.where)
        v = self.vector.to(a)
        if v.ndim != 1 or len(v) != a.shape[1]:
            raise InputError(
                f"A direction in {in_words(self.where)} has {a.shape[1]} numbers, one per channel; got {describe(v)}."
            )
        if self.at is not None:
            a = at_place(a, self.at, 2)
        along = torch.einsum("rc...,c->r...", a, v)
        if self.power:
            lengths = (a.norm(dim=1) * v.norm()).clamp(min=1e-12)
            along = along * (along / lengths).clamp(min=_LEAST_COSINE) ** self.power
        return along.reshape(len(along), -1).mean(1)  # a layer without places: one number a row

    def __repr__(self) -> str:
        return f"direction({in_words(self.where)}, {len(self.vector)} numbers, power={self.power:g})"


@dataclass(frozen=True, eq=False)
class AlongTensor(AtPlace):
    """The product with a whole tensor of activations, weighed by the cosine with it."""

    tensor: Tensor = field(default_factory=lambda: torch.zeros(1))
    power: float = 0.0

    def __call__(self, seen: Seen) -> Tensor:
        """<a, A> max(0.1, cos(a, A))^power, (R,)."""
        a = seen.at(self.where).flatten(1)
        v = self.tensor.to(a).flatten()
        if a.shape[1] != len(v):
            raise InputError(
                f"dot() compares the layer's {a.shape[1]} numbers with {len(v)}: give the activations of a picture of "
                "the same size at the same layer."
            )
        along = a @ v
        if self.power:
            along = along * (along / (a.norm(dim=1) * v.norm()).clamp(min=1e-12)).clamp(min=_LEAST_COSINE) ** self.power
        return along

    def __repr__(self) -> str:
        return f"dot({in_words(self.where)}, {tuple(self.tensor.shape)}, power={self.power:g})"


@dataclass(frozen=True, eq=False)
class MatchTensor(AtPlace):
    """The likeness to a tensor of activations."""

    tensor: Tensor = field(default_factory=lambda: torch.zeros(1))

    def __call__(self, seen: Seen) -> Tensor:
        """-|a - A|^2 / |A|^2, (R,)."""
        a = seen.at(self.where).flatten(1)
        wanted = self.tensor.to(a).flatten()
        if a.shape[1] != len(wanted):
            raise InputError(f"match() compares the layer's {a.shape[1]} numbers with {len(wanted)}; sizes differ.")
        return -(a - wanted).square().sum(1) / wanted.square().sum().clamp(min=1e-12)

    def __repr__(self) -> str:
        return f"match({in_words(self.where)}, {tuple(self.tensor.shape)})"


@dataclass(frozen=True, eq=False)
class OutputScore(Objective):
    """What a target selects of the model's output."""

    target: Any = 0
    text: str = ""

    @property
    def needs_output(self) -> bool:
        """Always true for this objective."""
        return True

    def __call__(self, seen: Seen) -> Tensor:
        """The selected score, (R,); its mean over the places of a segmentation."""
        assert seen.output is not None
        rows = torch.zeros(len(seen.output), dtype=torch.long, device=seen.output.device)
        chosen = as_target(self.target, 1).at(rows)(seen.output)
        return chosen.flatten(1).mean(1) if chosen.ndim > 1 else chosen

    def __repr__(self) -> str:
        return f"logit({self.text or self.target!r})"


@dataclass(frozen=True, eq=False)
class Diversity(AtPlace):
    """How much the pictures of one unit differ in texture."""

    @property
    def mates(self) -> bool:
        """Always true for this objective."""
        return True

    def __call__(self, seen: Seen) -> Tensor:
        """-mean over the other rows j of cos(G_i, G_j), G the channels' Gram matrix, (R,); 0 for a row alone."""
        a = seen.at(self.where).flatten(2)
        grams = F.normalize(torch.einsum("rcs,rds->rcd", a, a).flatten(1), dim=1)
        if len(grams) < 2:
            return 0 * grams.sum(1)
        alike = grams @ grams.T
        return -(alike.sum(1) - alike.diagonal()) / (len(grams) - 1)

    def __repr__(self) -> str:
        return f"diversity({in_words(self.where)})"


@dataclass(frozen=True, eq=False)
class Between(Objective):
    """Two objectives, the n rows of a unit going from the one to the other."""

    first: Objective
    second: Objective

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers of both objectives."""
        return tuple(dict.fromkeys((*self.first.layers, *self.second.layers)))

    @property
    def needs_output(self) -> bool:
        """Whether one of the two needs it."""
        return self.first.needs_output or self.second.needs_output

    @property
    def mates(self) -> bool:
        """True: a row's weight is its place among the others."""
        return True

    def __call__(self, seen: Seen) -> Tensor:
        """(1 - t) first + t second with t = i / (n - 1) in row i, (R,); a row alone is half and half."""
        n = len(seen.picture)
        t = torch.linspace(0, 1, n).to(seen.picture) if n > 1 else seen.picture.new_full((1,), 0.5)
        return (1 - t) * self.first(seen) + t * self.second(seen)

    def __repr__(self) -> str:
        return f"interpolate({self.first!r}, {self.second!r})"


@dataclass(frozen=True, eq=False)
class Alignment(AtPlace):
    """How alike the rows of a unit are at a layer, neighbours more than others."""

    decay: float = 2.0

    @property
    def mates(self) -> bool:
        """Always true for this objective."""
        return True

    def __call__(self, seen: Seen) -> Tensor:
        """-mean over the other rows j of |a_i - a_j|^2 / decay^|i - j| per number, (R,)."""
        a = seen.at(self.where).flatten(1)
        n = len(a)
        if n < 2:
            return 0 * a.sum(1)
        away = (a[:, None] - a[None]).square().mean(2)
        place = torch.arange(n).to(a)
        return -(away * self.decay ** -(place[:, None] - place[None]).abs()).sum(1) / (n - 1)

    def __repr__(self) -> str:
        return f"alignment({in_words(self.where)})"


@dataclass(frozen=True, eq=False)
class OfPicture(Objective):
    """A number of the picture itself, in raw units."""

    text: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, seen: Seen) -> Tensor:
        """The number of each picture, (R,)."""
        return self.function(seen.picture)

    def __repr__(self) -> str:
        return f"{self.text}()"


@dataclass(frozen=True, eq=False)
class Facet(AtPlace):
    """Which of a unit's facets is meant: activations that feed the unit, as far as they are the probe's."""

    probe: Tensor = field(default_factory=lambda: torch.zeros(1))
    of: Objective = field(default_factory=Objective)

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layer, and those of the unit."""
        return tuple(dict.fromkeys((self.where, *self.of.layers)))

    @property
    def needs_output(self) -> bool:
        """Whether the unit needs it."""
        return self.of.needs_output

    @property
    def graph(self) -> bool:
        """Always true for this objective."""
        return True

    def __call__(self, seen: Seen) -> Tensor:
        """<a * relu(gradient of the unit at the layer), probe>, (R,); the gradient counts as a constant."""
        here = seen.layers[self.where]
        weighed = here.laid_out() * here.grid.lay_out(here.gradient_of(self.of(seen).sum())).clamp(min=0)
        vectors = over_space(weighed)
        if vectors.shape[1] != self.probe.numel():
            raise InputError(f"The probe of {in_words(self.where)} has {vectors.shape[1]} numbers, one per channel.")
        return vectors @ self.probe.to(vectors).flatten()

    def __repr__(self) -> str:
        return f"facet({in_words(self.where)}, of={self.of!r})"


@dataclass(frozen=True, eq=False)
class NormStatistics(Objective):
    """How near the picture's statistics are to those that batch normalisations kept from training."""

    norms: tuple[Any, ...]

    @property
    def layers(self) -> tuple[Any, ...]:
        """The inputs of all of them."""
        return self.norms

    def __call__(self, seen: Seen) -> Tensor:
        """-sum over norms of |mean - running mean|^2 + |variance - running variance|^2, (R,)."""
        total = torch.zeros(len(seen.picture)).to(seen.picture)
        for norm in self.norms:
            a = seen.layers[norm].tensor.flatten(2)
            off = a.mean(2) - norm.module.running_mean.to(a), a.var(2, correction=0) - norm.module.running_var.to(a)
            total = total - sum(one.square().sum(1) for one in off)
        return total

    def __repr__(self) -> str:
        return f"bn_statistics({len(self.norms)} norms)"


@dataclass(frozen=True, eq=False)
class Custom(Objective):
    """A user's own function of layers' tensors and the picture."""

    names: tuple[Any, ...]
    function: Callable[[dict[Any, Tensor], Tensor], Tensor]

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers that it gets."""
        return self.names

    def __call__(self, seen: Seen) -> Tensor:
        """What the function gives, (R,)."""
        return self.function({name: seen.layers[name].tensor for name in self.names}, seen.picture)

    def __repr__(self) -> str:
        return f"custom({getattr(self.function, '__name__', 'function')})"


def check_channel(index: int, channels: int, where: Any) -> None:
    """Refuse a channel that a layer does not have.

    Raises:
        InputError: with the number of channels that there are.
    """
    if not -channels <= index < channels:
        raise InputError(f"{in_words(where)} has {channels} channels, 0 to {channels - 1}; got channel {index}.")


def place_in(a: Tensor, place: Sequence[int]) -> tuple[int, ...]:
    """A place in the space of (R, C, *space): as given, else the centre (of even sizes the second of the two)."""
    space = a.shape[2:]
    found = tuple(place) or tuple(s // 2 for s in space)
    if len(found) == 1 and len(space) == 2:  # a token's number
        found = divmod(found[0], space[1])
    if len(found) != len(space) or any(not -s <= p < s for p, s in zip(found, space, strict=True)):
        raise InputError(f"The layer has places {tuple(space)}; got {tuple(place)}.")
    return found


def at_place(a: Tensor, place: Sequence[int], ahead: int = 1) -> Tensor:
    """A tensor at one place of its space, which lies behind `ahead` axes (see `place_in`)."""
    shown = a if ahead == 2 else a[:, None]
    for p in place_in(shown, place):
        a = a.select(ahead, p)
    return a


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along each axis of space, added up, (R,)."""
    total = x.new_zeros(len(x))
    for axis in range(2, x.ndim):
        if x.shape[axis] > 1:
            total = total + x.diff(dim=axis).abs().flatten(1).mean(1)
    return total


def blurred(x: Tensor) -> Tensor:
    """Pictures averaged over three places along each axis of space."""
    axes = x.ndim - 2
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]
    return pool(F.pad(x, [1] * (2 * axes), mode="replicate"), 3, 1)

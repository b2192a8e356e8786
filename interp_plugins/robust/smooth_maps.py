"""Maps with a slope: what gradient methods give, as functions of the input that can be differentiated once more.

They lead an attack on a map; what is told of a map is always measured on the method itself. Of each method only its
idea is here: Integrated Gradients of 8 nodes, noise of 4 draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InterpError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Call, Forward, one_per_row
from interp_plugins.core.layers import Layer, resolve_layer
from interp_plugins.core.random import make_generator, sample_seed
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import as_tuple
from interp_plugins.robust.opening import Opened
from interp_plugins.robust.softened import Softened

Piece = Callable[[Sequence[Tensor]], list[Tensor]]  # inputs in the model's units -> a part of their maps, which add up
_NODES = 8
_DRAWS = 4
_NOISE = 0.15  # of the input's range, where a method does not say


class SmoothMaps:
    """A method's maps of changed samples, in a graph.

    Args:
        subject: the model and its samples.
        asked: what is explained.
        clean: the method's maps of the samples as they are: which method, layer, baselines.
    """

    def __init__(self, subject: Opened, asked: Asked, clean: Explanation):
        self.subject, self.target, self.clean = subject, asked.target, clean
        call = Call(subject.model, subject.asking.forward_kwargs, subject.asking.output)
        self.forward = Forward.of(call, len(subject), None, subject.asking.additional_forward_args)
        self.forward.samples = subject.xs
        self.make = _MAPS[clean.method]
        self.layer: Layer | None = None
        if self.make is _cam:
            self.layer = resolve_layer(subject.model, clean.layer)

    @classmethod
    def of(cls, subject: Opened, asked: Asked, clean: Explanation) -> SmoothMaps | None:
        """None where the method has no such maps."""
        if clean.method not in _MAPS or clean.spec.kind == "text":
            return None
        try:
            made = cls(subject, asked, clean)
            points = [x[:1].detach().requires_grad_(True) for x in subject.raw]
            with Softened():
                slopes = made.slope(points, torch.zeros(1, dtype=torch.long), lambda m: m.sum(1))
            return made if any(bool((s != 0).any()) for s in slopes) else None
        except (InterpError, RuntimeError, ValueError):  # no second derivative, or a layer without places
            return None

    def value(self, points: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Maps of raw points of some samples, (R, D), one number per place, without a graph."""
        return sum(self._piece(piece, points, rows).detach() for piece in self.make(self, rows))  # type: ignore[return-value]

    def slope(self, leaves: Sequence[Tensor], rows: Tensor, judge: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The gradient of what is judged of the maps (R, D), for every input; zeros where there is none.

        A map that is a sum (over nodes, over noise) is judged whole, and then its parts lead back one after the other:
        one part's graph is in memory at a time.
        """
        pieces = self.make(self, rows)
        if len(pieces) == 1:
            return _back(judge(self._piece(pieces[0], leaves, rows)).sum(), leaves)
        whole = self.value(leaves, rows).requires_grad_(True)
        (weights,) = _back(judge(whole).sum(), [whole])
        total = [torch.zeros_like(x) for x in leaves]
        for piece in pieces:
            for t, g in zip(total, _back((self._piece(piece, leaves, rows) * weights).sum(), leaves), strict=True):
                t += g
        return total

    def _piece(self, piece: Piece, points: Sequence[Tensor], rows: Tensor) -> Tensor:
        xs = self.subject.func.normalised(points)
        return torch.cat([_per_place(m) for m in piece(xs)], 1)

    def gradients(self, xs: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        """Gradients of the explained score at points in the model's units."""
        output = self.forward.readable(self.forward.called([x.clone() for x in xs], rows))
        grads = torch.autograd.grad(self._score(output, rows), xs, create_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(xs, grads, strict=True)]

    def at_layer(self, xs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's tensor (R, C, ...) and the gradient there."""
        assert self.layer is not None
        output, tensors = self.forward.read([x.clone() for x in xs], rows, [self.layer])
        (activation,) = tensors[0]
        (grad,) = torch.autograd.grad(
            self._score(self.forward.readable(output), rows), (activation,), create_graph=True
        )
        if activation.ndim < 3 or len(activation) != len(rows):
            raise ValueError("no channels in front of places")
        return activation, grad

    def _score(self, output: Tensor, rows: Tensor) -> Tensor:
        return one_per_row(self.target.at(rows)(output), len(rows)).sum()


def _per_place(values: Tensor) -> Tensor:
    """Channels of a picture or series added up, as rows."""
    return (values.sum(1) if values.ndim >= 3 else values).reshape(len(values), -1)


def _back(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a number; zeros where nothing leads to it."""
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]


def _saliency(maps: SmoothMaps, rows: Tensor) -> list[Piece]:
    sized = maps.clean.params.get("abs", True)
    return [lambda xs: [g.abs() if sized else g for g in maps.gradients(xs, rows)]]


def _input_x_gradient(maps: SmoothMaps, rows: Tensor) -> list[Piece]:
    return [lambda xs: [x * g for x, g in zip(xs, maps.gradients(xs, rows), strict=True)]]


def _integrated(maps: SmoothMaps, rows: Tensor) -> list[Piece]:
    given, whole = maps.clean.baselines, maps.clean.params.get("multiply_by_inputs", True)

    def node(share: float) -> Piece:
        def piece(xs: Sequence[Tensor]) -> list[Tensor]:
            starts = [torch.zeros_like(x) for x in xs]
            if given is not None:
                known = zip(as_tuple(given), xs, strict=True)
                starts = [b.to(x).expand(maps.forward.n, *x.shape[1:])[rows] for b, x in known]
            grads = maps.gradients([b + share * (x - b) for b, x in zip(starts, xs, strict=True)], rows)
            ways = zip(xs, starts, grads, strict=True)
            return [((x - b) * g if whole else g) / _NODES for x, b, g in ways]

        return piece

    return [node((k + 0.5) / _NODES) for k in range(_NODES)]


def _noisy(maps: SmoothMaps, rows: Tensor) -> list[Piece]:
    """The same noise at every step, or a map would change where nothing did."""
    told = maps.clean.params
    inner = _integrated if " of I" in maps.clean.title else _saliency  # "SmoothGrad of IG"
    if inner is _integrated and maps.clean.baselines is None:
        inner = _input_x_gradient
    stdevs, squared = told.get("stdevs"), "sq" in str(told.get("nt_type", ""))
    sized = [s for s in stdevs if s is not None] if isinstance(stdevs, tuple) else []

    def draw(k: int) -> Piece:
        def piece(xs: Sequence[Tensor]) -> list[Tensor]:
            generator = make_generator(sample_seed(maps.subject.asking.seed, k))
            noisy = []
            for x in xs:
                flat = x.detach().reshape(len(x), -1)
                own = (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.ndim - 1))  # each sample's range
                size = float(sized[0]) if sized else _NOISE * own
                noisy.append(x + size * torch.randn(x.shape[1:], generator=generator).to(x))
            total = [torch.zeros_like(x) for x in xs]
            for part in inner(maps, rows):  # squares are of the whole
                total = [t + m for t, m in zip(total, part(noisy), strict=True)]
            return [(t**2 if squared else t) / _DRAWS for t in total]

        return piece

    return [draw(k) for k in range(_DRAWS)]


def _cam(maps: SmoothMaps, rows: Tensor) -> list[Piece]:
    def piece(xs: Sequence[Tensor]) -> list[Tensor]:
        activation, grad = maps.at_layer(xs, rows)
        if maps.clean.method == "hi_res_cam":
            weighed = grad * activation
        elif maps.clean.method == "layer_cam":
            weighed = grad.relu() * activation
        else:
            weighed = grad.flatten(2).mean(2).reshape(*grad.shape[:2], *[1] * (grad.ndim - 2)) * activation
        return [weighed.sum(1, keepdim=True).relu()]

    return [piece]


_MAPS: dict[str, Callable[[Any, Tensor], list[Piece]]] = {
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "integrated_gradients": _integrated,
    "noise_tunnel": _noisy,
    **dict.fromkeys(("grad_cam", "grad_cam_plus_plus", "x_grad_cam", "hi_res_cam", "layer_cam"), _cam),
}

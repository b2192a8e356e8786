"""Influence functions: gradients seen through an inverse curvature of the training loss.

    score(q, i) = -(1 / N) <gradient of f(q), (H + damping)^-1 gradient of l(i)>

(Koh and Liang 2017, equation 2, for a number f that is to grow): to first order what f(q) gains where i counts a little
more. H is the Hessian of the mean loss ("exact", "arnoldi"), or the Gauss-Newton matrix in blocks of Kronecker factors
("ekfac": George et al. 2018, equation 7 and algorithm 1; Grosse et al. 2023, section 3): for a linear map with input a
and gradient d at its output, H of its weight is about E[dd'] x E[aa'], in whose eigenbasis the mean squared gradients
stand for the eigenvalues. Gradients of labels drawn from the model's own predictions make the Gauss-Newton matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from interp_plugins.core.errors import InputError
from interp_plugins.core.factors import Factors
from interp_plugins.core.forward import select_output
from interp_plugins.core.persample import Measure, SampleGradients
from interp_plugins.influence.methods import Question, method, outer_of, preconditioned
from interp_plugins.influence.walk import Items, ItemWalk

MOST_WEIGHTS = 6000  # whose Hessian is formed
EKFAC_DAMPING, _EXACT_DAMPING = 0.1, 1e-3


# -- labels drawn from the model -------------------------------------------------------------------------------------


class Drawn:
    """The loss with labels that are drawn from what the model says, the same for an item whatever batch it comes in.

    Args:
        loss: the training loss.
        n: number of items.
        seed: of the draws.
        notes: where is written what could not be drawn.
    """

    def __init__(self, loss: Any, n: int, seed: int, notes: list[str]):
        self.loss, self.notes, self._n, self._seed = loss, notes, n, seed
        generator = torch.Generator().manual_seed(seed)
        self._uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        self._noise: Tensor | None = None

    def __call__(self, output: Any, beside: Any) -> Tensor:
        """Of outputs and (labels, places of the items)."""
        labels, places = beside
        z = select_output(output, getattr(self.loss, "output", None))
        n = len(z)
        whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.numel() == n
        if whole and z.ndim == 2 and z.shape[1] > 1:
            p = z.detach().double().softmax(1).cumsum(1)
            drawn = (self._uniform[places.cpu()].to(p.device)[:, None] > p).sum(1).clamp(max=z.shape[1] - 1)
            return cross_entropy(z, drawn, reduction="none")
        if self._squared(z, labels):
            if self._noise is None:
                generator = torch.Generator().manual_seed(self._seed)
                self._noise = torch.randn(self._n, z[0].numel(), generator=generator, dtype=torch.float64)
            noise = self._noise[places.cpu()].to(z).reshape(z.shape) * math.sqrt(z[0].numel() / 2)
            return (z - (z.detach() + noise)).square().reshape(n, -1).mean(1)
        said = "labels of this kind are not drawn: the curvature is of the true ones"
        if said not in self.notes:
            self.notes.append(said)
        found: Tensor = self.loss(output, labels)
        return found

    def _squared(self, z: Tensor, labels: Any) -> bool:
        inner = getattr(self.loss, "loss", None)
        same = isinstance(labels, Tensor) and labels.is_floating_point() and labels.numel() == z.numel()
        if not same:
            return False
        return isinstance(inner, nn.MSELoss) or inner is nn.functional.mse_loss or inner is None


def _with_places(items: Items, begin: int) -> Items:
    """Items whose labels carry their places in the walk."""
    return Items(items.numbers, items.inputs, (items.labels, torch.arange(begin, begin + len(items))), items.kwargs)


# -- EK-FAC ----------------------------------------------------------------------------------------------------------


@dataclass
class CurvatureBlock:
    """The curvature of one weight (with its bias) in the eigenbasis of its factors.

    Attributes:
        left: eigenvectors of E[dd'], (O, O).
        right: of E[aa'], (I, I), with a row for the bias.
        values: mean squared gradients in that basis, (O, I).
        bias: name of the bias, or None.
    """

    left: Tensor
    right: Tensor
    values: Tensor
    bias: str | None


class EKFAC:
    """Eigenvalue-corrected Kronecker factors of the Gauss-Newton matrix, fitted in two passes over the data.

    Args:
        damping: added to the curvature, as a share of its mean.

    Attributes:
        blocks: per weight that one linear map or convolution uses once.
        diagonals: mean squared gradients of all other weights.
    """

    def __init__(self, damping: float | None = None):
        self.damping = EKFAC_DAMPING if damping is None else damping
        self.blocks: dict[str, CurvatureBlock] = {}
        self.diagonals: dict[str, Tensor] = {}

    def fit(
        self,
        batches: Callable[[], Any],
        weight_decay: float = 0.0,
    ) -> EKFAC:
        """Fit both passes.

        Args:
            batches: () -> the `Factors` of all items, batch by batch.
            weight_decay: added to every eigenvalue.
        """
        n = 0
        sums: dict[str, list[Any]] = {}
        for found in batches():
            n += found.n
            for name in found.shapes:
                self._add_factors(sums, name, found)
        inside = {bias for _, _, bias in sums.values() if bias is not None}
        for name, (left, right, bias) in sums.items():
            vectors = [torch.linalg.eigh(m.double() / n).eigenvectors.to(m) for m in (left, right)]
            self.blocks[name] = CurvatureBlock(
                vectors[0], vectors[1], torch.zeros(len(left), len(right)).to(left), bias
            )
        for found in batches():
            for name in found.shapes:
                if name in self.blocks:
                    self.blocks[name].values += self._squares(found, name) / n
                elif name not in inside and found.parts[name]:
                    squares = sum(g.square().sum(0) for _, _, g in found.pieces(name)) / n
                    self.diagonals[name] = self.diagonals.get(name, 0) + squares
        for block in self.blocks.values():
            block.values += weight_decay
        self.diagonals = {k: v + weight_decay for k, v in self.diagonals.items()}
        return self

    @staticmethod
    def _add_factors(sums: dict[str, list[Any]], name: str, found: Factors) -> None:
        part = outer_of(found, name)
        if part is None:
            sums.pop(name, None)
            return
        a, d = _wide(part).flatten(0, 1), part.d[:, 0].flatten(0, 1)
        if name not in sums:
            sums[name] = [0, 0, part.bias]
        sums[name][0] = sums[name][0] + d.T @ d
        sums[name][1] = sums[name][1] + a.T @ a

    def _squares(self, found: Factors, name: str) -> Tensor:
        part, block = outer_of(found, name), self.blocks[name]
        assert part is not None
        a, d = _wide(part) @ block.right, part.d[:, 0] @ block.left
        if a.shape[1] == 1:
            return d[:, 0].square().T @ a[:, 0].square()
        total = torch.zeros_like(block.values)
        step = max(1, 2**22 // total.numel())
        for begin in range(0, len(a), step):
            g = d[begin : begin + step].transpose(1, 2) @ a[begin : begin + step]
            total += g.square().sum(0)
        return total

    def solve(self, factors: Factors) -> dict[str, Tensor]:
        """(H + damping)^-1 times each sample's gradient, flat by weight (B, P)."""
        solved: dict[str, Tensor] = {}
        for name, block in self.blocks.items():
            if not factors.parts[name]:
                continue
            g = factors.formed(name).reshape(factors.n, len(block.left), -1)
            if block.bias is not None:
                g = torch.cat([g, factors.formed(block.bias)[:, :, None]], 2)
            inner = block.left.T @ g @ block.right
            mean = float(block.values.mean())
            inner = inner / (block.values + self.damping * mean).clamp_min(1e-30)
            g = block.left @ inner @ block.right.T
            if block.bias is not None:
                solved[block.bias] = g[:, :, -1].contiguous()
                g = g[:, :, :-1]
            solved[name] = g.flatten(1)
        for name, values in self.diagonals.items():
            if factors.parts[name]:
                g = factors.formed(name).reshape(factors.n, -1)
                solved[name] = g / (values + self.damping * float(values.mean())).clamp_min(1e-30)
        return solved


def _wide(part: Any) -> Tensor:
    """Inputs (B, T, I) with a column of ones for the bias."""
    a: Tensor = part.a[:, 0]
    return a if part.bias is None else torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)


@method(
    "ekfac",
    title="EK-FAC influence",
    cost="3 passes, forward and backward",
    assumes="the loss is near its minimum, layers do not interact",
)
@method(
    "ekfac_last",
    title="EK-FAC influence (last layer)",
    cost="3 forward passes",
    assumes="as EK-FAC, and that the last layer stands for all",
    head=True,
)
def by_ekfac(question: Question) -> Tensor:
    """Grosse et al. 2023, section 3."""

    def inverse(gradients: SampleGradients) -> Callable[[Factors], dict[str, Tensor]]:
        drawn = Drawn(question.loss, len(question.walk), question.seed, question.notes)

        def batches() -> Any:
            at = 0
            for items in question.walk:
                for _, found in question.passes.factors(gradients, _with_places(items, at), drawn):
                    yield found
                at += len(items)

        return EKFAC(question.damping).fit(batches, question.weight_decay).solve

    return preconditioned(question, inverse)


# -- the Hessian itself ----------------------------------------------------------------------------------------------


class LossCurvature:
    """The Hessian of the mean loss over a data set, as products and as a matrix.

    Args:
        gradients: the model and its weights.
        walk: the data.
        loss: of an item.
        size: items per pass.
    """

    def __init__(self, gradients: SampleGradients, walk: ItemWalk, loss: Measure, size: int = 256):
        self.gradients, self.walk, self.loss, self.size = gradients, walk, loss, size
        self.params = list(gradients.params.values())
        self.count = sum(p.numel() for p in self.params)
        self.items = 0  # how many the last walk had

    def _grads(self, items: Items) -> Tensor:
        """The gradient of the summed loss, flat, in its graph."""
        output = self.gradients.graph(items.inputs, items.kwargs)
        total = self.loss(output, items.labels).sum()
        found = torch.autograd.grad(total, self.params, create_graph=True, allow_unused=True)
        return torch.cat([(p * 0 if g is None else g).reshape(-1) for g, p in zip(found, self.params)])

    def _over(self, make: Callable[[Tensor], Tensor]) -> Tensor:
        total: Any = 0
        n = 0
        for items in self.walk:
            for begin in range(0, len(items), self.size):
                part = items.rows(begin, begin + self.size)
                total = total + make(self._grads(part)).detach()
                n += len(part)
        self.items = n
        found: Tensor = total / n
        return found

    def times(self, v: Tensor) -> Tensor:
        """The Hessian times a vector, flat."""

        def make(g: Tensor) -> Tensor:
            return self._flat(torch.autograd.grad((g * v).sum(), self.params, allow_unused=True))

        return self._over(make)

    def matrix(self) -> Tensor:
        """The Hessian itself, (P, P)."""

        def make(g: Tensor) -> Tensor:
            rows = [
                self._flat(torch.autograd.grad(one, self.params, retain_graph=True, allow_unused=True)) for one in g
            ]
            return torch.stack(rows)

        found = self._over(make)
        return (found + found.T) / 2

    def _flat(self, grads: Sequence[Tensor | None]) -> Tensor:
        return torch.cat(
            [torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in zip(grads, self.params)]
        )


def split(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Rows (Q, P) by weight."""
    sizes = [math.prod(s) for s in shapes.values()]
    return dict(zip(shapes, flat.split(sizes, 1)))


def damped(h: Tensor, question: Question, own: float = _EXACT_DAMPING) -> Tensor:
    """A Hessian with its damping (the method's own is `own`) and the penalty; what is no minimum is noted."""
    share = own if question.damping is None else question.damping
    scale = share * float(h.diagonal().abs().mean())
    h = h + (scale + question.weight_decay) * torch.eye(len(h), dtype=h.dtype, device=h.device)
    lowest = float(torch.linalg.eigvalsh(h)[0])
    if lowest <= 0:
        question.notes.append(f"the Hessian is not positive (lowest eigenvalue {lowest:.1e}): not a minimum")
    return h


def solver(h: Tensor) -> Callable[[Factors], dict[str, Tensor]]:
    """Gradients as factors -> H^-1 times them, by layer."""

    def solve(factors: Factors) -> dict[str, Tensor]:
        g = factors.flat()
        return split(torch.linalg.solve(h, g.double().T).T.to(g).contiguous(), factors.shapes)

    return solve


@method(
    "exact",
    title="Influence function",
    cost="P backward passes for P weights",
    assumes="the loss is at its minimum",
)
def by_hessian(question: Question) -> Tensor:
    """Koh and Liang 2017, with the Hessian formed."""

    def inverse(gradients: SampleGradients) -> Callable[[Factors], dict[str, Tensor]]:
        curvature = LossCurvature(gradients, question.walk, question.loss)
        if curvature.count > MOST_WEIGHTS:
            raise InputError(
                f"The Hessian of {curvature.count} weights has {curvature.count**2:.1e} numbers: name layers= with at "
                f'most {MOST_WEIGHTS} weights, or take method="ekfac".'
            )
        h = damped(curvature.matrix().double(), question)
        return solver(h)

    return preconditioned(question, inverse)


def lanczos(times: Callable[[Tensor], Tensor], size: int, steps: int, seed: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and vectors (P, r) of a symmetric map in a Krylov space, with full orthogonalisation.

    Args:
        times: v -> H v.
        size: P.
        steps: dimensions of the space at most.
        seed: of the first vector.
        like: a tensor of the type and device wanted.
    """
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like)
    basis = [v / v.norm()]
    columns: list[Tensor] = []
    for _ in range(min(steps, size)):
        w = times(basis[-1])
        q = torch.stack(basis, 1)
        columns.append(q.T @ w)
        w = w - q @ (q.T @ w)
        w = w - q @ (q.T @ w)
        norm = w.norm()
        if len(columns) == min(steps, size) or float(norm) < 1e-6 * max(1e-30, float(columns[0].norm())):
            break
        basis.append(w / norm)
    q = torch.stack(basis[: len(columns)], 1)
    small = torch.zeros(len(columns), len(columns), dtype=q.dtype, device=q.device)
    for j, column in enumerate(columns):
        small[: len(column), j] = column
        small[j, : len(column)] = column
    values, vectors = torch.linalg.eigh(small.double())
    return values.to(q), q @ vectors.to(q)


@method(
    "arnoldi",
    title="Arnoldi influence",
    cost="r passes with second derivatives, r = 100",
    assumes="the loss is at its minimum, and its largest curvatures tell",
)
def by_arnoldi(question: Question) -> Tensor:
    """Schioppa et al. 2022: the inverse in the space of the largest eigenvalues."""

    def inverse(gradients: SampleGradients) -> Callable[[Factors], dict[str, Tensor]]:
        curvature = LossCurvature(gradients, question.walk, question.loss)
        values, vectors = lanczos(curvature.times, curvature.count, 100, question.seed, curvature.params[0].detach())
        share = _EXACT_DAMPING if question.damping is None else question.damping
        damped = values + question.weight_decay + share * float(values.abs().max())
        kept = damped > 0
        question.notes.append(f"curvature in {int(kept.sum())} of {curvature.count} directions")
        v = vectors[:, kept] / damped[kept].sqrt()

        def solve(factors: Factors) -> dict[str, Tensor]:
            return split((factors.flat() @ v) @ v.T, factors.shapes)

        return solve

    return preconditioned(question, inverse)

"""ConceptFactors of activations: A (n, C) as U W, with U (n, K) >= 0, the amounts, and W (K, C), the atoms.

Where activations are not negative, neither are atoms (NMF): parts then add up and never cancel. Where they are signed
(GELU, SiLU, the stream of a transformer), atoms are free (semi-NMF). Both by alternating exact steps, coordinate by
coordinate (HALS), begun from singular vectors, so that no draw decides the result.

References:
    Cichocki and Phan 2009, IEICE Trans. Fundamentals E92-A (HALS); Boutsidis and Gallopoulos 2008, Pattern Recognition
    41 (the beginning); Ding, Li and Jordan 2010, IEEE TPAMI 32 (semi-NMF).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.random import make_generator

_MOST = 400  # rounds
_SIGNED = 1e-3  # negative activations of this share of the largest make a layer signed


@dataclass(frozen=True)
class ConceptFactors:
    """Activations in parts.

    Attributes:
        atoms: (K, C), each of length one.
        amounts: (n, K), not negative.
        signed: whether atoms may be negative (semi-NMF).
        explained: share of the squared activations that the parts hold.
        best: the share that K directions without any rule could hold (singular vectors).
    """

    atoms: Tensor
    amounts: Tensor
    signed: bool
    explained: float
    best: float


def is_signed(activations: Tensor) -> bool:
    """Whether activations have negative values that count: below a thousandth of the largest.

    Args:
        activations: of any shape.
    """
    return float(activations.min()) < -_SIGNED * float(activations.abs().max())


def factorise(
    activations: Tensor, k: int, *, signed: bool | None = None, seed: int | None = None, tol: float = 2e-3
) -> ConceptFactors:
    """Take activations apart into k atoms; the order of the rows does not matter.

    Args:
        activations: (n, C).
        k: number of atoms.
        signed: free atoms; None: decided by looking (`is_signed`).
        seed: begin at rows chosen with this seed; None: at singular vectors.
        tol: stop when five rounds lower the error's root by less than this share of it.

    Raises:
        InputError: more atoms than rows or columns, or activations that are all zero.

    Example:
        from interp_plugins.concept.factor import factorise

        found = factorise(torch.rand(40, 3) @ torch.eye(3, 12), 3)
        round(found.explained, 4)  # -> 1.0
    """
    n, c = activations.shape
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= min(n, c):
        raise InputError(
            f"{k!r} concepts of {n} rows with {c} channels: give a number from 1 to {min(n, c)}, or more data."
        )
    signed = is_signed(activations) if signed is None else signed
    order = _order(activations)
    a = activations[order].clamp_min(0) if not signed else activations[order]
    total = float(a.square().sum(dtype=torch.float64))
    if total == 0:
        raise InputError("The layer's activations are all zero for these data: choose another layer.")
    basis, values, right = _singular(a, k)
    w = _begin(a, right[:k], signed) if seed is None else _rows_at_random(a, k, seed)
    u, w = _alternate(a, w, basis, signed, tol)
    length = w.norm(dim=1)
    kept = torch.where(length > 0, length, torch.ones_like(length))
    u, w = u * kept, w / kept[:, None]
    left = float(torch.addmm(a, u, w, alpha=-1).square_().sum(dtype=torch.float64))
    amounts = torch.empty_like(u)
    amounts[order] = u
    best = min(1.0, float(values[:k].double().square().sum()) / total)
    explained = 1 - left / total
    return ConceptFactors(w, amounts, signed, explained, max(best, explained))


def _order(a: Tensor) -> Tensor:
    """An order of the rows that their own numbers decide, so that sums are added in one order whatever came first."""
    weights = torch.cos(torch.arange(a.shape[1], dtype=torch.float64, device=a.device) * 1.618).to(a.dtype)
    return torch.argsort((a * weights).sum(1, dtype=torch.float64), stable=True)


def _singular(a: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """A basis (n, w) of the columns' largest directions, w of 2 k + 10, with singular values and right vectors (w, C).

    References:
        Halko, Martinsson and Tropp 2011, SIAM Review 53, algorithm 4.4, from fixed directions.
    """
    width = min(2 * k + 10, *a.shape)
    start = torch.randn(a.shape[1], width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(a @ start.to(a)).Q
    for _ in range(2):
        basis = torch.linalg.qr(a @ (a.T @ basis)).Q
    left, values, right = torch.linalg.svd(basis.T @ a, full_matrices=False)
    return basis @ left, values, right


def _begin(a: Tensor, right: Tensor, signed: bool) -> Tensor:
    """Atoms to begin with: of each singular vector the sign, or the positive part, that more rows lie along."""
    along = a @ right.T
    plus, minus = along.clamp_min(0).norm(dim=0), along.clamp_max(0).norm(dim=0)
    if not signed:
        plus, minus = plus * right.clamp_min(0).norm(dim=1), minus * right.clamp_max(0).norm(dim=1)
    atoms = right * torch.where(plus >= minus, 1.0, -1.0).to(right)[:, None]
    mean = a.mean(0)
    return atoms if signed else atoms.clamp_min(0) + 1e-3 * mean / (float(mean.norm()) or 1.0)


def _rows_at_random(a: Tensor, k: int, seed: int) -> Tensor:
    """Atoms to begin with: means of a few rows each, chosen with a seed."""
    few = max(1, min(5, len(a) // k))
    picked = torch.randperm(len(a), generator=make_generator(seed))[: few * k].reshape(k, few)
    return a[picked.to(a.device)].mean(1) + 1e-6


def _alternate(a: Tensor, w: Tensor, basis: Tensor, signed: bool, tol: float) -> tuple[Tensor, Tensor]:
    """Amounts and atoms, in turns, each a little further than its best step while that helps, until the error stands.

    The rounds see the activations through their largest directions, which is a tenth of the work; the amounts at the
    end are of the activations themselves.

    References:
        Ang and Gillis 2019, Neural Computation 31, algorithm 2 (the extrapolation); Erichson et al. 2018, Pattern
        Recognition Letters 104 (the largest directions).
    """
    tall, wide = basis.cpu().numpy(), (basis.T @ a).cpu().numpy()  # a is about tall @ wide
    atoms, total = w.cpu().numpy().copy(), float((wide.astype(float) ** 2).sum())
    amounts = np.zeros((len(atoms), len(tall)), atoms.dtype)
    _sweep(amounts, (atoms @ wide.T) @ tall.T, atoms @ atoms.T, 10)
    ahead, ahead_w, step, most, last, checked = amounts, atoms, 0.5, 1.0, np.inf, np.inf
    best = amounts, atoms
    for number in range(_MOST):
        new = ahead.copy()
        _sweep(new, (ahead_w @ wide.T) @ tall.T, ahead_w @ ahead_w.T, 2)
        further = np.maximum(new + step * (new - amounts), 0)
        products, with_data = further @ further.T, (further @ tall) @ wide
        new_w = _free(products, with_data) if signed else ahead_w.copy()
        if not signed:
            _sweep(new_w, with_data, products, 2)
        cross, inner = (with_data * new_w).sum(dtype=float), (products * (new_w @ new_w.T)).sum(dtype=float)
        error = max(0.0, 1 + float(inner - 2 * cross) / total)
        if error > last:  # too far: back to where it was
            ahead, ahead_w, most, step = amounts, atoms, step, step / 1.5
        else:
            best, last = (further, new_w), error
            ahead_w = new_w + step * (new_w - atoms)
            ahead, ahead_w = further, ahead_w if signed else np.maximum(ahead_w, 0)
            amounts, atoms, step, most = new, new_w, min(most, 1.05 * step), min(1.0, 1.01 * most)
        if number % 5 == 4:
            if last < 1e-9 or checked**0.5 - last**0.5 <= tol * last**0.5:
                break
            checked = last
    found = torch.from_numpy(best[1]).to(a)
    return amounts_of(a, found, torch.from_numpy(best[0].T.copy()).to(a), sweeps=50), found


def _free(products: Any, with_data: Any) -> Any:
    """Atoms of either sign: least squares."""
    eye = np.eye(len(products), dtype=products.dtype)
    return np.linalg.solve(products + 1e-6 * products.diagonal().mean() * eye, with_data)


def _sweep(rows: Any, with_data: Any, products: Any, times: int) -> None:
    """Set each row to the best one that is not negative, the others given; in place."""
    sizes = products.diagonal()
    for _ in range(times):
        for j, size in enumerate(sizes):
            if size > 0:
                new = (with_data[j] - products[j] @ rows) / size
                new += rows[j]
                np.maximum(new, 0, out=rows[j])


def amounts_of(activations: Tensor, atoms: Tensor, begin: Tensor | None = None, *, sweeps: int = 300) -> Tensor:
    """How much of each atom is in activations: the least squares that are not negative, (n, K).

    Args:
        activations: (n, C).
        atoms: (K, C).
        begin: amounts to begin with.
        sweeps: rounds over the atoms at most; fewer where nothing changes any more.
    """
    known = activations.detach().cpu().numpy().T
    w = atoms.detach().cpu().to(activations.dtype).numpy()
    with_data, products = w @ known, w @ w.T
    found = np.zeros_like(with_data) if begin is None else np.ascontiguousarray(begin.cpu().numpy().T)
    for _ in range(max(1, sweeps // 5)):
        before = found.copy()
        _sweep(found, with_data, products, 5)
        if np.abs(found - before).max(initial=0.0) <= 1e-6 * np.abs(found).max(initial=0.0):
            break
    return torch.from_numpy(np.ascontiguousarray(found.T)).to(activations)


def amounts_in_graph(activations: Tensor, atoms: Tensor) -> Tensor:
    """`amounts_of` with its gradient: on the atoms that are there it is a linear map of the activations.

    Args:
        activations: (n, C), in a graph.
        atoms: (K, C).
    """
    with torch.no_grad():
        there = (amounts_of(activations.detach(), atoms) > 0).to(activations)
        products = atoms @ atoms.T
        eye = torch.eye(len(atoms)).to(products)
        systems = products * there[:, :, None] * there[:, None] + eye * (1 - there)[:, None] + 1e-9 * eye
    found: Tensor = torch.linalg.solve(systems, ((activations @ atoms.T) * there)[..., None])[..., 0]
    return found.clamp_min(0)


def matched(atoms: Tensor, others: Tensor) -> Tensor:
    """The cosine between each atom and the one of others that it is paired with, the nearest pairs first (K,).

    Args:
        atoms: (K, C), each of length one.
        others: (K, C), each of length one.
    """
    cosines = (atoms @ others.T).clone()
    found = atoms.new_zeros(len(atoms))
    for _ in range(len(atoms)):
        flat = int(cosines.argmax())
        i, j = divmod(flat, cosines.shape[1])
        found[i] = cosines[i, j]
        cosines[i], cosines[:, j] = -torch.inf, -torch.inf
    return found

"""Factors of activations: atoms that were planted, order, scikit-learn as an oracle, least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_plugins.concept.factor import amounts_in_graph, amounts_of, factorise, is_signed, matched
from interp_plugins.core.errors import InputError


def planted(n: int = 120, k: int = 10, width: int = 20) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    atoms = torch.zeros(k, k * width)
    for i in range(k):
        atoms[i, i * width : (i + 1) * width] = torch.rand(width, generator=draw)
    amounts = torch.rand(n, k, generator=draw) * (torch.rand(n, k, generator=draw) < 0.4)
    return amounts, atoms / atoms.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_planted_atoms_are_found(seed: int | None) -> None:
    amounts, atoms = planted()
    found = factorise(amounts @ atoms, 10, seed=seed)
    assert float(matched(atoms, found.atoms).min()) > 0.999 and found.explained > 1 - 1e-6
    assert not found.signed and float(found.atoms.min()) >= 0 and float(found.amounts.min()) >= 0


def test_amounts_of_what_was_made_of_amounts_are_those() -> None:
    amounts, atoms = planted()
    assert torch.allclose(amounts_of(amounts @ atoms, atoms), amounts, atol=1e-6)


def test_the_order_of_rows_changes_nothing() -> None:
    a = torch.rand(60, 5) @ torch.rand(5, 40) + 0.05 * torch.rand(60, 40)
    order = torch.randperm(60)
    whole, shuffled = factorise(a, 5), factorise(a[order], 5)
    assert torch.equal(whole.atoms, shuffled.atoms) and torch.equal(whole.amounts[order], shuffled.amounts)


@pytest.mark.filterwarnings("ignore")  # it stops before it has converged
def test_the_error_is_scikit_learns_within_a_hundredth() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    draw = torch.Generator().manual_seed(1)
    a = (torch.rand(80, 15, generator=draw) ** 3) @ (torch.rand(15, 200, generator=draw) ** 4)
    a = torch.relu(a + 0.1 * torch.randn(80, 200, generator=draw))
    model = decomposition.NMF(8, max_iter=200, tol=1e-3)
    theirs = np.linalg.norm(a.numpy() - model.fit_transform(a.numpy()) @ model.components_)
    found = factorise(a, 8)
    ours = float((a - found.amounts @ found.atoms).norm())
    assert ours < 1.01 * theirs and found.explained <= found.best + 1e-6


def test_amounts_are_least_squares_that_are_not_negative() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    atoms, a = torch.rand(6, 20, dtype=torch.float64), torch.rand(9, 20, dtype=torch.float64) - 0.3
    found = amounts_of(a, atoms, sweeps=3000)
    for row, u in zip(a, found, strict=True):
        assert np.allclose(optimize.nnls(atoms.numpy().T, row.numpy())[0], u.numpy(), atol=1e-4)


def test_the_gradient_of_amounts_is_that_of_finite_steps() -> None:
    atoms, a = torch.rand(4, 12, dtype=torch.float64), torch.rand(3, 12, dtype=torch.float64)
    a.requires_grad_()
    amounts_in_graph(a, atoms)[:, 1].sum().backward()
    step = 1e-4 * torch.randn_like(a)
    ends = [amounts_of(a.detach() + s * step, atoms, sweeps=20000)[:, 1].sum() for s in (1, -1)]
    assert abs(float((ends[0] - ends[1]) / 2 - (a.grad * step).sum())) < 1e-7


def test_signed_layers_have_free_atoms_and_it_is_seen_by_looking() -> None:
    a = torch.rand(50, 6) @ torch.randn(6, 30)
    assert is_signed(a) and not is_signed(a.relu()) and not is_signed(a.relu() - 1e-5)
    found = factorise(a, 6)
    assert found.signed and float(found.atoms.min()) < 0 <= float(found.amounts.min())
    assert found.explained > 0.5


@pytest.mark.parametrize(("k", "rows"), [(0, 5), (6, 5), (True, 5)])
def test_wrong_numbers_of_concepts_are_refused(k: int, rows: int) -> None:
    with pytest.raises(InputError, match=f"a number from 1 to {rows}"):
        factorise(torch.rand(rows, 8), k)
    with pytest.raises(InputError, match="all zero"):
        factorise(torch.zeros(5, 8), 2)

"""Nodes and weights of the rules along a path, against 40 digits, against numpy, and what they cost."""

from __future__ import annotations

import time

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import nn

from interp_plugins import attr
from interp_plugins.attr.shared.quadrature import MOST_STEPS, quadrature
from interp_plugins.core.errors import InputError
from tests.thorough import THOROUGH


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 17, 50, 51, 128, 301])
def test_gauss_legendre_is_numpys_where_that_is_exact(n: int) -> None:
    rule = quadrature("gausslegendre", n)
    x, w = np.polynomial.legendre.leggauss(n)
    assert np.abs(np.array(rule.nodes) - (1 + x) / 2).max() < 3e-16
    assert np.abs(np.array(rule.weights) - w / 2).max() < (1e-15 if n < 40 else 1e-14)  # numpy's own error, see below


@pytest.mark.parametrize("n", [2, 7, 50, 301, *([1000, 4000] if THOROUGH else [])])
def test_gauss_legendre_is_right_to_the_last_digits(n: int) -> None:
    rule = quadrature("gausslegendre", n)
    with mpmath.workdps(40):
        for k in sorted({0, 1 % n, n // 4, n // 2}):

            def polynomial(t: mpmath.mpf) -> mpmath.mpf:
                return mpmath.legendre(n, mpmath.cos(t))

            angle = mpmath.findroot(polynomial, mpmath.acos(1 - 2 * mpmath.mpf(rule.nodes[k])))
            x = mpmath.cos(angle)
            slope = n * (mpmath.legendre(n - 1, x) - x * polynomial(angle)) / mpmath.sin(angle)
            assert abs(rule.nodes[k] - (1 - x) / 2) < 2e-16
            assert abs(rule.weights[k] * slope**2 - 1) < 2e-14  # relative: the smallest weights count as the others


@pytest.mark.parametrize("n", [5, 50, 999])
def test_polynomials_are_integrated_exactly(n: int) -> None:
    rule = quadrature("gausslegendre", n)
    nodes, weights = np.array(rule.nodes), np.array(rule.weights)
    assert (np.diff(nodes) > 0).all() and nodes[0] > 0 and nodes[-1] < 1
    assert np.abs(nodes + nodes[::-1] - 1).max() < 3e-16 and (weights == weights[::-1]).all()
    for degree in (0, 1, 2, n, 2 * n - 1):
        assert abs((weights * nodes**degree).sum() * (degree + 1) - 1) < 1e-13


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 63, 511])
def test_fejers_rule_is_exact_for_its_degree_and_has_the_coarser_ones_nodes(n: int) -> None:
    rule, finer = quadrature("fejer", n), quadrature("fejer", 2 * n + 1)
    nodes, weights = np.array(rule.nodes), np.array(rule.weights)
    assert (weights > 0).all() and np.abs(nodes - np.array(finer.nodes)[1::2]).max() < 1e-15
    for degree in range(min(n, 40)):
        assert abs((weights * nodes**degree).sum() * (degree + 1) - 1) < 1e-13


def test_fejers_weights_keep_their_digits_and_come_fast() -> None:
    begin = time.process_time()
    rule = quadrature("fejer", MOST_STEPS)
    assert time.process_time() - begin < 2 and abs(sum(rule.weights) - 1) < 1e-12 and min(rule.weights) > 0
    m = 8  # the formula, term by term
    for k, weight in enumerate(quadrature("fejer", m - 1).weights, 1):
        terms = [np.sin(p * np.pi * k / m) / p for p in (1, 3, 5, 7)]
        assert abs(weight - 2 * np.sin(np.pi * k / m) / m * sum(terms)) < 1e-15


def test_many_nodes_take_no_time_and_are_remembered() -> None:
    begin = time.process_time()
    rule = quadrature("gausslegendre", 4001)
    took = time.process_time() - begin
    assert took < 1 and abs(sum(rule.weights) - 1) < 1e-13
    assert quadrature("gausslegendre", 4001) is rule


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle", "riemann_trapezoid"])
def test_too_many_nodes_are_refused_before_anything_runs(method: str) -> None:
    with pytest.raises(InputError, match=r"n_steps must be at most 100,000, got 100,001.*tol="):
        attr.IntegratedGradients(nn.Linear(2, 2)).attribute(
            torch.ones(1, 2), target=0, method=method, n_steps=MOST_STEPS + 1
        )

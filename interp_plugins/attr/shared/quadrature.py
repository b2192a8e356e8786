"""Quadrature rules on [0, 1]: nodes and weights that sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from interp_plugins.core.errors import InputError, unknown

RULES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")


@dataclass(frozen=True)
class Quadrature:
    """Nodes, weights, and the intervals (edges, n + 1) that the weights are the lengths of."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.nodes)


def check_steps(method: str, n_steps: int) -> None:
    """Refuse unknown rules and impossible numbers of steps."""
    if method not in RULES:
        raise unknown("integration method", method, RULES)
    least = 2 if method == "riemann_trapezoid" else 1
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < least:
        raise InputError(f"n_steps must be an int of at least {least} for {method}, got {n_steps!r}.")


def quadrature(method: str, n: int) -> Quadrature:
    """The rule of that name with n nodes.

    Gauss-Legendre converges exponentially for smooth integrands; for nets with ReLU kinks all rules are alike (1/n).
    The trapezoid's weights are 1/(n-1), halved at the ends, so that they sum to one (Captum's sum to (n-1)/n).
    """
    check_steps(method, n)
    return _rule(method, int(n))


@cache
def _rule(method: str, n: int) -> Quadrature:
    if method == "gausslegendre":
        x, w = np.polynomial.legendre.leggauss(n)
        nodes, weights = 0.5 * (1 + x), 0.5 * w
    elif method == "riemann_trapezoid":
        nodes, weights = np.linspace(0, 1, n), np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    else:
        shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
        nodes, weights = (np.arange(n) + shift) / n, np.full(n, 1 / n)
    return Quadrature(tuple(nodes.tolist()), tuple(weights.tolist()))

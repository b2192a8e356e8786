"""Quadrature rules on [0, 1]: nodes and weights that sum to one.

Gauss-Legendre nodes are found by Newton's method on the Legendre polynomial as a function of the angle, in O(n^2); the
weights keep all their digits also near the ends, where a recurrence in x = cos(angle) loses them. Fejér's second rule
has its nodes at cos(pi k / (n + 1)): about as exact, and 2 n + 1 nodes have the n among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from interp_plugins.core.conventions import as_captum
from interp_plugins.core.errors import InputError, unknown

RULES = ("gausslegendre", "fejer", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")
MOST_STEPS = 100_000  # nodes of a rule; more would only look like precision, see `check_steps`


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
    if n_steps > MOST_STEPS:
        raise InputError(
            f"n_steps must be at most {MOST_STEPS:,}, got {n_steps:,}: each is a pass, and the sum of so many is no "
            "more exact than its rounding. For an error of a known size give tol= (integrated_gradients); for "
            "a smaller one, inputs and a model in float64."
        )


def quadrature(method: str, n: int) -> Quadrature:
    """The rule of that name with n nodes.

    Gauss-Legendre and Fejér's rule converge exponentially for smooth integrands; for nets with ReLU kinks all rules are
    alike (1/n).
    The trapezoid's weights are 1/(n-1), halved at the ends, so that they sum to one (Captum's sum to (n-1)/n).
    """
    check_steps(method, n)
    rule = _rule(method, int(n))
    if method == "riemann_trapezoid" and as_captum():
        return Quadrature(rule.nodes, tuple(w * (n - 1) / n for w in rule.weights))
    return rule


@lru_cache(maxsize=64)
def _rule(method: str, n: int) -> Quadrature:
    if method == "gausslegendre":
        nodes, weights = _gauss_legendre(n)
    elif method == "fejer":
        nodes, weights = _fejer(n)
    elif method == "riemann_trapezoid":
        nodes, weights = np.linspace(0, 1, n), np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    else:
        shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
        nodes, weights = (np.arange(n) + shift) / n, np.full(n, 1 / n)
    return Quadrature(tuple(nodes.tolist()), tuple(weights.tolist()))


def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The zeros of the Legendre polynomial P_n, moved to [0, 1], ascending, and their weights.

    With x = cos(a) and g(a) = P_n(cos(a)) the weight is 1 / g'(a)^2. Newton's method finds the angles of one half.
    """
    k = np.arange(1, (n + 1) // 2 + 1)
    angle = np.pi * (4 * k - 1) / (4 * n + 2)
    angle += (n - 1) / (8 * n**3) / np.tan(angle)  # Tricomi's asymptotic zeros
    slope = np.empty(len(k))
    todo = np.arange(len(k))
    while len(todo):
        a = angle[todo]
        value, slope_here = _legendre(a, n)
        step = -value / slope_here
        angle[todo] = a + step
        # g'' = -g' / tan(a) - n (n + 1) g, by Legendre's equation; the step is so small that no more is needed
        slope[todo] = slope_here - step * (slope_here / np.tan(a) + n * (n + 1) * value)
        todo = todo[np.abs(step) * n > 1e-8]
    near, weight = np.sin(angle / 2) ** 2, 1 / slope**2  # the nodes of the left half
    odd = n % 2
    return np.concatenate([near, 1 - near[::-1][odd:]]), np.concatenate([weight, weight[::-1][odd:]])


def _fejer(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Fejér's second rule (Waldvogel, BIT 2006): the rule of Clenshaw and Curtis without the path's two ends.

    The weights are w_k = 2 sin(a_k) / m * sum over odd p < m of sin(p a_k) / p, with a_k = pi k / m and m = n + 1.
    """
    m = n + 1
    angle = np.pi * np.arange(1, m) / m
    series = np.zeros(2 * m)
    odd = np.arange(1, 2 * (m // 2), 2)
    series[odd] = 1 / odd
    weights = -2 * np.sin(angle) / m * np.fft.fft(series).imag[1:m]
    return np.sin(angle / 2) ** 2, (weights + weights[::-1]) / 2


def _legendre(angle: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """P_n(cos(angle)) and its derivative by the angle; the recurrence runs in 1 - x and differences."""
    t = 2 * np.sin(angle / 2) ** 2
    value, difference = np.ones_like(t), np.zeros_like(t)  # P_k, P_k - P_(k-1)
    for k in range(n):
        difference = (k * difference - (2 * k + 1) * t * value) / (k + 1)
        value = value + difference
    return value, n * (difference - t * value) / np.sin(angle)

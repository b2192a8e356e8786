"""A cubic function of the features as a control variate of Kernel SHAP's regression: its Shapley values are known.

Of a game v only the odd part counts for Shapley values, half the difference of a coalition's score to its complement's.
With signs u, 1 for features in the coalition and -1 for the others, it is fitted by a Gaussian process of the kernel

    k(u, u') = (1 - b) u.u' / d + b (u.u' / d)^3

that is by all products of one and of three signs at once, in as many unknowns as there are pairs of coalitions. The
Shapley values of a product of three signs are 2/3 for each of the three (2 for a single sign), so those of the fit are
a sum over the pairs. What it leaves over goes through the regression as before; a pair that was drawn counts with what
the fit of all others leaves over there, so that it stays an independent witness. Products of two signs are even and
count nothing, which is why pairs take care of them already (Fumagalli, Witter and Musco 2026, arXiv:2601.18608, on
pairs and on polynomials in the regression itself; fits with leftovers: Witter, Liu and Musco 2025, arXiv:2506.11849).
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 3  # pairs per feature from which there is enough for a fit
MOST = 1000  # pairs: the fit takes their third power of time
_CUBIC = 0.05  # b; between .02 and .1 errors differ by a tenth to a sixth
_NOISE = 0.01  # variance of what is no cubic, of that of the rest


def cubic_fit(coalitions: Tensor, values: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Shapley values of a cubic function (d, k) fitted to a game's odd part, and what it leaves over (m, k).

    Args:
        coalitions: one of each pair, (m, d) bool.
        values: the odd parts of k games, 0 for the whole coalition, (m, k) float64 on the CPU.
        drawn: pairs that were drawn, not all taken, (m,) bool; equal and complementary ones count as one.
    """
    signs = 2 * coalitions.to(values.dtype) - 1
    side = signs[:, :1]  # of a pair, the one with the first feature
    different, which = (signs * side).unique(dim=0, return_inverse=True)
    first = torch.empty(len(different), dtype=torch.long).scatter(0, which, torch.arange(len(which)))
    d = signs.shape[1]
    u = torch.cat([different, torch.ones(1, d, dtype=values.dtype)])
    near = u @ u.t() / d
    noise = torch.full((len(u),), _NOISE, dtype=values.dtype)
    noise[-1] *= 1e-6  # the whole coalition's is known
    kernel = (1 - _CUBIC) * near + _CUBIC * near**3 + torch.diag(noise)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    weights = inverse @ torch.cat([(values * side)[first], values.new_zeros(1, values.shape[1])])
    left = torch.where(
        drawn[first][:, None], (weights / inverse.diagonal()[:, None])[:-1], (noise[:, None] * weights)[:-1]
    )
    # (sum of u_i u'_i)^3 = 6 products of three + (3 d - 2) of one; of the others' pairs of signs the sum is
    pairs = ((u.sum(1, keepdim=True) - u) ** 2 - (d - 1)) / 2
    each = 2 * (1 - _CUBIC) / d * u + _CUBIC / d**3 * (4 * pairs + 2 * (3 * d - 2)) * u
    return each.t() @ weights, left[which] * side

"""Integrated Hessians (Janizek, Sturmfels, Lee, JMLR 2021, arXiv:2002.04138): which features act together.

    G_ij = (x_i - x'_i)(x_j - x'_j) * int int a b d2F/dx_i dx_j (x' + a b (x - x')) da db      for i != j
    G_ii = the same, plus (x_i - x'_i) * int int dF/dx_i (x' + a b (x - x')) da db

Row sums are integrated gradients, and the sum of all is F(x) - F(x'). With t = a b the double integrals become single
ones, int -t ln t H(t) dt and int -ln t g(t) dt, and with t = u^2 smooth ones. Cost per node and sample: one forward
pass and one backward pass more than there are features. Where all is piecewise linear (ReLU) second derivatives are
zero: `smooth` computes with softplus in its place, as the paper advises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp_plugins.attr.gradient.integrated_gradients import IntegratedGradients
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, prepared
from interp_plugins.attr.shared.path import RowSum, grid_rows, points
from interp_plugins.attr.shared.quadrature import check_steps, quadrature
from interp_plugins.core.baseline import as_starts
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.differentiate import gradient, keeping_values
from interp_plugins.core.errors import InputError
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.forward import Forward
from interp_plugins.core.tensors import Inputs, accumulation_dtype, check_float

_MOST = 256
_RELU = {torch.relu, torch.relu_, F.relu, F.relu_, Tensor.relu, Tensor.relu_}


class _Softplus(TorchFunctionMode):
    """Every ReLU computed as softplus of the given sharpness; nothing on the model."""

    def __init__(self, beta: float):
        super().__init__()
        self.beta = beta

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Softplus for ReLU, everything else as it is."""
        return F.softplus(args[0], self.beta) if func in _RELU else func(*args, **(kwargs or {}))


class IntegratedHessians(GradientAttribution):
    """Pairwise interactions of features, in units of the score.

    Not in the registry, because its result is a matrix per sample and not a map of the input.
    """

    @args_from(IntegratedGradients.attribute)
    def attribute(
        self,
        inputs: Inputs,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 30,
        feature_mask: Any = None,
        internal_batch_size: int | None = None,
        *,
        smooth: float | None = None,
        progress: bool | None = None,
    ) -> Tensor:
        """The matrix of interactions per sample, (N, K, K) for K features, symmetric.

        Args:
            n_steps: nodes of the integral (Gauss-Legendre).
            feature_mask: groups of elements that count as one feature, see `FeatureAblation`; None: each on its own,
                those of all inputs one after the other. At most 256 features.
            smooth: sharpness of the softplus that stands for every ReLU, such as 10; None: the model as it is.

        Raises:
            InputError: more than 256 features.
        """
        check_steps("gausslegendre", n_steps)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            bs = as_starts(baselines, xs, template=inputs)
            features = MaskFeatures(xs, feature_mask)
            if len(features) > _MOST:
                raise InputError(
                    f"There are {len(features)} features, and interactions need a matrix of all pairs: at most "
                    f"{_MOST}. Group elements with feature_mask (superpixels, words)."
                )
            n = xs[0].shape[0]
            matrices, total = _Matrices(forward, xs, bs, features, n_steps, smooth), RowSum(n)
            size = forward.rows_per_pass(xs, check_chunk("internal_batch_size", internal_batch_size))
            with progress_bar(n * n_steps, "gradients", progress) as bar:
                for _, _, (rows, parts) in chunks(n * n_steps, size, matrices, step=n, bar=bar):
                    total.add(parts, rows)
            return total.result()[0]


class _Matrices:
    """Each node's share of the matrices, for the rows of the list "all samples at node 0, at node 1, ..."."""

    def __init__(
        self,
        forward: Forward,
        xs: tuple[Tensor, ...],
        bs: tuple[Tensor, ...],
        features: MaskFeatures,
        n_steps: int,
        smooth: float | None,
    ):
        self.forward, self.xs, self.bs, self.smooth = forward, xs, bs, smooth
        n, self.dtype = xs[0].shape[0], accumulation_dtype(xs[0].dtype)
        changes = [(x - b).reshape(n, -1).to(self.dtype) for x, b in zip(xs, bs, strict=True)]
        self.change = torch.cat(changes, 1)  # (N, D), D elements of all inputs
        masks = [_flat(features.masks(k), xs) for k in range(len(features))]
        self.groups = torch.stack(masks, 1).to(self.dtype)  # (N, K, D)
        self.u, self.w = (torch.tensor(v, dtype=torch.float64) for v in _nodes(n_steps))

    @keeping_values
    def __call__(self, start: int, stop: int) -> tuple[Tensor, list[Tensor]]:
        """The samples of the rows [start, stop), and their matrices, (R, K, K)."""
        rows, steps = grid_rows(start, stop, self.xs[0].shape[0], self.xs[0].device)
        u, w = self.u[steps.cpu()], self.w[steps.cpu()]
        t = (u**2).to(self.xs[0]).to(rows.device)
        change, groups = self.change[rows], self.groups[rows]  # (R, D), (R, K, D)
        leaves = [p.detach().requires_grad_() for p in points(self.xs, self.bs, rows, t)]
        with _Softplus(self.smooth) if self.smooth is not None else torch.enable_grad():
            scores = self.forward.target.at(rows)(self.forward.raw(leaves, rows))
        grads = gradient(scores, leaves, create_graph=True)
        by_feature = torch.einsum("rd,rkd->rk", _joined(grads, leaves, self.dtype) * change, groups)
        weight = (-4 * u * u.log() * w).to(by_feature)
        matrix = torch.diag_embed(by_feature.detach() * weight[:, None])
        self.forward.passes["backward"] += len(rows) * (1 + groups.shape[1])
        if by_feature.requires_grad:
            second = _second(by_feature, leaves, change, groups)
            matrix = matrix + second * (weight * t.to(weight)).reshape(-1, 1, 1)
        return rows, [matrix]


def _nodes(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rule = quadrature("gausslegendre", n)
    # The integral of -4 u ln u over [0, 1] is one; the rule's own error there would be an error of completeness.
    own = sum(-4 * u * math.log(u) * w for u, w in zip(rule.nodes, rule.weights, strict=True))
    return rule.nodes, tuple(w / own for w in rule.weights)


def _flat(masks: list[Tensor], xs: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([m.expand_as(x).reshape(len(x), -1) for m, x in zip(masks, xs, strict=True)], 1)


def _joined(grads: Sequence[Tensor | None], leaves: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Gradients (R, ...) of all inputs side by side, (R, D); zeros where an input has none."""
    given = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, leaves, strict=True)]
    return torch.cat([g.reshape(len(g), -1).to(dtype) for g in given], 1)


def _second(by_feature: Tensor, leaves: list[Tensor], change: Tensor, groups: Tensor) -> Tensor:
    """(x - x')_A H_AB (x - x')_B for all pairs of features, (R, K, K)."""
    rows = []
    for k in range(by_feature.shape[1]):
        found = gradient(by_feature[:, k], leaves, retain_graph=True)
        rows.append(torch.einsum("rd,rkd->rk", _joined(found, leaves, change.dtype) * change, groups))
    return torch.stack(rows, 1)

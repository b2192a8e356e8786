"""What attention says: rollout, relevance and LeGrad, as a map over tokens, or over the picture they were cut from.

AttentionRollout (Abnar and Zuidema 2020, arXiv:2005.00928): R = A'_L ... A'_1, A' = (mean over heads of A + I) / 2.
AttentionRelevance (Chefer, Gur, Wolf 2021, arXiv:2103.15679): R <- R + mean over heads of relu(dF/dA * A) R, from I.
LeGrad (Bousselham et al. 2024, arXiv:2404.03214): mean over layers of relu(d s_l / d A_l), where s_l is the score that
the tokens of layer l get when the layers behind it are left out.

The map of rollout and relevance is the row (or the mean of the rows) of R that belongs to the tokens the score is read
from; which these are is told by the gradient. Cost per sample: one forward and one backward pass (LeGrad: one of each
per layer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.attention.legrad import layer_scores
from interp_plugins.attr.attention.maps import Attention, attentions
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import GradientAttribution, prepared
from interp_plugins.attr.shared.grid_layer import shapes_of_modules
from interp_plugins.core.batching import check_chunk, chunks
from interp_plugins.core.differentiate import gradient, keeping_values
from interp_plugins.core.errors import InputError, LayerError, unknown
from interp_plugins.core.forward import Forward
from interp_plugins.core.grid import Grid, find_grid
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs

FUSIONS = ("mean", "max", "min")


def token_map(forward: Forward, xs: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
    """Values of tokens (N, T) as (N, 1, h, w) for pictures, as they are for other inputs."""
    if not any(x.ndim >= 4 for x in xs):
        return tokens
    shape = (tokens.shape[0], tokens.shape[1], 2)
    grid: Grid = find_grid(torch.nn.Identity(), shape, xs, shapes_of_modules(forward, xs))
    return grid.lay_out(tokens[:, :, None])


def _normalised(a: Tensor) -> Tensor:
    total = a.sum(-1, keepdim=True)
    return a / total.where(total > 0, torch.ones_like(total))


def rollout(maps: Sequence[Tensor], fusion: str) -> Tensor:
    """R (R, T, T) from attention weights (R, heads, T, T) of the layers, first layer first."""
    joint: Tensor | None = None
    for a in maps:
        fused = a.mean(1) if fusion == "mean" else a.amax(1) if fusion == "max" else a.amin(1)
        step = _normalised(fused + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device))
        joint = step if joint is None else step @ joint
    assert joint is not None
    return joint


def relevance(maps: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """R (R, T, T) from attention weights and their gradients (R, heads, T, T), first layer first."""
    joint = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device).expand_as(maps[0][:, 0])
    for a, g in zip(maps, grads, strict=True):
        joint = joint + (a * g).relu().mean(1) @ joint
    return joint


def read_out(joint: Tensor, last_gradient: Tensor) -> Tensor:
    """The rows of R (R, T, T) that the score is read from, averaged: (R, T).

    The score depends on a query of the last attention only if its gradient there is not zero.
    """
    used = (last_gradient.abs().amax((1, 3)) > 0).to(joint.dtype)
    return (used[:, None] @ joint)[:, 0] / used.sum(1, keepdim=True).clamp_min(1)


class _AttentionMethod(GradientAttribution):
    """A method about a model with attention."""

    def _per_chunk(
        self,
        inputs: Any,
        target: Any,
        args: Any,
        batch_size: int | None,
        values: Callable[[Forward, list[Tensor], Tensor], Tensor],
    ) -> Any:
        """`values(forward, inputs of some rows, rows)` (R, T) for all samples, laid out."""
        chunk = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, args) as (xs, forward):
            n, device = xs[0].shape[0], xs[0].device

            def work(start: int, stop: int) -> Tensor:
                rows = torch.arange(start, stop, device=device)
                return values(forward, [x[start:stop] for x in xs], rows).detach()

            parts = [part for _, _, part in chunks(n, forward.samples_per_pass(xs, chunk), work)]
            found = token_map(forward, xs, torch.cat(parts))
            return (found,) if isinstance(inputs, tuple) else found


@keeping_values
def weights_and_gradients(forward: Forward, xs: Sequence[Tensor], rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Attention weights and the score's gradients with respect to them, (R, heads, T, T) each."""
    scores, found = attentions(forward, xs, rows)
    if scores.ndim != 1:
        raise InputError(
            f"The target leaves values of shape {tuple(scores.shape)}; give one that selects one value per sample, "
            "such as a class index."
        )
    forward.passes["backward"] += len(rows)
    sources: list[Attention] = found
    grads = gradient(scores, [a.weights for a in sources])
    count = len(rows)
    maps = [a.by_head(a.weights.detach(), count) for a in sources]
    return maps, [
        torch.zeros_like(m) if g is None else a.by_head(g, count) for a, m, g in zip(sources, maps, grads, strict=True)
    ]


@register(
    "attention_rollout",
    unsigned=True,
    aliases=("rollout",),
    title="Attention rollout",
    reference="Abnar and Zuidema 2020, arXiv:2005.00928",
    applies_to="transformer",
    cost="1 forward, 1 backward",
    assumes="attention carries the information, whatever the class",
)
class AttentionRollout(_AttentionMethod):
    """How much of each token reaches the tokens that the score is read from, by attention alone.

    The class enters only through which tokens are read; for a model with a class token the map is the same for all.
    """

    @args_from()
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        head_fusion: str = "mean",
        batch_size: int | None = None,
    ) -> Tensor:
        """Shares of the tokens; they add up to one, class and register tokens included.

        Args:
            head_fusion: "mean" (the paper), "max" or "min" over the heads.

        Returns:
            (N, 1, h, w) for a picture, without class and register tokens; (N, T) for other inputs.

        Raises:
            ModelError: a model without attention, or whose layers attend to different sets of tokens (Swin).
        """
        if head_fusion not in FUSIONS:
            raise unknown("head_fusion", head_fusion, FUSIONS)

        def values(forward: Forward, xs: list[Tensor], rows: Tensor) -> Tensor:
            maps, grads = weights_and_gradients(forward, xs, rows)
            return read_out(rollout(maps, head_fusion), grads[-1])

        return self._per_chunk(inputs, target, additional_forward_args, batch_size, values)


@register(
    "attention_relevance",
    unsigned=True,
    aliases=("chefer", "transformer_relevance", "generic_attention"),
    title="Attention relevance",
    reference="Chefer, Gur, Wolf 2021, arXiv:2103.15679",
    applies_to="transformer",
    cost="1 forward, 1 backward",
    assumes="attention carries the information",
)
class AttentionRelevance(_AttentionMethod):
    """Attention weighted by the gradient of the score, accumulated over the layers; positive, of one class."""

    @args_from(AttentionRollout.attribute)
    def attribute(
        self, inputs: Inputs, target: Any = None, additional_forward_args: Any = None, *, batch_size: int | None = None
    ) -> Tensor:
        """Relevance of the tokens for the target (equations 5 and 6); shapes and errors as in `AttentionRollout`."""

        def values(forward: Forward, xs: list[Tensor], rows: Tensor) -> Tensor:
            maps, grads = weights_and_gradients(forward, xs, rows)
            joint = relevance(maps, grads) - torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
            return read_out(joint, grads[-1])

        return self._per_chunk(inputs, target, additional_forward_args, batch_size, values)


@register(
    "le_grad",
    unsigned=True,
    title="LeGrad",
    reference="Bousselham et al. 2024, arXiv:2404.03214",
    applies_to="transformer",
    cost="l forward, l backward for l layers",
    assumes="each layer's tokens can be read by the head",
)
class LeGrad(_AttentionMethod):
    """Positive gradients of every layer's own score with respect to its attention, averaged over heads and queries."""

    @args_from(AttentionRollout.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        n_layers: int | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """LeGrad (equations 3 to 7), not rescaled; shapes and errors as in `AttentionRollout`.

        Args:
            n_layers: how many layers, counted from the last; None = all, as in the paper for pictures' classes.
        """
        wanted = check_chunk("n_layers", n_layers)

        def values(forward: Forward, xs: list[Tensor], rows: Tensor) -> Tensor:
            total, layers = layer_scores(forward, xs, rows, wanted)
            return total / layers

        try:
            return self._per_chunk(inputs, target, additional_forward_args, batch_size, values)
        except LayerError as err:
            raise LayerError(f"LeGrad: {err}") from err

"""Attention read at function level: every softmax over keys that a model computes, whatever module it stands in.

`Attentions` is a `TorchFunctionMode`. Fused attention (`scaled_dot_product_attention`, `nn.MultiheadAttention`) never
shows its weights, so it is computed in steps instead, with equal results; a softmax written out by the model is taken
as it is. The weights stay in the graph, so that the score can be differentiated with respect to them. Nothing is put on
the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_plugins.core.errors import ModelError
from interp_plugins.core.forward import Forward

_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax, torch.special.softmax}


@dataclass(frozen=True, eq=False)
class Attention:
    """The weights of one attention, (rows, heads, queries, keys) or heads folded into the rows; and where it ran."""

    weights: Tensor
    inside: tuple[nn.Module, ...] = ()

    def by_head(self, t: Tensor, rows: int) -> Tensor:
        """The weights, or a gradient of their shape, as (rows, heads, queries, keys)."""
        return t if t.ndim == 4 else t.reshape(rows, -1, *t.shape[-2:])


class Attentions(TorchFunctionMode):
    """Collects attention weights, in the order of execution."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Attention] = []
        self.running: list[nn.Module] = []  # for whoever keeps it: the modules that are running

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass a call on; attention goes in steps."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        out = func(*args, **kwargs)
        if func in _SOFTMAX and _over_keys(out, args, kwargs):
            out = self._keep(out)
        return out

    def _keep(self, weights: Tensor) -> Tensor:
        if not weights.requires_grad and torch.is_grad_enabled():
            weights = weights.detach().requires_grad_()
        self.found.append(Attention(weights, tuple(self.running)))
        return weights

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The definition in `scaled_dot_product_attention`'s documentation."""
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        logits = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            allowed = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits = logits.masked_fill(~allowed, -math.inf)
        if attn_mask is not None:
            bool_mask = attn_mask.dtype == torch.bool
            logits = logits.masked_fill(~attn_mask, -math.inf) if bool_mask else logits + attn_mask
        # A query without any key attends to nothing, as in the fused kernels.
        weights = logits.softmax(-1).masked_fill((logits == -math.inf).all(-1, keepdim=True), 0.0)
        weights = self._keep(weights)
        return F.dropout(weights, dropout_p, training=dropout_p > 0) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`nn.MultiheadAttention`, by its documentation: projections, attention, projection."""
        given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        given.apply_defaults()
        a = SimpleNamespace(**given.arguments)
        batched = a.query.ndim == 3
        query, key, value = (t if batched else t[:, None] for t in (a.query, a.key, a.value))
        length, rows, width = query.shape
        if a.use_separate_proj_weight:
            weights = (a.q_proj_weight, a.k_proj_weight, a.v_proj_weight)
        else:
            weights = a.in_proj_weight.chunk(3)
        biases = (None,) * 3 if a.in_proj_bias is None else a.in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))
        if a.bias_k is not None:  # a learned key and value for all
            k, v = (torch.cat([t, b.expand(1, rows, -1)]) for t, b in ((k, a.bias_k), (v, a.bias_v)))
        q, k, v = (t.reshape(len(t), rows, a.num_heads, -1).permute(1, 2, 0, 3) for t in (q, k, v))
        k = k if a.static_k is None else a.static_k.reshape(rows, a.num_heads, -1, k.shape[-1])
        v = v if a.static_v is None else a.static_v.reshape(rows, a.num_heads, -1, v.shape[-1])
        if a.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        mask = _merged_mask(a, rows, k.shape[-2], q)
        out = self._fused(q, k, v, mask, a.dropout_p if a.training else 0.0)
        joined = out.permute(2, 0, 1, 3).reshape(length, rows, width)
        joined = F.linear(joined, a.out_proj_weight, a.out_proj_bias)
        shown = self.found[-1].weights
        shown = shown.mean(1) if a.average_attn_weights else shown
        return (joined if batched else joined[:, 0]), ((shown if batched else shown[0]) if a.need_weights else None)


def _merged_mask(a: SimpleNamespace, rows: int, keys: int, q: Tensor) -> Tensor | None:
    """The masks of `multi_head_attention_forward` (True: not allowed, or numbers to add) as one to add."""
    total: Tensor | None = None
    parts = []
    if a.attn_mask is not None:
        m = a.attn_mask
        parts.append(m.reshape(rows, -1, *m.shape[-2:]) if m.ndim == 3 else m[None, None])
    if a.key_padding_mask is not None:
        parts.append(a.key_padding_mask.reshape(rows, 1, 1, -1))
    for m in parts:
        m = torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -math.inf) if m.dtype == torch.bool else m.to(q.dtype)
        m = F.pad(m, (0, keys - m.shape[-1]))  # learned and zero keys are always allowed
        total = m if total is None else total + m
    return total


def _over_keys(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a softmax is one of attention: over the last of at least three axes."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return isinstance(out, Tensor) and out.ndim >= 3 and dim in (-1, out.ndim - 1)


def attentions(forward: Forward, inputs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, list[Attention]]:
    """The scores (R,) of some rows and the attention weights on the way, in the graph.

    Raises:
        ModelError: no attention, or none with tokens of single samples as rows.
    """
    count = inputs[0].shape[0]
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs]
    with Attentions() as mode:
        output = forward.raw(leaves, rows)
    scores = forward.target.at(rows)(output)
    return scores, one_set_of_tokens(mode.found, count)


def one_set_of_tokens(found: Sequence[Attention], count: int) -> list[Attention]:
    """The attentions of a set of tokens to itself, for `count` rows.

    Raises:
        ModelError: no attention, or layers that attend to different sets of tokens.
    """
    if not found:
        raise ModelError(
            "This method reads attention weights, and the model computed none: no softmax over keys, no "
            "scaled_dot_product_attention, no nn.MultiheadAttention. Use a class activation map or a gradient method."
        )
    own = [a for a in found if a.weights.shape[-1] == a.weights.shape[-2] > 1]  # others pool, or read a memory
    sizes = {a.weights.shape[-1] for a in own}
    windows = [a for a in own if a.weights.ndim == 4 and a.weights.shape[0] != count]  # folded into the rows
    if len(sizes) != 1 or windows:
        shapes = sorted({tuple(a.weights.shape[1:]) for a in found})
        raise ModelError(
            "This method follows tokens from layer to layer, which needs one set of tokens in all layers; the "
            f"attention weights of this model have shapes {shapes[:4]} per row (windows or stages, as in Swin, or "
            "attention from one sequence to another). Use a class activation map or a gradient method."
        )
    return own

"""Functions written out in smaller ones, with the same numbers: attention, gates, normalizations.

Each is called with the arguments of the function it stands for, inside a `RuleMode`, so that every step meets its own
rule. What an argument asks for that is not written out here gives `NotImplemented`; the call then stays whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` in products and a softmax, for the rules to see."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    logits = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    logits = _masked(logits, attn_mask)
    weights = logits.softmax(-1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attn_mask.any(-1, keepdim=True), 0.0)  # a row with nothing to look at
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def _masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return logits
    return logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """`F.multi_head_attention_forward`: time first, the batch second."""
    if static_k is not None or static_v is not None:
        return NotImplemented
    batched = query.dim() == 3
    if not batched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    time, batch, width = query.shape
    weights_in = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight
    q, k, v = _projected((query, key, value), weights_in, in_proj_bias)
    k, v = _with_extra_keys(k, v, bias_k, bias_v, add_zero_attn)
    mask = _joint_mask(attn_mask, key_padding_mask, batch, num_heads, q.dtype)
    if mask is not None:  # what was added to the keys is never hidden
        mask = F.pad(mask, (0, len(k) - len(key)))
    # (T, batch, heads * width) -> (batch, heads, T, width)
    q, k, v = (t.reshape(t.shape[0], batch, num_heads, -1).permute(1, 2, 0, 3) for t in (q, k, v))
    weights = _masked((q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1), mask).softmax(-1)
    if training and dropout_p:
        weights = F.dropout(weights, dropout_p)
    mixed = (weights @ v).permute(2, 0, 1, 3).reshape(time, batch, width)
    out = F.linear(mixed, out_proj_weight, out_proj_bias)
    shown: Tensor | None = None
    if need_weights:
        shown = weights.mean(1) if average_attn_weights else weights
    if not batched:
        out, shown = out.squeeze(1), None if shown is None else shown.squeeze(0)
    return out, shown


def _projected(tensors: tuple[Tensor, ...], weights: Any, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Queries, keys and values, by three matrices or by the thirds of one."""
    matrices = weights.chunk(3) if isinstance(weights, Tensor) else weights
    offsets = (None, None, None) if bias is None else bias.chunk(3)
    return tuple(F.linear(t, w, b) for t, w, b in zip(tensors, matrices, offsets, strict=True))


def _with_extra_keys(
    k: Tensor, v: Tensor, bias_k: Tensor | None, bias_v: Tensor | None, zero: bool
) -> tuple[Tensor, Tensor]:
    """Keys and values (T, batch, width) with a learnt one and one of zeros behind them, where the layer has these."""
    batch = k.shape[1]
    if bias_k is not None and bias_v is not None:
        k, v = torch.cat([k, bias_k.repeat(1, batch, 1)]), torch.cat([v, bias_v.repeat(1, batch, 1)])
    if zero:
        k, v = (torch.cat([t, t.new_zeros(1, batch, t.shape[-1])]) for t in (k, v))
    return k, v


def _joint_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """The masks as one that is added to the logits (batch, heads, queries, keys); it broadcasts to these."""
    mask = _additive(attn_mask, dtype)
    if mask is not None and mask.dim() == 3:  # (batch * heads, queries, keys)
        mask = mask.reshape(batch, heads, *mask.shape[1:])
    padding = _additive(key_padding_mask, dtype)  # (batch, keys)
    if padding is None:
        return mask
    padding = padding.reshape(batch, 1, 1, -1)
    return padding if mask is None else mask + padding


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def gated(input: Tensor, dim: int = -1) -> Tensor:
    """`F.glu` as a product with a sigmoid."""
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid()


def divided(input: Any, other: Any, *, rounding_mode: str | None = None, out: Tensor | None = None) -> Any:
    """`torch.div` where the divisor may carry a gradient: a product with a reciprocal."""
    dynamic = isinstance(other, Tensor) and other.is_floating_point() and not isinstance(other, nn.Parameter)
    if rounding_mode is not None or out is not None or not dynamic:
        return NotImplemented
    return input * other.reciprocal()


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """`F.log_softmax` as a difference: x less its logsumexp."""
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1
    x = input if dtype is None else input.to(dtype)
    return x - x.logsumexp(dim, keepdim=True)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """`F.softmin` as the softmax of -x."""
    return F.softmax(-input, dim, dtype=dtype)


def _scaled(x: Tensor, squares: Tensor, eps: float, fixed: bool) -> Tensor:
    return x * ((squares.detach() if fixed else squares) + eps).rsqrt()


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *more: Any,
    fixed: bool = False,
) -> Tensor:
    """`F.layer_norm`; with `fixed`, the scale counts as a constant."""
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    c = input - input.mean(dims, keepdim=True)
    y = _scaled(c, (c * c).mean(dims, keepdim=True), eps, fixed)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    fixed: bool = False,
) -> Tensor:
    """`F.rms_norm` in products and means; with `fixed`, the scale counts as a constant."""
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y = _scaled(input, (input * input).mean(dims, keepdim=True), eps, fixed)
    return y if weight is None else y * weight


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *more: Any,
    fixed: bool = False,
) -> Tensor:
    """`F.group_norm` in products and means; with `fixed`, the scale counts as a constant."""
    groups = input.reshape(input.shape[0], num_groups, -1)
    c = groups - groups.mean(-1, keepdim=True)
    y = _scaled(c, (c * c).mean(-1, keepdim=True), eps, fixed).reshape(input.shape)
    channels = (1, -1, *(1,) * (input.dim() - 2))
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *more: Any,
    fixed: bool = False,
) -> Any:
    """`F.instance_norm` with the statistics of the input; with running ones it is affine and stays whole."""
    return group_norm(input, input.shape[1], weight, bias, eps, fixed=fixed) if use_input_stats else NotImplemented


def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None, *, fixed: bool = False
) -> Any:
    """`F.normalize` with the Euclidean norm."""
    if p != 2 or out is not None:
        return NotImplemented
    squares = (input * input).sum(dim, keepdim=True)
    return input * (squares.detach() if fixed else squares).sqrt().clamp(min=eps).reciprocal()


ATTENTION: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    "glu": gated,
    "softmin": softmin,
}
STATISTICS: dict[str, Callable[..., Any]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "normalize": normalize,
}

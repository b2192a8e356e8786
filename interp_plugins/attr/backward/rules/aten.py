"""Operators of exported programs, written as the functions that rules are made for.

`torch.export` and `make_fx` leave calls of `torch.ops.aten` operators. Most have the name and the arguments of the
function that a user writes, so that rules meet them by name (`names.op_name`). The others, into which a program is
decomposed (`run_decompositions`), are translated here: same numbers, other arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *settings: Any,
) -> Tensor:
    """`aten.convolution` of any number of dimensions, also transposed."""
    axes = weight.ndim - 2
    one, two, three = ([*v] * (axes if len(v) == 1 else 1) for v in (stride, padding, dilation))
    if transposed:
        return _TRANSPOSED[axes - 1](input, weight, bias, one, two, [*output_padding], groups, three)
    return _CONVOLUTIONS[axes - 1](input, weight, bias, one, two, three, groups)


def batch_norm_by_statistics(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`aten._native_batch_norm_legit_no_training`; the saved statistics are empty there as well."""
    out = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return out, input.new_empty(0), input.new_empty(0)


def layer_norm_with_statistics(
    input: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`aten.native_layer_norm`: the norm, mean and 1/deviation of each group."""
    dims = tuple(range(-len(shape), 0))
    with torch.no_grad():
        var, mean = torch.var_mean(input.detach(), dims, correction=0, keepdim=True)
    return F.layer_norm(input, [*shape], weight, bias, eps), mean, (var + eps).rsqrt()


def group_norm_with_statistics(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hxw: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`aten.native_group_norm`: the norm, mean and 1/deviation of each group."""
    with torch.no_grad():
        var, mean = torch.var_mean(input.detach().reshape(n, groups, -1), -1, correction=0)
    return F.group_norm(input, groups, weight, bias, eps), mean, (var + eps).rsqrt()


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, **how: Any
) -> Any:
    """The attention kernels of the CPU, without the numbers that they keep for their backward pass."""
    how.pop("return_debug_mask", None)
    out = F.scaled_dot_product_attention(query, key, value, how.pop("attn_mask", None), dropout_p, is_causal, **how)
    return out, out.new_empty(0)


ATEN: dict[str, Callable[..., Any]] = {
    "convolution": convolution,
    "native_batch_norm_legit_no_training": batch_norm_by_statistics,
    "native_layer_norm": layer_norm_with_statistics,
    "native_group_norm": group_norm_with_statistics,
    "scaled_dot_product_flash_attention_for_cpu": fused_attention,
}

"""Which function a call is, whatever its spelling, and which functions behave alike.

`F.relu(x)`, `torch.relu(x)`, `x.relu()`, `x.relu_()` and `F.relu(x, inplace=True)` are all "relu"; `x + y`, `x += y`
and `torch.add(x, y)` are all "add". Rules are chosen by these names, so they meet every spelling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

_SYNONYMS = {
    "absolute": "abs", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp", "divide": "div",
    "true_divide": "div", "truediv": "div", "idiv": "div", "rtruediv": "rdiv", "multiply": "mul", "negative": "neg",
    "radd": "add", "rmul": "mul", "subtract": "sub", "expit": "sigmoid", "swish": "silu", "greater": "gt",
    "linalg_norm": "norm", "linalg_vector_norm": "norm", "vector_norm": "norm", "concat": "cat",
    "concatenate": "cat", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp", "fmax": "maximum", "fmin": "minimum",
}  # fmt: skip
_DUNDER_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "idiv", "ipow", "imatmul"}


def words(text: str) -> frozenset[str]:
    """A set of names, from a text."""
    return frozenset(text.split())


# Functions that only move numbers: what comes back for an output belongs to the input it came from.
MOVES = words(
    """view view_as reshape reshape_as flatten unflatten permute transpose swapaxes swapdims movedim moveaxis squeeze
    unsqueeze expand expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile cat stack hstack vstack
    dstack split split_with_sizes chunk tensor_split hsplit vsplit unbind narrow select index_select gather
    take take_along_dim getitem setitem index_put index_copy index_fill scatter masked_fill masked_select
    masked_scatter where clone contiguous to type type_as float double half bfloat16 cuda cpu copy flip fliplr
    flipud roll rot90 pad tril triu diag diagonal diag_embed t adjoint pixel_shuffle pixel_unshuffle
    channel_shuffle unfold im2col as_strided ravel detach dropout dropout1d dropout2d dropout3d alpha_dropout
    feature_alpha_dropout zero fill as_subclass atleast_1d atleast_2d atleast_3d embedding meshgrid real alias
    column_stack lift_fresh lift_fresh_copy nan_to_num slice unsafe_view to_copy constant_pad_nd
    pack_padded_sequence pad_packed_sequence native_channel_shuffle
    view_as_real view_as_complex cartesian_prod combinations block_diag get"""
)

# Linear (or affine) in whatever carries a gradient: the gradient is the same everywhere.
LINEAR = words(
    """add sub rsub neg positive sum nansum mean nanmean cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample upsample_bilinear upsample_nearest upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d fold col2im trace
    index_add scatter_add diff fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn segment_reduce
    embedding_bag affine_grid sum_to_size"""
)

# Of one operand, element by element.
ELEMENTWISE = words(
    """relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish sigmoid hardsigmoid logsigmoid log_sigmoid
    tanh hardtanh hardswish softplus softsign tanhshrink softshrink hardshrink threshold exp expm1 exp2 log log1p
    log2 log10 sqrt rsqrt reciprocal square abs sin cos tan sinh cosh asin acos atan asinh acosh atanh erf erfc
    erfinv clamp pow rpow rdiv logit sinc lgamma digamma xlogypower"""
)

# Bilinear where two operands carry a gradient, linear where one does.
PRODUCTS = words("mul matmul rmatmul mm bmm mv dot vdot inner outer ger bilinear chain_matmul tensordot einsum")
WEIGHTED = words("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
AFFINE_PRODUCTS = words("addmm baddbmm addbmm addmv addr addcmul lerp")

# Of one or more operands: each output is one of the inputs, the largest or the smallest.
LARGEST = words(
    """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d
    amax max maximum"""
)
SMALLEST = words("amin min minimum")

NORMALIZATIONS = words("layer_norm group_norm instance_norm rms_norm batch_norm local_response_norm normalize")

# No gradient goes through these, or nothing but bookkeeping happens.
PLAIN = words(
    """size dim ndimension numel nelement stride storage_offset is_contiguous is_floating_point is_complex is_signed
    element_size data_ptr storage untyped_storage item tolist numpy len get_device is_same_size grad requires_grad
    retain_grad register_hook set_grad_enabled isnan isinf isfinite isclose allclose equal eq ne lt le gt ge argmax
    argmin argsort any all bool int long short char byte nonzero count_nonzero sign round floor ceil trunc frac
    floor_divide logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not and or invert xor
    empty zeros ones full arange linspace tensor as_tensor eye rand randn randint randperm empty_like zeros_like
    ones_like full_like rand_like randn_like new_tensor new_zeros new_ones new_empty new_full bernoulli multinomial
    normal uniform is_tensor is_nonzero result_type promote_types can_cast broadcast_shapes finfo iinfo one_hot
    bucketize searchsorted unique unique_consecutive bincount histc index contains hash repr str format iter reversed
    deepcopy reduce_ex dir is_inference is_leaf is_pinned pin_memory record_stream set setstate delitem dlpack
    dlpack_device array is_shared share_memory save load assert_async is_autocast_enabled output_nr
    assert assert_scalar assert_tensor_metadata scalar_tensor sym_size sym_numel empty_strided
    backward has_names names rename dense_dim sparse_dim layout seed manual_seed complex sgn"""
)


def _plain_name(func: Callable[..., Any]) -> str:
    """A function's name; an operator's without its overload ("add.Tensor"), other libraries' with the library's."""
    name = getattr(func, "__name__", "") or ""
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        library, _, name = (func._schema.name if isinstance(func, torch._ops.OpOverload) else str(func)).rpartition(
            "::" if isinstance(func, torch._ops.OpOverload) else "."
        )
        return name if library == "aten" else f"{library}.{name}"
    return name


@functools.cache
def op_name(func: Callable[..., Any]) -> tuple[str, bool]:
    """The function's one name, and whether this spelling works in place.

    Functions without a name (unlikely, but a user's class may send anything) are called "".
    """
    name = _plain_name(func)
    in_place = False
    if name.startswith("__") and name.endswith("__") and len(name) > 4:
        name = name[2:-2]
        if name in _DUNDER_IN_PLACE:
            name, in_place = name[1:], True
    elif name.endswith("_") and len(name) > 1:
        name, in_place = name.rstrip("_"), True
    name = name.lstrip("_")
    return _SYNONYMS.get(name, name), in_place


@functools.cache
def out_of_place(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The name of a function without its in-place ending: `x.relu_` gives `x.relu`."""
    name = _plain_name(func)
    plain = name.strip("_")
    if name[2:-2] in _DUNDER_IN_PLACE:
        plain = {"itruediv": "div", "idiv": "div"}.get(plain, plain[1:])
    for place in (torch.Tensor, torch, F):
        found = getattr(place, plain, None)
        if callable(found):
            return found
    return None


def softmax_dim(args: tuple[Any, ...], kwargs: dict[str, Any], ndim: int) -> int:
    """The axis of a softmax call; without one, torch's implicit choice."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return int(dim) if dim is not None else (0 if ndim in (0, 1, 3) else 1)

"""Small helpers on tensors and tuples of tensors: private copies, checks, rows of nested arguments."""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.fixed import Fixed

Inputs = Tensor | tuple[Tensor, ...]  # what is explained: a tensor, or one per argument of the model
InputsT = TypeVar("InputsT", bound=Inputs)  # for maps that have the layout of the inputs
Maps = Tensor | tuple[Tensor, ...]  # what is found: a map, or one per input (or per tensor of a layer)
LayerMaps = Maps | list[Maps]  # a list for a list of layers

_AT_ONCE = 2**18  # elements of a temporary tensor beside whole batches
_MISSING = (
    " Where NaN is a value that is missing, and the model knows: explain(..., input_spec=InputSpec(missing='nan'))."
)


def describe(value: Any) -> str:
    """What came, in a few words: type, shape, dtype, keys."""
    if isinstance(value, Tensor):
        return (
            f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
        )
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, dict):
        return f"{type(value).__name__} with keys {list(value)[:8]}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(type(v).__name__ for v in value[:4]) + (", ..." if len(value) > 4 else "")
        return f"{type(value).__name__} of {len(value)} ({inner})"
    return f"{type(value).__name__} {value!r}"[:120]


def check_readable(x: Tensor, what: str) -> None:
    """Refuse tensors without numbers of their own: sparse ones, and those of the meta device."""
    if x.layout is not torch.strided or x.is_meta:
        kind, advice = ("on the meta device", "Put it on a device") if x.is_meta else ("sparse", "Give x.to_dense()")
        raise InputTypeError(f"{what} is {kind} (shape {tuple(x.shape)}); expected a dense tensor. {advice}.")


def is_float(x: Any) -> TypeGuard[Tensor]:
    """Whether x is a tensor that can carry a gradient."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def own(x: Tensor) -> Tensor:
    """A detached private copy as a plain tensor: never the caller's object, subclass or inference tensor."""
    return x.as_subclass(Tensor).detach().clone()


def own_tree(tree: Any) -> Any:
    """`own` for every tensor in nested containers; everything else as it is."""

    def copied(v: Any) -> Any:
        if isinstance(v, Fixed):
            return Fixed(own_tree(v.value))
        return own(v) if isinstance(v, Tensor) else v

    return pytree.tree_map(copied, tree)


def tensors_in(tree: Any) -> tuple[Tensor, ...]:
    """The tensors in nested containers, in their order."""
    return tuple(t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor))


def as_tuple(x: Any) -> tuple[Any, ...]:
    """A 1-tuple around anything that is not a tuple."""
    return x if isinstance(x, tuple) else (x,)


def like(template: InputsT, values: Sequence[Tensor]) -> InputsT:
    """Values in the caller's layout: a tensor for a tensor, a tuple for a tuple."""
    return cast("InputsT", tuple(values) if isinstance(template, tuple) else values[0])


def all_finite(x: Tensor) -> bool:
    """Whether no element is NaN or infinite: their sum says it, unless it overflows."""
    if not (x.is_floating_point() or x.is_complex()):
        return True
    return cmath.isfinite(x.detach().sum().item()) or bool(x.detach().isfinite().all())


def in_sizes(x: Tensor) -> Tensor:
    """Values for a picture, float64 on the CPU: real ones as they are, complex ones by their magnitude."""
    x = x.detach().cpu()
    return (x.abs() if x.is_complex() else x).double()


def check_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Check a model's inputs (tensor or tuple of tensors, batch first) and return private copies as a tuple.

    Raises:
        InputTypeError: anything but tensors.
        InputError: empty batch, no batch dimension, batch sizes that differ, NaN or infinity.
    """
    if not isinstance(inputs, (Tensor, tuple)):
        raise InputTypeError(
            "`inputs` must be a torch.Tensor or a tuple[torch.Tensor] but found: "
            f"{describe(inputs)}. Give a tensor with the batch as first dimension, or a tuple of such tensors."
        )
    many = as_tuple(inputs)
    if not many:
        raise InputError("`inputs` is an empty tuple; give at least one tensor.")
    for i, x in enumerate(many):
        if not isinstance(x, Tensor):
            raise InputTypeError(
                f"inputs[{i}] must be a torch.Tensor but found: {describe(x)}. Arguments that are not to be explained "
                "belong into additional_forward_args."
            )
        check_readable(x, f"inputs[{i}]")
        if x.ndim == 0:
            raise InputError(f"inputs[{i}] is a 0-d tensor; the first dimension must be the batch: x[None].")
        if x.shape[0] == 0:
            raise InputError(f"inputs[{i}] has an empty batch: shape {tuple(x.shape)}. Give at least one sample.")
        if x.shape[0] != many[0].shape[0]:
            raise InputError(
                f"inputs[{i}] has {x.shape[0]} samples (shape {tuple(x.shape)}), inputs[0] has {many[0].shape[0]}. "
                "The first dimension of all inputs must be the same batch."
            )
        if not all_finite(x):
            odd = ~x.detach().isfinite().reshape(x.shape[0], -1)
            kind = "NaN" if bool(x.detach().isnan().any()) else "infinity"
            raise InputError(
                f"inputs[{i}] of shape {tuple(x.shape)} contains {kind} in sample(s) "
                f"{odd.any(1).nonzero().flatten().tolist()[:8]}. Clean the data (torch.nan_to_num, or fill missing "
                "values) before explaining; what is no data, a mask of -inf, belongs into additional_forward_args."
                + (_MISSING if kind == "NaN" else "")
            )
    return tuple(own(x) for x in many)


def check_float(inputs: Sequence[Tensor], what: str = "inputs") -> None:
    """Refuse integer and bool tensors where a gradient is needed, and say where to go instead."""
    for i, x in enumerate(inputs):
        if not is_float(x):
            raise InputTypeError(integer_advice(i, x, what))


def integer_advice(i: int, x: Tensor | None, what: str = "inputs") -> str:
    """What to do with an integer or bool input (None: of any such type) that no gradient can be had for."""
    dtype = "integer" if x is None else str(x.dtype).removeprefix("torch.")
    return (
        f"{what}[{i}] is {dtype}, and gradients need floating-point data: ids are explained at the rows of the table "
        "that the model looks them up in, and no such look-up (nn.Embedding, F.embedding, or a parameter indexed by "
        "the ids, in plain PyTorch code) was seen for this input. For images and quantities: x.float(). For token or "
        "category ids: explain the embedding with a layer method (LayerIntegratedGradients(model, model.embedding)), "
        "or replace ids (feature_ablation). For an argument that is not to be explained: pass it in "
        "additional_forward_args."
    )


def take_rows(tree: Any, rows: Tensor | None, n: int) -> Any:
    """Rows of every batched tensor (first dimension n) in nested containers; the rest and what is `Fixed` unchanged."""
    if rows is None:
        return tree

    def pick(v: Any) -> Any:
        if isinstance(v, Tensor) and v.ndim and v.shape[0] == n:
            return v.index_select(0, rows.to(v.device))
        return v

    return pytree.tree_map(pick, tree)


def private_rows(tree: Any, rows: Tensor | None, n: int) -> Any:
    """`take_rows`, with a copy of every tensor that is not made for this one call: the model may write to all of them.

    What stands in a graph was made for the call, and its graph sees writing in place.
    """

    def pick(v: Any) -> Any:
        if not isinstance(v, Tensor):
            return v
        if rows is not None and v.ndim and v.shape[0] == n:
            return v.index_select(0, rows.to(v.device))
        return v if v.grad_fn is not None else v.clone()

    return pytree.tree_map(pick, tree)


def credit(change: Tensor, grad: Tensor) -> Tensor:
    """What a change of the input adds to the score to first order, element by element: change times gradient.

    Of complex numbers it is real: torch's gradient of a real score holds the two derivatives as real and imaginary
    parts, so that the product with the conjugate adds up both.
    """
    if change.is_complex() or grad.is_complex():
        return (grad.conj() * change).real
    return change * grad


def credit_in_place(inputs: Tensor, baselines: Tensor, grads: Tensor, targets: int = 1) -> Tensor:
    """`credit` of the way from baselines to inputs, written over the gradients, some rows at a time.

    Args:
        inputs: (N, ...).
        baselines: (N, ...).
        grads: of K targets, a sample's together, (N * K, ...); nobody else's.
        targets: K.
    """
    if inputs.is_complex() or grads.is_complex():
        return credit((inputs - baselines).repeat_interleave(targets, 0), grads)
    rows = max(1, _AT_ONCE // max(1, inputs[0].numel()))
    for start in range(0, len(inputs), rows):
        change = inputs[start : start + rows] - baselines[start : start + rows]
        change = change.repeat_interleave(targets, 0) if targets > 1 else change
        grads[start * targets : (start + rows) * targets].mul_(change)
    return grads


def expand_rows(v: Tensor, w: Tensor) -> Tensor:
    """Shape v (R,) so that it multiplies w (R, ...)."""
    return v.reshape(v.shape[0], *(1,) * (w.ndim - 1))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The numeric policy, in one place: half precision is accumulated in float32, everything else in its own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def widest(device: torch.device) -> torch.dtype:
    """The widest dtype of a device: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def per_sample_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of all elements of all tensors, per sample (N,), in the accumulation dtype."""
    return torch.stack([t.reshape(t.shape[0], -1).sum(1, dtype=accumulation_dtype(t.dtype)) for t in tensors]).sum(0)

"""What no rule could reach: parts of a model that run where calls cannot be seen, and steps that let nothing through.

The calls inside TorchScript, custom autograd functions or compiled code do not pass a `RuleMode`; their own gradient
would stand where a rule should. They are found in the graph of the output: it holds a node of another kind than the
mode leaves plain.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from interp_plugins.attr.backward.rules.call import OpCall
from interp_plugins.attr.backward.rules.names import words
from interp_plugins.core.caches import call_cache
from interp_plugins.core.differentiate import no_gradient_text, nodes_behind
from interp_plugins.core.errors import InterpWarning, ModelError
from interp_plugins.core.forward import Gradients
from interp_plugins.core.guard import is_script, modules_below, modules_of

RECTIFIERS = words("Relu Threshold")
NONLINEAR = RECTIFIERS | words(
    """Gelu Silu Elu LeakyRelu Prelu Rrelu Hardtanh Hardswish Hardsigmoid Mish Softplus Tanh Sigmoid LogSigmoid Exp Log
    Sqrt Rsqrt Reciprocal Softmax LogSoftmax Logsumexp MaxPool1D MaxPool2DWithIndices MaxPool3DWithIndices
    AdaptiveMaxPool2D AdaptiveMaxPool3D NativeLayerNorm NativeGroupNorm ScaledDotProductFlashAttentionForCpu
    ScaledDotProductFlashAttention ScaledDotProductEfficientAttention"""
)
WEIGHTED = words("Addmm Mm Bmm Mv Convolution ConvolutionOverrideable NativeBatchNorm CudnnBatchNorm")
ARITHMETIC = words("Mul Div Add Sub Sum Mean Pow Abs Clamp")
_INSTEAD = (
    "Explain the model that it was made from (an nn.Module, or what torch.export or torch.fx made of it), or use a "
    "method that needs no rules: integrated_gradients, occlusion, feature_ablation"
)


def _kind(node: Node) -> str:
    """A node's operation without what torch appends: ReluBackward0 is Relu."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def _opaque(node: Node) -> bool:
    """Whether a node stands for a part of unknown make: fused TorchScript, a custom function, compiled code."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return _kind(node) != "BackwardHookFunction"  # the identity that carries a user's full backward hook
    return _kind(node) in ("DifferentiableGraph", "CompiledFunction")


def check_reach(mode: Any, func: Callable[..., Any], outputs: Sequence[Tensor]) -> None:
    """Refuse, or warn, where the mode's rules reached nothing, or not all that they are made for.

    Args:
        mode: the `RuleMode` that the model ran under; its `belongs` names kinds of nodes that a rule is made for.
        func: the model.
        outputs: what it gave, in its graph.

    Raises:
        ModelError: no rule was met, or an operation has no gradient.
    """
    key = ("reach of rules", type(mode), id(func))
    if key in call_cache():
        return
    call_cache()[key] = func
    ruled, missed, others = 0, dict[str, None](), False
    for node in nodes_behind(outputs):
        if isinstance(getattr(node, "call", None), OpCall):
            ruled += 1
        elif node.name().endswith("NotImplemented"):
            raise ModelError(no_gradient_text("input"))
        elif _kind(node) in mode.belongs or _opaque(node):
            missed[_kind(node)] = None
        else:
            others = others or _kind(node) in NONLINEAR | (ARITHMETIC if mode.needs_all else frozenset())
    if missed or (others and not ruled):
        _tell(mode, func, list(missed), ruled)


def _tell(mode: Any, func: Callable[..., Any], missed: list[str], ruled: int) -> None:
    script = any(map(is_script, modules_below(modules_of(func))))
    where = "parts of the model run as TorchScript" if script else "custom functions, compiled code or TorchScript"
    if missed or mode.needs_all:
        what = f" ({', '.join(missed[:6])})" if missed else ""
        if not ruled and (script or missed):
            raise ModelError(
                f"{mode.title} met no call that it has a rule for: the model's operations{what} cannot be seen from "
                f"outside ({where}), and its plain gradient is something else. {_INSTEAD}."
            )
        text = f"{mode.title} could not reach a part of the model{what}: {where}. There stands the plain gradient"
        warnings.warn(f"{text}. {_INSTEAD}.", InterpWarning, stacklevel=4)
        return
    warnings.warn(
        f"{mode.title} met no rectifier (ReLU) in the model: the map is the plain gradient. For other activations "
        "use saliency, integrated_gradients or lrp.",
        InterpWarning,
        stacklevel=4,
    )


def check_lost(mode: Any, got: Gradients) -> Gradients:
    """What a pass under a mode gave; tells of steps that let nothing through.

    Args:
        mode: the `RuleMode`, after the backward pass.
        got: what arrived at the inputs (or the layers).

    Raises:
        ModelError: nothing arrived.
    """
    if not mode.lost:
        return got
    names = ", ".join(dict.fromkeys(mode.lost))
    if not any(bool(g.any()) for g in got.grads):
        raise ModelError(f"{mode.title}: nothing got past {names}. {no_gradient_text('input')}")
    warnings.warn(
        f"{mode.title}: nothing got past {names}, which has no gradient; what arrived came by other ways. Use a "
        "perturbation method (occlusion, feature_ablation) to see all of them.",
        InterpWarning,
        stacklevel=4,
    )
    return got

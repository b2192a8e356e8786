"""Batch normalisation folded into the convolution or linear layer before it.

In eval mode batch normalisation is y = s z + t per channel, with s = weight / sqrt(var + eps) and
t = bias - mean s. Behind z = W x + b it is W' x + b' with W' = s W and b' = s b + t: one layer fewer. timm's norm
holds the activation behind it, which stays, and its convolution pads before it does what others do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from interp_plugins.core.layers import Layer
from interp_plugins.core.tensors import widest
from interp_plugins.engine.plan.tracer import Tracer, is_plain
from interp_plugins.engine.plan.view import shallow

LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OF_TIMM = "timm.layers."  # where the classes that are known by name live: timm is no dependency
_CONV_SAME, _NORM_ACT = "Conv2dSame", "BatchNormAct2d"


def folded(probe: Tracer, layers: Sequence[Layer]) -> dict[int, nn.Module]:
    """Stand-ins, by module id, for every pair that can be folded without anybody noticing.

    A pair is folded where the norm is all that ever reads the linear layer's output, both run once, and no layer in
    `layers` lies between them.
    """
    watched = {id(layer.module) for layer in layers}
    out: dict[int, nn.Module] = {}
    last = {id(v.gave[0]): v for v in probe.visits if len(v.gave) == 1 and _is_linear(v.module)}
    for norm in probe.visits:
        behind = _behind(norm.module, watched)
        if behind is None or len(norm.taken) != 1:
            continue
        before = last.get(id(norm.taken[0]))
        if before is None or probe.uses[id(norm.taken[0])] != 1:
            continue
        if any(len(probe.calls(m)) != 1 for m in (before.module, norm.module)):
            continue
        between = norm.taken[0]
        seen_by = [v for v in probe.visits if any(t is between for t in (*v.taken, *v.gave))]
        if any(id(v.module) in watched for v in seen_by):
            continue
        if isinstance(norm.module, nn.BatchNorm1d) and isinstance(before.module, nn.Linear) and between.ndim != 2:
            continue  # the norm's channels are not the layer's features
        pair = _fold(before.module, norm.module)
        if pair is not None:
            out[id(before.module)], out[id(norm.module)] = pair, behind
    return out


def _is_linear(module: nn.Module) -> bool:
    return is_plain(module, LINEAR) or (_of_timm(module, _CONV_SAME) and is_plain(module, (type(module),)))


def _of_timm(module: nn.Module, name: str) -> bool:
    return type(module).__name__ == name and type(module).__module__.startswith(_OF_TIMM)


def _behind(norm: nn.Module, watched: Collection[int]) -> nn.Module | None:
    """What is left of a norm once it is folded: nothing, or its activation; None where it cannot be folded."""
    if is_plain(norm, NORMS):
        return nn.Identity()
    if not (_of_timm(norm, _NORM_ACT) and is_plain(norm, (type(norm),))):
        return None
    inside = [norm.drop, norm.act]
    simple = all(isinstance(m, nn.Module) and not list(m.children()) and id(m) not in watched for m in inside)
    return nn.Sequential(*(shallow(m) for m in inside)) if simple else None  # type: ignore[arg-type]


def _fold(linear: nn.Module, norm: nn.Module) -> nn.Module | None:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:  # statistics of the batch
        return None
    assert isinstance(mean, Tensor) and isinstance(var, Tensor)
    weight = linear.weight
    assert isinstance(weight, Tensor)
    if weight.dtype != var.dtype or not weight.is_floating_point():
        return None
    dtype = widest(var.device)
    scale = torch.rsqrt(var.to(dtype) + float(norm.eps))  # type: ignore[arg-type]
    if isinstance(norm.weight, Tensor):
        scale = scale * norm.weight.to(dtype)
    shift = -mean.to(dtype) * scale
    if isinstance(norm.bias, Tensor):
        shift = shift + norm.bias.to(dtype)
    if isinstance(linear.bias, Tensor):
        shift = shift + linear.bias.to(dtype) * scale
    wide = weight.to(dtype) * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    mine = shallow(linear)
    mine._parameters["weight"] = nn.Parameter(wide.to(weight), requires_grad=False)
    mine._parameters["bias"] = nn.Parameter(shift.to(weight), requires_grad=False)
    return mine

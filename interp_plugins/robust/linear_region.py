"""How far the corners of a network are: within that, it is linear and its gradient the same.

A network of rectifiers is linear in a cell around each input, which ends where one of its units changes sides. Inside
the cell every unit z_i is itself linear in the input, so the distance to its corner is |z_i - corner| / |grad z_i|*,
with the dual norm, and the smallest of these is exactly how far the cell reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from interp_plugins.attr.backward.rules.names import op_name, words
from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.errors import ModelError
from interp_plugins.robust.norms import dual_sizes, random_in_ball
from interp_plugins.robust.opening import Opened

MOST = 20_000  # units
_CURVED = words(
    """sigmoid tanh gelu silu mish softplus elu celu selu softmax log_softmax logsigmoid exp log sqrt pow hardswish
    layer_norm group_norm instance_norm scaled_dot_product_attention max_pool1d max_pool2d max_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d sin cos norm"""
)
_POINTS = 3  # where the gradient is looked at again
_INSIDE = 0.95  # of the radius


class _Corners(TorchFunctionMode):
    """Note what goes into every rectifier, less where its corners are."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call as it is."""
        given = dict(kwargs or {})
        name, _ = op_name(func)
        x = args[0] if args else given.get("input")
        if isinstance(x, Tensor) and x.requires_grad and x.is_floating_point():
            if name in _CURVED:
                raise ModelError(
                    f"The network calls {name}, which is not linear between corners, so its gradient is the same "
                    "nowhere. method='region' is of networks of linear layers and ReLU (without a softmax at the end)."
                )
            for corner in _corners(name, args, given):
                self.units.append((x - corner).flatten(1))  # before anything is written over it
        return func(*args, **given)


def _corners(name: str, args: Sequence[Any], given: dict[str, Any]) -> tuple[float, ...]:
    if name in ("relu", "leaky_relu", "abs", "prelu"):
        return (0.0,)
    if name == "relu6":
        return (0.0, 6.0)
    if name == "hardtanh":
        low = args[1] if len(args) > 1 else given.get("min_val", -1.0)
        return float(low), float(args[2] if len(args) > 2 else given.get("max_val", 1.0))
    if name == "clamp":
        ends = [*args[1:3], *(given.get(k) for k in ("min", "max"))]
        return tuple(float(e) for e in ends if isinstance(e, (int, float)))
    return ()


def region_radius(subject: Opened, norm: str, progress: bool | None) -> Tensor:
    """The exact distance of each sample to the end of its cell, (N,) in raw units; infinite without corners.

    Raises:
        ModelError: a network that is curved, or has too many units.
    """
    found = []
    with progress_bar(len(subject), "regions", progress) as bar:
        for i in range(len(subject)):
            found.append(_radius(subject, i, norm))
            bar.update(1)
    radius = torch.stack(found)
    _look_again(subject, radius, norm)
    return radius.cpu()


def _units(subject: Opened, i: int, rows: int) -> tuple[list[Tensor], Tensor]:
    """Copies of sample i as leaves, and the units of each, (rows, U)."""
    leaves = [x[i : i + 1].detach().expand(rows, *x.shape[1:]).clone().requires_grad_(True) for x in subject.raw]
    at = torch.full((rows,), i, device=leaves[0].device)
    with torch.enable_grad(), _Corners() as corners:
        subject.forward.called(leaves, at)
    units = [u for u in corners.units if len(u) == rows]
    return leaves, torch.cat(units, 1) if units else torch.zeros(rows, 0)


def _radius(subject: Opened, i: int, norm: str) -> Tensor:
    _, first = _units(subject, i, 1)
    total = first.shape[1]
    if total > MOST:
        raise ModelError(f"The network has {total} corners, and each needs a backward pass: {MOST} at most.")
    best = torch.full((), torch.inf, dtype=subject.raw[0].dtype, device=subject.raw[0].device)
    if not total:
        return best

    def work(start: int, stop: int) -> Tensor:
        leaves, units = _units(subject, i, stop - start)
        own = units[torch.arange(stop - start), torch.arange(start, stop)]
        grads = torch.autograd.grad(own.sum(), leaves, allow_unused=True)
        flat = torch.cat([(torch.zeros_like(x) if g is None else g).flatten(1) for x, g in zip(leaves, grads)], 1)
        size = dual_sizes(flat, norm)
        return torch.where(size > 0, own.detach().abs() / size.clamp_min(1e-30), torch.inf)

    for _, _, far in chunks(total, subject.forward.rows_per_pass(subject.raw, subject.asking.batch_size), work):
        best = torch.minimum(best, far.min())
    return best


def _look_again(subject: Opened, radius: Tensor, norm: str) -> None:
    """Refuse a network whose gradient is not the same at some points inside: something in it is curved."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.cat([x.flatten(1) for x in subject.raw], 1)
    reach = torch.where(radius.isfinite(), _INSIDE * radius, 1.0)[:, None]
    here = _gradient(subject, subject.raw)
    for _ in range(_POINTS):
        moved = flat + random_in_ball(flat, torch.ones_like(flat), reach, norm, generator)
        points, start = [], 0
        for x in subject.raw:
            stop = start + x[0].numel()
            points.append(moved[:, start:stop].reshape(x.shape))
            start = stop
        there = _gradient(subject, points)
        if float((here - there).abs().max()) > 1e-3 * float(here.abs().max()):
            raise ModelError(
                "The gradient differs between points of one cell, so the network is not linear between its corners: "
                "something in it is curved (a product of activations, a norm). Its maps have no such radius."
            )


def _gradient(subject: Opened, points: Sequence[Tensor]) -> Tensor:
    leaves = [p.detach().requires_grad_(True) for p in points]
    rows = torch.arange(len(subject), device=leaves[0].device)
    with torch.enable_grad():
        output = subject.forward.readable(subject.forward.called(leaves, rows))
        at = torch.tensor(subject.prediction.classes, device=output.device)
        own = output.gather(1, at[:, None]) if output.shape[1] > 1 else output
    grads = torch.autograd.grad(own.sum(), leaves, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).flatten(1) for x, g in zip(leaves, grads)], 1)

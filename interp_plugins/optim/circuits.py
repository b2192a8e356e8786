"""`expanded_weights`: how a unit hangs together with an earlier layer, through all that lies between.

The network between the two layers is made linear: rectifiers and their smooth kin pass everything, pools of the largest
pass the mean. What is left is one convolution, and its kernel is returned.

References:
    Voss et al. 2021, Visualizing weights, doi:10.23915/distill.00024.007 (expanded weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.attr.backward.rules.call import OpCall, Rule
from interp_plugins.attr.backward.rules.mode import RuleMode
from interp_plugins.attr.backward.rules.names import ELEMENTWISE
from interp_plugins.core.errors import InputError, LayerError, concise
from interp_plugins.core.guard import frozen
from interp_plugins.optim.capture import Capture
from interp_plugins.optim.making import ModelCall
from interp_plugins.optim.readout import channels_of
from interp_plugins.optim.units import AskedUnits, channel_numbers, name_of_layer

_POOLS = {"max_pool1d": F.avg_pool1d, "max_pool2d": F.avg_pool2d, "max_pool3d": F.avg_pool3d}
_ADAPTIVE = {f"adaptive_max_pool{d}d": getattr(F, f"adaptive_avg_pool{d}d") for d in (1, 2, 3)}
_NO_ACTIVATIONS = {"sigmoid", "exp", "log", "sqrt", "rsqrt", "square", "abs", "pow", "reciprocal", "div", "tanh"}


def _passed(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    return [grads[0], *[None] * (len(call.xs) - 1)]


def _mean_pooled(call: OpCall, grads: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    args, kwargs = call.arguments()
    name = call.name.removesuffix("_with_indices")
    given = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | kwargs
    with torch.enable_grad():
        x = call.xs[0].detach().clone().requires_grad_()
        if name in _ADAPTIVE:
            y = _ADAPTIVE[name](x, kwargs.get("output_size", args[1] if len(args) > 1 else None))
        else:
            size, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
            y = _POOLS[name](x, size, stride, given.get("padding", 0), ceil_mode=bool(given.get("ceil_mode", False)))
        (found,) = torch.autograd.grad((y * grads[0]).sum(), x)
    return [found]


class LinearisedMode(RuleMode):
    """Activations pass their gradient on, pools of the largest share it out: the network as if it were linear."""

    title = "Linearised"
    belongs = frozenset[str]()
    needs_all = False

    def choose(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], carrying: list[Tensor]) -> Rule | None:
        """The rule of an activation or a pool; None for what is linear already."""
        if name.removesuffix("_with_indices") in (*_POOLS, *_ADAPTIVE):
            return _mean_pooled
        return _passed if name in ELEMENTWISE and name not in _NO_ACTIVATIONS else None


def expanded_weights(
    model: Callable[..., Any],
    source: Any,
    target_layer: Any,
    *,
    channel: Any = "all",
    at: Sequence[int] | None = None,
    size: int | tuple[int, int] | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """The weights with which an earlier layer's channels reach a later layer's, through the network made linear.

    Args:
        model: an `nn.Module` or any callable around one; it is left as it was.
        source: the earlier layer: module, dotted name or `Layer`.
        target_layer: the later layer.
        channel: of the later layer: an int, several, a slice, or "all".
        at: place of the later layer, (row, column); None: its centre.
        size: places of the earlier layer around that one's centre that are returned; None: the smallest box that holds
            every weight that is not zero.
        like: an example of the model's input; None: guessed as for `visualize`.

    Returns:
        (channels of the later layer, channels of the earlier, h, w), on the CPU.

    Raises:
        LayerError: the later layer does not depend on the earlier one.

    Example:
        from interp_plugins.optim import expanded_weights

        two = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        expanded_weights(two, "0", "2", like=x).shape  # -> (2, 4, 3, 3)
    """
    with concise(), frozen(model):
        subject = ModelCall(model, like).subject(None)
        capture = Capture.of(subject.forward, subject.row, (source, target_layer), False)
        known = AskedUnits("channel", channel, target_layer)
        count = channels_of(known, capture.shapes, capture.grids) or 0
        wanted = channel_numbers(channel, count, name_of_layer(model, target_layer))
        mode = LinearisedMode()
        with capture.running() as run:
            leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in subject.row]
            with mode:
                run(leaves, torch.zeros(1, dtype=torch.long, device=leaves[0].device))
            seen = run.seen()
            here = seen[target_layer].laid_out()[0]
            for axis, s in enumerate(tuple(here.shape[1:])):
                here = here.select(1, s // 2 if at is None else at[axis])
            raw = seen[source].tensor
            rows = [_gradient(here[c], raw) for c in wanted]
            mode.release()
        if all(row is None for row in rows):
            raise LayerError("The later layer does not depend on the earlier one: exchange them, or choose others.")
        found = [seen[source].grid.lay_out(torch.zeros_like(raw) if r is None else r)[0].detach() for r in rows]
        return _boxed(torch.stack(found).cpu(), size)


def _gradient(value: Tensor, source: Tensor) -> Tensor | None:
    found: Tensor | None = torch.autograd.grad(value, source, retain_graph=True, allow_unused=True)[0]
    return found


def _boxed(weights: Tensor, size: int | tuple[int, int] | None) -> Tensor:
    """The part of the places that holds weights, (out, in, h, w)."""
    space = weights.shape[2:]
    amount = weights.abs().sum((0, 1))
    cut: list[slice] = [slice(None), slice(None)]
    for axis, s in enumerate(space):
        others = tuple(a for a in range(len(space)) if a != axis)
        used = torch.nonzero(amount.sum(others) if others else amount).flatten()
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, s)
        if size is not None:
            width = size if isinstance(size, int) else size[axis]
            if not 0 < width <= s:
                raise InputError(f"size must be from 1 to {tuple(space)}, the places of the earlier layer; got {size}.")
            first = min(max(0, (first + last - width) // 2), s - width)
            last = first + width
        cut.append(slice(first, last))
    return weights[tuple(cut)].contiguous()

"""The first linear layer, taken out of the loop over a straight path.

A convolution or linear layer L is affine: on the path x' + a (x - x') it gives L(x') + a (L(x) - L(x')). So it runs
once for x and once for x', the steps start behind it, and the gradients of all steps are summed there before the one
pass back through L. Every step saves L's forward and backward pass; in image networks that is the largest picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine.plan.fold import LINEAR
from interp_plugins.engine.plan.tracer import Tracer, is_plain


class FirstLayer(nn.Module):
    """Stands in for the first layer; gives what was put in, if anything was."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.given: Tensor | None = None
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, or the tensor given in its place."""
        return self.layer(x) if self.given is None else self.given


def first_layer(probe: Tracer, x: Tensor) -> nn.Module | None:
    """The linear layer that is all that ever reads the input x, if there is one."""
    if probe.uses[id(x)] != 1:
        return None
    readers = [v for v in probe.visits if is_plain(v.module, LINEAR) and any(t is x for t in v.taken)]
    if len(readers) != 1 or len(probe.calls(readers[0].module)) != 1:
        return None
    return readers[0].module


class BehindFirstLayer(Wrapper):
    """A model as a function of its first layer's output: `f(y, *args)`.

    The input itself is NaN of the right shape: if anything else reads it, the score shows.
    """

    makes_copies = True
    lower: Any = None  # the precision of its gradients (`engine.plan.lower.Lower`)

    def __init__(self, func: Callable[..., Any], stem: FirstLayer, shape: tuple[int, ...], last: bool):
        self.func, self.stem, self.shape, self.last = func, stem, shape, last

    def encode(self, x: Tensor) -> Tensor:
        """The first layer's output, in the layout in which `__call__` takes it."""
        y = self.stem.layer(x)
        return y.permute(0, 2, 3, 1).contiguous() if self.last else y

    def pull_back(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """The gradient at the input for the summed gradient at the first layer's output."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.encode(leaf), leaf, cotangent)
        return grad

    def __call__(self, y: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the model from behind the first layer."""
        unread = torch.full((), torch.nan, dtype=y.dtype, device=y.device).expand(y.shape[0], *self.shape)
        # Copied behind the view, since autograd makes work in place on one (the first ReLU) four times as long.
        self.stem.given = (y.permute(0, 3, 1, 2) if self.last else y).clone()
        try:
            return self.func(unread, *args, **kwargs)
        finally:
            self.stem.given = None

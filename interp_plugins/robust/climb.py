"""The gradient that an attack climbs, for every sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks
from interp_plugins.core.differentiate import differentiate, keeping_values
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.forward import Forward
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import check_float
from interp_plugins.robust.loss import Loss, UsersLoss


@dataclass(frozen=True)
class Climb:
    """What is climbed, from where.

    Attributes:
        forward: the model and its arguments.
        loss: (outputs, samples) -> what grows as the model is turned away.
        sign: 1 where it is climbed, -1 where it is descended (towards a class).
        threshold: elements of the gradient up to this size are zeros.
        chunk: rows per pass; None: automatic.
        fast: a view of the model that is faster and equal but for rounding, for steps (`engine.planned`). Whatever is
            decided at the end, without a gradient, is asked of the model itself.
    """

    forward: Forward
    loss: Callable[[Tensor, Tensor], Tensor]
    sign: float
    threshold: float = 0.0
    chunk: int | None = None
    fast: Forward | None = None

    @classmethod
    def of(cls, forward: Forward, loss_func: Any, target: Any, targeted: bool, threshold: float) -> Climb:
        """The attack as Captum's arguments describe it."""
        n = forward.n
        loss = Loss(as_target(target, n), n) if loss_func is None else UsersLoss(loss_func, target, n)
        return cls(forward, loss, -1.0 if targeted else 1.0, threshold)

    def gradient(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The direction that climbs, for every input, as rows (N, D)."""
        return self.look(inputs, None).directions

    def look(self, inputs: Sequence[Tensor], rows: Tensor | None, ahead: bool = True) -> Look:
        """What the model says at some points, and which way is up.

        Args:
            inputs: a point per row, (R, ...) each.
            rows: the samples that the points belong to, (R,); None: the batch itself.
            ahead: whether the directions are asked for.
        """
        check_float(inputs)
        samples = torch.arange(len(inputs[0])) if rows is None else rows
        forward = self.fast if ahead and self.fast is not None else self.forward
        found: list[tuple[Tensor, ...]] = []

        def work(start: int, stop: int) -> tuple[Tensor, ...]:
            whole = rows is None and stop - start == len(samples)
            some = samples[start:stop].to(inputs[0].device)
            return _seen(forward, [x[start:stop] for x in inputs], None if whole else some, some, self.loss, ahead)

        for _, _, seen in chunks(len(samples), self.forward.samples_per_pass(inputs, self.chunk), work):
            found.append(seen)
        output, loss, *grads = found[0] if len(found) == 1 else (torch.cat(c) for c in zip(*found, strict=True))
        return Look(output, loss * self.sign, [self._up(g.reshape(len(g), -1)) for g in grads])

    def _up(self, grad: Tensor) -> Tensor:
        """The way up of a gradient (R, D); what is no number leads nowhere."""
        up = torch.nan_to_num(grad, nan=0.0)
        up = up if self.sign > 0 else -up
        return torch.where(up.abs() > self.threshold, up, 0.0) if self.threshold else up


@dataclass(frozen=True)
class Look:
    """What is seen from some points.

    Attributes:
        output: the model's output (R, ...).
        height: what is climbed, (R,); of a loss for all rows of a pass the same in each.
        directions: the way up for every input, (R, D); none where they were not asked for.
    """

    output: Tensor
    height: Tensor
    directions: list[Tensor]

    @property
    def up(self) -> Tensor:
        """The directions over all inputs, (R, D)."""
        return self.directions[0] if len(self.directions) == 1 else torch.cat(self.directions, 1)


@keeping_values
def _seen(
    forward: Forward,
    inputs: Sequence[Tensor],
    rows: Tensor | None,
    samples: Tensor,
    loss: Callable[..., Tensor],
    ahead: bool,
) -> tuple[Tensor, ...]:
    """Output, loss, and the gradients of the inputs where they are asked for."""
    leaves = [x.detach().requires_grad_(ahead) for x in inputs]
    for way in ("forward", "backward") if ahead else ("forward",):
        forward.passes[way] += len(samples)
    with torch.set_grad_enabled(ahead):
        output = forward.readable(forward.called(leaves, rows))
        value = loss(output, samples).reshape(-1)
    grads = differentiate(value, leaves, "input") if ahead else ()
    return output.detach(), value.detach().expand(len(samples)), *grads


def tell_if_flat(first: Sequence[Tensor]) -> None:
    """Warn of samples whose first gradient is zero: no gradient attack can tell whether they are robust."""
    flat = torch.stack([(g == 0).all(1) for g in first]).all(0)
    if bool(flat.any()):
        warnings.warn(
            f"The gradient of the loss is zero in {int(flat.sum())} of {len(flat)} samples, so they were not moved: "
            "this does not say that they are robust. Losses of a model that is sure are flat (cross entropy, a "
            "saturated softmax): leave loss_func out, and give the model without its last softmax.",
            InterpWarning,
            stacklevel=4,
        )

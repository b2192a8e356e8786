"""Extremal perturbation (Fong, Patrick, Vedaldi, ICCV 2019, arXiv:1910.08485): the part of given size that keeps most.

    m* = argmax over smooth masks m of area a of  F(m x + (1 - m) blurred x)

The mask is a grid of values, made smooth by a soft maximum over Gaussian neighbourhoods (section 3.2); its area is held
by the distance of the sorted values to a step function (equation 3), with a weight that grows; gradient steps with
momentum. With several areas the map is the mean of their masks. Cost: one forward and one backward pass per step, area
and sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.base import Attribution, prepared
from interp_plugins.attr.shared.images import blurred, check_real
from interp_plugins.attr.shared.quadrature import check_steps
from interp_plugins.core.batching import check_chunk, chunks, progress_bar
from interp_plugins.core.differentiate import gradient, keeping_values
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Forward
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, accumulation_dtype, check_float, like, widest

_CELL, _SIGMA = 7, 3.0  # pixels per cell for pictures of 224; width of the neighbourhood in cells
_TEMPERATURE = 0.05
_RATE, _MOMENTUM = 0.01, 0.9
_AREA_WEIGHT, _GROWTH = 300.0, 35.0  # the weight of the area at the start, and by what factor it grows


def smooth_mask(values: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (R, 1, H, W) from a grid of values (R, 1, h, w): the soft maximum of Gaussian bumps, enlarged."""
    radius = int(2 * _SIGMA)
    place = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    bump = torch.exp(-0.5 * (place[:, None] ** 2 + place**2) / _SIGMA**2).reshape(1, -1, 1)
    near = F.unfold(F.pad(values, (radius,) * 4, mode="replicate"), 2 * radius + 1) * bump
    soft = (near * (near / _TEMPERATURE).softmax(1)).sum(1).reshape(values.shape)
    return F.interpolate(soft, tuple(size), mode="bilinear", align_corners=False)


@register(
    "extremal_perturbation",
    unsigned=True,
    aliases=("extremal",),
    reference="Fong, Patrick, Vedaldi 2019, arXiv:1910.08485",
    applies_to="image",
    cost="n forward, n backward",
    assumes="a blurred picture stands for nothing",
)
class ExtremalPerturbation(Attribution):
    """The smooth mask of given area that keeps the score highest (or lowers it most)."""

    @args_from()
    def attribute(
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 400,
        *,
        areas: Sequence[float] = (0.1,),
        mode: str = "preserve",
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """The mask, in [0, 1]: (N, 1, H, W).

        Args:
            inputs: one tensor of pictures (N, C, H, W).
            n_steps: steps of the optimisation; the paper takes 800.
            areas: parts of the picture that the mask covers, each in (0, 1); several give the mean of their masks.
            mode: "preserve": what is covered is kept, the rest blurred, and the score is to be high; "delete": what is
                covered is blurred, and the score is to be low.
            batch_size: rows (samples x areas) optimised together; None = automatic.

        Raises:
            InputError: no pictures, areas outside (0, 1), an unknown mode.
        """
        check_steps("riemann_left", n_steps)
        if mode not in ("preserve", "delete"):
            raise InputError(f"mode must be 'preserve' or 'delete', got {mode!r}.")
        wanted = tuple(areas) if isinstance(areas, (tuple, list)) else (areas,)
        if not wanted or any(isinstance(a, bool) or not isinstance(a, (int, float)) or not 0 < a < 1 for a in wanted):
            raise InputError(f"areas are parts of the picture, each between 0 and 1; got {areas!r}.")
        chunk = check_chunk("batch_size", batch_size)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            check_float(xs)
            check_real("Extremal perturbation", xs)
            if len(xs) != 1 or xs[0].ndim != 4:
                raise InputError(
                    f"Extremal perturbation masks one input of pictures (N, C, H, W); got "
                    f"{[tuple(x.shape) for x in xs]}."
                )
            x, n = xs[0], xs[0].shape[0]

            def work(start: int, stop: int) -> Tensor:
                r = torch.arange(start, stop, device=x.device)
                area = torch.tensor([wanted[k] for k in (r // n).tolist()], dtype=torch.float64)
                return _optimised(forward, x, r % n, area, n_steps, mode == "preserve")

            with progress_bar(n * len(wanted), "masks", progress) as bar:
                size = forward.rows_per_pass([x], chunk)
                parts = [part for _, _, part in chunks(n * len(wanted), size, work, step=n, bar=bar)]
            out = torch.cat(parts).reshape(len(wanted), n, 1, *x.shape[2:]).mean(0)
            return like(inputs, (out,))


@keeping_values
def _optimised(forward: Forward, x: Tensor, rows: Tensor, area: Tensor, n_steps: int, preserve: bool) -> Tensor:
    """The masks of some rows after all steps, (R, 1, H, W); each row on its own, so batch mates do not matter."""
    # Steps add up, and so would rounding.
    dtype, size = widest(x.device), tuple(x.shape[2:])
    picture = x.index_select(0, rows)
    sigma = torch.full((len(rows),), 20 / 224 * min(size), device=x.device)
    background = blurred(picture, sigma)
    cell = max(1, round(_CELL * min(size) / 224))
    grid = tuple(max(2, -(-s // cell)) for s in size)
    values = torch.full((len(rows), 1, *grid), 0.5, dtype=dtype, device=x.device)
    speed = torch.zeros_like(values)
    pixels = size[0] * size[1]
    covered = (area * pixels).round().long()
    goal = (torch.arange(pixels) >= (pixels - covered)[:, None]).to(values)
    weight = _AREA_WEIGHT
    for _ in range(n_steps):
        leaf = values.detach().requires_grad_()
        mask = smooth_mask(leaf, size)
        keep = (mask if preserve else 1 - mask).to(x.dtype)
        scores = forward.target.at(rows)(forward.raw([keep * picture + (1 - keep) * background], rows))
        forward.passes["backward"] += len(rows)
        missed = ((mask.flatten(1).sort(1).values - goal) ** 2).mean(1)
        reward = scores if preserve else -scores
        (slope,) = gradient(reward.to(dtype) - weight * missed, [leaf])
        assert slope is not None
        speed = _MOMENTUM * speed + slope
        values = (values + _RATE * speed).clamp(0, 1)
        weight *= _GROWTH ** (1 / max(n_steps, 1))
    return smooth_mask(values, size).clamp(0, 1).detach().to(accumulation_dtype(x.dtype))

"""Whether a picture can be believed: numbers that put it beside the data.

`ratio`: the picture's activation over the largest of the data; far above 1 it is off the data. `robust`: its mean over
32 fresh views over that of the picture as it is; small is a pattern that fits one position. `spectrum`: mean absolute
log ratio of its radial power spectrum to the data's; large is checkerboards and grain. `path`: whether it goes through
the network as the unit's own examples do,

    path = (sim(picture, top) - sim(top, others)) / (sim(top, top) - sim(top, others)), between 0 and 1,

with sim the rank correlation of spatially pooled activations, the mean over the layers in front of the unit: the check
of Geirhos et al. 2023, arXiv:2306.04719, section 3, in this form defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.hooks import hooked
from interp_plugins.optim.capture import Capture, Running, first_tensor
from interp_plugins.optim.loop import Ascending
from interp_plugins.optim.objective import Objective, numbers
from interp_plugins.optim.params import frequencies, to_spectrum
from interp_plugins.optim.transforms import ROBUST, resized

_VIEWS, _TOGETHER = 32, 4
_RINGS = 16
_LAYERS = 12  # in front of the unit, at even steps


def ratio(activation: Tensor, largest: Tensor) -> Tensor:
    """Activation over the largest of the data, (N,); NaN where that is not positive."""
    return torch.where(largest > 0, activation / largest.clamp(min=1e-300), torch.nan)


def robust(problem: Ascending, pictures: Tensor, objectives: Sequence[Objective], clean: Tensor, seed: int) -> Tensor:
    """Mean over 32 fresh views over the value of the picture as it is, (N,); NaN where that is not positive."""
    if not problem.space:
        return torch.full((len(pictures),), torch.nan, dtype=torch.float64)
    found = []
    graph = any(one.graph for one in objectives)
    with torch.set_grad_enabled(graph), problem.plain.running() as run:
        for picture, objective in zip(pictures, objectives, strict=True):
            generator = torch.Generator().manual_seed(seed + 1)
            values = []
            for draws in ROBUST.draws([generator] * _VIEWS, 1)[0].split(_TOGETHER):
                some = picture[None].expand(len(draws), *picture.shape)
                views = ROBUST.view(some, draws, problem.size, problem.colour.grey(some))
                values.append(_one(problem, run, views, some, objective))
            found.append(torch.cat(values).detach().double().mean().cpu())
    mean = torch.stack(found)
    return torch.where(clean > 0, mean / clean.clamp(min=1e-300), torch.nan)


def _one(problem: Ascending, run: Running, views: Tensor, pictures: Tensor, objective: Objective) -> Tensor:
    seen = problem.shown(run, views.detach().requires_grad_(objective.graph), pictures, 1)
    return torch.cat([objective(part) for part in seen.split([1] * len(views))])


def radial(pictures: Tensor) -> Tensor:
    """Power of pictures (N, C, *space) by frequency, (N, 16) rings, in shares of the whole; without the mean."""
    space = pictures.shape[2:]
    power = to_spectrum(pictures.double(), space).abs().square().mean(1).flatten(1)
    length = frequencies(space).flatten()
    ring = (length / length.max() * _RINGS).long().clamp(max=_RINGS - 1)
    power = torch.where(length > 0, power, 0.0)
    rings = torch.zeros(len(pictures), _RINGS, dtype=torch.float64).index_add(1, ring, power)
    rings = rings / torch.bincount(ring, minlength=_RINGS).clamp(min=1)
    return rings / rings.sum(1, keepdim=True).clamp(min=1e-300)


def spectrum(pictures: Tensor, data: Tensor) -> Tensor:
    """Mean absolute log ratio of the pictures' radial spectra to that of the data, (N,).

    Args:
        pictures: (N, C, *space) in raw units.
        data: (M, C, *space) in raw units, at any size.
    """
    wanted = radial(resized(data.to(pictures), pictures.shape[2:])).mean(0)
    found = radial(pictures)
    return (found.clamp(min=1e-12).log() - wanted.clamp(min=1e-12).log()).abs().mean(1)


def pooled(capture: Capture, inputs: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """Activations in front of the unit, averaged over space, per layer (R, C), in the order of the pass."""
    modules = _ahead(capture)
    found: dict[int, Tensor] = {}

    def keep(module: Any, args: Any, output: Any) -> None:
        value = first_tensor(output)
        if value is not None and value.ndim > 1:
            axes = [a for a in range(1, value.ndim) if a != _channel_axis(value, module)]
            found[id(module)] = (value.mean(axes) if axes else value).detach().double().cpu()

    rows = inputs()
    with torch.no_grad(), hooked() as hooks, capture.running() as run:
        for module in modules:
            hooks.behind(module, keep)
        run(rows, torch.zeros(len(rows[0]), dtype=torch.long, device=rows[0].device))
    return [found[id(m)] for m in modules if id(m) in found]


def _channel_axis(value: Tensor, module: Any) -> int:
    last = isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)) or value.ndim == 3
    return value.ndim - 1 if last else 1


def _ahead(capture: Capture) -> list[Any]:
    """Up to twelve modules without parts that run before the unit, at even steps."""
    ends = [layer.module for layer in capture.layers.values()]
    leaves: list[Any] = []
    for one in capture.trace:
        if any(one.module is end for end in ends):
            break
        if not list(one.module.children()) and one.module not in leaves and len(one.shape) > 1:
            leaves.append(one.module)
    inside = {id(m) for end in ends for m in end.modules()}  # type: ignore[union-attr]
    outside = [m for m in leaves if id(m) not in inside] or leaves
    if len(outside) <= _LAYERS:
        return outside
    return [outside[round(i * (len(outside) - 1) / (_LAYERS - 1))] for i in range(_LAYERS)]


def ranks(rows: Tensor) -> Tensor:
    """Ranks of each row's numbers, equal ones alike, centred and of length one, (R, C)."""
    order = rows.argsort(1).argsort(1).double()
    for row, values in zip(order, rows, strict=True):
        _, inverse, count = values.unique(return_inverse=True, return_counts=True)
        if len(count) < len(values):
            total = torch.zeros(len(count), dtype=torch.float64).index_add(0, inverse, row)
            row.copy_((total / count)[inverse])
    centred = order - order.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)


def path(picture: Sequence[Tensor], top: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """How much a picture goes through the network as the top examples do, from 0 to 1; NaN where nothing tells.

    Args:
        picture: pooled activations per layer (1, C).
        top: of the unit's examples (k, C).
        others: of items at large (m, C).

    Example:
        from interp_plugins.optim.scores import path

        top, other = torch.eye(6)[[0, 0, 1]] + torch.arange(6), -torch.arange(6.0)[None]
        path([top[:1]], [top], [other])  # -> 1.0
    """
    found = []
    for p, t, r in zip(picture, top, others, strict=True):
        if p.shape[1] < 3 or len(t) < 2:
            continue
        a, b, c = ranks(p), ranks(t), ranks(r)
        own = (b @ b.T).sum() - len(b)
        within, across, like = float(own / (len(b) * (len(b) - 1))), float((b @ c.T).mean()), float((a @ b.T).mean())
        if within - across > 1e-3:
            found.append(min(1.0, max(0.0, (like - across) / (within - across))))
    return sum(found) / len(found) if found else float("nan")


def all_paths(
    capture: Capture,
    as_inputs: Callable[[Tensor], Sequence[Tensor]],
    pictures: Tensor,
    top: Sequence[Tensor],
    others: Tensor,
) -> Tensor:
    """`path` of each picture, (N,).

    Args:
        capture: the model at its layers.
        as_inputs: pictures in raw units -> the model's inputs.
        pictures: (N, C, ...) in raw units.
        top: of each picture's unit the examples (k, C, ...), in raw units.
        others: items at large (m, C, ...), in raw units.
    """
    strange = pooled(capture, lambda: as_inputs(others))
    found, known = [], dict[int, list[Tensor]]()
    own = pooled(capture, lambda: as_inputs(pictures))
    for i, examples in enumerate(top):
        if id(examples) not in known:
            known[id(examples)] = pooled(capture, lambda examples=examples: as_inputs(examples))  # type: ignore[misc]
        found.append(path([p[i : i + 1] for p in own], known[id(examples)], strange))
    return torch.tensor(found, dtype=torch.float64)


def told(scores: Mapping[str, Tensor], i: int) -> str:
    """The scores of row i in words, two a line."""
    said = [f"{name} {float(v[i]):.2f}" for name, v in scores.items() if not bool(v[i].isnan())]
    return "\n".join(", ".join(said[k : k + 2]) for k in range(0, len(said), 2))


__all__ = ["all_paths", "numbers", "path", "pooled", "radial", "ranks", "ratio", "robust", "spectrum", "told"]

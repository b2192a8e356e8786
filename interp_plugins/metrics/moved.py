"""Does the map go where the input goes, and is it the same the next time? Shifts, flips, turns, and other seeds.

All take `(forward_func, inputs, attributions)` or `(forward_func, explanation)`, and `explain=`, how maps are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.tensors import describe
from interp_plugins.metrics.again import Again, asking_again
from interp_plugins.metrics.alike import CONSTANT, SIMILARITIES, check_similarity, constant, judged
from interp_plugins.metrics.counterparts import ASKED, clean_maps
from interp_plugins.metrics.neighbours import OPTIONS, explained_neighbours
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows, row_norm, row_sum
from interp_plugins.metrics.stability import rows_of_neighbours
from interp_plugins.metrics.undefined import NOT_FINITE, defined

Model = Callable[..., Any]
Own = tuple[int, int]
TRANSFORMS = ("flip", "shift", "turn")


def _continuity_rows(n: int, own: Own, params: Mapping[str, Any]) -> Own:
    if params.get("shift") is None:
        return rows_of_neighbours(n, own, params)
    asked = n * (1 + 2 * params["places"])
    return asked * own[0], asked * own[1]


@register_metric(
    "continuity",
    kind="robustness",
    needs="explainer",
    higher_is_better=False,
    scale_invariant=False,
    sign_invariant=True,
    reference="Montavon et al. 2018, arXiv:1706.07979",
    cost="n_neighbours + 1, and as many E; with shift 5 E (3 of a series)",
    says="max of sum |a(x') - a(x)| / |x' - x|",
    options=OPTIONS,
    rows=_continuity_rows,
)
def continuity(
    forward_func: Model, inputs: Any, attributions: Any = None, *, shift: int | None = None, **options: Any
) -> Tensor:
    """Largest change of the map, summed over its elements, per change of the input.

    Over neighbours as all metrics of robustness, or with `shift` over the picture moved by so many places in each
    direction, its map being moved back: a map that moves with the picture is continuous. What comes in at the border is
    the border's own value, and maps are compared where both show the same part.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        shift: places to move by; None: neighbours.
        **options: as for `explained_neighbours`; with `shift` those about neighbours have no effect.

    Returns:
        (N,) float64, in units of the map per unit of the input; NaN where every neighbour has another class, or nothing
        moved.

    Raises:
        InputError: a shift of maps that have no places, or that is as large as they are.

    Example:
        continuity(model, exp, shift=1)  # (2,)
    """
    if shift is None:
        return explained_neighbours(
            forward_func, inputs, attributions, **{"representation": False, "only": ("change_l1",), **options}
        ).continuity
    if isinstance(shift, bool) or not isinstance(shift, int) or shift < 1:
        raise InputError(f"shift must be a positive int or None, got {shift!r}.")
    known = {key: value for key, value in options.items() if key in ASKED}
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **known}) as again:
        clean = clean_maps(again, inputs, attributions, known)
        axes = _places(again, clean, shift)
        worst = torch.full((again.n,), -torch.inf, dtype=torch.float64)
        finite = as_rows(clean).isfinite().all(1)
        for axis in axes:
            for step in (shift, -shift):
                moved = tuple(_shifted(x, axis, step) for x in again.xs)
                maps = again.all_maps(moved)
                there = _common(maps[0], axis, -step)
                here = _common(clean[0], axis, step)
                size = row_norm(as_rows(moved).double() - as_rows(again.xs).double()).cpu()
                change = row_sum((as_rows(there) - as_rows(here)).abs())
                finite &= as_rows(there).isfinite().all(1)
                worst = torch.maximum(worst, torch.where(size > 0, change / size, -torch.inf))
    return defined(worst, None, {NOT_FINITE: ~finite, "nothing moved": worst == -torch.inf})


def _places(again: Again, maps: tuple[Tensor, ...], least: int = 0) -> tuple[int, ...]:
    """The axes along which a picture's or series' map has neighbours.

    Raises:
        InputError: several inputs, a map of another shape than the input, no such axes, or too few places.
    """
    shapes = [tuple(m.shape) for m in maps]
    if len(again.xs) != 1 or shapes != [tuple(again.xs[0].shape)]:
        raise InputError(
            f"What moves is one input with a map of its shape; got inputs {[tuple(x.shape) for x in again.xs]} and "
            f"maps {shapes}. The map of a layer has other places than the input."
        )
    axes = again.places(maps[0], 0)
    if not axes:
        raise InputError(f"Maps of shape {shapes[0]} have no places to move along: give pictures or series.")
    if min(maps[0].shape[a] for a in axes) <= 2 * least:
        raise InputError(f"A shift by {least} leaves nothing to compare of maps of shape {shapes[0]}.")
    return axes


def _shifted(x: Tensor, axis: int, step: int) -> Tensor:
    """Moved along an axis; what comes in is the border's value."""
    size = x.shape[axis]
    where = (torch.arange(size, device=x.device) - step).clamp(0, size - 1)
    return x.index_select(axis, where)


def _common(one: Tensor, axis: int, step: int) -> Tensor:
    """The part of a map that is also seen after the input was moved by `step`."""
    size = one.shape[axis] - abs(step)
    return one.narrow(axis, 0 if step > 0 else -step, size)


@register_metric(
    "equivariance",
    kind="robustness",
    needs="explainer",
    higher_is_better=True,
    sign_invariant=True,
    reference="after Crabbe and van der Schaar 2023, arXiv:2304.06715",
    cost="2 E",
    says="similarity of a(T x) and T a(x)",
    options=ASKED,
    rows=lambda n, own, params: (2 * n * own[0], 2 * n * own[1]),
)
def equivariance(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    transform: str | Callable[[Tensor], Tensor] = "flip",
    shift: int = 1,
    similarity: str = "cosine",
    **options: Any,
) -> Tensor:
    """Similarity of the map of a transformed input and the transformed map.

    It says how method and model together follow the transform: a net that is not equivariant itself gets less than 1
    from every honest method. Compare methods on one model.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: a tensor, batch first, with axes of places; or an `Explanation`.
        attributions: the samples' maps, or None.
        transform: "flip": left and right; "shift": by `shift` places along the last axis, around the border; "turn": by
            a quarter, for square pictures; or a function that is applied to inputs and maps alike.
        shift: places that "shift" moves.
        similarity: "cosine", "rank" (Spearman) or "ssim".
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `explained_neighbours`.

    Returns:
        (N,) float64, at most 1; NaN where a map is constant.

    Raises:
        InputError: maps that have no places, or a transform that does not fit them.

    Example:
        equivariance(model, exp, transform="flip")  # (2,)
    """
    check_similarity((similarity,), None)
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        clean = clean_maps(again, inputs, attributions, options)
        apply = _transform(transform, shift, again, clean)
        moved = apply(again.xs[0])
        if not isinstance(moved, Tensor) or moved.shape != again.xs[0].shape:
            raise InputError(
                f"The transform gave {describe(moved)} for inputs {tuple(again.xs[0].shape)}; expected the same shape."
            )
        before = judged(again, (apply(clean[0]),), None if similarity != "ssim" else "sum", None)
        after = judged(again, again.all_maps((moved,)), None if similarity != "ssim" else "sum", None)
    return _similar(similarity, before, after)


def _transform(transform: Any, shift: int, again: Again, maps: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
    if callable(transform):
        if len(again.xs) != 1:
            raise InputError(f"A transform is of one input, got {len(again.xs)}.")
        return transform
    if transform not in TRANSFORMS:
        raise unknown("transform", transform, TRANSFORMS)
    axes = _places(again, maps)
    if transform == "flip":
        return lambda x: x.flip(axes[-1])
    if transform == "shift":
        return lambda x: x.roll(shift, axes[-1])
    if len(axes) < 2 or maps[0].shape[axes[-1]] != maps[0].shape[axes[-2]]:
        raise InputError(f"A quarter turn needs square pictures, got maps of shape {tuple(maps[0].shape)}.")
    return lambda x: x.rot90(1, (axes[-2], axes[-1]))


def _similar(name: str, before: Tensor, after: Tensor) -> Tensor:
    """Similarity of two maps; equal ones are like each other even where they are constant, unless they are zero."""
    finite = (before.flatten(1).isfinite() & after.flatten(1).isfinite()).all(1)
    same = (before == after).flatten(1).all(1) & (before != 0).flatten(1).any(1)
    found = torch.where(same, 1.0, SIMILARITIES[name](before, after))
    flat = (constant(before) | constant(after)) & ~same & found.isnan()
    return defined(found, None, {NOT_FINITE: ~finite, CONSTANT: flat})


@register_metric(
    "seed_stability",
    kind="robustness",
    needs="explainer",
    higher_is_better=True,
    sign_invariant=True,
    reference="mean similarity of repetitions",
    cost="n_seeds E",
    says="mean similarity of the maps of every two seeds",
    options=ASKED,
    rows=lambda n, own, params: tuple(n * params.get("n_seeds", 5) * rows for rows in own),
)
def seed_stability(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    n_seeds: int = 5,
    similarity: str = "cosine",
    **options: Any,
) -> Tensor:
    """How alike maps of one method are that differ by the seed of its draws alone.

    A method that draws nothing gets 1; one that samples too little for its map to be the same the next time gets less,
    and more samples (`n_samples`, `tol`) mend it.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: not needed; maps of other draws would not be the same.
        n_seeds: seeds, from `seed` on.
        similarity: "cosine", "rank" (Spearman) or "ssim".
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `explained_neighbours`.

    Returns:
        (N,) float64, at most 1; NaN where a map is constant.

    Raises:
        InputError: fewer than two seeds.

    Example:
        seed_stability(model, x, explain=("noise_tunnel", {"nt_samples": 3}), target=0, n_seeds=2)  # (2,)
    """
    check_similarity((similarity,), None)
    if isinstance(n_seeds, bool) or not isinstance(n_seeds, int) or n_seeds < 2:
        raise InputError(f"n_seeds must be an int from 2 up, got {n_seeds!r}.")
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        reduce = "sum" if similarity == "ssim" else None
        maps = [judged(again, again.all_maps(seed=again.seed + k), reduce, None) for k in range(n_seeds)]
    pairs = [_similar(similarity, maps[i], maps[j]) for i in range(n_seeds) for j in range(i)]
    total = torch.zeros_like(pairs[0])
    for one in pairs:
        total += one
    return total / len(pairs)

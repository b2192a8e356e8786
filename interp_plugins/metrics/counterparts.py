"""Is the map of another class, another training, a random net, a shifted input another map? It ought to be, or not.

All take `(forward_func, inputs, attributions)` or `(forward_func, explanation)`, and `explain=`, how maps are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.other_weights import held_by, is_drawable, other_weights
from interp_plugins.core.target import PerSample, Target
from interp_plugins.core.tensors import is_float
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.metrics.again import Again, asking_again
from interp_plugins.metrics.alike import CONSTANT, Original, check_similarity, constant, judged
from interp_plugins.metrics.neighbours import ZERO_MAP, check_given
from interp_plugins.metrics.noise import keys, uniform
from interp_plugins.metrics.redrawn import drawn_anew
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows, row_norm, row_sum
from interp_plugins.metrics.undefined import NOT_FINITE, defined

Model = Callable[..., Any]
Own = tuple[int, int]
ASKED = ("explain", "target", "additional_forward_args", "baselines", "batch_size", "seed")
BINS = 100


def clean_maps(again: Again, inputs: Any, given: Any, options: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The samples' maps, checked against those that were given, or those of the explanation."""
    maps = again.all_maps()
    if given is None and isinstance(inputs, Explanation) and options.get("explain") is None:
        given = inputs.attributions
    check_given(given, as_rows(maps).double(), again)
    return maps


def refuse_object(again: Again, what: str) -> None:
    """Refuse a method object, which is bound to its own model.

    Raises:
        InputError: with what to give in its place.
    """
    if again.bound is not None and not isinstance(again.explainer.method, str):
        raise InputError(
            f"A method object explains the model that it was made with, and {what} asks another one: give explain= as "
            "a name with parameters, or a function (model, inputs, target) -> maps."
        )


@register_metric(
    "complexity_rise",
    kind="randomisation",
    needs="weights",
    higher_is_better=True,
    sign_invariant=True,
    reference="Hedstroem et al. 2024, arXiv:2401.06465 (eMPRT)",
    cost="draws + 1 E",
    says="(H(random) - H(trained)) / H(trained), H the entropy of the map's histogram",
    options=ASKED,
    rows=lambda n, own, params: tuple(n * (params.get("draws", 1) + 1) * rows for rows in own),
)
def complexity_rise(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    draws: int = 1,
    mode: str = "permute",
    bins: int = BINS,
    reduce: str | None = "sum",
    **options: Any,
) -> Tensor:
    """How much more complex the map becomes when all weights are drawn anew (efficient MPRT).

    It needs no similarity of two maps, which noise alone brings down. The histogram has equal bins over the map's own
    range of sizes, so that entropy speaks of its form.

    Args:
        forward_func: an `nn.Module`, or a callable that holds one; its own tensors are never written to.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        draws: of the weights; the rise is the mean over them.
        mode: how weights are drawn anew: "permute", "init" or "normal", as for `randomisation_curves`.
        bins: of the histogram.
        reduce: how channels become one value per place; None: element by element.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `randomisation_curves`.

    Returns:
        (N,) float64, above -1; NaN where the trained net's map has one size alone.

    Raises:
        InputError: a callable without modules, or no bins.

    Example:
        complexity_rise(model, exp)  # (2,)
    """
    for name, value, least in (("draws", draws, 1), ("bins", bins, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be an int from {least} up, got {value!r}.")
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        places = [p for p in held_by(forward_func) if is_drawable(p)]
        if not places:
            raise InputError("The model has no weights to draw anew.")
        own = judged(again, clean_maps(again, inputs, attributions, options), reduce, "absolute").flatten(1)
        before, rise = _entropy(own, bins), torch.zeros(again.n, dtype=torch.float64)
        for draw in range(draws):
            with other_weights(forward_func, places, drawn_anew(places, mode, again.seed, draw)):
                after = judged(again, again.all_maps(seed=again.seed + 1 + draw), reduce, "absolute").flatten(1)
            rise += (_entropy(after.nan_to_num(0, 0, 0), bins) - before) / before
    why = {NOT_FINITE: ~own.isfinite().all(1), "the map has one size alone": before == 0}
    return defined(rise / draws, None, why)


def _entropy(rows: Tensor, bins: int) -> Tensor:
    """Entropy of each row's histogram, float64 (N,); 0 for a row of equal values."""
    rows = rows.double()
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    share = ((rows - low) / (high - low)).nan_to_num(0, 0, 0)
    where = (share * bins + 1e-9).long().clamp(0, bins - 1)
    counts = torch.zeros(len(rows), bins, dtype=torch.float64).scatter_add(1, where, torch.ones_like(share))
    p = counts / rows.shape[1]
    return -row_sum(torch.where(p > 0, p * p.clamp_min(1e-300).log(), 0.0))


@register_metric(
    "random_target",
    kind="randomisation",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    chance_text="0 for noise, 1 for a map that ignores the class",
    reference="Sixt et al. 2020, arXiv:1912.09818",
    cost="1, and n_targets + 1 E",
    says="similarity of the map of the class and of another class",
    options=(*ASKED, "ids"),
    rows=lambda n, own, params: (
        n * (1 + (params.get("n_targets", 1) + 1) * own[0]),
        n * (params.get("n_targets", 1) + 1) * own[1],
    ),
)
def random_target(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    n_targets: int = 1,
    similarity: str = "rank",
    reduce: str | None = "sum",
    sign: str | None = "absolute",
    ids: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Similarity of a map to the maps of other classes: a map that is the same for each class says nothing of one.

    Args:
        forward_func: an `nn.Module` or any callable whose outputs are (N, C).
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        n_targets: other classes, drawn without repetition by seed and sample.
        similarity: "rank" (Spearman), "cosine" or "ssim".
        reduce: how channels become one value per place; None: element by element.
        sign: what of the values is compared: "absolute", "positive", "negative"; None: signed.
        ids: int64 (N,), numbers of the samples for the draw of their classes; None: all samples have the same draw.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `randomisation_curves`.

    Returns:
        (N,) float64, at most 1; NaN where the map is constant. A map of another class that is constant counts as 0.

    Raises:
        InputError: outputs that are no classes, or a target that is none of them.

    Example:
        random_target(model, exp)  # (2,)
    """
    check_similarity((similarity,), sign)
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        others = _other_classes(again, n_targets, ids)
        maps = clean_maps(again, inputs, attributions, options)
        before, total = judged(again, maps, reduce, sign), torch.zeros(again.n, dtype=torch.float64)
        original = Original(before)
        for k in range(n_targets):
            target: Target = PerSample([(int(c),) for c in others[:, k]])
            after = judged(again, again.all_maps(target=target, seed=again.seed + 1 + k), reduce, sign)
            total += original.alike(similarity, after)
    return _of_two(total / n_targets, maps, before)


def _of_two(found: Tensor, maps: tuple[Tensor, ...], before: Tensor) -> Tensor:
    finite = as_rows(maps).isfinite().all(1)
    return defined(found, None, {NOT_FINITE: ~finite, CONSTANT: constant(before)})


def _other_classes(again: Again, count: Any, ids: Tensor | None) -> Tensor:
    """Other classes than the one explained, int64 (N, count)."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"n_targets must be a positive int, got {count!r}.")
    shape = again.outputs().shape
    own = again.classes(torch.arange(again.n))
    single = own is not None and all(len(i) == 1 and isinstance(i[0], int) for i in own)
    if len(shape) != 2 or not single:
        raise InputError(
            f"Other classes are drawn of outputs (N, C) that are explained at one of them; got outputs {tuple(shape)} "
            f"and the target {again.forward.target}. Give target= as a class, or one per sample."
        )
    assert own is not None
    if shape[1] <= count:
        raise InputError(f"{count} other classes were asked for, and the model has {shape[1]} in all.")
    who = torch.zeros(again.n, dtype=torch.int64) if ids is None else ids
    order = uniform(keys(again.seed, who, 0), shape[1]).argsort(dim=1, stable=True)
    mine = torch.tensor([int(i[0]) % shape[1] for i in own])
    return torch.stack([row[row != c] for row, c in zip(order, mine)])[:, :count]


@register_metric(
    "random_data",
    kind="randomisation",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    chance_text="0 for noise, 1 for a map that ignores the training",
    reference="Adebayo et al. 2018, arXiv:1810.03292, section 4",
    cost="2 E",
    says="similarity to the map of a net trained on permuted labels",
    options=ASKED,
    rows=lambda n, own, params: (2 * n * own[0], 2 * n * own[1]),
)
def random_data(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    other_model: Model | None = None,
    similarity: str = "rank",
    reduce: str | None = "sum",
    sign: str | None = "absolute",
    **options: Any,
) -> Tensor:
    """Similarity of a map to that of a net of the same make that was trained on permuted labels.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        other_model: the net that learned nothing true; train it on permuted labels as the first was on the right ones.
        similarity: "rank" (Spearman), "cosine" or "ssim".
        reduce: how channels become one value per place; None: element by element.
        sign: what of the values is compared: "absolute", "positive", "negative"; None: signed.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `randomisation_curves`.

    Returns:
        (N,) float64, at most 1; NaN where the map is constant. A constant map of the other net counts as 0.

    Raises:
        InputError: no other model, or a method object, which is bound to one model.

    Example:
        random_data(model, exp, other_model=torch.nn.Sequential(*model))  # (2,)
    """
    check_similarity((similarity,), sign)
    if not callable(other_model):
        raise InputError("other_model is missing: a net of the same make, trained on permuted labels.")
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        refuse_object(again, "random_data")
        maps = clean_maps(again, inputs, attributions, options)
        before = judged(again, maps, reduce, sign)
        after = judged(again, again.all_maps(func=other_model, seed=again.seed + 1), reduce, sign)
    return _of_two(Original(before).alike(similarity, after), maps, before)


class ShiftedInput(Wrapper):
    """A model of shifted data: f(x - shift).

    Args:
        func: the model.
        shift: what was added to the data.
        count: number of inputs; the arguments behind them stay.
    """

    def __init__(self, func: Model, shift: float, count: int):
        self.func, self.shift, self.count = func, shift, count

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output for the data as they were."""
        back = [x - self.shift if is_float(x) and k < self.count else x for k, x in enumerate(args)]
        return self.func(*back, **kwargs)


@register_metric(
    "input_invariance",
    kind="randomisation",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    reference="Kindermans et al. 2019, arXiv:1711.00867",
    cost="2 E",
    says="|a'(x + c) - a(x)| / |a(x)|, a' of f(x - c)",
    options=ASKED,
    rows=lambda n, own, params: (2 * n * own[0], 2 * n * own[1]),
)
def input_invariance(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    shift: float = 1.0,
    relative: bool = True,
    **options: Any,
) -> Tensor:
    """How much the map changes when a constant is added to the data, and the model takes it off again.

    The two models say the same of the same data, so a map of what the model does stays. Methods with a baseline follow
    only if their baseline is shifted as well: a fixed one (zero, black) is another reference now.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        shift: the constant, in units of the inputs; integer inputs stay.
        relative: as a share of the map's norm.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `randomisation_curves`.

    Returns:
        (N,) float64, 0 for the gradient; NaN where the map is zero everywhere and `relative` is asked for.

    Raises:
        InputError: a method object, which is bound to one model, or inputs without numbers.

    Example:
        input_invariance(model, exp)  # (2,)
    """
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        refuse_object(again, "input_invariance")
        if not any(map(is_float, again.xs)):
            raise InputError("A constant is added to numbers, and all inputs are ids.")
        before = as_rows(clean_maps(again, inputs, attributions, options)).double()
        moved = tuple(x + shift if is_float(x) else x for x in again.xs)
        other = ShiftedInput(forward_func, shift, len(again.xs))
        change = row_norm(as_rows(again.all_maps(moved, func=other)).double() - before)
    if not relative:
        return defined(change, before)
    size = row_norm(before)
    return defined(change / size, before, {ZERO_MAP: size == 0})

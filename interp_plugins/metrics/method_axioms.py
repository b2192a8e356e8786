"""Does the method keep the axioms on this model? It is asked about a second model, or about exchanged elements.

All take `(forward_func, inputs, attributions)` or `(forward_func, explanation)`, and `explain=`, how maps are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.metrics.again import Again, asking_again
from interp_plugins.metrics.axioms import drawn_in_range
from interp_plugins.metrics.counterparts import ASKED, clean_maps, refuse_object
from interp_plugins.metrics.neighbours import ZERO_MAP
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows
from interp_plugins.metrics.undefined import NOT_FINITE, defined

Model = Callable[..., Any]


class Combined(Wrapper):
    """A weighted sum of two models' outputs.

    Args:
        func: the first model.
        other: the second.
        weights: of the two.
    """

    def __init__(self, func: Model, other: Model, weights: tuple[float, float]):
        self.func, self.other, self.weights = func, other, weights

    def wrapped_callables(self) -> list[Any]:
        """The two models inside, for the guard."""
        return [self.func, self.other]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The sum for one batch."""
        copies = [a.clone() if isinstance(a, Tensor) else a for a in args]
        return self.weights[0] * self.func(*args, **kwargs) + self.weights[1] * self.other(*copies, **kwargs)


def _other(model: Any) -> Model:
    if not callable(model):
        raise InputError("other_model is missing: give the second model, with inputs and outputs like the first's.")
    found: Model = model
    return found


def _relative(error: Tensor, maps: Tensor, more: Mapping[str, Tensor] | None = None) -> Tensor:
    """Largest size of an error, relative to the largest of the maps (N,)."""
    largest = maps.abs().amax(1)
    why = {NOT_FINITE: ~(maps.isfinite().all(1) & error.isfinite().all(1)), **(more or {}), ZERO_MAP: largest == 0}
    return defined(error.abs().amax(1) / largest, None, why)


@register_metric(
    "linearity",
    kind="axioms",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    reference="the linearity axiom; Sundararajan et al. 2017, arXiv:1703.01365",
    cost="3 E",
    says="max |a of (p f + q g) - p a of f - q a of g| / max |a of (p f + q g)|",
    options=ASKED,
    rows=lambda n, own, params: (3 * n * own[0], 3 * n * own[1]),
)
def linearity(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    other_model: Model | None = None,
    weights: Sequence[float] = (1.0, 1.0),
    **options: Any,
) -> Tensor:
    """How far the map of a weighted sum of two models is from the weighted sum of their maps.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        other_model: the second model, with inputs and outputs like the first's.
        weights: of the two models.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `explained_neighbours`.

    Returns:
        (N,) float64, 0 where the method is linear; NaN where the sum's map is zero everywhere.

    Raises:
        InputError: no second model, or a method object, which is bound to one model.

    Example:
        linearity(model, exp, other_model=torch.nn.Sequential(*model), weights=(2.0, -1.0))  # (2,)
    """
    other = _other(other_model)
    p, q = (float(w) for w in weights)
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        refuse_object(again, "linearity")
        mine = as_rows(clean_maps(again, inputs, attributions, options)).double()
        theirs = as_rows(again.all_maps(func=other)).double()
        both = as_rows(again.all_maps(func=Combined(forward_func, other, (p, q)))).double()
    return _relative(both - (p * mine + q * theirs), both)


@register_metric(
    "implementation_invariance",
    kind="axioms",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    reference="Sundararajan et al. 2017, arXiv:1703.01365",
    cost="2, and 2 E",
    says="max |a of f - a of g| / max |a of f|, where f and g are the same function",
    options=(*ASKED, "tol"),
    rows=lambda n, own, params: (2 * n * (own[0] + 1), 2 * n * own[1]),
)
def implementation_invariance(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    other_model: Model | None = None,
    tol: float = 1e-4,
    **options: Any,
) -> Tensor:
    """How far the maps of two nets are apart that compute the same function in different ways.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        other_model: the second net. That it is the same function is looked at for these samples' outputs alone.
        tol: outputs may differ by this share of their largest size.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `explained_neighbours`.

    Returns:
        (N,) float64; NaN where the outputs differ, or the map is zero everywhere.

    Raises:
        InputError: no second model, or a method object, which is bound to one model.

    Example:
        implementation_invariance(model, exp, other_model=torch.nn.Sequential(*model))  # -> [0.0, 0.0]
    """
    other = _other(other_model)
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        refuse_object(again, "implementation_invariance")
        mine = as_rows(clean_maps(again, inputs, attributions, options)).double()
        theirs = as_rows(again.all_maps(func=other)).double()
        outputs = [as_rows(again.outputs(one)).double() for one in (forward_func, other)]
        if outputs[0].shape != outputs[1].shape:
            raise InputError(
                f"The two models give {outputs[0].shape[1]} and {outputs[1].shape[1]} outputs a sample: they are not "
                "one function."
            )
    apart = (outputs[0] - outputs[1]).abs().amax(1) > tol * outputs[0].abs().amax(1)
    return _relative(mine - theirs, mine, {"the two models give different outputs": apart})


@register_metric(
    "symmetry",
    kind="axioms",
    needs="explainer",
    higher_is_better=False,
    sign_invariant=True,
    reference="the symmetry axiom; Sundararajan et al. 2017, arXiv:1703.01365",
    cost="2 pairs x n_draws, and pairs + 1 E",
    says="max |a(x with i and j exchanged) - a(x) with i and j exchanged| / max |a(x)|",
    options=(*ASKED, "ids"),
    rows=lambda n, own, params: (
        n * (len(params["pairs"]) * (2 * params.get("n_draws", 3) + own[0]) + own[0]),
        n * (len(params["pairs"]) + 1) * own[1],
    ),
)
def symmetry(
    forward_func: Model,
    inputs: Any,
    attributions: Any = None,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    n_draws: int = 3,
    tol: float = 1e-6,
    ids: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Whether two elements that the model treats alike are treated alike by the method.

    The model is asked first, about numbers drawn from the sample's range with the two elements as they are and
    exchanged: a pair that it does not treat alike does not count. Where the sample has equal values there, this is the
    axiom's a_i = a_j. A baseline has to be equal at the two.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: a tensor, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        pairs: numbers (i, j) of elements, counted in one row per sample.
        n_draws: draws for a pair.
        tol: scores may differ by this share of their size.
        ids: int64 (N,), numbers of the samples for their draws; None: all samples have the same.
        **options: `explain`, `target`, `additional_forward_args`, `baselines`, `batch_size` and `seed`, as for
            `explained_neighbours`.

    Returns:
        (N,) float64, 0 where the axiom holds; NaN where the model treats no pair alike, or the map is zero everywhere.

    Raises:
        InputError: no pairs, or numbers that are no elements; several inputs.

    Example:
        symmetry(lambda v: v.prod(1), torch.tensor([[1.0, 2.0]]), explain="ig", pairs=[(0, 1)])  # (1,)
    """
    with asking_again(forward_func=forward_func, inputs=inputs, **{"explain": None, **options}) as again:
        _check_pairs(pairs, again)
        maps = as_rows(clean_maps(again, inputs, attributions, options)).double()
        worst, any_pair = torch.zeros_like(maps), torch.zeros(again.n, dtype=torch.bool)
        for i, j in pairs:
            fair = _fair(again, i, j, n_draws, tol, ids)
            there = as_rows(again.all_maps((_exchanged(again.xs[0], i, j),))).double()
            error = (there - _exchanged(maps, i, j)).abs()
            worst = torch.where(fair[:, None], torch.maximum(worst, error), worst)
            any_pair |= fair
    error = torch.where(maps.isfinite(), worst, torch.nan)
    return _relative(error, maps, {"the model treats no pair alike": ~any_pair})


def _check_pairs(pairs: Sequence[tuple[int, int]], again: Again) -> None:
    count = again.xs[0][0].numel()
    if len(again.xs) != 1 or not pairs or any(len(p) != 2 or not all(0 <= k < count for k in p) for p in pairs):
        raise InputError(
            f"pairs must be numbers (i, j) of elements of one input, from 0 to {count - 1}, got {list(pairs)[:6]} for "
            f"{len(again.xs)} input(s)."
        )


def _exchanged(x: Tensor, i: int, j: int) -> Tensor:
    """With two elements of each row exchanged."""
    flat = x.reshape(x.shape[0], -1).clone()
    flat[:, [i, j]] = flat[:, [j, i]]
    return flat.reshape(x.shape)


def _fair(again: Again, i: int, j: int, n_draws: int, tol: float, ids: Tensor | None) -> Tensor:
    """Whether the model's score stays when the two elements are exchanged, in all draws: bool (N,)."""
    who = torch.zeros(again.n, dtype=torch.int64) if ids is None else ids
    found = torch.ones(again.n, dtype=torch.bool)
    for draw in range(n_draws):
        z = drawn_in_range(again.xs[0], again.seed, who, draw)
        scores = [again.scores((one,)) for one in (z, _exchanged(z, i, j))]
        found &= (scores[0] - scores[1]).abs() <= tol * scores[0].abs()
    return found

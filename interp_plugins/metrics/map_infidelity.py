"""Infidelity with perturbations of its own, which depend on (seed, sample) and not on the map.

Reference: Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, arXiv:1901.09392, definition 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import unknown
from interp_plugins.metrics.asking import about, asking, check_values
from interp_plugins.metrics.captum_infidelity import added, check_maps, check_number, sum_of_squares
from interp_plugins.metrics.draws import sample_numbers
from interp_plugins.metrics.noisy import NO_SPREAD, Noise, check_sd
from interp_plugins.metrics.ranking import count_of
from interp_plugins.metrics.registry import register_metric
from interp_plugins.metrics.rows import as_rows, row_sum
from interp_plugins.metrics.subsets import EVERY, OPTIONS, falls, single
from interp_plugins.metrics.undefined import defined

PERTURBATIONS = ("noise", "singles", "subsets")
_BLOCK = 2**22  # numbers of noise that are multiplied at a time
_WHOLE_PLACES = (
    " Maps with one value for all channels of a place, as class activation maps have it, are judged with "
    "perturb='subsets' or 'singles', which take whole places away."
)


@register_metric(
    "infidelity",
    kind="faithfulness",
    needs="scores",
    higher_is_better=False,
    scale_invariant=False,
    reference="Yeh et al. 2019, arXiv:1901.09392, definition 2.1",
    cost="n_perturb_samples + 1",
    says="mean of (I a - (f(x) - f(x - I)))^2 over perturbations I",
    options=OPTIONS,
)
def map_infidelity(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    baselines: Any = None,
    *,
    perturb: str = "noise",
    sd: float = 0.1,
    relative: bool = True,
    subset_size: int | float = 0.25,
    n_perturb_samples: int = 100,
    normalize: bool = False,
    **options: Any,
) -> Tensor:
    """Infidelity with perturbations of its own, the same for every map; what `metric("infidelity")` computes.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: one map per input; None: the `Explanation`'s.
        baselines: what replaces removed features; None: the `Explanation`'s, or zeros.
        perturb: "noise": normal, added to every element, for maps that do not hold the input as a factor (gradients);
            they must have the inputs' shapes. "singles": each feature is removed; "subsets": random subsets are: for
            maps that do (input times gradient, integrated gradients, Shapley values).
        sd: standard deviation of the noise.
        relative: it is a share of the sample's spread, its largest value less its smallest, in each input; else it is
            in the input's units.
        subset_size: features in a subset, or their share.
        n_perturb_samples: draws of the noise, or of subsets.
        normalize: put the factor on the map that makes the result smallest; then a map times a number scores the same.
        **options: as for `removal_curves`; `seed` and `ids` decide the draws. `reduce` is "sum", and has no part in
            noise.

    Returns:
        (N,) float64, from 0 up, in squared units of the score; NaN where noise has no spread.

    Raises:
        InputError: no perturbations, or maps with another shape than the inputs for noise.
        UnknownNameError: another kind of perturbation.

    Example:
        w = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        model = lambda v: (v * w).sum(1)
        map_infidelity(model, torch.ones(1, 4), torch.ones(1, 4), perturb="singles")  # -> [3.5]
        map_infidelity(model, torch.ones(1, 4), torch.ones(1, 4), perturb="singles", normalize=True)  # -> [1.25]
    """
    check_number(n_perturb_samples)
    if perturb not in PERTURBATIONS:
        raise unknown("perturb", perturb, PERTURBATIONS)
    given = (forward_func, inputs, attributions, baselines)
    if perturb == "noise":
        return _under_noise(given, check_sd(sd), relative, n_perturb_samples, normalize, **options)
    if perturb == "singles":
        found = falls(single, EVERY, given, **options)
    else:
        sizes: Callable[[Tensor], Tensor] = lambda totals: torch.tensor(  # noqa: E731
            [[count_of(subset_size, t, "subset_size")] for t in totals.tolist()]
        )
        found = falls(sizes, n_perturb_samples, given, **options)
    values = []
    for predicted, moved in zip(found.sums[:, 0], found.scores[:, 0]):
        there = ~moved.isnan()
        one = added([], predicted[None, there], moved[None, there])
        values.append(sum_of_squares(one, normalize) / int(there.sum()))
    return defined(torch.cat(values), found.maps)


def _under_noise(
    given: tuple[Any, ...],
    sd: float,
    relative: bool,
    n_draws: int,
    normalize: bool,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    features: Any = None,
    reduce: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """Infidelity under noise; what goes together plays no part in it."""
    what = about(given[1], given[2], given[3], target, None)
    with asking(
        given[0], what, additional_forward_args=additional_forward_args, batch_size=batch_size, seed=seed
    ) as questions:
        check_values(questions.xs, 'perturb="singles" or "subsets"')
        check_maps(what.maps, questions.xs, _WHOLE_PLACES)
        noise = Noise(questions, sd, relative, n_draws, sample_numbers(seed, ids))
        shapes = [m.shape[1:] for m in what.maps]
        clean = questions.whole(shapes)
        name = ("noise", sd, relative, n_draws, seed, None if ids is None else tuple(ids.tolist()))
        moved = clean[noise.rows] - questions.changed(name, noise.rows, noise.changed)
    maps = as_rows(what.maps)
    blocks = torch.arange(len(noise.rows)).split(max(1, _BLOCK // maps.shape[1]))
    predicted = torch.cat([_products(noise, at, maps) for at in blocks]).reshape(-1, n_draws)
    sums = added([], predicted, moved.reshape(-1, n_draws))
    still = (noise.scales == 0).all(1).cpu()
    values = sum_of_squares(sums, normalize) / n_draws
    return defined(values, maps, {NO_SPREAD: still})


def _products(noise: Noise, at: Tensor, maps: Tensor) -> Tensor:
    """I . a of draws: float64 (B,) on the CPU."""
    parts = torch.cat([p.to(maps) for p in noise.values(at)], 1)
    return row_sum(parts * maps[noise.rows[at].to(maps.device)]).cpu().double()

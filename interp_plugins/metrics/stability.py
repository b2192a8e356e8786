"""Does the map hold still where input and output do? Numbers from samples and their explained neighbours.

All take `(forward_func, inputs, attributions)` or `(forward_func, explanation)`, `explain=` (how maps are made) and the
other options of `explained_neighbours`, which gives all of them from one set of neighbours. Low is stable, not right: a
constant map is the most stable of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from interp_plugins.core.tensors import as_tuple
from interp_plugins.metrics.neighbours import OPTIONS, explained_neighbours
from interp_plugins.metrics.registry import register_metric

Model = Callable[..., Any]
N_NEIGHBOURS = 10
_AGARWAL = "Agarwal et al. 2022, arXiv:2203.06877"


def _count(params: Mapping[str, Any]) -> int:
    """Neighbours of each sample."""
    given = params.get("neighbours")
    return params.get("n_neighbours", N_NEIGHBOURS) if given is None else int(as_tuple(given)[0].shape[1])


def rows_of_neighbours(n: int, own: tuple[int, int], params: Mapping[str, Any]) -> tuple[int, int]:
    """Rows of what needs neighbours and their maps, see `MetricInfo.rows`."""
    asked = n * (_count(params) + 1)
    return asked * (own[0] + 1), asked * own[1]


def _rows_and_search(n: int, own: tuple[int, int], params: Mapping[str, Any]) -> tuple[int, int]:
    forward, backward = rows_of_neighbours(n, own, params)
    return forward + n * (params.get("representation") is None), backward


def _register(name: str, reference: str, says: str, **others: Any) -> Any:
    """Register what all of these have in common: neighbours are explained again, and low is stable."""
    shared: dict[str, Any] = {
        "kind": "robustness",
        "needs": "explainer",
        "higher_is_better": False,
        "sign_invariant": True,
        "cost": "n_neighbours + 1, and as many E",
        "options": OPTIONS,
        "rows": rows_of_neighbours,
    }
    return register_metric(name, reference=reference, says=says, **{**shared, **others})


def _near(args: tuple[Any, ...], options: dict[str, Any], *only: str) -> Any:
    return explained_neighbours(*args, **{"representation": False, "only": only, **options})


@_register("sensitivity_max", "Yeh et al. 2019, arXiv:1901.09392, definition 3.1", "max |a(x') - a(x)| / |a(x)|")
def largest_sensitivity(forward_func: Model, inputs: Any, attributions: Any = None, **options: Any) -> Tensor:
    """Largest relative change of the map over neighbours: what `metric("sensitivity_max")` computes.

    `interp_plugins.metrics.sensitivity_max` has Captum's arguments, and noise of one absolute size for all samples.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`.

    Returns:
        (N,) float64; NaN where the map is zero everywhere, or every neighbour has another class.

    Example:
        metric("sensitivity_max", n_neighbours=3).of(exp, model=model).n  # -> 2
    """
    found: Tensor = _near((forward_func, inputs, attributions), options, "change").sensitivity_max
    return found


@_register("sensitivity_avg", "Yeh et al. 2019, arXiv:1901.09392", "mean of |a(x') - a(x)| / |a(x)|")
def sensitivity_avg(forward_func: Model, inputs: Any, attributions: Any = None, **options: Any) -> Tensor:
    """Mean relative change of the map over neighbours of the same class.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`.

    Returns:
        (N,) float64; NaN where the map is zero everywhere, or every neighbour has another class.

    Example:
        sensitivity_avg(model, exp, n_neighbours=3)  # (2,)
    """
    found: Tensor = _near((forward_func, inputs, attributions), options, "change").sensitivity_avg
    return found


@_register(
    "local_lipschitz",
    "Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049",
    "max |a(x') - a(x)| / |x' - x|",
    scale_invariant=False,
)
def local_lipschitz(forward_func: Model, inputs: Any, attributions: Any = None, **options: Any) -> Tensor:
    """Largest change of the map per change of the input, over neighbours of the same class.

    In units of the map per unit of the input: compare maps of one scale alone.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`.

    Returns:
        (N,) float64; NaN where every neighbour has another class.

    Example:
        local_lipschitz(model, exp, n_neighbours=3)  # (2,)
    """
    found: Tensor = _near((forward_func, inputs, attributions), options, "change").local_lipschitz
    return found


@_register("relative_input_stability", _AGARWAL, "max |(a(x') - a(x)) / a(x)| / |(x' - x) / x|")
def relative_input_stability(forward_func: Model, inputs: Any, attributions: Any = None, **options: Any) -> Tensor:
    """Largest relative change of the map per relative change of the input, over neighbours of the same class.

    Changes are divided element by element; an element smaller than a millionth of the largest counts as that.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`.

    Returns:
        (N,) float64; 1 for input x gradient of a linear model. NaN where the map is zero everywhere, or every neighbour
        has another class.

    Example:
        relative_input_stability(model, exp, n_neighbours=3)  # (2,)
    """
    near = _near((forward_func, inputs, attributions), options, "relative_change", "relative_step")
    found: Tensor = near.relative_input_stability
    return found


@_register("relative_output_stability", _AGARWAL, "max |(a(x') - a(x)) / a(x)| / |h(x') - h(x)|, h the output")
def relative_output_stability(forward_func: Model, inputs: Any, attributions: Any = None, **options: Any) -> Tensor:
    """Largest relative change of the map per change of the model's whole output, over neighbours of the same class.

    In one over the unit of the outputs, as in the paper: compare methods on one model.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`.

    Returns:
        (N,) float64; NaN where the map is zero everywhere, or every neighbour has another class.

    Example:
        relative_output_stability(model, exp, n_neighbours=3)  # (2,)
    """
    near = _near((forward_func, inputs, attributions), options, "relative_change", "output_step")
    found: Tensor = near.relative_output_stability
    return found


@_register(
    "relative_representation_stability",
    _AGARWAL,
    "max |(a(x') - a(x)) / a(x)| / |(l(x') - l(x)) / l(x)|, l a layer",
    cost="n_neighbours + 2, and n_neighbours + 1 E",
    options=(*OPTIONS, "representation"),
    rows=_rows_and_search,
)
def relative_representation_stability(
    forward_func: Model, inputs: Any, attributions: Any = None, **options: Any
) -> Tensor:
    """Largest relative change of the map per relative change of a layer, over neighbours of the same class.

    Args:
        forward_func: an `nn.Module` or any callable with modules inside.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`.
        attributions: the samples' maps, or None.
        **options: as for `explained_neighbours`; `representation=` names the layer, None: what the last module with
            weights gets.

    Returns:
        (N,) float64; NaN where the map is zero everywhere, or every neighbour has another class.

    Raises:
        InputError: the model shows no layer.

    Example:
        relative_representation_stability(model, exp, n_neighbours=3)  # (2,)
    """
    options = {"representation": None, **options}
    near = _near((forward_func, inputs, attributions), options, "relative_change", "layer_step")
    found: Tensor = near.relative_representation_stability
    return found

"""Which methods are compared where nobody names them: some of each family, as far as they run on this model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interp_plugins.api.samples import SampleBatch
from interp_plugins.core.errors import unknown
from interp_plugins.metrics.maps import mapped

BUDGETS = ("fast", "normal", "thorough")
DEFAULT_METHODS_BY_BUDGET = {
    "fast": ("saliency", "input_x_gradient", "integrated_gradients", "grad_cam", "occlusion"),
    "normal": ("deep_lift", "lrp", "gradient_shap", "noise_tunnel", "hi_res_cam", "guided_grad_cam"),
    "thorough": ("guided_ig", "layer_cam", "full_grad", "kernel_shap", "lime", "rise", "xrai", "score_cam"),
}
DEFAULT_METHODS_OF_ROWS_BY_BUDGET = {
    "fast": ("saliency", "input_x_gradient", "integrated_gradients", "feature_ablation"),
    "normal": ("deep_lift", "lrp", "gradient_shap", "noise_tunnel", "kernel_shap"),
    "thorough": ("guided_ig", "lime", "shapley_value_sampling"),
}


def candidates(kind: str, budget: str) -> tuple[str, ...]:
    """Names of methods for a kind of data; a larger budget has those of the smaller ones as well.

    Args:
        kind: of the data, as `InputSpec` has it.
        budget: "fast", "normal" or "thorough".

    Raises:
        UnknownNameError: another budget.
    """
    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    lists = DEFAULT_METHODS_OF_ROWS_BY_BUDGET if kind in ("tabular", "text", "generic") else DEFAULT_METHODS_BY_BUDGET
    return tuple(name for one in BUDGETS[: BUDGETS.index(budget) + 1] for name in lists[one])


def able(
    names: Sequence[str], batch: SampleBatch, options: Callable[[str], Mapping[str, Any]], seed: int
) -> tuple[list[str], dict[str, str]]:
    """Which methods can explain the first sample, and why the others cannot.

    Args:
        names: of methods.
        batch: the first samples.
        options: name -> further arguments of `interp_plugins.explain`.
        seed: of all draws.
    """
    found, left_out = [], {}
    one = batch.rows([0])
    for name in names:
        try:
            mapped(one, [name], (), {**options(name), **one.options}, seed)
            found.append(name)
        except Exception as error:  # whatever it is, the others go on, and it is said
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return found, left_out

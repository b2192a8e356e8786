"""FeatureAblation: what changes when a feature is replaced by its baseline. Cost: a forward row per feature."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from interp_plugins.attr.perturbation.perturb import perturb, replaceable
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InterpWarning, did_you_mean
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import InputsT, like


def warn_of_unknown(method: Any, given: dict[str, Any]) -> None:
    """Say which arguments have no effect; Captum takes them without a word (one had a meaning there once)."""
    unknown = sorted(set(given) - {"enable_cross_tensor_attribution"})
    if unknown:
        name = type(method).__name__
        known = inspect.signature(method.attribute).parameters
        warnings.warn(
            f"{name}.attribute has no argument {unknown[0]!r}: it is ignored, as Captum does."
            + did_you_mean(unknown[0], known),
            InterpWarning,
            stacklevel=4,
        )


@register(
    "feature_ablation",
    aliases=("ablation",),
    needs="perturbation",
    cost="d + 1 forward",
    axioms=("linearity", "dummy", "symmetry", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class FeatureAblation(PerturbationAttribution):
    """Replace one feature (a group of elements) at a time.

    Example:
        def product(x):
            return x[:, 0] * x[:, 1] + x[:, 2]

        x = torch.tensor([[2.0, 3.0, 1.0]])
        FeatureAblation(product).attribute(x)  # -> [[6.0, 6.0, 1.0]]
        FeatureAblation(product).attribute(x, feature_mask=torch.tensor([[0, 0, 1]]))  # -> [[6.0, 6.0, 1.0]]
    """

    @batches_of_any_length
    def attribute(
        self,
        inputs: InputsT,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        show_progress: bool = False,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> InputsT:
        """F(x) - F(x with the feature replaced), credited to each element of the feature.

        Args:
            inputs: tensor or tuple of tensors, batch first, any dtype.
            baselines: replacement values: None (zeros), number, name, tensor, tuple or function.
            target: see `core.target.as_target`. Without one, each output value per example gets its own map.
            additional_forward_args: further positional arguments of the model.
            feature_mask: integers, broadcastable to the input (tuple for several inputs); elements with the same
                number, also across inputs, are one feature. None: every element is one.
            perturbations_per_eval: features per forward pass. Left out: as many as fit; 1: one at a time.
            show_progress: always show a progress bar.
            batch_size: rows (features x samples) per forward pass; overrides perturbations_per_eval.
            progress: None = a bar for long work, True, False.
            **kwargs: without effect, with a warning; Captum takes any name here.

        Returns:
            Maps of the inputs' shapes; (N * K, ...) for K outputs per example, (K, ...) for a model that returns
            K values for the whole batch.
        """
        warn_of_unknown(self, kwargs)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            xs, base = replaceable(forward, xs, baselines, inputs)
            maps = perturb(
                forward,
                xs,
                base,
                MaskFeatures(xs, feature_mask),
                perturbations_per_eval=perturbations_per_eval,
                chunk=check_chunk("batch_size", batch_size),
                progress=True if show_progress else progress,
                what=self.get_name(),
            )
            return like(inputs, maps)

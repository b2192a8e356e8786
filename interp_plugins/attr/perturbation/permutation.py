"""Feature permutation: what changes when a feature's values are shuffled over the batch.

    attribution(feature) = F(x) - F(x with the feature taken from another sample)

(Breiman 2001; Fisher, Rudin, Dominici 2019, arXiv:1801.01489.) A feature keeps its distribution and loses its relation
to the rest. One random shuffle is a noisy estimate; `n_repeats` averages several. Cost: one row per feature, sample and
repeat, plus one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.perturbation.ablation import FeatureAblation, warn_of_unknown
from interp_plugins.attr.perturbation.perturb import perturb
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.at_layer import start_at_layer
from interp_plugins.attr.shared.base import LayerAttribution, PerturbationAttribution, prepared
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.features import MaskFeatures
from interp_plugins.core.random import drawing_from, make_generator, on_cpu
from interp_plugins.core.registry import register
from interp_plugins.core.tensors import Inputs, InputsT, LayerMaps, describe, like


def permute_feature(x: Tensor, feature_mask: Tensor) -> Tensor:
    """The input with its masked elements in a random other order of the samples (never the same order).

    Args:
        x: one input, batch first.
        feature_mask: bool, broadcastable to x: the elements to shuffle together.

    Raises:
        InputError: a single sample.
    """
    return _permuted(x, feature_mask, None)


def _permuted(x: Tensor, feature_mask: Tensor, generator: torch.Generator | None) -> Tensor:
    n = x.shape[0]
    if n < 2:
        raise InputError(
            "cannot permute features with batch_size = 1: a feature is shuffled over the samples of the batch. Give "
            "several samples, or use FeatureAblation."
        )
    same = torch.arange(n)
    order = torch.randperm(n, generator=generator)
    while torch.equal(order, same):
        order = torch.randperm(n, generator=generator)
    return torch.where(feature_mask, x.index_select(0, order.to(x.device)), x)


class _Shuffled:
    """The replacement of each feature: the whole input with that feature permuted."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        xs: Sequence[Tensor],
        features: MaskFeatures,
        rng: torch.Generator,
    ):
        self.function, self.xs, self.features = function, xs, features
        # A seed per feature: chunks may ask again, and one feature in several inputs is shuffled in one order.
        self.seeds = torch.randint(2**62, (len(features),), generator=rng).tolist()
        self.made: tuple[int, int] | None = None
        self.value: Tensor | None = None

    def at(self, k: int, i: int) -> Tensor:
        if self.made != (k, i) or self.value is None:
            mask, own = self.features.masks(k)[i], make_generator(self.seeds[k])
            if self.function is permute_feature:
                value = _permuted(self.xs[i], mask, own)
            else:
                with drawing_from(own):
                    value = self.function(self.xs[i].clone(), mask)
            if not isinstance(value, Tensor) or value.shape != self.xs[i].shape:
                raise InputTypeError(
                    f"perm_func must return a tensor of its input's shape {tuple(self.xs[i].shape)}, got "
                    f"{describe(value)}."
                )
            self.made, self.value = (k, i), value
        return self.value


@register(
    "feature_permutation",
    aliases=("permutation", "permutation_importance"),
    needs="perturbation",
    reference="Breiman 2001; Fisher et al. 2019, arXiv:1801.01489",
    cost="d + 1 forward",
    axioms=("linearity", "dummy", "implementation invariance"),
    assumes="batch mates are typical",
)
class FeaturePermutation(FeatureAblation):
    """Shuffle one feature (a group of elements) over the batch at a time.

    Args:
        forward_func: model or callable.
        perm_func: function (x (N, ...), mask) -> x with the masked elements permuted over the samples.

    Example:
        rows = torch.randn(50, 3)
        FeaturePermutation(lambda x: x[:, 0]).attribute(rows)[:, 1:].abs().sum()  # -> 0.0
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        perm_func: Callable[[Tensor, Tensor], Tensor] = permute_feature,
    ):
        super().__init__(forward_func)
        if not callable(perm_func):
            raise InputTypeError(f"perm_func must be a function of (x, feature_mask), got {describe(perm_func)}.")
        self.perm_func = perm_func

    @batches_of_any_length
    @args_from(FeatureAblation.attribute)
    def attribute(  # type: ignore[override]
        self,
        inputs: InputsT,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        show_progress: bool = False,
        *,
        n_repeats: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> InputsT:
        """F(x) - F(x with the feature shuffled), credited to each element of the feature.

        Args:
            inputs: tensor or tuple of tensors, batch first, any dtype, at least two samples.
            feature_mask: integers, broadcastable to the input (tuple for several inputs); elements with the same
                number, also across inputs, are one feature and shuffled in one order. None: every element is one.
            n_repeats: shuffles to average over.
            seed: seed of the shuffles, also for a perm_func that draws from torch's global generator. None: decided by
                `torch.manual_seed`; the global state is left as it was.
            **kwargs: without effect, with a warning; Captum takes any name here.

        Returns:
            Maps of the inputs' shapes; layout for several outputs as in `FeatureAblation.attribute`.
        """
        warn_of_unknown(self, kwargs)
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        check_chunk("n_repeats", n_repeats)
        rng = on_cpu(make_generator(seed, generator))
        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            features = MaskFeatures(xs, feature_mask)
            sums: list[Tensor] = []
            for _ in range(n_repeats):
                maps = perturb(
                    forward,
                    xs,
                    _Shuffled(self.perm_func, xs, features, rng),
                    features,
                    perturbations_per_eval=perturbations_per_eval,
                    chunk=check_chunk("batch_size", batch_size),
                    progress=True if show_progress else progress,
                    what=self.get_name(),
                )
                sums = [a + b for a, b in zip(sums, maps, strict=True)] if sums else maps
            return like(inputs, [total / n_repeats for total in sums])


@register(
    "layer_feature_permutation",
    aliases=("layer_permutation",),
    needs="perturbation",
    site="layer",
    reference="Breiman 2001; Fisher et al. 2019, arXiv:1801.01489",
    variant_of="feature_permutation",
)
class LayerFeaturePermutation(LayerAttribution, PerturbationAttribution):
    """Shuffle units of a layer's output over the batch, one feature at a time."""

    @args_from(FeaturePermutation.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        layer_mask: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        *,
        n_repeats: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> LayerMaps:
        """Permutation at the layer, of its shape; arguments as in `FeaturePermutation.attribute`.

        Args:
            inputs: tensor or tuple of tensors, batch first, at least two samples.
            target: see `core.target.as_target`.
            layer_mask: integers grouping the layer's units; None: each is its own feature.
            seed: seed of the shuffles.
            generator: draw from this generator instead.
            batch_size: rows per forward pass.
        """
        more: dict[str, Any] = {
            "target": target,
            "feature_mask": layer_mask if layer_mask is None or isinstance(layer_mask, tuple) else (layer_mask,),
            "perturbations_per_eval": perturbations_per_eval,
            "n_repeats": n_repeats,
            "seed": seed,
            "generator": generator,
            "batch_size": batch_size,
            "progress": progress,
        }
        return start_at_layer(self, FeaturePermutation, inputs, additional_forward_args, False, more).solve()

"""Occlusion: what changes when a window of the input is replaced by its baseline.

Zeiler, Fergus, ECCV 2014, arXiv:1311.2901. Cost: a forward row per window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.perturbation.perturb import Changes, replaceable, with_changes
from interp_plugins.attr.perturbation.window_grid import refined
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import check_tolerance
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.features import Windows, default_window
from interp_plugins.core.registry import register
from interp_plugins.core.report import note
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import InputsT, like


def occlusion_defaults(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """Windows for `explain`, by the kind of each input."""
    windows, strides = zip(*(default_window(x, spec.of_input(i, x)) for i, x in enumerate(inputs)), strict=True)
    if len(inputs) == 1:
        return {"sliding_window_shapes": windows[0], "strides": strides[0]}
    return {"sliding_window_shapes": windows, "strides": strides}


@register(
    "occlusion",
    aliases=("occl",),
    needs="perturbation",
    reference="Zeiler and Fergus 2014, arXiv:1311.2901",
    defaults=occlusion_defaults,
    fast={"tol": 0.5},
    per_dimension=("sliding_window_shapes", "strides"),
    cost="d + 1 forward",
    axioms=("linearity", "dummy", "implementation invariance"),
    assumes="features that can be removed one by one",
)
class Occlusion(PerturbationAttribution):
    """Slide a window over the input and replace what is under it.

    Example:
        Occlusion(model).attribute(x, (3, 6, 6), strides=(3, 3, 3), target=3).shape  # -> (2, 3, 24, 24)
    """

    @args_from(FeatureAblation.attribute)
    def attribute(
        self,
        inputs: InputsT,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = AUTOMATIC,
        show_progress: bool = False,
        *,
        border: str = "shift",
        tol: float | None = None,
        batch_size: int | None = None,
        progress: bool | None = None,
    ) -> InputsT:
        """F(x) - F(x with the window replaced), averaged over the windows that cover an element.

        Args:
            inputs: tensor or tuple of tensors, batch first.
            sliding_window_shapes: window without the batch dimension, (3, 15, 15) for RGB; a tuple of these for several
                inputs (each is occluded on its own).
            strides: steps per dimension, at most the window; int, tuple, or tuple of these per input; None = 1. The
                number of forward rows is the product over dimensions of ceil((size - window) / stride) + 1.
            target: see `core.target.as_target`.
            perturbations_per_eval: windows per forward pass. Left out: as many as fit; 1: one at a time.
            border: "shift" moves the last window back so that all have one size; "clip" cuts it off, as Captum does.
            tol: evaluate a part of the windows and interpolate between them, until each sample's map has an estimated
                relative L2 error below this (`attr/perturbation/window_grid.py`; with several outputs, all their maps
                together).
                None: all windows. What was needed and reached is reported (`core.report`: n_windows, map_error). It
                pays where windows overlap or scores are smooth; what lies wholly between the first windows, which
                about touch each other, is not seen where windows do not overlap.
            batch_size: rows (windows x samples) per forward pass; overrides perturbations_per_eval.

        Returns:
            Maps of the inputs' shapes (layout for several outputs as in `FeatureAblation`).
        """
        check_chunk("perturbations_per_eval", perturbations_per_eval)
        check_tolerance(tol)

        def use(changes: Changes) -> list[Tensor]:
            if tol is None:
                note(n_windows=len(changes.features))
            with changes.progress(self.get_name(), True if show_progress else progress):
                return changes.credited(changes.of(changes.everything)) if tol is None else refined(changes, tol)

        with prepared(self.forward_func, inputs, target, additional_forward_args) as (xs, forward):
            windows = Windows(xs, sliding_window_shapes, strides, border)
            xs, base = replaceable(forward, xs, baselines, inputs)
            size = check_chunk("batch_size", batch_size)
            return like(inputs, with_changes(forward, xs, base, windows, use, perturbations_per_eval, size))

"""Occlusion: what changes when a window of the input is replaced by its baseline.

Zeiler, Fergus, ECCV 2014, arXiv:1311.2901. Cost: a forward row per window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.perturbation.perturb import Changes, replaceable, with_changes
from interp_plugins.attr.perturbation.whole_batch import batches_of_any_length
from interp_plugins.attr.perturbation.window_grid import refined
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.attr.shared.average import check_tolerance
from interp_plugins.attr.shared.base import PerturbationAttribution, prepared
from interp_plugins.core.batching import AUTOMATIC, check_chunk
from interp_plugins.core.conventions import as_captum
from interp_plugins.core.features import Windows, default_window
from interp_plugins.core.registry import register
from interp_plugins.core.report import note
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import InputsT, like

_FEW = 64  # windows of a first look at a large picture
_WORK = _FEW * 3 * 224 * 224  # windows times numbers: what that takes; small pictures can have more windows


def occlusion_defaults(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """Windows for `explain`, by the kind of each input."""
    return _as_parameters([default_window(x, spec.of_input(i, x)) for i, x in enumerate(inputs)])


def coarse_windows(inputs: tuple[Tensor, ...], spec: InputSpec) -> Mapping[str, Any]:
    """Windows for a first look: the default ones, for large inputs so much larger that few cover them.

    A picture of 224 x 224 gets 64, a smaller one so many more as it costs less. They overlap as much.
    """
    return _as_parameters(
        [_coarser(x.shape[1:], *default_window(x, spec.of_input(i, x))) for i, x in enumerate(inputs)]
    )


def _coarser(
    sizes: Sequence[int], window: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The window and strides enlarged step by step in the dimensions with several windows, until few are enough."""
    grown, factor, most = (window, strides), 1.0, max(_FEW, _WORK // max(1, math.prod(sizes)))
    while math.prod(_count(*of) for of in zip(sizes, *grown, strict=True)) > most:
        factor *= 1.02
        slides = [_count(*of) > 1 for of in zip(sizes, window, strides, strict=True)]
        larger = [math.ceil(s * factor) if moves else s for s, moves in zip(strides, slides, strict=True)]
        wider = [w * s // old for w, s, old in zip(window, larger, strides, strict=True)]
        grown = tuple(map(min, wider, sizes)), tuple(map(min, larger, sizes))
    return grown


def _count(size: int, window: int, stride: int) -> int:
    return math.ceil(max(0, size - window) / stride) + 1


def _as_parameters(chosen: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Mapping[str, Any]:
    windows, strides = zip(*chosen, strict=True)
    if len(chosen) == 1:
        return {"sliding_window_shapes": windows[0], "strides": strides[0]}
    return {"sliding_window_shapes": windows, "strides": strides}


def _remark(params: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Windows that are larger than the usual ones: their map is another than that of small windows."""
    given, known = (values.get("sliding_window_shapes") or () for values in (params, usual))
    if len(given) != len(known) or not all(isinstance(size, int) for size in (*given, *known)):
        return ""  # several inputs
    larger = [str(size) for size, least in zip(given, known, strict=True) if size > least]
    return f"coarse windows of {' × '.join(larger)}" if larger else ""


@register(
    "occlusion",
    aliases=("occl",),
    needs="perturbation",
    reference="Zeiler and Fergus 2014, arXiv:1311.2901",
    defaults=occlusion_defaults,
    fast=coarse_windows,
    remark=_remark,
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

    @batches_of_any_length
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
            windows = Windows(xs, sliding_window_shapes, strides, "clip" if as_captum() else border)
            xs, base = replaceable(forward, xs, baselines, inputs)
            size = check_chunk("batch_size", batch_size)
            return like(inputs, with_changes(forward, xs, base, windows, use, perturbations_per_eval, size))

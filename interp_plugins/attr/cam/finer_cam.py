"""FinerCAM (Zhang et al., CVPR 2025, arXiv:2501.11309): what speaks for the class and not for the classes like it.

    F = sum over similar classes d of p_d (y_c - alpha y_d) / sum of p_d

in place of the score y_c; the similar classes are those whose scores are nearest to y_c, p their softmax probabilities.
The map of that score is made by another member of the family, Grad-CAM by default. Cost: that member's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.cam import weights
from interp_plugins.attr.cam.base import ClassActivationMap
from interp_plugins.attr.shared.arguments import args_from
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, TargetError, unknown
from interp_plugins.core.registry import register
from interp_plugins.core.target import Target, as_target
from interp_plugins.core.tensors import Inputs, Maps, as_tuple

BASES = {
    "grad_cam": weights.grad_cam,
    "grad_cam_plus_plus": weights.grad_cam_plus_plus,
    "x_grad_cam": weights.x_grad_cam,
    "layer_cam": weights.layer_cam,
    "hi_res_cam": weights.hi_res_cam,
}


class Finer(Target):
    """The score of a class above those of the classes most like it.

    Args:
        of: the class: an index (of axis 1, and of further axes), or one per sample.
        alpha: how much of the others is subtracted, 0 to 1.
        n_similar: how many similar classes; fewer where there are fewer.
    """

    def __init__(self, of: Target, alpha: float, n_similar: int):
        self.of, self.alpha, self.n_similar = of, alpha, n_similar

    def at(self, rows: Tensor | None) -> Target:
        """The target for some rows alone."""
        return Finer(self.of.at(rows), self.alpha, self.n_similar)

    def describe(self, i: int) -> str | None:
        """The class, and that it is compared."""
        return f"{self.of.describe(i)} rather than what is like it"

    def __call__(self, output: Tensor) -> Tensor:
        """The contrast per row (R,), from outputs (R, C, ...)."""
        own = self.of(output)
        scores, index = self._classes(output)
        if own.ndim != 1:
            raise TargetError(
                f"FinerCAM explains one class per sample; the target leaves values of shape {tuple(own.shape)}."
            )
        distance = (scores - own[:, None]).detach().abs()
        distance = distance.scatter(1, index[:, None], float("inf"))
        near = distance.topk(min(self.n_similar, scores.shape[1] - 1), dim=1, largest=False).indices
        p = scores.softmax(1).gather(1, near)
        return (p * (own[:, None] - self.alpha * scores.gather(1, near))).sum(1) / p.sum(1)

    def _classes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of all classes (R, C) beside the chosen one, and its index (R,)."""
        indices = self.of.indices_of_rows(output.shape[0]) if output.ndim else None
        whole = indices is not None and all(isinstance(v, int) for index in indices for v in index)
        if indices is None or not whole or output.ndim < 2 or output.shape[1] < 2:
            raise TargetError(
                f"FinerCAM compares a class with others: it needs a class index as target and scores (N, C) of at "
                f"least two classes; the target is {type(self.of).__name__}, the output has shape "
                f"{tuple(output.shape)}."
            )
        rest = [tuple(index[1:]) for index in indices]
        scores = torch.stack([output[(r, slice(None), *more)] for r, more in enumerate(rest)])
        chosen = torch.tensor([index[0] for index in indices], device=output.device) % output.shape[1]
        return scores, chosen


@register(
    "finer_cam",
    site="layer",
    title="FinerCAM",
    reference="Zhang et al. 2025, arXiv:2501.11309",
    shares_targets=False,  # each class has others to be compared with
    cost="1 forward, 1 backward",
    assumes="the layer's last axes are places; several classes",
)
class FinerCAM(ClassActivationMap):
    """A class activation map of a class against the classes most like it.

    Args:
        forward_func: model or callable.
        layer: as in `ClassActivationMap`.
        device_ids: not needed.
        base: the member of the family that makes the map: "grad_cam", "grad_cam_plus_plus", "x_grad_cam", "layer_cam"
            or "hi_res_cam".
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any = None,
        device_ids: list[int] | None = None,
        base: str = "grad_cam",
    ):
        super().__init__(forward_func, layer, device_ids)
        if base not in BASES:
            raise unknown("base", base, BASES)
        self.base, self.weighting = base, BASES[base]

    @args_from(ClassActivationMap.attribute)
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        *,
        alpha: float = 1.0,
        n_similar: int = 3,
        layout: Any = "auto",
        batch_size: int | None = None,
    ) -> Maps:
        """The map; arguments as in `ClassActivationMap.attribute`, and `alpha` and `n_similar`.

        Args:
            target: a class index (and indices of further axes), or one per sample.
            relu_attributions: keep positive evidence only, the default.
            alpha: how much of the similar classes is subtracted; 0 gives the base method's map.
            n_similar: how many similar classes, 3 as in the authors' code.

        Raises:
            TargetError: a target that is no class, or a model with a single score.
        """
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            raise InputError(f"alpha must be between 0 (the base method) and 1, got {alpha!r}.")
        check_chunk("n_similar", n_similar)
        first = as_tuple(inputs)[0]
        n = first.shape[0] if isinstance(first, Tensor) and first.ndim else 1
        return super().attribute(
            inputs,
            Finer(as_target(target, n), alpha, n_similar),
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            layout=layout,
            batch_size=batch_size,
        )

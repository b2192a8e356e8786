"""The randomisation check (Adebayo et al., NeurIPS 2018, arXiv:1810.03292), as measured: do maps know the weights?

`CASCADE`: EfficientNet-Lite0 with its ImageNet weights, drawn anew from the classifier downwards in five stages, each
on top of the one before: the classifier, its head and block 6, blocks 5 and 4, blocks 3 and 2, everything. After each
stage a method's absolute maps of three photographs (128 x 128) are compared with those of the trained network, by
Spearman's rank correlation and by SSIM. `python -m tests.benchmarks.bench_randomisation` measures it.

`DIGITS`: rank correlation before and after all weights of a small network trained on digits are drawn anew; the tests
measure it again.

A method whose maps still correlate by more than `LIMIT` while the upper half of the network is random (the mean of the
first three stages) shows the input rather than what the network concludes from it, and says so once per process.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from ..core.errors import RandomisationWarning

LIMIT = 0.5


@dataclass(frozen=True)
class Cascade:
    """Agreement with the trained network's maps after each stage of randomisation.

    Attributes:
        rank: Spearman's correlation of absolute maps.
        ssim: structural similarity.
    """

    rank: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def upper_half(self) -> float:
        """The mean rank correlation while the upper half is random and the lower half still trained."""
        return sum(self.rank[:3]) / 3

    @property
    def fails(self) -> bool:
        """Whether the map hardly notices that the upper half is random."""
        return self.upper_half > LIMIT


def _cascade(rank: str, ssim: str) -> Cascade:
    return Cascade(tuple(map(float, rank.split())), tuple(map(float, ssim.split())))


# What to use in place of a method that fails.
INSTEAD = {
    "deconvolution": "Use guided_grad_cam for detail, or grad_cam or integrated_gradients.",
    "eigen_cam": "It knows no class by design; use eigen_grad_cam or grad_cam for what speaks for a class.",
    "full_grad": "Use grad_cam or layer_cam for places, integrated_gradients for pixels.",
    "guided_backprop": "Use guided_grad_cam for detail, or grad_cam or integrated_gradients.",
}

CASCADE: dict[str, Cascade] = {
    "augmented": _cascade("0.38 0.36 0.35 0.32 0.26", "0.33 0.32 0.31 0.25 0.15"),
    "blur_ig": _cascade("0.38 0.29 0.26 0.26 0.28", "0.48 0.26 0.25 0.26 0.35"),
    "deconvolution": _cascade("0.99 0.80 0.40 0.09 -0.01", "0.99 0.80 0.37 0.09 -0.05"),
    "deep_lift": _cascade("0.41 0.40 0.36 0.28 0.18", "0.48 0.45 0.34 0.28 0.28"),
    "deep_lift_shap": _cascade("0.46 0.43 0.38 0.33 0.21", "0.53 0.50 0.40 0.36 0.26"),
    "eigen_cam": _cascade("1.00 1.00 0.34 0.41 0.31", "1.00 1.00 0.28 0.31 0.26"),
    "eigen_grad_cam": _cascade("0.10 0.09 0.03 0.06 0.06", "0.28 0.14 -0.08 0.04 -0.01"),
    "extremal_perturbation": _cascade("0.41 0.54 0.40 0.44 0.44", "0.46 0.54 0.48 0.52 0.52"),
    "feature_ablation": _cascade("0.12 -0.11 0.21 0.20 0.13", "0.35 0.27 0.34 0.34 0.14"),
    "feature_permutation": _cascade("0.08 -0.13 0.14 0.11 0.02", "0.28 0.20 0.30 0.27 0.20"),
    "finer_cam": _cascade("-0.11 0.02 0.01 -0.06 -0.13", "0.02 0.14 0.02 0.03 -0.02"),
    "full_grad": _cascade("0.93 0.85 0.70 0.50 0.29", "0.83 0.73 0.51 0.27 0.13"),
    "grad_cam": _cascade("-0.06 0.09 0.08 -0.01 -0.01", "0.06 0.16 0.05 0.01 0.01"),
    "grad_cam_plus_plus": _cascade("0.65 0.75 0.02 0.00 -0.10", "0.53 0.68 -0.00 -0.10 0.01"),
    "gradient_shap": _cascade("0.33 0.30 0.27 0.26 0.26", "0.34 0.32 0.28 0.23 0.30"),
    "guided_backprop": _cascade("1.00 0.99 0.85 0.38 0.25", "1.00 0.99 0.82 0.42 0.25"),
    "guided_grad_cam": _cascade("-0.06 0.21 0.43 0.09 0.22", "0.16 0.41 0.56 0.19 0.22"),
    "guided_ig": _cascade("0.31 0.29 0.26 0.24 0.23", "0.28 0.23 0.20 0.18 0.16"),
    "hi_res_cam": _cascade("-0.05 -0.02 0.08 0.09 0.04", "0.16 0.14 0.06 0.20 0.20"),
    "hsic": _cascade("0.07 0.03 -0.06 0.01 -0.06", "0.27 0.28 0.27 0.31 0.32"),
    "idgi": _cascade("0.33 0.37 0.22 0.08 0.01", "0.85 0.90 0.38 0.28 0.15"),
    "input_x_gradient": _cascade("0.45 0.43 0.42 0.36 0.22", "0.54 0.48 0.46 0.39 0.26"),
    "integrated_gradients": _cascade("0.44 0.40 0.38 0.33 0.25", "0.47 0.29 0.42 0.30 0.15"),
    "internal_influence": _cascade("0.43 0.30 0.04 0.08 0.09", "0.41 0.26 -0.02 0.01 0.02"),
    "kernel_shap": _cascade("0.07 -0.12 -0.09 -0.09 -0.14", "0.31 0.28 0.27 0.28 0.23"),
    "layer_cam": _cascade("0.17 -0.02 0.10 -0.00 0.04", "0.25 0.06 0.10 0.10 0.12"),
    "layer_conductance": _cascade("0.15 0.19 0.13 0.12 0.20", "0.28 0.08 0.16 0.22 0.27"),
    "layer_deep_lift": _cascade("0.22 0.19 0.14 0.21 0.29", "0.20 0.27 0.04 0.16 0.27"),
    "layer_deep_lift_shap": _cascade("0.28 0.24 0.16 0.12 0.29", "0.36 0.30 -0.01 0.06 0.26"),
    "layer_feature_ablation": _cascade("0.19 0.28 0.02 0.08 0.14", "0.28 0.26 0.17 0.10 0.07"),
    "layer_gradient_shap": _cascade("0.26 0.14 0.17 0.20 0.33", "0.28 0.07 0.07 0.24 0.32"),
    "layer_gradient_x_activation": _cascade("0.14 0.17 0.17 0.12 0.25", "0.34 0.16 0.26 0.15 0.29"),
    "layer_integrated_gradients": _cascade("0.26 0.19 0.22 0.14 0.18", "0.16 0.24 0.30 0.16 0.27"),
    "layer_lrp": _cascade("0.17 0.18 0.19 0.17 0.26", "0.30 0.09 0.26 0.16 0.29"),
    "lime": _cascade("0.09 0.00 0.00 0.00 0.00", "0.19 0.04 0.04 0.04 0.04"),
    "lrp": _cascade("0.43 0.41 0.39 0.34 0.23", "0.52 0.49 0.43 0.35 0.29"),
    "noise_tunnel": _cascade("0.68 0.68 0.61 0.59 0.52", "0.58 0.57 0.43 0.45 0.37"),
    "occlusion": _cascade("0.12 -0.05 0.04 0.06 0.08", "0.19 0.15 0.14 0.15 0.10"),
    "owen": _cascade("0.27 0.05 -0.03 0.07 0.02", "0.40 0.35 0.30 0.34 0.32"),
    "rise": _cascade("0.13 -0.01 0.09 0.25 0.08", "0.15 0.14 0.15 0.25 0.18"),
    "saliency": _cascade("0.41 0.34 0.31 0.28 0.13", "0.44 0.32 0.34 0.27 0.12"),
    "score_cam": _cascade("0.29 0.29 -0.13 0.01 0.03", "0.25 0.25 -0.07 0.06 0.12"),
    "shapley_value_sampling": _cascade("0.04 0.13 -0.04 0.13 0.25", "0.27 0.32 0.25 0.33 0.23"),
    "sobol": _cascade("0.33 0.38 0.07 0.17 -0.02", "0.40 0.36 0.28 0.29 0.14"),
    "x_grad_cam": _cascade("0.12 0.09 -0.03 0.08 0.03", "0.17 0.04 -0.05 0.07 -0.03"),
    "xrai": _cascade("0.20 0.25 0.16 0.12 0.15", "0.35 0.43 0.39 0.36 0.29"),
}

# By name: maps over the input, or over a layer of a CNN.
DIGITS: dict[str, float] = {
    "ablation_cam": 0.08,
    "augmented": 0.29,
    "blur_ig": 0.32,
    "deconvolution": 0.08,
    "deep_lift": 0.27,
    "deep_lift_shap": 0.27,
    "eigen_cam": 0.18,
    "eigen_grad_cam": 0.01,
    "feature_ablation": 0.23,
    "finer_cam": 0.12,
    "full_grad": 0.10,
    "grad_cam": 0.38,
    "grad_cam_plus_plus": 0.05,
    "gradient_shap": 0.29,
    "guided_backprop": 0.20,
    "guided_grad_cam": 0.41,
    "guided_ig": 0.27,
    "hi_res_cam": 0.08,
    "hsic": 0.09,
    "idgi": 0.21,
    "input_x_gradient": 0.31,
    "integrated_gradients": 0.29,
    "internal_influence": -0.07,
    "kernel_shap": 0.17,
    "layer_cam": -0.01,
    "layer_conductance": -0.05,
    "layer_deep_lift": -0.05,
    "layer_deep_lift_shap": -0.05,
    "layer_feature_ablation": 0.02,
    "layer_gradient_shap": -0.05,
    "layer_gradient_x_activation": 0.02,
    "layer_integrated_gradients": -0.05,
    "layer_lrp": 0.02,
    "lime": 0.18,
    "lrp": 0.31,
    "noise_tunnel": 0.37,
    "occlusion": 0.18,
    "rise": 0.11,
    "saliency": 0.12,
    "score_cam": 0.03,
    "x_grad_cam": 0.02,
    "xrai": 0.07,
}

_told: set[str] = set()


def tell_if_failing(cls_name: str, name: str | None) -> None:
    """Warn once per process of a method that fails the check.

    Args:
        cls_name: how the user calls it.
        name: its registered name, or None.
    """
    found = CASCADE.get(name or "")
    if name is None or found is None or name not in INSTEAD or not found.fails or name in _told:
        return
    _told.add(name)
    warnings.warn(
        f"{cls_name} fails the randomisation check: with the upper half of a trained network drawn anew, its maps "
        f"still correlate with the old ones by {found.upper_half:.2f} (saliency: {CASCADE['saliency'].upper_half:.2f}, "
        f"grad_cam: {CASCADE['grad_cam'].upper_half:.2f}), so they show the picture more than what the network "
        f"concludes from it. {INSTEAD[name]} (Adebayo et al. 2018; docs/methods.md. Said once.)",
        RandomisationWarning,
        stacklevel=4,
    )

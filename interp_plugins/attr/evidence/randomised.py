"""The randomisation check (Adebayo et al., NeurIPS 2018, arXiv:1810.03292), as measured: do maps know the weights?

`CASCADE`: EfficientNet-Lite0 with its ImageNet weights, drawn anew from the classifier downwards in five stages, each
on top of the one before: the classifier, its head and block 6, blocks 5 and 4, blocks 3 and 2, everything. After each
stage a method's absolute maps of three photographs (128 x 128) are compared with those of the trained network, by
Spearman's rank correlation and by SSIM. `python -m tests.benchmarks.bench_randomisation` measures it.

`TRANSFORMER`: MiniLM (BERT, six layers, trained on pairs of sentences), from the last layer downwards: layer 6, layer
5, layer 4, layers 3 to 1, the embeddings; rank correlation over the words of eight sentences. For the methods that need
attention, and some others beside them. `python -m tests.benchmarks.bench_randomisation --words` measures it.

`ANSWERS`: SmolLM2 (30 blocks of a Llama, trained to go on with texts and to answer), from the last block downwards:
block 30, blocks 29 to 23, 22 to 16, everything; rank correlation over the words of six texts. For the methods of
`explain_text`. `python -m tests.benchmarks.bench_randomisation --answers` measures it.

`DIGITS`: rank correlation before and after all weights of a small network trained on digits are drawn anew (a vision
transformer for the methods that need one), with the standard deviation of three draws; the tests measure it again.

A method whose maps still correlate by more than `LIMIT` while the upper half of the network is random (the mean of the
first three stages) shows the input rather than what the network concludes from it, and says so once per process.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from interp_plugins.core.errors import RandomisationWarning

LIMIT = 0.5


@dataclass(frozen=True)
class Cascade:
    """Agreement with the trained network's maps after each stage of randomisation.

    Attributes:
        rank: Spearman's correlation of absolute maps.
        ssim: structural similarity; empty for words.
        spread: standard deviation, over three draws of the weights, of the number that decides (`upper_half`); the
            other numbers are means over these draws. None: one draw, for methods that take minutes.
    """

    rank: tuple[float, ...]
    ssim: tuple[float, ...]
    spread: float | None = None

    @property
    def upper_half(self) -> float:
        """The mean rank correlation while the upper half is random and the lower half still trained."""
        return sum(self.rank[:3]) / 3

    @property
    def fails(self) -> bool:
        """Whether the map hardly notices that the upper half is random."""
        return self.upper_half > LIMIT


def _cascade(rank: str, ssim: str, spread: float | None = None) -> Cascade:
    return Cascade(tuple(map(float, rank.split())), tuple(map(float, ssim.split())), spread)


# What to use in place of a method that fails.
_WORDS = "Use input_x_gradient or feature_ablation beside it, which pass on that network."
INSTEAD = {
    "attention_relevance": _WORDS,
    "attention_rollout": "It knows no class by design. " + _WORDS,
    "deconvolution": "Use guided_grad_cam for detail, or grad_cam or integrated_gradients.",
    "eigen_cam": "It knows no class by design; use eigen_grad_cam or grad_cam for what speaks for a class.",
    "full_grad": "Use grad_cam or layer_cam for places, integrated_gradients for pixels.",
    "guided_backprop": "Use guided_grad_cam for detail, or grad_cam or integrated_gradients.",
    "le_grad": _WORDS,
}

CASCADE: dict[str, Cascade] = {
    "augmented": _cascade("0.38 0.36 0.35 0.32 0.26", "0.33 0.32 0.31 0.25 0.15"),
    "blur_ig": _cascade("0.36 0.30 0.26 0.27 0.26", "0.42 0.33 0.24 0.29 0.32", 0.006),
    "deconvolution": _cascade("0.99 0.87 0.35 0.03 0.01", "0.99 0.87 0.36 0.02 -0.02", 0.013),
    "deep_lift": _cascade("0.44 0.41 0.35 0.28 0.18", "0.48 0.45 0.35 0.29 0.21", 0.01),
    "deep_lift_shap": _cascade("0.46 0.43 0.39 0.33 0.23", "0.52 0.49 0.41 0.34 0.24", 0.003),
    "eigen_cam": _cascade("1.00 1.00 0.31 0.39 0.34", "1.00 1.00 0.26 0.31 0.28", 0.018),
    "eigen_grad_cam": _cascade("0.12 0.07 0.05 0.03 0.07", "0.31 0.25 -0.03 0.03 0.14", 0.013),
    "extremal_perturbation": _cascade("0.41 0.54 0.40 0.44 0.44", "0.46 0.54 0.48 0.52 0.52"),
    "feature_ablation": _cascade("0.12 -0.11 0.21 0.20 0.13", "0.35 0.27 0.34 0.34 0.14"),
    "feature_permutation": _cascade("0.08 -0.13 0.14 0.11 0.02", "0.28 0.20 0.30 0.27 0.20"),
    "finer_cam": _cascade("0.02 -0.02 -0.02 -0.09 -0.02", "0.07 0.05 0.00 0.02 0.00", 0.043),
    "full_grad": _cascade("0.91 0.81 0.74 0.52 0.29", "0.82 0.71 0.52 0.25 0.13", 0.022),
    "grad_cam": _cascade("-0.03 0.07 0.00 -0.03 0.05", "0.08 0.13 0.04 0.02 0.05", 0.026),
    "grad_cam_plus_plus": _cascade("0.69 0.73 -0.04 -0.03 -0.06", "0.64 0.68 0.02 -0.04 -0.02", 0.018),
    "gradient_shap": _cascade("0.33 0.31 0.27 0.26 0.25", "0.34 0.33 0.29 0.21 0.27", 0.003),
    "guided_backprop": _cascade("1.00 1.00 0.83 0.37 0.21", "1.00 0.99 0.78 0.40 0.19", 0.005),
    "guided_grad_cam": _cascade("0.44 0.26 0.21 0.15 0.15", "0.48 0.44 0.34 0.23 0.19", 0.114),
    "guided_ig": _cascade("0.31 0.29 0.27 0.24 0.22", "0.28 0.24 0.21 0.18 0.16", 0.007),
    "hi_res_cam": _cascade("-0.01 0.05 -0.01 -0.02 0.00", "0.10 0.16 -0.05 0.03 0.09", 0.017),
    "hsic": _cascade("0.07 0.03 -0.06 0.01 -0.06", "0.27 0.28 0.27 0.31 0.32"),
    "idgi": _cascade("0.39 0.36 0.21 0.07 0.00", "0.79 0.71 0.51 0.24 0.16", 0.017),
    "input_x_gradient": _cascade("0.45 0.44 0.42 0.37 0.20", "0.52 0.50 0.49 0.38 0.19", 0.008),
    "integrated_gradients": _cascade("0.43 0.40 0.38 0.33 0.25", "0.45 0.34 0.38 0.30 0.15", 0.002),
    "internal_influence": _cascade("0.33 0.22 0.15 0.17 0.11", "0.39 0.26 0.06 0.10 0.07", 0.031),
    "kernel_shap": _cascade("0.03 0.02 -0.07 -0.05 -0.05", "0.30 0.30 0.27 0.26 0.27", 0.038),
    "layer_cam": _cascade("0.11 0.07 -0.04 -0.07 0.00", "0.16 0.15 -0.05 -0.01 0.08", 0.033),
    "layer_conductance": _cascade("0.25 0.20 0.12 0.07 0.25", "0.32 0.22 0.12 0.14 0.23", 0.034),
    "layer_deep_lift": _cascade("0.30 0.25 0.17 0.16 0.24", "0.41 0.29 0.05 0.10 0.17", 0.05),
    "layer_deep_lift_shap": _cascade("0.33 0.27 0.19 0.15 0.22", "0.47 0.31 0.09 0.08 0.18", 0.048),
    "layer_feature_ablation": _cascade("0.26 0.23 0.10 0.05 0.05", "0.35 0.26 0.12 0.04 0.04", 0.031),
    "layer_feature_permutation": _cascade("0.14 0.16 0.10 0.16 -0.01", "0.25 0.21 0.10 0.20 0.02", 0.012),
    "layer_gradient_shap": _cascade("0.30 0.26 0.13 0.15 0.28", "0.30 0.19 0.10 0.11 0.29", 0.04),
    "layer_gradient_x_activation": _cascade("0.20 0.17 0.16 0.15 0.25", "0.31 0.26 0.20 0.11 0.24", 0.017),
    "layer_integrated_gradients": _cascade("0.31 0.20 0.15 0.19 0.17", "0.37 0.21 0.16 0.17 0.19", 0.031),
    "layer_lrp": _cascade("0.20 0.22 0.17 0.15 0.26", "0.29 0.23 0.21 0.10 0.28", 0.017),
    "lime": _cascade("0.12 0.00 0.00 0.00 0.00", "0.18 0.04 0.04 0.04 0.04", 0.011),
    "lrp": _cascade("0.43 0.42 0.39 0.34 0.22", "0.51 0.49 0.43 0.35 0.21", 0.005),
    "noise_tunnel": _cascade("0.68 0.68 0.61 0.59 0.52", "0.58 0.57 0.43 0.45 0.37"),
    "occlusion": _cascade("0.12 -0.05 0.04 0.06 0.08", "0.19 0.15 0.14 0.15 0.10"),
    "owen": _cascade("0.27 0.05 -0.03 0.07 0.02", "0.40 0.35 0.30 0.34 0.32"),
    "rise": _cascade("0.13 -0.01 0.09 0.25 0.08", "0.15 0.14 0.15 0.25 0.18"),
    "saliency": _cascade("0.41 0.36 0.32 0.27 0.12", "0.42 0.34 0.36 0.25 0.10", 0.014),
    "score_cam": _cascade("0.29 0.29 -0.13 0.01 0.03", "0.25 0.25 -0.07 0.06 0.12"),
    "shapley_value_sampling": _cascade("0.04 0.13 -0.04 0.13 0.25", "0.27 0.32 0.25 0.33 0.23"),
    "shapley_values": _cascade("0.31 0.16 0.19 0.21 0.07", "0.50 0.45 0.45 0.47 0.42", 0.051),
    "sobol": _cascade("0.33 0.38 0.07 0.17 -0.02", "0.40 0.36 0.28 0.29 0.14"),
    "x_grad_cam": _cascade("0.14 0.08 -0.03 0.10 0.00", "0.18 0.10 -0.01 0.11 0.01", 0.066),
    "xrai": _cascade("0.20 0.25 0.16 0.12 0.15", "0.35 0.43 0.39 0.36 0.29"),
}

# By name: mean and standard deviation over three networks.
DIGITS: dict[str, tuple[float, float]] = {
    "ablation_cam": (0.05, 0.06),
    "attention_relevance": (0.00, 0.20),
    "attention_rollout": (0.45, 0.27),
    "augmented": (0.30, 0.04),
    "blur_ig": (0.30, 0.01),
    "deconvolution": (0.05, 0.05),
    "deep_lift": (0.25, 0.03),
    "deep_lift_shap": (0.25, 0.03),
    "eigen_cam": (0.07, 0.32),
    "eigen_grad_cam": (-0.02, 0.04),
    "extremal_perturbation": (0.59, 0.14),
    "feature_ablation": (0.24, 0.04),
    "feature_permutation": (0.41, 0.01),
    "finer_cam": (0.03, 0.08),
    "full_grad": (0.09, 0.15),
    "grad_cam": (-0.02, 0.03),
    "grad_cam_plus_plus": (0.07, 0.22),
    "gradient_shap": (0.28, 0.02),
    "guided_backprop": (0.19, 0.05),
    "guided_grad_cam": (-0.02, 0.03),
    "guided_ig": (0.27, 0.03),
    "hi_res_cam": (0.08, 0.01),
    "hsic": (0.10, 0.05),
    "idgi": (0.20, 0.03),
    "input_x_gradient": (0.28, 0.06),
    "integrated_gradients": (0.27, 0.02),
    "internal_influence": (-0.04, 0.07),
    "kernel_shap": (0.03, 0.08),
    "layer_cam": (0.02, 0.06),
    "layer_conductance": (-0.06, 0.03),
    "layer_deep_lift": (-0.06, 0.03),
    "layer_deep_lift_shap": (-0.06, 0.03),
    "layer_feature_ablation": (0.03, 0.08),
    "layer_feature_permutation": (0.09, 0.03),
    "layer_gradient_shap": (-0.06, 0.03),
    "layer_gradient_x_activation": (0.03, 0.08),
    "layer_integrated_gradients": (-0.06, 0.03),
    "layer_lrp": (0.03, 0.08),
    "le_grad": (0.04, 0.11),
    "lime": (0.00, 0.00),
    "lrp": (0.28, 0.06),
    "neuron_conductance": (0.02, 0.03),
    "neuron_deconvolution": (0.05, 0.05),
    "neuron_deep_lift": (0.25, 0.03),
    "neuron_deep_lift_shap": (0.25, 0.03),
    "neuron_feature_ablation": (0.24, 0.04),
    "neuron_gradient": (0.10, 0.05),
    "neuron_gradient_shap": (0.28, 0.02),
    "neuron_guided_backprop": (0.19, 0.05),
    "neuron_integrated_gradients": (0.27, 0.02),
    "noise_tunnel": (0.32, 0.04),
    "occlusion": (0.16, 0.07),
    "owen": (0.16, 0.08),
    "rise": (0.04, 0.01),
    "saliency": (0.10, 0.05),
    "score_cam": (0.06, 0.13),
    "shapley_value_sampling": (0.19, 0.03),
    "shapley_values": (0.25, 0.14),
    "sobol": (0.38, 0.06),
    "x_grad_cam": (0.02, 0.03),
    "xrai": (-0.01, 0.12),
}

TRANSFORMER: dict[str, Cascade] = {
    "attention_relevance": _cascade("0.77 0.69 0.68 0.11 0.08", "", 0.005),
    "attention_rollout": _cascade("0.98 0.95 0.92 0.05 -0.06", "", 0.001),
    "deep_lift": _cascade("0.76 0.70 0.64 0.42 0.06", "", 0.005),
    "feature_ablation": _cascade("0.24 0.25 0.33 0.14 0.00", "", 0.022),
    "input_x_gradient": _cascade("0.23 0.01 0.08 -0.06 0.00", "", 0.014),
    "integrated_gradients": _cascade("0.79 0.65 0.63 0.54 0.04", "", 0.007),
    "le_grad": _cascade("0.82 0.74 0.68 0.14 0.06", "", 0.006),
    "lrp": _cascade("0.84 0.79 0.76 0.49 0.04", "", 0.006),
    "saliency": _cascade("0.87 0.85 0.85 -0.60 0.00", "", 0.004),
}

ANSWERS: dict[str, Cascade] = {
    "feature_ablation": _cascade("0.73 0.13 0.32 0.00", "", 0.054),
    "gradient_shap": _cascade("0.44 0.13 0.12 -0.19", "", 0.132),
    "input_x_gradient": _cascade("0.43 0.27 0.08 0.04", "", 0.051),
    "integrated_gradients": _cascade("0.39 0.32 0.20 -0.05", "", 0.05),
    "kernel_shap": _cascade("0.65 0.47 0.32 -0.27", ""),
    "lime": _cascade("0.67 0.02 0.34 -0.22", ""),
    "lrp": _cascade("0.80 0.61 0.57 -0.01", "", 0.078),
    "shapley_value_sampling": _cascade("0.54 0.20 -0.04 0.17", ""),
    "shapley_values": _cascade("0.70 0.37 0.20 -0.24", ""),
}

PASSING_WORDS = ("input_x_gradient", "feature_ablation")
_told: set[str] = set()


def verdict(name: str) -> Cascade | None:
    """What a method is judged by: the photographs, or the sentences for what needs attention. None: not judged."""
    return CASCADE.get(name) or (TRANSFORMER.get(name) if name in INSTEAD else None)


def tell_if_failing(cls_name: str, name: str | None) -> None:
    """Warn once per process of a method that fails the check.

    Args:
        cls_name: how the user calls it.
        name: its registered name, or None.
    """
    found = verdict(name or "")
    if name is None or found is None or name not in INSTEAD or not found.fails or name in _told:
        return
    _told.add(name)
    others, what = (CASCADE, ("saliency", "grad_cam")) if name in CASCADE else (TRANSFORMER, PASSING_WORDS)
    beside = ", ".join(f"{other}: {others[other].upper_half:.2f}" for other in what)
    warnings.warn(
        f"{cls_name} fails the randomisation check: with the upper half of a trained network drawn anew, its maps "
        f"still correlate with the old ones by {found.upper_half:.2f} ({beside}), so they show the input more than "
        f"what the network concludes from it. {INSTEAD[name]} (Adebayo et al. 2018; docs/methods.md. Said once.)",
        RandomisationWarning,
        stacklevel=4,
    )

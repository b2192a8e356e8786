"""What may be given as `methods`: the names are spelled out here for editors, which then offer them.

A test compares the names with those that are registered. Methods of other packages register more at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias


class HasAttribute(Protocol):
    """A method object: anything with Captum's `attribute(inputs, target=..., ...)`."""

    attribute: Any


MethodName: TypeAlias = Literal[
    "ablation_cam",
    "attention_relevance",
    "attention_rollout",
    "augmented",
    "blur_ig",
    "deconvolution",
    "deep_lift",
    "deep_lift_shap",
    "eigen_cam",
    "eigen_grad_cam",
    "extremal_perturbation",
    "feature_ablation",
    "feature_permutation",
    "finer_cam",
    "full_grad",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_shap",
    "guided_backprop",
    "guided_grad_cam",
    "guided_ig",
    "hi_res_cam",
    "hsic",
    "idgi",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "kernel_shap",
    "layer_activation",
    "layer_cam",
    "layer_conductance",
    "layer_deep_lift",
    "layer_deep_lift_shap",
    "layer_feature_ablation",
    "layer_feature_permutation",
    "layer_gradient_shap",
    "layer_gradient_x_activation",
    "layer_integrated_gradients",
    "layer_lrp",
    "le_grad",
    "lime",
    "lrp",
    "neuron_conductance",
    "neuron_deconvolution",
    "neuron_deep_lift",
    "neuron_deep_lift_shap",
    "neuron_feature_ablation",
    "neuron_gradient",
    "neuron_gradient_shap",
    "neuron_guided_backprop",
    "neuron_integrated_gradients",
    "noise_tunnel",
    "occlusion",
    "owen",
    "rise",
    "saliency",
    "score_cam",
    "shapley_value_sampling",
    "shapley_values",
    "sobol",
    "x_grad_cam",
    "xrai",
]
Method: TypeAlias = MethodName | str | HasAttribute  # names are case-insensitive, and have aliases
Methods: TypeAlias = Method | Sequence[Method] | Mapping[str, Mapping[str, Any]]  # the last: name -> parameters

"""Captum's path `captum.attr._core.layer.layer_gradient_shap`, for code that imports from there."""

from interp_plugins.attr.gradient.layers import LayerGradientShap as LayerGradientShap
from interp_plugins.attr.gradient.random_point import LayerInputBaselineXGradient as LayerInputBaselineXGradient

"""Captum's path `captum.attr._core.gradient_shap`, for code that imports from there."""

from interp_plugins.attr.gradient.gradient_shap import GradientShap as GradientShap
from interp_plugins.attr.gradient.random_point import InputBaselineXGradient as InputBaselineXGradient

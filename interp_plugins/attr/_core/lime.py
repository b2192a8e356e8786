"""Captum's `captum.attr._core.lime`: Lime, and the parts that it is made of."""

from interp_plugins.attr.perturbation.lime import Lime as Lime
from interp_plugins.attr.perturbation.lime import LimeBase as LimeBase
from interp_plugins.attr.perturbation.lime_sampling import (
    default_from_interp_rep_transform as default_from_interp_rep_transform,
)
from interp_plugins.attr.perturbation.lime_sampling import (
    default_perturb_func as default_perturb_func,
)
from interp_plugins.attr.perturbation.lime_sampling import (
    get_exp_kernel_similarity_function as get_exp_kernel_similarity_function,
)

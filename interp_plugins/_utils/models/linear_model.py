"""Captum's `captum._utils.models.linear_model`: what Lime fits."""

from interp_plugins.attr.perturbation.surrogate import (
    SkLearnLasso as SkLearnLasso,
)
from interp_plugins.attr.perturbation.surrogate import (
    SkLearnLinearModel as SkLearnLinearModel,
)
from interp_plugins.attr.perturbation.surrogate import (
    SkLearnLinearRegression as SkLearnLinearRegression,
)
from interp_plugins.attr.perturbation.surrogate import (
    SkLearnRidge as SkLearnRidge,
)

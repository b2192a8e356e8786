"""Captum Insights' `captum.insights.attr_vis.features`: the kinds of inputs."""

from interp_plugins.insights.captum import (
    EmptyFeature as EmptyFeature,
)
from interp_plugins.insights.captum import (
    GeneralFeature as GeneralFeature,
)
from interp_plugins.insights.captum import (
    ImageFeature as ImageFeature,
)
from interp_plugins.insights.captum import (
    TextFeature as TextFeature,
)

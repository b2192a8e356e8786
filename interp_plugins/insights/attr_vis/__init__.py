"""Captum's path `captum.insights.attr_vis`, for code that imports from there."""

from interp_plugins.insights.captum import AttributionVisualizer as AttributionVisualizer
from interp_plugins.insights.captum import Batch as Batch

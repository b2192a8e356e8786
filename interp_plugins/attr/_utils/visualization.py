"""Captum's path `captum.attr._utils.visualization`, for code that imports from there."""

from interp_plugins.attr.compat.visualization import (
    ImageVisualizationMethod as ImageVisualizationMethod,
)
from interp_plugins.attr.compat.visualization import (
    TimeseriesVisualizationMethod as TimeseriesVisualizationMethod,
)
from interp_plugins.attr.compat.visualization import (
    VisualizationDataRecord as VisualizationDataRecord,
)
from interp_plugins.attr.compat.visualization import (
    VisualizeSign as VisualizeSign,
)
from interp_plugins.attr.compat.visualization import (
    visualize_image_attr as visualize_image_attr,
)
from interp_plugins.attr.compat.visualization import (
    visualize_image_attr_multiple as visualize_image_attr_multiple,
)
from interp_plugins.attr.compat.visualization import (
    visualize_text as visualize_text,
)
from interp_plugins.attr.compat.visualization import (
    visualize_timeseries_attr as visualize_timeseries_attr,
)

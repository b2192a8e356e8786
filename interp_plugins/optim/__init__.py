"""What units of a network look for: pictures that excite them, and the data that do (feature visualisation).

`visualize` climbs from noise to the pictures that channels, neurons, directions or classes are most active for, and
puts beside them what the data say: the examples that excite the unit most, its values over the data, and scores of how
near the picture is to them. `dataset_examples` gives the examples alone, for texts and tables as well. What is climbed
is an objective of `objectives`; how a picture is made is one of `params`; how the model sees it one of `transforms`.
"""

from interp_plugins.optim import objectives, params, transforms
from interp_plugins.optim.atlas import atlas
from interp_plugins.optim.atlas_result import Atlas
from interp_plugins.optim.circuits import expanded_weights
from interp_plugins.optim.examples import dataset_examples
from interp_plugins.optim.found import Examples
from interp_plugins.optim.inverting import accentuate, caricature, invert
from interp_plugins.optim.objective import Objective
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize

__all__ = [
    "Atlas",
    "Examples",
    "Objective",
    "Visualization",
    "accentuate",
    "atlas",
    "caricature",
    "dataset_examples",
    "expanded_weights",
    "invert",
    "objectives",
    "params",
    "transforms",
    "visualize",
]


def __dir__() -> list[str]:
    return __all__

"""Gates that a network learns beside its weights: which inputs it can do without, under Captum's names.

`BinaryConcreteStochasticGates` and `GaussianStochasticGates` multiply features by gates between 0 and 1 that are drawn
while the network trains; the expected number of open gates is a penalty with a gradient.
"""

from interp_plugins.module.binary_concrete import BinaryConcreteStochasticGates
from interp_plugins.module.gates import StochasticGatesBase
from interp_plugins.module.gaussian import GaussianStochasticGates

__all__ = ["BinaryConcreteStochasticGates", "GaussianStochasticGates", "StochasticGatesBase"]

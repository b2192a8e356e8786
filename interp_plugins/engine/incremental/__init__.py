"""Incremental perturbation: only what a window or segment can reach is computed again, exactly."""

from interp_plugins.engine.incremental.cost import Cost, occlusion_cost
from interp_plugins.engine.incremental.engine import Incremental
from interp_plugins.engine.incremental.walk import Walker

__all__ = ["Cost", "Incremental", "Walker", "occlusion_cost"]

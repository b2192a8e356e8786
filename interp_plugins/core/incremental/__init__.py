"""Incremental perturbation: only what a window or segment can reach is computed again, exactly."""

from .engine import Incremental
from .table import Cost, occlusion_cost

__all__ = ["Cost", "Incremental", "occlusion_cost"]

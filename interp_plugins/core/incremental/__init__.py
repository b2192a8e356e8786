"""Incremental perturbation: only what a window or segment can reach is computed again, exactly."""

from .engine import Incremental
from .table import Cost, occlusion_cost
from .walk import Walker

__all__ = ["Cost", "Incremental", "Walker", "occlusion_cost"]

"""Incremental perturbation: only what a window or segment can reach is computed again, exactly."""

from .engine import Incremental

__all__ = ["Incremental"]

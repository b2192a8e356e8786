"""Incremental perturbation: only what a window or segment can reach is computed again, exactly."""

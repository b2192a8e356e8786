"""Captum's paths below `captum.attr._core`, for code that imports from there."""

"""Captum's paths below `captum.attr._core.layer`, for code that imports from there."""

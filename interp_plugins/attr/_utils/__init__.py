"""Captum's paths below `captum.attr._utils`, for code that imports from there."""

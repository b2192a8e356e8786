"""Captum's paths below `captum._utils`, for code that imports from there."""

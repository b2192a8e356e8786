"""Captum's path `captum._utils.models`, for code that imports from there."""

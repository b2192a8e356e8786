"""Captum's path `captum.attr._utils.input_layer_wrapper`, for code that imports from there."""

from interp_plugins.attr.compat.embeddings import InputIdentity as InputIdentity
from interp_plugins.attr.compat.embeddings import ModelInputWrapper as ModelInputWrapper

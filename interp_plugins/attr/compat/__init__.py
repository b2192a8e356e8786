"""Captum's further names under `captum.attr`: visualization, interpretable embeddings, model summary."""

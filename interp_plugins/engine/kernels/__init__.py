"""Weights and products in forms that run faster on a processor: Winograd's convolutions, oneDNN's packing."""

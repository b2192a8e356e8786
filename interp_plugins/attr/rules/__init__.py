"""Backward rules at function level, shared by DeepLift, guided backpropagation and relevance propagation."""

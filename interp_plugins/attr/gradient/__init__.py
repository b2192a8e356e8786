"""Methods that multiply, average or integrate gradients."""

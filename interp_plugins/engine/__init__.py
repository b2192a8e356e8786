"""Everything that is faster and equal: planned forwards, incremental perturbation, kernels, shared passes."""

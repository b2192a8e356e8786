"""Numbers about attribution maps: how alike two are, how few elements carry one, what the model does without them.

Functions from maps (a tensor or a tuple of tensors, batch first) to one number, or one curve, per sample.
"""

from interp_plugins.metrics.removal import RemovalCurves, removal_curves
from interp_plugins.metrics.similarity import cosine_similarity, spearman_correlation
from interp_plugins.metrics.sparseness import gini_index

__all__ = ["RemovalCurves", "cosine_similarity", "gini_index", "removal_curves", "spearman_correlation"]

"""Numbers about attribution maps: how alike two are, how few elements carry one.

Pure functions from maps (a tensor or a tuple of tensors, batch first) to one number per sample.
"""

from .similarity import cosine_similarity, spearman_correlation
from .sparseness import gini_index

__all__ = ["cosine_similarity", "gini_index", "spearman_correlation"]

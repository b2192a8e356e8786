"""Numbers about attribution maps: do they lie on the thing, are they true, simple, alike; what the model does without.

Pure functions from maps, or an `Explanation`, to one number per sample; `metric(name)` accumulates them over batches.
`list_metrics()` names them, docs/metrics.md says what each means.
"""

from interp_plugins.metrics.accumulate import Metric, metric
from interp_plugins.metrics.agreement import (
    agreement_matrix,
    feature_agreement,
    pairwise_rank_agreement,
    rank_agreement,
    sign_agreement,
    signed_rank_agreement,
    top_k_overlap,
)
from interp_plugins.metrics.faithfulness import (
    comprehensiveness,
    irof,
    pixel_flipping,
    region_perturbation,
    selectivity,
    srg,
    sufficiency,
)
from interp_plugins.metrics.grid import focus, grid_pointing
from interp_plugins.metrics.localisation import mass_distance, pointing_game, relevance_mass, relevance_rank, top_k
from interp_plugins.metrics.overlap import mask_ap, mask_auc, mask_iou
from interp_plugins.metrics.registry import MetricInfo, list_metrics, metric_info, register_metric
from interp_plugins.metrics.removal import RemovalCurves, removal_curves
from interp_plugins.metrics.score import Score, Scores
from interp_plugins.metrics.similarity import cosine_similarity, kendall_tau, spearman_correlation, ssim
from interp_plugins.metrics.sparseness import effective_size, entropy, gini_index, hoyer, mass_share, support_size
from interp_plugins.metrics.truth import impossible_mass, truth_auc, truth_cosine, truth_error, truth_rank

__all__ = [
    "sufficiency",
    "srg",
    "selectivity",
    "region_perturbation",
    "pixel_flipping",
    "irof",
    "comprehensiveness",
    "Metric",
    "MetricInfo",
    "RemovalCurves",
    "Score",
    "Scores",
    "agreement_matrix",
    "cosine_similarity",
    "effective_size",
    "entropy",
    "feature_agreement",
    "focus",
    "gini_index",
    "grid_pointing",
    "hoyer",
    "impossible_mass",
    "kendall_tau",
    "list_metrics",
    "mask_ap",
    "mask_auc",
    "mask_iou",
    "mass_distance",
    "mass_share",
    "metric",
    "metric_info",
    "pairwise_rank_agreement",
    "pointing_game",
    "rank_agreement",
    "register_metric",
    "relevance_mass",
    "relevance_rank",
    "removal_curves",
    "sign_agreement",
    "signed_rank_agreement",
    "spearman_correlation",
    "ssim",
    "support_size",
    "top_k",
    "top_k_overlap",
    "truth_auc",
    "truth_cosine",
    "truth_error",
    "truth_rank",
]

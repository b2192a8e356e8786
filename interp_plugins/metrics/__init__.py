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
from interp_plugins.metrics.asked_rows import AskedRows
from interp_plugins.metrics.average_drop import average_drop, average_gain, average_increase
from interp_plugins.metrics.axioms import completeness, dummy, non_sensitivity
from interp_plugins.metrics.bridge import as_torchmetric
from interp_plugins.metrics.captum_infidelity import infidelity, infidelity_perturb_func_decorator
from interp_plugins.metrics.captum_sensitivity import default_perturb_func, sensitivity_max
from interp_plugins.metrics.class_agreement import consistency_classes, sufficiency_classes
from interp_plugins.metrics.comparing import compare_methods
from interp_plugins.metrics.comparison import Comparison
from interp_plugins.metrics.counterparts import complexity_rise, input_invariance, random_data, random_target
from interp_plugins.metrics.evaluation import Evaluation, evaluate
from interp_plugins.metrics.explainer import Explainer
from interp_plugins.metrics.faithfulness import (
    comprehensiveness,
    irof,
    monotonicity,
    pixel_flipping,
    region_perturbation,
    selectivity,
    srg,
    sufficiency,
)
from interp_plugins.metrics.grid import focus, grid_pointing
from interp_plugins.metrics.information import aic, sic
from interp_plugins.metrics.localisation import mass_distance, pointing_game, relevance_mass, relevance_rank, top_k
from interp_plugins.metrics.map_infidelity import map_infidelity
from interp_plugins.metrics.method_axioms import implementation_invariance, linearity, symmetry
from interp_plugins.metrics.moved import continuity, equivariance, seed_stability
from interp_plugins.metrics.neighbours import Neighbourhood, explained_neighbours
from interp_plugins.metrics.overlap import mask_ap, mask_auc, mask_iou
from interp_plugins.metrics.planning import planned_passes
from interp_plugins.metrics.prediction_gap import prediction_gap
from interp_plugins.metrics.randomisation import RandomisationCurves, parameter_randomisation, randomisation_curves
from interp_plugins.metrics.registry import MetricInfo, list_metrics, metric_info, register_metric
from interp_plugins.metrics.removal import RemovalCurves, removal_curves
from interp_plugins.metrics.replaced import monotonicity_correlation
from interp_plugins.metrics.road import RoadCurves, road, road_curves
from interp_plugins.metrics.score import Score
from interp_plugins.metrics.scores import Scores
from interp_plugins.metrics.sheet import SharedRows, shared_rows
from interp_plugins.metrics.similarity import cosine_similarity, kendall_tau, spearman_correlation, ssim
from interp_plugins.metrics.sparseness import effective_size, entropy, gini_index, hoyer, mass_share, support_size
from interp_plugins.metrics.stability import (
    local_lipschitz,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    sensitivity_avg,
)
from interp_plugins.metrics.subset_metrics import (
    SensitivityCurve,
    faithfulness_correlation,
    faithfulness_estimate,
    mu_fidelity,
    sensitivity_curve,
    sensitivity_n,
)
from interp_plugins.metrics.together import Together, judge_together
from interp_plugins.metrics.truth import impossible_mass, truth_auc, truth_cosine, truth_error, truth_rank
from interp_plugins.metrics.weights_gain import weights_gain

__all__ = [
    "AskedRows",
    "Comparison",
    "Evaluation",
    "Explainer",
    "Metric",
    "MetricInfo",
    "Neighbourhood",
    "RandomisationCurves",
    "RemovalCurves",
    "RoadCurves",
    "Score",
    "Scores",
    "SensitivityCurve",
    "SharedRows",
    "Together",
    "agreement_matrix",
    "aic",
    "as_torchmetric",
    "average_drop",
    "average_gain",
    "average_increase",
    "compare_methods",
    "completeness",
    "complexity_rise",
    "comprehensiveness",
    "consistency_classes",
    "continuity",
    "cosine_similarity",
    "default_perturb_func",
    "dummy",
    "effective_size",
    "entropy",
    "equivariance",
    "evaluate",
    "explained_neighbours",
    "faithfulness_correlation",
    "faithfulness_estimate",
    "feature_agreement",
    "focus",
    "gini_index",
    "grid_pointing",
    "hoyer",
    "implementation_invariance",
    "impossible_mass",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "input_invariance",
    "irof",
    "judge_together",
    "kendall_tau",
    "linearity",
    "list_metrics",
    "local_lipschitz",
    "map_infidelity",
    "mask_ap",
    "mask_auc",
    "mask_iou",
    "mass_distance",
    "mass_share",
    "metric",
    "metric_info",
    "monotonicity",
    "monotonicity_correlation",
    "mu_fidelity",
    "non_sensitivity",
    "pairwise_rank_agreement",
    "parameter_randomisation",
    "pixel_flipping",
    "planned_passes",
    "pointing_game",
    "prediction_gap",
    "random_data",
    "random_target",
    "randomisation_curves",
    "rank_agreement",
    "region_perturbation",
    "register_metric",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relevance_mass",
    "relevance_rank",
    "removal_curves",
    "road",
    "road_curves",
    "seed_stability",
    "selectivity",
    "sensitivity_avg",
    "sensitivity_curve",
    "sensitivity_max",
    "sensitivity_n",
    "shared_rows",
    "sic",
    "sign_agreement",
    "signed_rank_agreement",
    "spearman_correlation",
    "srg",
    "ssim",
    "sufficiency",
    "sufficiency_classes",
    "support_size",
    "symmetry",
    "top_k",
    "top_k_overlap",
    "truth_auc",
    "truth_cosine",
    "truth_error",
    "truth_rank",
    "weights_gain",
]

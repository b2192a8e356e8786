"""Coming from Quantus: its names, ours, and what differs, as docs/metrics.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """A metric of Quantus 0.6, and ours.

    Attributes:
        theirs: name of the class.
        ours: registered name.
        params: of ours, where they are needed to say the same.
        differs: what is otherwise here.
    """

    theirs: str
    ours: str
    params: Mapping[str, Any] = field(default_factory=dict)
    differs: str = ""


_NEAR = "relative radius, neighbours of another class are left out; one set of neighbours for all such metrics"
RENAMED = (
    Renamed("FaithfulnessCorrelation", "faithfulness_correlation", {"n_subsets": 100}, "rows shared by methods"),
    Renamed("FaithfulnessEstimate", "faithfulness_estimate"),
    Renamed("PixelFlipping", "pixel_flipping", {"steps": 4}, "steps of elements together; the mean fall, not a sum"),
    Renamed("RegionPerturbation", "region_perturbation", {"window": 1}, "high is better, which is said"),
    Renamed("Selectivity", "selectivity", {"window": 1}, "the area under the curve, divided by its width"),
    Renamed("Monotonicity", "monotonicity", {}, "elements enter the baseline, as in the paper: it can fail"),
    Renamed("MonotonicityCorrelation", "monotonicity_correlation", {"replacement": "baseline"}, "data or a range too"),
    Renamed("SensitivityN", "sensitivity_n", {}, "random subsets within a sample, as in the paper: 1 for an exact map"),
    Renamed("IROF", "irof", {}, "in [.., 1], a sample's own baseline; 0 for a constant model"),
    Renamed("ROAD", "road", {"percentages": (50,)}, "pictures of any channels; a value per sample, least minus most"),
    Renamed("Infidelity", "infidelity", {}, "the paper's expectation over draws; `infidelity` has Captum's arguments"),
    Renamed("Sufficiency", "sufficiency_classes", {}, "all pairs of the data set, not of a batch"),
    Renamed("Consistency", "consistency_classes", {"k": 2}, "the largest features with signs; all pairs; high is good"),
    Renamed("MaxSensitivity", "sensitivity_max", {"n_neighbours": 3}, _NEAR),
    Renamed("AvgSensitivity", "sensitivity_avg", {"n_neighbours": 3}, _NEAR),
    Renamed("LocalLipschitzEstimate", "local_lipschitz", {"n_neighbours": 3}, _NEAR),
    Renamed("RelativeInputStability", "relative_input_stability", {"n_neighbours": 3}, _NEAR),
    Renamed("RelativeOutputStability", "relative_output_stability", {"n_neighbours": 3}, _NEAR),
    Renamed("RelativeRepresentationStability", "relative_representation_stability", {"n_neighbours": 3}, _NEAR),
    Renamed("Continuity", "continuity", {"n_neighbours": 3}, "the paper's ratio; with `shift=` maps are moved back"),
    Renamed("PointingGame", "pointing_game", {}, "a constant map gets the mask's share; `tolerance=`"),
    Renamed("TopKIntersection", "top_k", {"k": 2}, "`weighted=` is its concept influence"),
    Renamed("RelevanceMassAccuracy", "relevance_mass", {}, "positive mass; `sign=`"),
    Renamed("RelevanceRankAccuracy", "relevance_rank", {}, "ties by the mean over all orders"),
    Renamed("AttributionLocalisation", "relevance_mass", {"weighted": True}, "weighted by the mask's size"),
    Renamed("AUC", "mask_auc"),
    Renamed("Focus", "focus", {"grid": (2, 2)}, "the cells are given as masks; no mosaic is made for you"),
    Renamed("Sparseness", "gini_index"),
    Renamed("Complexity", "entropy", {}, "`relative=True` for maps of other sizes"),
    Renamed("EffectiveComplexity", "support_size", {"tol": 1e-5}, "`tol` is relative to the largest element"),
    Renamed("MPRT", "parameter_randomisation", {"stages": 2}, "stages of layers together; weights never written to"),
    Renamed("SmoothMPRT", "parameter_randomisation", {"stages": 2, "smooth": 2}),
    Renamed("EfficientMPRT", "complexity_rise"),
    Renamed("RandomLogit", "random_target", {}, "the same draw for every method"),
    Renamed("Completeness", "completeness", {}, "relative error: 0 is complete, no True and False"),
    Renamed("NonSensitivity", "non_sensitivity", {"n_draws": 2}, "of the score that `target=` names, no softmax"),
    Renamed("InputInvariance", "input_invariance", {}, "a constant taken off by the model; 0 is invariant"),
)
_GENERAL = """\
`softmax=True` becomes `target=Probability(c)`: a score is named, never a default. `abs=` becomes `sign=`, `normalise=`
falls away (formulas are scale-invariant, or say so), `perturb_baseline="black"` (the sample's minimum there) becomes
`baselines="black"` or a value. `quantus.evaluate(metrics, xai_methods, ...)` becomes `evaluate(model, data, methods,
metrics)`: nothing is swallowed, no value depends on batch mates, an undefined one is counted and not 0."""


def table() -> str:
    """The section of docs/metrics.md."""
    lines = ["| Quantus | Here | What differs |", "|---|---|---|"]
    for one in RENAMED:
        params = ", ".join(f"{k}={v!r}" for k, v in one.params.items() if k in ("weighted", "smooth"))
        call = f"{one.ours}({params})" if params else one.ours
        lines.append(f"| `{one.theirs}` | `{call}` | {one.differs or 'nothing but names'} |")
    return "\n".join(["## Coming from Quantus", "", _GENERAL, "", *lines, ""])

"""Everything that is faster and equal, behind one face.

    planned             a private, faster, equal view of the model, for a loop that runs it many times
    behind_first_layer  the same, as a function of its first linear layer's output (straight paths)
    Incremental.of      scores of perturbed rows, computed from what changed
    Walker.of           scores along orders of features, each from the one before
    cached_pass, clean_scores   passes on the samples themselves, shared by the methods of one call
    acceleration        the switch of them all; `compilation` asks for `torch.compile`

All of it is exact up to rounding, checked on the actual input, and dropped where it does not agree. Other rooms import
this face alone.
"""

from interp_plugins.engine.incremental.engine import Incremental
from interp_plugins.engine.incremental.walk import Walker
from interp_plugins.engine.plan.compiled import as_backend, check_methods, compilation
from interp_plugins.engine.plan.first_layer import BehindFirstLayer
from interp_plugins.engine.plan.planned import behind_first_layer, planned
from interp_plugins.engine.shared_passes import MergesBatch, cached_pass, clean_scores
from interp_plugins.engine.switch import acceleration, enabled

__all__ = [
    "BehindFirstLayer",
    "Incremental",
    "MergesBatch",
    "Walker",
    "acceleration",
    "as_backend",
    "behind_first_layer",
    "cached_pass",
    "check_methods",
    "clean_scores",
    "compilation",
    "enabled",
    "planned",
]

"""Everything that is faster and equal, behind one face.

    planned             a private, faster, equal view of the model, for a loop that runs it many times
    behind_first_layer  the same, as a function of its first linear layer's output (straight paths)
    incremental_for     scores of perturbed rows, computed from what changed
    walker_for          scores along orders of features, each from the one before
    cached_pass, clean_scores   passes on the samples themselves, shared by the methods of one call
    first_pass, first_gradients the pass that begins a call, with its graph: prediction, layer and first gradient
    share_passes        where these are shared at all: in `explain`
    acceleration        the switch of them all; `compilation` asks for `torch.compile`

All of it is exact up to rounding, compared with the plain model on the actual input, and dropped where it does not
agree; `read_meter` tells what ran and what was dropped, and why. Other rooms import this face alone.
"""

from interp_plugins.engine.incremental.engine import Incremental, incremental_for
from interp_plugins.engine.incremental.walk import Walker, walker_for
from interp_plugins.engine.meter import percent
from interp_plugins.engine.meter import read as read_meter
from interp_plugins.engine.opening_pass import first_gradients, first_pass, forget_first_pass, shapes_asked
from interp_plugins.engine.plan.compiled import as_backend, check_methods, compilation
from interp_plugins.engine.plan.first_layer import BehindFirstLayer
from interp_plugins.engine.plan.lower import Lower, precision_of
from interp_plugins.engine.plan.lowered import lower_of
from interp_plugins.engine.plan.planned import behind_first_layer, planned
from interp_plugins.engine.shared_passes import MergesBatch, alone, cached_pass, clean_scores, share_passes, sharing
from interp_plugins.engine.switch import acceleration, asked_precision, enabled, precision_limit

__all__ = [
    "BehindFirstLayer",
    "Incremental",
    "Lower",
    "MergesBatch",
    "Walker",
    "acceleration",
    "alone",
    "as_backend",
    "asked_precision",
    "behind_first_layer",
    "cached_pass",
    "check_methods",
    "clean_scores",
    "compilation",
    "enabled",
    "incremental_for",
    "lower_of",
    "precision_limit",
    "first_gradients",
    "first_pass",
    "forget_first_pass",
    "shapes_asked",
    "share_passes",
    "sharing",
    "percent",
    "planned",
    "precision_of",
    "read_meter",
    "walker_for",
]

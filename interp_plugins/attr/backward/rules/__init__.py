"""Backward rules at function level, shared by DeepLift, guided backpropagation and relevance propagation.

The rules of relevance propagation and their composites are for users; see docs/rules.md.
"""

from interp_plugins.attr.backward.rules.composites import (
    COMPOSITES,
    Composite,
    attn_lrp,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
)
from interp_plugins.attr.backward.rules.relevance import (
    AlphaBeta,
    Epsilon,
    FixedScale,
    Flat,
    Gamma,
    Pass,
    PositiveWeights,
    RelevanceRule,
    Route,
    WSquare,
    ZBox,
    ZPlus,
)

__all__ = [
    "COMPOSITES",
    "AlphaBeta",
    "ZBox",
    "Composite",
    "Epsilon",
    "FixedScale",
    "Flat",
    "Gamma",
    "Pass",
    "PositiveWeights",
    "RelevanceRule",
    "Route",
    "WSquare",
    "ZPlus",
    "attn_lrp",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
]

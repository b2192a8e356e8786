"""LRP's rules under Captum's names, each one of `relevance.py`'s."""

from __future__ import annotations

from interp_plugins.attr.backward.rules.relevance import Epsilon, Gamma, Pass, PositiveWeights, RelevanceRule

PropagationRule = RelevanceRule


class EpsilonRule(Epsilon):
    """Shares in proportion to the contributions, with a stabilizer: Captum's EpsilonRule.

    Args:
        epsilon: the stabilizer.
    """

    def __init__(self, epsilon: float = 1e-9):
        super().__init__(epsilon)


class GammaRule(Gamma):
    """Positive weights count (1 + gamma) times: Captum's GammaRule, which does not look at the signs of the inputs.

    Args:
        gamma: how much more positive weights count.
        set_bias_to_zero: leave the biases out.
    """

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False):
        super().__init__(gamma, 1e-9, set_bias_to_zero, signed=False)


class Alpha1_Beta0_Rule(PositiveWeights):
    """Positive weights alone: Captum's Alpha1_Beta0_Rule.

    Args:
        set_bias_to_zero: leave the biases out.
    """

    def __init__(self, set_bias_to_zero: bool = False):
        super().__init__(1e-9, set_bias_to_zero)


class IdentityRule(Pass):
    """The relevance goes on as it is: Captum's IdentityRule, for layers whose output has their input's shape."""

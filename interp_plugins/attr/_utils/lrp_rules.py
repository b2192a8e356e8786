"""Captum's `captum.attr._utils.lrp_rules`: its rules for LRP by its names, to hang on modules or give to `LRP`.

    model.conv1.rule = GammaRule(gamma=0.1)
    LRP(model).attribute(x, target=3)

They are the rules of `attr.backward.rules`, which has more of them.
"""

from interp_plugins.attr.backward.rules.captum_names import (
    Alpha1_Beta0_Rule as Alpha1_Beta0_Rule,
)
from interp_plugins.attr.backward.rules.captum_names import (
    EpsilonRule as EpsilonRule,
)
from interp_plugins.attr.backward.rules.captum_names import (
    GammaRule as GammaRule,
)
from interp_plugins.attr.backward.rules.captum_names import (
    IdentityRule as IdentityRule,
)
from interp_plugins.attr.backward.rules.captum_names import (
    PropagationRule as PropagationRule,
)

"""What changes when the input changes: attacks that turn a model, and how large they must be.

`attack` changes a batch so that the model says another class, and tells what came of it. Under Captum's names: `FGSM`
and `PGD` move inputs along the gradient, within a size and between bounds; `MinParamPerturbation` finds the smallest
value of any attack's parameter that turns the model; `AttackComparator` compares a metric under several attacks.
docs/robust.md tells what each promises.
"""

from interp_plugins.robust.attacking import attack
from interp_plugins.robust.bridge import as_attack
from interp_plugins.robust.certificate import Certificate
from interp_plugins.robust.certifying import certify
from interp_plugins.robust.comparator import AttackComparator
from interp_plugins.robust.corrupting import corruptions
from interp_plugins.robust.corruption import CORRUPTIONS, Corruption
from interp_plugins.robust.counterfactuals import counterfactual
from interp_plugins.robust.explained import ExplanationRobustness
from interp_plugins.robust.explaining import explanation_robustness
from interp_plugins.robust.fgsm import FGSM
from interp_plugins.robust.measured import Robustness
from interp_plugins.robust.measuring import robustness
from interp_plugins.robust.min_param import MinParamPerturbation
from interp_plugins.robust.most_important import MostImportant
from interp_plugins.robust.patch import Patch
from interp_plugins.robust.perturbation import Perturbation
from interp_plugins.robust.perturbed import Perturbed
from interp_plugins.robust.pgd import PGD
from interp_plugins.robust.regions import smallest_flip
from interp_plugins.robust.rotate import Rotate
from interp_plugins.robust.row_counterfactual import one_feature_margins
from interp_plugins.robust.smallest import FMN, DeepFool

__all__ = [
    "CORRUPTIONS",
    "FGSM",
    "FMN",
    "PGD",
    "AttackComparator",
    "Certificate",
    "Corruption",
    "DeepFool",
    "ExplanationRobustness",
    "MinParamPerturbation",
    "MostImportant",
    "Patch",
    "Perturbation",
    "Perturbed",
    "Robustness",
    "Rotate",
    "as_attack",
    "attack",
    "certify",
    "corruptions",
    "counterfactual",
    "explanation_robustness",
    "one_feature_margins",
    "robustness",
    "smallest_flip",
]

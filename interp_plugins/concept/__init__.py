"""What a network calls its things: concepts with names, tested, and concepts without, found.

Under Captum's names: `TCAV` tests whether a score rises towards a concept that examples show; `CAV`, `Concept`,
`Classifier` and `DefaultClassifier` are what it is made of. `TCAV.test` says with p-values whether a score means
something. `concepts` finds concepts that nobody named, in a `ConceptBank`. docs/concepts-in-data.md tells more.
"""

from interp_plugins.concept.bank import ConceptBank
from interp_plugins.concept.cav import CAV
from interp_plugins.concept.classifier import Classifier, ClosedFormClassifier, DefaultClassifier
from interp_plugins.concept.concept import Concept, ConceptInterpreter
from interp_plugins.concept.discover import concepts
from interp_plugins.concept.item import ItemConcepts
from interp_plugins.concept.significance import ConceptResult, ConceptTest
from interp_plugins.concept.tcav import TCAV
from interp_plugins.concept.testing import concept_test

__all__ = [
    "CAV",
    "TCAV",
    "Classifier",
    "ClosedFormClassifier",
    "Concept",
    "ConceptBank",
    "ConceptInterpreter",
    "ConceptResult",
    "ConceptTest",
    "DefaultClassifier",
    "ItemConcepts",
    "concept_test",
    "concepts",
]

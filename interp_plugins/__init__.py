"""interp_plugins: explain PyTorch models where people train them.

One attribution core in plain torch (`interp_plugins.attr`), and thin adapters for fastai (`interp_plugins.fastai`) and
Lightning (`interp_plugins.lightning`). Importing this package imports none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "acceleration": "engine",
    "attack": "robust",
    "compare_methods": "metrics.comparing",
    "concept_test": "concept.testing",
    "concepts": "concept.discover",
    "captum_numbers": "core.conventions",
    "Contrast": "core.target",
    "counterfactual": "robust",
    "dataset_examples": "optim.examples",
    "evaluate": "metrics.evaluation",
    "explain": "api.explain",
    "explain_text": "llm",
    "explanation_robustness": "robust",
    "Explanation": "core.explanation",
    "Explanations": "core.explanation",
    "Fixed": "core.fixed",
    "influence": "influence",
    "InputSpec": "core.spec",
    "Layer": "core.layers",
    "list_methods": "api.binding",
    "methods": "api.methods",
    "RatherThan": "core.target",
    "robustness": "robust",
    "row_probe": "core.rows",
    "SimilarTo": "core.similar",
    "suspects": "influence.suspecting",
    "visualize": "optim.visualize",
}

__all__ = [
    "Explanation",
    "Explanations",
    "Fixed",
    "InputSpec",
    "Layer",
    "RatherThan",
    "SimilarTo",
    "__version__",
    "acceleration",
    "attack",
    "compare_methods",
    "concept_test",
    "concepts",
    "counterfactual",
    "dataset_examples",
    "evaluate",
    "captum_numbers",
    "explain",
    "explain_text",
    "explanation_robustness",
    "influence",
    "list_methods",
    "methods",
    "robustness",
    "row_probe",
    "suspects",
    "visualize",
]

if TYPE_CHECKING:
    from interp_plugins.api.binding import list_methods
    from interp_plugins.api.explain import explain
    from interp_plugins.api.methods import methods
    from interp_plugins.concept.discover import concepts
    from interp_plugins.concept.testing import concept_test
    from interp_plugins.core.conventions import captum_numbers
    from interp_plugins.core.explanation import Explanation, Explanations
    from interp_plugins.core.fixed import Fixed
    from interp_plugins.core.layers import Layer
    from interp_plugins.core.rows import row_probe
    from interp_plugins.core.similar import SimilarTo
    from interp_plugins.core.spec import InputSpec
    from interp_plugins.core.target import Contrast as Contrast
    from interp_plugins.core.target import RatherThan
    from interp_plugins.engine import acceleration
    from interp_plugins.influence.suspecting import suspects
    from interp_plugins.llm import explain_text
    from interp_plugins.metrics.comparing import compare_methods
    from interp_plugins.metrics.evaluation import evaluate
    from interp_plugins.optim.examples import dataset_examples
    from interp_plugins.optim.visualize import visualize
    from interp_plugins.robust import attack, counterfactual, explanation_robustness, robustness


def __getattr__(name: str) -> Any:
    """Load public names when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

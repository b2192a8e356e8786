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
    "Contrast": "core.target",
    "explain": "api.explain",
    "Explanation": "api.explain",
    "Explanations": "api.explain",
    "Fixed": "core.fixed",
    "InputSpec": "core.spec",
    "Layer": "core.layers",
    "list_methods": "api.binding",
    "methods": "api.methods",
    "row_probe": "core.rows",
    "SimilarTo": "core.similar",
}

__all__ = [
    "Contrast",
    "Explanation",
    "Explanations",
    "Fixed",
    "InputSpec",
    "Layer",
    "SimilarTo",
    "__version__",
    "acceleration",
    "explain",
    "list_methods",
    "methods",
    "row_probe",
]

if TYPE_CHECKING:
    from interp_plugins.api.binding import list_methods
    from interp_plugins.api.explain import explain
    from interp_plugins.api.methods import methods
    from interp_plugins.core.explanation import Explanation, Explanations
    from interp_plugins.core.fixed import Fixed
    from interp_plugins.core.layers import Layer
    from interp_plugins.core.rows import row_probe
    from interp_plugins.core.similar import SimilarTo
    from interp_plugins.core.spec import InputSpec
    from interp_plugins.core.target import Contrast
    from interp_plugins.engine import acceleration


def __getattr__(name: str) -> Any:
    """Load public names when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""interp_plugins: explain PyTorch models where people train them.

One attribution core in plain torch (`interp_plugins.attr`), and thin adapters for fastai (`interp_plugins.fastai`) and
Lightning (`interp_plugins.lightning`). Importing this package imports none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "acceleration": "core.accelerate",
    "Contrast": "core.target",
    "explain": "core.explain",
    "Explanation": "core.explanation",
    "Explanations": "core.explanation",
    "InputSpec": "core.spec",
    "Layer": "core.site",
    "list_methods": "core.registry",
}

__all__ = [
    "Contrast",
    "Explanation",
    "Explanations",
    "InputSpec",
    "Layer",
    "__version__",
    "acceleration",
    "explain",
    "list_methods",
]

if TYPE_CHECKING:
    from .core.accelerate import acceleration
    from .core.explain import explain
    from .core.explanation import Explanation, Explanations
    from .core.registry import list_methods
    from .core.site import Layer
    from .core.spec import InputSpec
    from .core.target import Contrast


def __getattr__(name: str) -> Any:
    """Load public names when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

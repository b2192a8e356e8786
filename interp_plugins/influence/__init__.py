"""Which training samples made the model say so, and which of them are labelled wrongly.

Names are loaded when they are first used. `interp_plugins.influence(...)`, the function, is this room called.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_LAZY: dict[str, str] = {  # public name -> file of this room
    "Copy": "copies",
    "DataInfluence": "captum",
    "EKFAC": "curvature",
    "influence": "ask",
    "Influences": "result",
    "ArnoldiInfluenceFunction": "functions",
    "NaiveInfluenceFunction": "functions",
    "SimilarityInfluence": "similarity",
    "KMostInfluentialResults": "captum",
    "Margins": "margins",
    "Readable": "readable",
    "Suspects": "suspected",
    "TracInCP": "tracin",
    "TracInCPBase": "tracin",
    "TracInCPFast": "tracin",
    "TracInCPFastRandProj": "projected",
    "suspects": "suspecting",
}

__all__ = [
    "ArnoldiInfluenceFunction",
    "NaiveInfluenceFunction",
    "SimilarityInfluence",
    "EKFAC",
    "Copy",
    "DataInfluence",
    "Influences",
    "KMostInfluentialResults",
    "Margins",
    "Readable",
    "Suspects",
    "TracInCP",
    "TracInCPBase",
    "TracInCPFast",
    "TracInCPFastRandProj",
    "influence",
    "suspects",
]


def __getattr__(name: str) -> Any:
    """Load public names when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Room(types.ModuleType):
    """A module that is called: `interp_plugins.influence(...)` is the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function of this name, `interp_plugins.influence.influence`."""
        return __getattr__("influence")(*args, **kwargs)


sys.modules[__name__].__class__ = _Room

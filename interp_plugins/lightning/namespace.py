"""Lightning goes by two names; the base classes come from the one that the user's Trainer comes from.

`pytorch_lightning` and `lightning.pytorch` are two packages with the same content. Callbacks of one run in the other's
Trainer, but its command line accepts only its own classes. So: the one that is already imported, else the one that is
installed. The other one is never imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

_NAMES = ("pytorch_lightning", "lightning.pytorch")


def lightning_name() -> str:
    """The name of the Lightning package to use.

    Raises:
        ImportError: there is none.
    """
    for name in _NAMES:
        if name in sys.modules:
            return name
    for name in _NAMES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return name
    raise ImportError(
        "interp_plugins.lightning needs Lightning, and neither pytorch_lightning nor lightning is installed: "
        "pip install 'interp-plugins[lightning]'."
    )


def lightning_class(name: str) -> Any:
    """A class of the package `lightning_name()`, such as "Callback"."""
    return getattr(importlib.import_module(lightning_name()), name)


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
else:
    Callback = lightning_class("Callback")

"""Lightning goes by two names; our classes are at home in each package that is loaded.

`pytorch_lightning` and `lightning.pytorch` are two packages with the same content and different classes. A Trainer runs
the other package's callbacks, but its command line refuses them, and its prediction loop gives the other package's
writers no indices, without a word. So a base class comes from the package that is already imported, from both where
both are, else from the one that is installed. No package is imported beside one that is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

_NAMES = ("pytorch_lightning", "lightning.pytorch")


def lightning_names() -> tuple[str, ...]:
    """The names of the Lightning packages to use.

    Raises:
        ImportError: there is none.
    """
    loaded = tuple(name for name in _NAMES if name in sys.modules)
    if loaded:
        return loaded
    for name in _NAMES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return (name,)
    raise ImportError(
        "interp_plugins.lightning needs Lightning, and neither pytorch_lightning nor lightning is installed: "
        "pip install 'interp-plugins[lightning]'."
    )


def lightning_class(name: str, module: str = "") -> Any:
    """A base class, such as "Callback", that is a subclass of the class of this name in each package.

    Args:
        name: name of the class.
        module: where it lies inside the package, "callbacks" say; "": at the top.
    """
    packages = [f"{package}.{module}" if module else package for package in lightning_names()]
    bases = tuple(getattr(importlib.import_module(package), name) for package in packages)
    return bases[0] if len(bases) == 1 else type(name, bases, {"__module__": __name__, "__doc__": bases[0].__doc__})


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
else:
    Callback = lightning_class("Callback")

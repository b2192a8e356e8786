"""What fastai's own objects remember of the last batch, put back after an explanation.

Transforms note the size of the last picture or the parameters of the last augmentation, and a U-Net's hooks hold the
last activations: with the graph of an explanation in them, `learn.model` could not be copied any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fastai.callback.hook import Hook, Hooks
from torch import nn


@contextlib.contextmanager
def restored_state(dls: Any, model: nn.Module) -> Iterator[None]:
    """Leave transforms and fastai's hooks as they were, also when the block raises.

    Args:
        dls: the Learner's DataLoaders; plain PyTorch loaders have no transforms.
        model: the model that is called.
    """
    hooks = [
        (hook, hook.__dict__.get("stored")) for m in model.modules() for v in vars(m).values() for hook in _hooks(v)
    ]
    kept = [(f, dict(vars(f))) for f in transforms(dls)]
    try:
        yield
    finally:
        for hook, stored in hooks:
            hook.stored = stored
        for f, before in kept:
            vars(f).clear()
            vars(f).update(before)


def _hooks(value: Any) -> list[Hook]:
    if isinstance(value, Hooks):
        return list(value.hooks)
    return [value] if isinstance(value, Hook) else []


def transforms(dls: Any) -> list[Any]:
    """The transforms of all loaders and their datasets, each once."""
    pipelines = []
    for loader in getattr(dls, "loaders", []):
        pipelines += [getattr(loader, name, None) for name in ("after_item", "before_batch", "after_batch")]
        dataset = getattr(loader, "dataset", None)
        pipelines += [getattr(tl, "tfms", None) for tl in [*(getattr(dataset, "tls", None) or [dataset])]]
    found = {id(f): f for p in pipelines for f in getattr(p, "fs", []) if hasattr(f, "__dict__")}
    return list(found.values())

"""`influence` for Lightning: which training items made a module say so, over the Trainer's own checkpoints."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputTypeError, concise
from interp_plugins.core.tensors import describe
from interp_plugins.core.weights import as_checkpoints
from interp_plugins.influence.ask import influence as core_influence
from interp_plugins.influence.result import Influences
from interp_plugins.lightning.losses import find_loss

HINT = "the Trainer kept one checkpoint: ModelCheckpoint(save_top_k=-1) keeps one per epoch"


def influence(
    pl_module: nn.Module,
    item: Any,
    train: Any,
    *,
    checkpoints: Any = None,
    loss: Any = None,
    k: int = 8,
    method: str = "auto",
    target: Any = "predicted",
    layers: Sequence[str] | str | None = None,
    **params: Any,
) -> Influences:
    """Find the training items that made a module say so, and those that spoke against it.

    Args:
        pl_module: the LightningModule (any `nn.Module` will do); it stays as it was.
        item: the queries: a tensor, or a batch (inputs, labels) as a loader gives it.
        train: a DataLoader of (inputs, labels), or a DataModule, whose `train_dataloader()` is taken. Items are
            numbered as in the data set, whatever the loader does.
        checkpoints: a Trainer, whose `ModelCheckpoint` files are taken; files or a folder; None: the weights as they
            are.
        loss: what it was trained with; None: the one loss module inside `pl_module`, else by the kind of the labels.
        k: items of each kind per query.
        method: as for `interp_plugins.influence.influence`.
        target: what is asked of each query: "predicted", "label" (the labels of `item`), a class index, or one per
            query.
        layers: names of modules whose weights count; None: all that require a gradient.
        **params: its further arguments.

    Returns:
        `Influences`.

    Raises:
        InputTypeError: no loader.

    Example:
        from interp_plugins.lightning import influence
        tuple(influence(model, images[:1], train_loader, k=3).indices.shape)  # -> (1, 3)
    """
    with concise():
        loader = train.train_dataloader() if hasattr(train, "train_dataloader") else train
        if loader is None or isinstance(loader, (Tensor, str)):
            raise InputTypeError(f"train is a DataLoader or a DataModule, got {describe(train)}.")
        inputs, labels = (tuple(item[:-1]), item[-1]) if isinstance(item, (tuple, list)) else (item, None)
        moments, note = of_trainer(checkpoints)
        found = core_influence(
            pl_module,
            inputs,
            loader,
            loss=find_loss(pl_module, loss)[0],
            labels=torch.as_tensor(labels) if labels is not None and target == "label" else None,
            k=k,
            method=method,
            target=target,
            layers=layers,
            checkpoints=moments,
            **params,
        )
        return found if note is None else found.noted(note)


def of_trainer(given: Any) -> tuple[Any, str | None]:
    """Checkpoints that a Trainer's callbacks wrote, in order; what is no Trainer, as it is.

    Args:
        given: a Trainer, or anything that names checkpoints.

    Returns:
        The checkpoints, None for the weights as they are; and what has to be said of them.
    """
    callbacks = getattr(given, "checkpoint_callbacks", None)
    if callbacks is None:
        return given, None
    files: set[str] = set()
    for callback in callbacks:
        files |= {str(f) for f in getattr(callback, "best_k_models", {})}
        folder = getattr(callback, "dirpath", None)
        if not files and folder is not None:  # without a monitor all are kept, and none is best
            files |= _of_last_training(Path(folder).glob("*.ckpt"))
        files |= {str(f) for f in (callback.best_model_path,) if f}
    there = [f for f in files if Path(f).is_file()]
    if not there:
        return (
            None,
            "the Trainer kept no checkpoint: the weights as they are; ModelCheckpoint(save_top_k=-1) keeps some",
        )
    found = sorted(as_checkpoints(there), key=lambda c: _step(c.source))
    return found, HINT if len(found) == 1 else None


def _of_last_training(files: Iterable[Path]) -> set[str]:
    """Without those of earlier trainings, which may lie in the same folder: back in time, steps only fall."""
    kept: set[str] = set()
    below = math.inf
    for file in sorted(files, key=lambda f: f.stat().st_mtime_ns, reverse=True):
        step, _ = _step(file)
        if step < below:
            kept.add(str(file))
            below = step
    return kept


def _step(file: Any) -> tuple[int, str]:
    """The step of a checkpoint, by its content."""
    # What cannot be read is said when its weights are.
    with contextlib.suppress(OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError):
        return int(torch.load(file, map_location="cpu", weights_only=True).get("global_step", 0)), str(file)
    return 0, str(file)

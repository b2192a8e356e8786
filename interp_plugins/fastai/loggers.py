"""Figures to the loggers a Learner has, found by what they can do, and to PNG files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure


def log_figure(callbacks: Iterable[Any], name: str, figure: Figure, step: int) -> bool:
    """Hand a figure to all `TensorBoardCallback`s and `WandbCallback`s; returns whether there is one.

    Args:
        callbacks: the Learner's callbacks.
        name: the picture's name, the same for all steps.
        figure: a figure made without pyplot.
        step: number of batches trained; W&B gets its callback's own count, which goes on from fit to fit.
    """
    taken = False
    for cb in callbacks:
        own = vars(cb)  # getattr would go on searching in the Learner and its model
        writer = own.get("writer")
        if callable(getattr(writer, "add_figure", None)):
            writer.add_figure(name, figure, global_step=step, close=False)
            taken = True
        if "_wandb_step" in own and (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.log({name: wandb.Image(figure)}, step=own["_wandb_step"])
            taken = True
    return taken


def log_numbers(callbacks: Iterable[Any], numbers: Mapping[str, float], step: int) -> None:
    """Hand numbers to all `TensorBoardCallback`s and `WandbCallback`s, as `log_figure` does a figure.

    Args:
        callbacks: the Learner's callbacks.
        numbers: by name.
        step: number of batches trained.
    """
    for cb in callbacks:
        own = vars(cb)
        writer = own.get("writer")
        if callable(getattr(writer, "add_scalar", None)):
            for name, value in numbers.items():
                writer.add_scalar(name, value, global_step=step)
        if "_wandb_step" in own and (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.log(dict(numbers), step=own["_wandb_step"])

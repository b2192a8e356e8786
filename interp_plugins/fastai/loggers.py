"""Figures to the loggers a Learner has, found by what they can do, and to PNG files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from interp_plugins.viz.figure import png_of_figure


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


def write_png(figure: Figure, folder: Path, stem: str) -> Path:
    """Write a figure beside earlier ones, replacing none. Returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in itertools.count():
        path = folder / (f"{stem}-v{version}.png" if version else f"{stem}.png")
        try:
            with path.open("xb") as out:
                out.write(png_of_figure(figure))
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")

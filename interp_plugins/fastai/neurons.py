"""`NeuronCallback`: what units look for, again and again while a Learner trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fastai.learner import Learner

from interp_plugins.api.callbacks import check_arguments, check_choice, check_count, check_folder
from interp_plugins.core import files
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import check_seed
from interp_plugins.fastai import features as _features  # noqa: F401 - Learner.visualize
from interp_plugins.fastai.epochs import EveryNEpochs
from interp_plugins.fastai.loggers import log_figure
from interp_plugins.optim.film import film
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize as core_visualize
from interp_plugins.viz.figure import png_of_figure

_LOGS = ("auto", "files", "both", "none")


class NeuronEpoch(NamedTuple):
    """What one epoch left in `NeuronCallback.history`.

    Attributes:
        fit: which of the Learner's fits with this callback, from 1.
        epoch: the epoch of this fit, from 0.
        found: pictures, examples and scores.
    """

    fit: int
    epoch: int
    found: Visualization


class NeuronCallback(EveryNEpochs):
    """Show what units look for while the Learner trains, and log the pictures.

    Training is bit-identical with and without it; it does nothing in `lr_find`, `validate`, `get_preds`. Pictures begin
    at the same noise each time, so that what changes is the network.

    Args:
        layer: module, dotted name (its end is enough), or `Layer`.
        channel: of the layer: an int, several, a slice, or "all".
        target: classes instead, by name or index.
        every_n_epochs: the first epoch of a fit, every n-th after it, and always the last.
        steps: of each climb.
        size: of a picture; None: that of the data.
        examples: of the validation data, for each unit.
        max_items: of them that are looked at; 0: none.
        log: "auto": to the Learner's `TensorBoardCallback` and `WandbCallback`, and to PNG files if it has neither (or
            `path` is given); "files"; "both"; "none": only `history`.
        path: directory for PNG files; None: `neurons` in the Learner's path.
        seed: of the beginnings.
        on_error: "warn": an error is a warning, and training goes on; "raise".
        tag: name of the pictures in loggers and files.
        **params: further arguments of `learn.visualize`.

    Attributes:
        history: a `NeuronEpoch` per epoch that was looked at.

    Raises:
        InputError: neither a layer nor classes.
        UnknownNameError: an argument that `learn.visualize` does not take.

    Example:
        watch = NeuronCallback("0.0", channel=[0, 1], every_n_epochs=1, steps=8, log="none")
        learn.fit(2, cbs=watch)
        watch.plot()
    """

    def __init__(
        self,
        layer: Any = None,
        channel: Any = range(8),
        target: Any = None,
        every_n_epochs: int = 5,
        steps: int = 128,
        size: Any = None,
        examples: int = 9,
        max_items: int = 500,
        log: str = "auto",
        path: Any = None,
        seed: int = 0,
        on_error: str = "warn",
        tag: str = "neurons",
        **params: Any,
    ):
        super().__init__(every_n_epochs, on_error)
        if (layer is None) == (target is None):
            raise InputError("NeuronCallback looks at a layer's channels (layer=), or at classes (target=).")
        check_arguments(params, Learner.visualize, core_visualize)
        check_count("steps", steps, 1)
        check_folder("path", path)
        check_choice("log", log, _LOGS)
        asked = {"target": target} if target is not None else {"layer": layer, "channel": channel}
        asked |= {"steps": steps, "size": size, "max_items": max_items, "seed": check_seed(seed), "progress": False}
        self.asked = asked | params | ({"examples": examples} if max_items else {})
        self.log, self.path, self.tag = log, path, tag

    @property
    def last(self) -> Visualization | None:
        """The latest pictures; None before the first."""
        return self.history[-1].found if self.history else None

    def look(self, epoch: int) -> None:
        """Make the pictures of an epoch and log them."""
        found = self.learn.visualize(**self.asked)
        self.history.append(NeuronEpoch(self._fit, epoch, found))
        if self.log == "none":
            return
        fig = found.show(max_n=len(found)).fig
        taken = self.log != "files" and log_figure(self.learn.cbs, self.tag, fig, self.learn.train_iter)
        if not taken or self.log == "both" or self.path is not None:
            folder = Path(self.path) if self.path is not None else Path(self.learn.path) / "neurons"
            files.write_new(folder / f"{self.tag}-epoch{epoch:03d}.png", png_of_figure(fig))

    def plot(self, max_n: int = 8) -> Any:
        """Draw a row per unit, a column per epoch; returns (figure, axes)."""
        if not self.history:
            raise InputError("There is nothing to plot: no epoch has been looked at yet. Train with this callback.")
        several = self.history[-1].fit > 1
        names = [f"fit {s.fit}, epoch {s.epoch}" if several else f"epoch {s.epoch}" for s in self.history]
        return tuple(film(names, [s.found for s in self.history], max_n))

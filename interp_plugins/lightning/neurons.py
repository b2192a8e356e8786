"""`NeuronCallback`: what units look for, again and again while a LightningModule trains."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from interp_plugins.api.callbacks import ON_ERROR, check_arguments, check_choice, check_count, check_folder, contained
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import check_seed
from interp_plugins.lightning.features import visualize
from interp_plugins.lightning.folder import add_file
from interp_plugins.lightning.loggers import log_figure
from interp_plugins.lightning.namespace import Callback
from interp_plugins.lightning.sinks import directory_of
from interp_plugins.lightning.subject import check_strategy
from interp_plugins.optim.film import film
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize as core_visualize

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import LightningModule, Trainer

_LOGGERS = ("auto", "files", "both", "none")


class NeuronCallback(Callback):
    """Show what units look for while the module trains, and log the pictures.

    Training is bit-identical with and without it. It works at the end of training epochs, in the first process alone.
    Pictures begin at the same noise each time, so that what changes is the network.

    Args:
        layer: module or dotted name (its end is enough) in the LightningModule.
        channel: of the layer: an int, several, a slice, or "all".
        target: classes instead, by index, or by name with `class_names`.
        data: a loader, tensors or a LightningDataModule beside the pictures; None: the Trainer's validation loader;
            False: none, and then `like=` an example of the input.
        every_n_epochs: the first epoch, every n-th after it, and the last.
        steps: of each climb.
        size: of a picture; None: that of the data.
        examples: of the data, for each unit.
        max_items: of them that are looked at.
        loggers: "auto": to loggers that take pictures, and to PNG files if none does (or `dirpath` is given);
            "files"; "both"; "none": only `history`.
        dirpath: directory for PNG files; None: `attributions` in the first logger's directory.
        class_names: names of the classes.
        mean: per-channel mean that was subtracted from the inputs, in raw units.
        std: per-channel standard deviation by which they were divided.
        seed: of the beginnings.
        on_error: "warn": an error is a warning, and training goes on; "raise".
        tag: name of the pictures in loggers and files.
        **params: further arguments of `interp_plugins.lightning.visualize`.

    Attributes:
        history: (epoch, `Visualization`) per epoch that was looked at.

    Raises:
        InputError: neither a layer nor classes.

    Example:
        from interp_plugins.lightning import NeuronCallback

        watch = NeuronCallback("body.0", channel=[0, 1], every_n_epochs=1, steps=8, loggers="none")
        Trainer(max_epochs=1, callbacks=[watch]).fit(model, train_loader, val_loader)
        len(watch.history)  # -> 1
    """

    def __init__(
        self,
        layer: Any = None,
        channel: Any = range(8),
        target: Any = None,
        data: Any = None,
        every_n_epochs: int = 5,
        steps: int = 128,
        size: Any = None,
        examples: int = 9,
        max_items: int = 500,
        loggers: str = "auto",
        dirpath: str | None = None,
        class_names: list[str] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        on_error: str = "warn",
        tag: str = "neurons",
        **params: Any,
    ):
        super().__init__()
        if (layer is None) == (target is None):
            raise InputError("NeuronCallback looks at a layer's channels (layer=), or at classes (target=).")
        check_arguments(params, visualize, core_visualize)
        check_count("every_n_epochs", every_n_epochs, 1)
        check_count("steps", steps, 1)
        check_folder("dirpath", dirpath)
        check_choice("loggers", loggers, _LOGGERS)
        check_choice("on_error", on_error, ON_ERROR)
        asked: dict[str, Any] = {"target": target} if target is not None else {"layer": layer, "channel": channel}
        asked |= {"class_names": class_names, "mean": mean, "std": std, "steps": steps, "size": size}
        self.asked = asked | {"seed": check_seed(seed), "progress": False} | params
        self.beside = {"examples": examples, "max_items": max_items}
        self.data, self.every_n_epochs, self.loggers, self.dirpath = data, every_n_epochs, loggers, dirpath
        self.on_error, self.tag, self.history = on_error, tag, list[tuple[int, Visualization]]()
        self._directory: str | None = None

    @property
    def state_key(self) -> str:
        """The key in checkpoints: class and tag."""
        return f"{type(self).__qualname__}{{'tag': {self.tag!r}}}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that spread the weights, and settle where files go (on all processes)."""
        check_strategy(trainer, "NeuronCallback")
        self._directory = directory_of(trainer, self.dirpath) if self.loggers != "none" else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pictures of an epoch that is due, and log them."""
        epoch = trainer.current_epoch
        last = trainer.should_stop or epoch + 1 == trainer.max_epochs
        if not trainer.is_global_zero or not (last or epoch % self.every_n_epochs == 0):
            return
        with contained(f"NeuronCallback(tag={self.tag!r})", self.on_error):
            data = self._data(trainer)
            beside = {} if data is None else self.beside
            found = visualize(pl_module, data=data, trainer=trainer, **{**self.asked, **beside})
            self.history.append((epoch, found))
            if self._directory is not None:
                self._publish(found, trainer, self._directory)

    def _data(self, trainer: Trainer) -> Any:
        if self.data is not None:
            return None if self.data is False else self.data
        found = trainer.val_dataloaders
        return found[0] if isinstance(found, (list, tuple)) and found else found

    def _publish(self, found: Visualization, trainer: Trainer, directory: str) -> None:
        from interp_plugins.viz.figure import png_of_figure

        fig = found.show(max_n=len(found)).fig
        slug = re.sub(r"[^\w.=-]+", "-", self.tag)
        name = f"{slug}-epoch{trainer.current_epoch}-step{trainer.global_step}.png"
        taken = [
            log_figure(one, self.tag, fig, trainer.global_step, name)
            for one in (trainer.loggers if self.loggers != "files" else ())
        ]
        if self.loggers in ("files", "both") or self.dirpath is not None or not any(taken):
            add_file(directory, name, png_of_figure(fig))

    def plot(self, max_n: int = 8) -> Any:
        """Draw a row per unit, a column per epoch; returns (figure, axes)."""
        if not self.history:
            raise InputError("There is nothing to plot: no epoch has been looked at yet. Train with this callback.")
        return tuple(film([f"epoch {epoch}" for epoch, _ in self.history], [v for _, v in self.history], max_n))

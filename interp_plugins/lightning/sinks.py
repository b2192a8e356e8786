"""Where what was found goes: to the Trainer's loggers, to files, to both, or nowhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp_plugins.core.explanation import Explanations
from interp_plugins.lightning.folder import add_file
from interp_plugins.lightning.loggers import log_figure, log_numbers
from interp_plugins.lightning.series import metrics

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer

MAX_ROWS = 32  # samples in one picture; how many were left out is said below it


def directory_of(trainer: Trainer, dirpath: str | None) -> str | None:
    """The directory for PNG files; every process must ask, because the Trainer's answer is a broadcast.

    Args:
        trainer: the Trainer.
        dirpath: the user's choice; None: `attributions` in the first logger's directory, or in `default_root_dir`.

    Returns:
        A path or URL, or None under `fast_dev_run`.
    """
    if getattr(trainer, "fast_dev_run", False):
        return None
    where = os.fspath(dirpath) if dirpath is not None else None
    if where is None:
        where = f"{trainer.log_dir or trainer.default_root_dir}/attributions"
    return where if "://" in where else os.path.abspath(where)


def logged_step(trainer: Trainer, stage: str) -> int:
    """The step under which the Trainer logs its own metrics of this epoch, so that all curves share an axis.

    Not `global_step`, which counts the steps of every optimizer and is one ahead of the metrics when an epoch ends;
    pictures carry that one, as checkpoints do.
    """
    step = int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))
    return step - 1 if stage == "train" else step  # a training epoch's metrics belong to its last batch


@dataclass(frozen=True)
class Sinks:
    """Where pictures and numbers go.

    Args:
        directory: for PNG files.
        to_loggers: whether loggers get both.
        to_files: whether pictures become files: True, False, or None: only if no logger takes them.
    """

    directory: str
    to_loggers: bool
    to_files: bool | None

    @classmethod
    def of(cls, directory: str, loggers: str, dirpath: str | None) -> Sinks | None:
        """From the callback's arguments; None for "none"."""
        if loggers == "none":
            return None
        always = loggers in ("files", "both") or dirpath is not None
        return cls(directory, loggers != "files", True if always else None)

    def numbers(self, rows: list[dict[str, Any]], trainer: Trainer, tag: str, stage: str) -> None:
        """Bring one run's numbers to the loggers.

        Args:
            rows: what `series.rows` gave.
            trainer: whose loggers, epoch and step count.
            tag: the callback's tag.
            stage: "validate", "test" or "train".
        """
        values = metrics(rows, f"{tag}/{stage}")
        if self.to_loggers and values:
            for logger in trainer.loggers:
                log_numbers(logger, {**values, "epoch": trainer.current_epoch}, logged_step(trainer, stage))

    def pictures(self, exps: Explanations, trainer: Trainer, tag: str, stage: str, run: int) -> None:
        """Draw all explanations of one run as one picture and bring it to loggers and files.

        Args:
            exps: one explanation per method and target, of the same samples.
            trainer: whose loggers, epoch and step count.
            tag: the callback's tag.
            stage: "validate", "test" or "train".
            run: the number of this run; several runs may share epoch and step.
        """
        figure = exps.plot(max_n=max(1, min(MAX_ROWS, max(len(e) for e in exps))))[0]
        step = trainer.global_step
        slug = re.sub(r"[^\w.=-]+", "-", tag)
        file_name = f"{slug}-{stage}-run{run:04d}-epoch{trainer.current_epoch}-step{step}.png"
        taken = False
        if self.to_loggers:
            taken = any([log_figure(one, f"{tag}/{stage}", figure, step, file_name) for one in trainer.loggers])
        if self.to_files or (self.to_files is None and not taken):
            from interp_plugins.viz.figure import png_of_figure

            add_file(self.directory, file_name, png_of_figure(figure))

"""Where what was found goes: to the Trainer's loggers, to files, to both, or nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp_plugins.core.explanation import Explanations
from interp_plugins.lightning.folder import add_file
from interp_plugins.lightning.loggers import log_figure, log_numbers
from interp_plugins.metrics.series import logged

if TYPE_CHECKING:
    from interp_plugins.lightning.namespace import Trainer

MAX_SAMPLES = 32  # samples that are drawn; the pictures say how many there are
PER_PICTURE = 4  # of them in one picture, so that a logger's card shows it without scrolling


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
        taken_by: the kinds of loggers that took a picture, as keys.
        wrote: paths of the files written.
    """

    directory: str
    to_loggers: bool
    to_files: bool | None
    taken_by: dict[str, None] = field(default_factory=dict)
    wrote: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, directory: str, loggers: str, dirpath: str | None) -> Sinks | None:
        """From the callback's arguments; None for "none"."""
        if loggers == "none":
            return None
        always = loggers in ("files", "both") or dirpath is not None
        return cls(directory, loggers != "files", True if always else None)

    def numbers(
        self, rows: list[dict[str, Any]], trainer: Trainer, tag: str, stage: str, also: Sequence[str] = ()
    ) -> None:
        """Bring one run's numbers to the loggers.

        Args:
            rows: what `series.rows` gave.
            trainer: whose loggers, epoch and step count.
            tag: the callback's tag.
            stage: "validate", "test" or "train".
            also: names of further numbers in the rows.
        """
        values = logged(rows, f"{tag}/{stage}", also)
        if self.to_loggers and values:
            for logger in trainer.loggers:
                log_numbers(logger, {**values, "epoch": trainer.current_epoch}, logged_step(trainer, stage))

    def pictures(self, exps: Explanations, trainer: Trainer, tag: str, stage: str, run: int) -> None:
        """Draw the explanations of one run, method by method, and bring the pictures to loggers and files.

        Args:
            exps: one explanation per method and target, of the same samples.
            trainer: whose loggers, epoch and step count.
            tag: the callback's tag.
            stage: "validate", "test" or "train".
            run: the number of this run; several runs may share epoch and step.
        """
        from interp_plugins.viz.figure import png_of_figure

        step = trainer.global_step
        slug = re.sub(r"[^\w.=-]+", "-", tag)
        for name, figure in drawn(exps):
            of_step = f"run{run:04d}-epoch{trainer.current_epoch}-step{step}-{name.replace('/', '-')}.png"
            file_name = f"{slug}-{stage}-{of_step}"
            taken = [
                type(one).__name__
                for one in (trainer.loggers if self.to_loggers else ())
                if log_figure(one, f"{tag}/{stage}/{name}", figure, step, file_name)
            ]
            self.taken_by.update(dict.fromkeys(taken))
            if self.to_files or (self.to_files is None and not taken):
                self.wrote.append(add_file(self.directory, file_name, png_of_figure(figure)))

    def places(self, trainer: Trainer, name: str) -> list[str]:
        """Where the pictures of a name are, in words: the loggers that took them, and the files' folder."""
        found = []
        for one in self.taken_by:
            # Not trainer.log_dir, which waits for the other processes: only those that explain come here.
            folder = next((str(logger.log_dir) for logger in trainer.loggers if _is_board(logger, one)), None)
            found.append(
                f'{one} under "{name}"' + (f" (to look: tensorboard --logdir {shown(folder)})" if folder else "")
            )
        return found + ([f"PNG files in {shown(self.directory)}"] if self.wrote else [])


def _is_board(logger: Any, name: str) -> bool:
    """Whether a logger is the TensorBoard of that name, whose folder can be looked at."""
    return type(logger).__name__ == name == "TensorBoardLogger"


def shown(path: str) -> str:
    """A path as a person reads it: seen from the folder where the program runs, where it lies there."""
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else path


def drawn(exps: Explanations) -> Iterator[tuple[str, Any]]:
    """The pictures of one run: `method`, or `method/1`, `method/2`, ... where it has more samples than one picture.

    Args:
        exps: one explanation per method and target, of the same samples; the targets of a method share a picture.

    Yields:
        (name, figure), each of at most `PER_PICTURE` samples; of a long table all samples in one overview.
    """
    from interp_plugins.viz.grid import is_long_table

    for method in dict.fromkeys(exps.methods):
        same = [exp for exp in exps if exp.method == method]
        total = max(len(exp) for exp in same)
        if is_long_table(same):
            yield method, Explanations(same).plot()[0]
            continue
        starts = range(0, min(total, MAX_SAMPLES), PER_PICTURE)
        for page, start in enumerate(starts, start=1):
            stop = min(start + PER_PICTURE, total, MAX_SAMPLES)
            part = Explanations([exp[start:stop] for exp in same if len(exp) > start])
            figure = part.plot(max_n=PER_PICTURE)[0]
            if len(starts) > 1 or stop < total:
                figure.suptitle(f"samples {start + 1} to {stop} of {total}", fontsize=8)
            yield (f"{method}/{page}" if len(starts) > 1 else method), figure

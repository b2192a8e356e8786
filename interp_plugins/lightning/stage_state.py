"""What one stage has in store: which of its epochs are explained, on which samples, and what was found."""

from __future__ import annotations

from typing import Any

from interp_plugins.core.explanation import Explanations
from interp_plugins.lightning.samples import Samples


class StageState:
    """The state of one stage from `setup` to the end of the loop.

    Args:
        n_samples: number of samples.
        every: the first epoch is explained and every `every`-th after it.
        fixed: whether the samples of the first epoch serve for all.
    """

    def __init__(self, n_samples: int, every: int, fixed: bool):
        self.n_samples, self.every, self.fixed = n_samples, every, fixed
        self.samples = Samples(n_samples)
        self.epochs = 0
        self.due = False
        self.told = False  # whether it was said where the results are
        self.found: Explanations | None = None
        self.judged: list[dict[str, float]] = []  # the metrics' numbers, per explanation
        self.before: Explanations | None = None  # the run before, to compare with

    def begin(self) -> None:
        """Begin an epoch: is it one that is explained?"""
        self.due = self.epochs % self.every == 0
        self.epochs += 1
        self.found = None
        if not self.fixed:
            self.samples = Samples(self.n_samples)

    def give_up(self) -> None:
        """Nothing more in this epoch; samples that are incomplete are collected anew in the next."""
        self.due = False
        self.found = None
        if not self.samples.closed:
            self.samples = Samples(self.n_samples)

    def tell_once(self, trainer: Any, who: str, places: list[str]) -> None:
        """Say where the results go, the first time that they went there."""
        if places and not self.told:
            trainer.print(f"{who} writes to {', and to '.join(places)}.")
        self.told = True

    def never_ran(self, trainer: Any, stage: str) -> str:
        """Why no epoch of this stage came, and what to do, where a loop that ended had none; else ""."""
        if self.epochs:
            return ""
        every = getattr(trainer, "check_val_every_n_epoch", None) or 1
        fitted = stage == "validate" and trainer.state.fn == "fit"
        if fitted and trainer.limit_val_batches and trainer.current_epoch < every:
            return (
                f"no validation epoch came (check_val_every_n_epoch={every}, and the training ended after "
                f"{trainer.current_epoch} epochs), so nothing was explained. Validate more often, or give the "
                'callback stages="train".'
            )
        if is_empty(trainer, stage):
            data, short = ("test", "test") if stage == "test" else ("validation", "val")
            return (
                f"the {data} set is empty (no dataloader, no batch in it, or limit_{short}_batches=0), so nothing was "
                f"explained. Give the Trainer {data} data, or the callback other stages=."
            )
        return f"no {stage} epoch came, so nothing was explained."


def is_empty(trainer: Any, stage: str) -> bool:
    """Whether a stage of validation or test has no batch at all."""
    counts = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
    return stage != "train" and not sum(counts)


def is_last_batch(trainer: Any, testing: bool, batch_idx: int, dataloader_idx: int) -> bool:
    """Whether no further batch of this dataloader comes in this validation or test epoch, as far as is known."""
    counts = trainer.num_test_batches if testing else trainer.num_val_batches
    if dataloader_idx < len(counts) and batch_idx + 1 >= counts[dataloader_idx]:
        return True
    if testing:
        loop = trainer.test_loop
    else:
        loop = trainer.validate_loop if trainer.state.fn == "validate" else trainer.fit_loop.epoch_loop.val_loop
    return bool(loop.batch_progress.is_last_batch)

"""When a callback looks at a Learner that trains: after every n-th epoch that trains, and after the last."""

from __future__ import annotations

from typing import Any

from fastai.callback.core import Callback
from fastai.learner import Recorder
from fastai.torch_core import rank_distrib

from interp_plugins.api.callbacks import ON_ERROR, check_choice, check_count, contained


class EveryNEpochs(Callback):
    """Base of callbacks that look at the first epoch of a fit, every n-th after it, and always the last.

    It does nothing in `lr_find`, `validate`, `get_preds` and `predict`, nor in any process but the first.

    Args:
        every_n_epochs: n.
        on_error: "warn": an error is a warning, and training goes on; "raise".
    """

    order = Recorder.order + 5  # after those that log numbers, so that their steps are up to date
    remove_on_fetch = True
    early = False  # look when the validation has ended, before the epoch's numbers are recorded and logged

    def __init__(self, every_n_epochs: int = 1, on_error: str = "warn"):
        super().__init__()
        check_count("every_n_epochs", every_n_epochs, 1)
        check_choice("on_error", on_error, ON_ERROR)
        self.every_n_epochs, self.on_error = every_n_epochs, on_error
        self.history: list[Any] = []
        self._trained, self._fit, self._new_fit = False, 0, True
        self._left_out: int | None = None  # the epoch before, if it was trained and not looked at

    def look(self, epoch: int) -> None:
        """Look at the Learner after an epoch of fit `self._fit`; random numbers are put back behind it."""
        raise NotImplementedError

    def before_fit(self) -> None:
        """Stay out of `lr_find` and `get_preds`, and of all processes but the first."""
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self, "gather_preds") and rank_distrib() == 0
        self._trained, self._new_fit, self._left_out = False, True, None

    def before_train(self) -> None:
        """Another epoch follows: the one before was not the last."""
        self._left_out = None

    def after_train(self) -> None:
        """Only epochs that train count: `validate` has the same events otherwise."""
        self._trained = True
        self._fit += self._new_fit
        self._new_fit = False

    def after_validate(self) -> None:
        """Look before the epoch's numbers are recorded, where some of them come from here."""
        if self.early and not hasattr(self, "gather_preds"):
            self._look_if_due()

    def after_epoch(self) -> None:
        """Look where the epoch is due and was not looked at."""
        self._look_if_due()

    def _look_if_due(self) -> None:
        trained, self._trained = self._trained, False
        epoch = self.learn.epoch
        if trained and (epoch % self.every_n_epochs == 0 or epoch == self.learn.n_epoch - 1):
            self._record(epoch)
        elif trained:
            self._left_out = epoch

    def after_fit(self) -> None:
        """Look at the last epoch where the fit ended before its time."""
        if self._left_out is not None:
            self._record(self._left_out)
        self._left_out = None

    def _record(self, epoch: int) -> None:
        with contained(type(self).__name__, self.on_error):
            self.look(epoch)

    def __getstate__(self) -> dict[str, Any]:
        """Without the results: `learn.export()` pickles callbacks, and an export should not hold a training's maps."""
        return {**self.__dict__, "history": []}

"""Maps of many samples: `learn.show_explanations`, `interp.plot_top_losses_explained`, the importance of columns."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastai.data.load import DataLoader
from fastai.interpret import Interpretation
from fastai.learner import Learner
from fastcore.basics import patch
from fastcore.meta import delegates

from interp_plugins.api.explain import DEFAULT_METHOD
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import InputError, InterpWarning, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.fastai import importance as _importance  # noqa: F401 - Learner.attribution_importance
from interp_plugins.fastai import learner as _learner  # noqa: F401 - Learner.explain, whose arguments are passed on
from interp_plugins.fastai.batch import length, no_data
from interp_plugins.fastai.items import SampleSource, indices
from interp_plugins.fastai.labels import label_number
from interp_plugins.fastai.learner_info import n_inputs, valid
from interp_plugins.fastai.reader import Reader, reader_of
from interp_plugins.fastai.show import show_explanations as _show

_OURS = ["item", "xb", "dl", "ds_idx", "idxs", "methods", "self", "params"]  # what is not passed on as it came


@patch
@delegates(Learner.explain, keep=True, but=_OURS)
def show_explanations(
    self: Learner,
    ds_idx: int = 1,  # split of the data: 0 training, 1 validation; always read with validation transforms
    dl: Any = None,  # or a loader
    max_n: int = 9,  # samples shown at most
    methods: Methods = DEFAULT_METHOD,  # one method: a panel per sample; several: a row per sample
    shuffle: bool = False,  # whether the samples are drawn at random, anew each time
    *,
    idxs: Any = None,  # or which rows
    ctxs: Any = None,  # axes to draw in
    kind: str = "overlay",  # "overlay", "side", "heatmap", "masked", ...
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,  # inches
    normalize: str | float = "percentile",  # what full colour means: "percentile", "max", "none" or a number
    percentile: float = 99.0,
    **kwargs: Any,
) -> Any:
    """Show maps of rows of the data with prediction, truth and probability, as `show_results` shows predictions.

    The random generators stay where they are, so that shuffled rows are other ones each time, whatever the seed; name
    the rows (`idxs=`) to see the same again. Recorder, model and data stay as they were.

    Returns:
        The axes; their `figure` can be saved.

    Example:
        learn.show_explanations(max_n=4, methods=("gradcam", "ig"))
    """
    with concise():
        reader = reader_of(self)
        if dl is None:
            dl = reader.loader(ds_idx)
        elif not isinstance(dl, DataLoader):
            dl = list(dl)
        if isinstance(dl, DataLoader) and length(dl) == 0:
            raise InputError(no_data(self.dls, dl, "its transforms and classes", "dl=learn.dls.test_dl(items)"))
        rows = indices(idxs, length(dl) or 0)
        rows = random.SystemRandom().sample(rows, min(max_n, len(rows))) if shuffle else rows[:max_n]
        drawing = {"ctxs": ctxs, "kind": kind, "nrows": nrows, "ncols": ncols, "figsize": figsize}
        drawing |= {"normalize": normalize, "percentile": percentile}
        return _explain_and_show(reader, dl, rows, methods, drawing, kwargs)


@patch
@delegates(Learner.explain, keep=True, but=_OURS)
def plot_top_losses_explained(
    self: Interpretation,
    k: Any = 9,  # number of losses, or which places of the ranking (a range or list: [0, 5, 10])
    largest: bool = True,  # the largest losses, or the smallest
    methods: Methods = DEFAULT_METHOD,  # one method: a panel per sample; several: a row per sample
    *,
    ctxs: Any = None,  # axes to draw in
    kind: str = "overlay",  # "overlay", "side", "heatmap", "masked", ...
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,  # inches
    normalize: str | float = "percentile",  # what full colour means: "percentile", "max", "none" or a number
    percentile: float = 99.0,
    **kwargs: Any,
) -> Any:
    """Show the maps of the samples with the largest (or smallest) losses: what did the model look at when it erred?

    The predicted class is explained; `target="label"` explains the true one, `target=[None, "label"]` both side by
    side. Losses are those that `from_learner` measured (over the training split with augmentation); maps are of the
    pictures without it.

    Returns:
        The axes; their `figure` can be saved.

    Example:
        interp = Interpretation.from_learner(learn)
        interp.plot_top_losses_explained(4, methods="gradcam", target=[None, "label"])
    """
    with concise():
        places = k if isinstance(k, (list, tuple, range)) else None
        losses, idx = self.top_losses(None if places is not None else min(int(k), len(self.losses)), largest)
        if places is not None:
            chosen = indices(list(places), len(idx))
            losses, idx = losses[chosen], idx[chosen]
        drawing = {"ctxs": ctxs, "kind": kind, "nrows": nrows, "ncols": ncols, "figsize": figsize}
        drawing |= {"normalize": normalize, "percentile": percentile}
        drawing["notes"] = [f"loss {loss:.3g}" for loss in losses.tolist()]
        return _explain_and_show(reader_of(self.learn), self.dl, idx.tolist(), methods, drawing, kwargs)


def _explain_and_show(
    reader: Reader, dl: Any, rows: list[int], methods: Any, drawing: dict[str, Any], kwargs: dict[str, Any]
) -> Any:
    """Explain rows of a loader and show them by the types of their inputs and targets."""
    if not rows:
        raise InputError("There is nothing to show: no rows were chosen. Give max_n (or k) of at least 1.")
    exps, shown = explain_rows(reader, dl, rows, methods, **kwargs)
    return _show(*shown, exps, max_n=len(rows), **drawing)


def explain_rows(reader: Reader, dl: Any, rows: list[int], methods: Any, **kwargs: Any) -> tuple[Explanations, Decoded]:
    """The explanations of rows of a loader, and the rows as fastai shows them; the Learner stays as it was.

    Args:
        reader: of the Learner's data.
        dl: the loader, or a list of batches.
        rows: their numbers.
        methods: as for `Learner.explain`.
        **kwargs: further arguments of it.
    """
    with reader.unchanged():
        exps = reader.explain_source(SampleSource(dl=dl, idxs=rows), methods, **kwargs)
        number = label_number(kwargs.get("label_key"), kwargs.get("output"))
        return exps, decoded(reader, dl, rows).of_target(number, n_inputs(reader.dls))


class Decoded(NamedTuple):
    """Rows as fastai shows them: inputs and first target in its own types, and the decoded items; None: not known."""

    x: Any = None
    y: Any = None
    samples: Any = None

    def of_target(self, number: int | None, n_inp: int) -> Decoded:
        """The same with one target, where the data have several: that of the output explained, or none."""
        if not isinstance(self.samples, Sequence) or not len(self.samples) or len(self.samples[0]) <= n_inp + 1:
            return self
        count = len(self.samples[0]) - n_inp
        if number is None or not -count <= number < count:
            return self._replace(samples=[tuple(one)[:n_inp] for one in self.samples])
        return self._replace(samples=[(*tuple(one)[:n_inp], tuple(one)[n_inp:][number]) for one in self.samples])


def decoded(reader: Reader, dl: Any, rows: Sequence[int]) -> Decoded:
    """Rows of a loader as fastai shows them; nothing, with a warning, where it cannot decode them.

    Args:
        reader: of the Learner's data.
        dl: the loader, or a list of batches, which the validation loader then decodes.
        rows: their numbers.
    """
    loader = dl if isinstance(dl, DataLoader) else valid(reader.dls)
    try:
        batch = reader.collated(dl, rows)
        x, y, samples = loader._pre_show_batch((*batch.inputs, *batch.labels), max_n=len(batch))
        samples = reader.decoded_samples(x) if samples is None and batch.labels else samples
    except Exception as error:  # a user's own transforms may raise anything, and the maps need no decoding
        if hasattr(loader, "_pre_show_batch"):
            warnings.warn(
                f"The truth is not shown, because fastai cannot decode the batch: {type(error).__name__}: {error}",
                InterpWarning,
                stacklevel=5,
            )
        return Decoded()
    return Decoded(x, None if samples is None or not batch.labels else y, samples)

"""`AttributionCallback`: the same samples explained again and again while a Learner trains.

After every n-th training epoch the samples go through `learn.explain`, which changes nothing of the training: no
weight, mode, gradient, random number or line of the recorder. Pictures go where the Learner logs already, or to files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp_plugins.api.callbacks import check_choice, check_count, check_folder, check_names
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core import files
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.literals import rather_than
from interp_plugins.core.random import check_seed
from interp_plugins.fastai import learner as _learner  # noqa: F401 - Learner.explain
from interp_plugins.fastai.batch import length
from interp_plugins.fastai.epochs import EveryNEpochs
from interp_plugins.fastai.interpretation import explain_rows
from interp_plugins.fastai.labels import label_number
from interp_plugins.fastai.learner_info import valid
from interp_plugins.fastai.loggers import log_figure
from interp_plugins.fastai.reader import reader_of
from interp_plugins.fastai.show import truth_of
from interp_plugins.fastai.timeline import draw_timeline
from interp_plugins.viz.figure import png_of_figure
from interp_plugins.viz.panels import draw_table

_LOGS = ("auto", "files", "both", "none")


class Snapshot(NamedTuple):
    """What one epoch left in `history`.

    Attributes:
        fit: which of the Learner's fits with this callback, from 1 (`fine_tune` makes two).
        epoch: the epoch of this fit, from 0.
        train_iter: batches trained in this fit.
        explanations: one per method and target, of all samples, on the CPU.
    """

    fit: int
    epoch: int
    train_iter: int
    explanations: Explanations


class AttributionCallback(EveryNEpochs):
    """Explain the same samples while the Learner trains, and log the pictures.

    Training is bit-identical with and without it. It does nothing in `lr_find`, `validate`, `get_preds` and `predict`,
    and in distributed training only the first process works. After the training, `history` holds all results,
    `plot()` draws them side by side, and `to_df()` makes a table of them.

    Args:
        items: the samples: what `learn.explain` takes (paths, pictures, rows, texts), or a list of them; None: `n` rows
            of the validation set, evenly spaced (files may be sorted by class), or of the training set without one.
        n: number of samples where `items` is None.
        methods: name, several names, or mapping name -> parameters; see `interp_plugins.list_methods()`.
        target: None: the predicted class, which may change from epoch to epoch; a label or index: that class in all
            epochs; "label": the ground truth; a list: several.
        every_n_epochs: the first epoch of a fit is explained, every n-th after it, and always the last, also where a
            callback (`EarlyStoppingCallback`) ends the fit.
        layer: for methods at a layer: module, dotted name, or function model -> module.
        log: "auto": to the Learner's `TensorBoardCallback` and `WandbCallback`, and to PNG files if it has neither (or
            `path` is given); "files"; "both"; "none": only `history`.
        path: directory for PNG files; None: `attributions` in the Learner's path.
        seed: seed of all random draws; the same in every epoch, so that maps can be compared.
        on_error: "warn": an error in explaining or logging is a warning, and training goes on; "raise".
        against: why `target` rather than this one, as for `learn.explain`.
        baselines: as for `learn.explain`.
        batch_size: rows per pass; None: automatic.
        output: which of several outputs is explained, as for `learn.explain`; with its target and class names.
        label_key: which of the data's targets belongs to it; None: that at the output's place.
        tag: name of the pictures in loggers and files; several callbacks in one Learner need several.

    Attributes:
        history: a `Snapshot` per explained epoch. Maps stay in memory (a 224 x 224 picture and method: 0.6 MB an
            epoch); inputs and baselines that do not change are kept once.
        last: the latest explanations; empty before the first.

    Raises:
        InterpError: one of its kinds, for arguments that cannot work.

    Example:
        watch = AttributionCallback(n=4, methods="integrated_gradients", target="label")
        learn.fit_one_cycle(2, cbs=watch)
        watch.plot()  # also learn.attribution.plot(), where it was added with learn.add_cb or cbs= of the Learner
    """

    def __init__(
        self,
        items: Any = None,
        n: int = 4,
        methods: Methods = DEFAULT_METHODS,
        target: Any = None,
        every_n_epochs: int = 1,
        layer: Any = None,
        log: str = "auto",
        path: Any = None,
        seed: int = 0,
        on_error: str = "warn",
        *,
        against: Any = None,
        baselines: Any = None,
        batch_size: int | None = None,
        output: Any = None,
        label_key: int | None = None,
        tag: str = "attribution",
    ):
        super().__init__(every_n_epochs, on_error)
        check_names(methods)
        check_count("n", n, 1)
        check_seed(seed)
        check_folder("path", path)
        check_choice("log", log, _LOGS)
        self.items, self.n = items, n
        target = rather_than(target, against)
        self.options = {"methods": methods, "target": target, "layer": layer, "baselines": baselines, "seed": seed}
        self.options |= {"batch_size": check_chunk("batch_size", batch_size), "output": output, "label_key": label_key}
        label_number(label_key, output)  # a wrong one is said at once
        self.log, self.path, self.tag = log, path, tag
        self.history: list[Snapshot] = []

    def look(self, epoch: int) -> None:
        """Explain the samples after an epoch and log their maps."""
        exps, truths = self._explain()
        self.history.append(Snapshot(self._fit, epoch, self.learn.train_iter, exps))
        self._publish(exps, truths)

    # -- results ---------------------------------------------------------------------------------------------

    @property
    def last(self) -> Explanations:
        """The latest explanations; empty before the first."""
        return self.history[-1].explanations if self.history else Explanations()

    def plot(self, method: Any = 0, **kwargs: Any) -> Any:
        """Draw one method's maps: a row per sample, a column per explained epoch; returns (figure, axes).

        Args:
            method: name of the method, or its number where there are several targets.
            **kwargs: `max_n` samples, `max_epochs` columns (evenly chosen), `kind`, `normalize`, `percentile`,
                `figsize`; with `normalize="shared"` all maps of a sample have one scale.
        """
        if not self.history:
            raise InputError("There is nothing to plot: no epoch has been explained yet. Train with this callback.")
        several = self.history[-1].fit > 1
        names = [f"fit {s.fit}, epoch {s.epoch}" if several else f"epoch {s.epoch}" for s in self.history]
        return draw_timeline(names, [s.explanations[method] for s in self.history], **kwargs)

    def to_df(self) -> Any:
        """A table with a row per fit, epoch, method and sample, as `Explanations.to_df` makes it for one epoch."""
        import pandas as pd

        keys = ["fit", "epoch", "train_iter"]
        tables = [s.explanations.to_df().assign(**{k: getattr(s, k) for k in keys}) for s in self.history]
        if not tables:
            return pd.DataFrame()
        table = pd.concat(tables, ignore_index=True)
        return table[[*keys, *(c for c in table if c not in keys)]]

    # -- work ------------------------------------------------------------------------------------------------

    def _explain(self) -> tuple[Explanations, list[str]]:
        options = {**self.options, "progress": False}
        if self.items is not None:
            return self._slim(self.learn.explain(self.items, **options)), []
        loader = valid(self.learn.dls)
        if type(loader).__name__ == "DistributedDL":  # its class cannot be imported without accelerate
            loader = loader.dl  # the wrapper needs all processes
        if not length(loader):
            loader = self.learn.dls.train
        total = length(loader) or 0
        if not total:
            raise InputError("Neither the validation nor the training set holds a sample. Give the samples: items=.")
        rows = [i * total // min(self.n, total) for i in range(min(self.n, total))]
        exps, shown = explain_rows(reader_of(self.learn), loader, rows, **options)
        return self._slim(exps), [truth_of(shown.samples, i) for i in range(len(rows))]

    def _slim(self, exps: Explanations) -> Explanations:
        """Inputs and baselines that the previous epoch had already are kept once."""
        if not self.history:
            return exps
        slim = []
        for old, new in zip(self.history[-1].explanations, exps):
            same = {k: getattr(old, k) for k in ("inputs", "baselines") if _equal(getattr(old, k), getattr(new, k))}
            slim.append(replace(new, **same))
        return Explanations(slim) if len(slim) == len(exps) else exps

    def _publish(self, exps: Explanations, truths: list[str]) -> None:
        if self.log == "none":
            return
        fig = draw_table(exps, truths, max_n=max(len(e) for e in exps)).fig
        taken = self.log != "files" and log_figure(self.learn.cbs, self.tag, fig, self.learn.train_iter)
        if not taken or self.log == "both" or self.path is not None:
            folder = Path(self.path) if self.path is not None else Path(self.learn.path) / "attributions"
            files.write_new(folder / f"{self.tag}-epoch{self.learn.epoch:03d}.png", png_of_figure(fig))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)

"""`AttributionCallback`: the same samples explained again and again while a Learner trains.

After every n-th training epoch the samples go through `learn.explain`, which changes nothing of the training: no
weight, mode, gradient or random number. Pictures and numbers go where the Learner logs already, pictures else to files.
Numbers of metrics that are asked for stand in the recorder, behind the Learner's own metrics, where fastai's progress
table, loggers and `SaveModelCallback` look for numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fastai.torch_core import rank_distrib
from fastcore.foundation import L
from torch import Tensor

from interp_plugins.api.callbacks import (
    check_choice,
    check_count,
    check_folder,
    check_names,
    check_tag,
    contained,
    labels_of,
)
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
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.labels import label_number
from interp_plugins.fastai.learner_info import valid
from interp_plugins.fastai.loggers import log_figure, log_numbers
from interp_plugins.fastai.reader import reader_of
from interp_plugins.fastai.sample_stream import watched_batches
from interp_plugins.fastai.show import truth_of
from interp_plugins.fastai.timeline import draw_timeline
from interp_plugins.metrics import series
from interp_plugins.metrics.watching import BUDGET, MetricWatch
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
        numbers: a dict per explanation, see `AttributionCallback.numbers`.
    """

    fit: int
    epoch: int
    train_iter: int
    explanations: Explanations
    numbers: tuple[dict[str, Any], ...] = ()


class AttributionCallback(EveryNEpochs):
    """Explain the same samples while the Learner trains, and log the pictures.

    Training is bit-identical with and without it. It does nothing in `lr_find`, `validate`, `get_preds` and `predict`,
    and in distributed training only the first process works. After the training, `history` holds all results,
    `plot()` draws them side by side, `to_df()` makes a table of them and `numbers()` one of what they are worth.

    A metric is a column of the recorder and of the progress table, `tag/method/metric`: the mean over the samples (and
    over the targets of a method that explains several), NaN in an epoch that is not explained. fastai's own callbacks
    log it from there, and `SaveModelCallback(monitor="attribution/saliency/srg")` can go by it. TensorBoard and W&B
    also get, as `tag/method/...`, how far the maps moved since the epoch before, their sparseness and completeness.

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
        tag: name of the pictures and numbers in loggers and files; several callbacks in one Learner need several.
        metrics: as for `learn.evaluate_explanations`, without masks or truth: names, (name, parameters), `metric(...)`
            objects, or a mapping name -> parameters; None: none.
        metric_budget: rows that the metrics of one epoch may send through the model; fewer samples are judged beyond.

    Attributes:
        history: a `Snapshot` per explained epoch. Maps stay in memory (a 224 x 224 picture and method: 0.6 MB an
            epoch); inputs and baselines that do not change are kept once.
        last: the latest explanations; empty before the first.

    Raises:
        InterpError: one of its kinds, for arguments that cannot work; metrics that need masks or truth, or ask the
            method again, are for `learn.evaluate_explanations` after the training.

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
        metrics: Any = None,
        metric_budget: int = BUDGET,
    ):
        super().__init__(every_n_epochs, on_error)
        check_names(methods)
        check_count("n", n, 1)
        check_seed(seed)
        check_folder("path", path)
        check_choice("log", log, _LOGS)
        check_tag(tag)
        self.items, self.n = items, n
        target = rather_than(target, against)
        self.options = {"methods": methods, "target": target, "layer": layer, "baselines": baselines, "seed": seed}
        self.options |= {"batch_size": check_chunk("batch_size", batch_size), "output": output, "label_key": label_key}
        label_number(label_key, output)  # a wrong one is said at once
        self.log, self.path, self.tag = log, path, tag
        self.history: list[Snapshot] = []
        self._watch, self._new = MetricWatch(metrics, metric_budget, seed), dict[str, float]()
        self.early = bool(self._watch.columns)
        self._series = labels_of(methods, layer) if self.early else []

    def before_fit(self) -> None:
        """Name the columns of the metrics in the recorder, before it writes the head of its table."""
        super().before_fit()
        recorder = getattr(self.learn, "recorder", None)
        if recorder is not None and rank_distrib() == 0:
            end = len(recorder.metric_names) - bool(recorder.add_time)
            names = list(recorder.metric_names)
            recorder.metric_names = L([*names[:end], *self._columns, *names[end:]])

    def after_validate(self) -> None:
        """Look where metrics are asked for, and give the recorder their numbers."""
        trained = self._trained and not hasattr(self, "gather_preds")
        self._new = {}
        super().after_validate()
        recorder = getattr(self.learn, "recorder", None)
        if trained and recorder is not None:
            recorder.log += L([self._new.get(name, math.nan) for name in self._columns])

    def look(self, epoch: int) -> None:
        """Explain the samples after an epoch, judge their maps, and log both."""
        seen: list[Any] = []
        exps, truths, rows = self._explain(lambda *one: seen.append(one))
        judged: list[dict[str, float]] = []
        with contained(type(self).__name__, self.on_error):  # the maps stay where metrics fail
            judged = self._judged(seen, rows)
        facts = {"fit": self._fit, "epoch": epoch, "train_iter": self.learn.train_iter}
        numbers = series.rows(exps, self.last if self.history else None, judged, **facts)
        self.history.append(Snapshot(explanations=exps, numbers=tuple(numbers), **facts))
        self._new = self._of_methods(judged)
        self._publish(exps, truths, numbers)

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

    def numbers(self) -> Any:
        """A table (DataFrame) with a row per fit, epoch and series: a method, of several targets each ("saliency.1").

        `sparseness` (mean Gini index of the absolute map), `completeness_error` (median of |convergence delta| relative
        to the change of the score), `cosine_to_previous` and `rank_correlation_to_previous` (how alike the maps are to
        those of the epoch explained before), `target_changed` (share of samples whose explained class is another one
        than before), and for each metric its mean and the ends of its 95 % interval, `name_ci_low` and `name_ci_high`.
        """
        import pandas as pd

        return pd.DataFrame([row for snapshot in self.history for row in snapshot.numbers])

    # -- work ------------------------------------------------------------------------------------------------

    @property
    def _columns(self) -> list[str]:
        """What the metrics are called in the recorder."""
        return [f"{self.tag}/{method}/{name}" for method in self._series for name in self._watch.names]

    def _of_methods(self, judged: list[dict[str, float]]) -> dict[str, float]:
        """The numbers of the columns: means over the targets of a method, whose explanations stand side by side."""
        found, many = {}, len(judged) // max(1, len(self._series))
        for i, method in enumerate(self._series):
            for name in self._watch.names:
                values = [row[name] for row in judged[i * many : (i + 1) * many] if name in row]
                if values:
                    found[f"{self.tag}/{method}/{name}"] = sum(values) / len(values)
        return found

    def _judged(self, seen: list[Any], rows: list[int] | None) -> list[dict[str, float]]:
        if not self._watch.columns:
            return []
        reader = reader_of(self.learn)
        with reader.unchanged():
            samples = watched_batches(reader, seen, self.options["baselines"], rows)
            return self._watch.numbers(samples, self.options["batch_size"])

    def _explain(self, each: Callable[..., Any]) -> tuple[Explanations, list[str], list[int] | None]:
        """The explanations, the truth in words, the samples' rows (None of items); `each` as for `Reader.explain`."""
        options = {**self.options, "progress": False, "each": each}
        reader = reader_of(self.learn)
        if self.items is not None:
            return self._slim(reader.explain_source(SampleSource(self.items), **options)), [], None
        loader = valid(self.learn.dls)
        if type(loader).__name__ == "DistributedDL":  # its class cannot be imported without accelerate
            loader = loader.dl  # the wrapper needs all processes
        if not length(loader):
            loader = self.learn.dls.train
        total = length(loader) or 0
        if not total:
            raise InputError("Neither the validation nor the training set holds a sample. Give the samples: items=.")
        rows = [i * total // min(self.n, total) for i in range(min(self.n, total))]
        exps, shown = explain_rows(reader, loader, rows, **options)
        return self._slim(exps), [truth_of(shown.samples, i) for i in range(len(rows))], rows

    def _slim(self, exps: Explanations) -> Explanations:
        """Inputs and baselines that the previous epoch had already are kept once."""
        if not self.history:
            return exps
        slim = []
        for old, new in zip(self.history[-1].explanations, exps):
            same = {k: getattr(old, k) for k in ("inputs", "baselines") if _equal(getattr(old, k), getattr(new, k))}
            slim.append(replace(new, **same))
        return Explanations(slim) if len(slim) == len(exps) else exps

    def _publish(self, exps: Explanations, truths: list[str], numbers: list[dict[str, Any]]) -> None:
        if self.log == "none":
            return
        if self.log != "files":  # what stands in the recorder is logged by fastai
            logged = series.logged(numbers, self.tag, self._watch.names)
            logged = {name: value for name, value in logged.items() if name not in self._columns}
            log_numbers(self.learn.cbs, logged, self.learn.train_iter)
        fig = draw_table(exps, truths, max_n=max(len(e) for e in exps)).fig
        taken = self.log != "files" and log_figure(self.learn.cbs, self.tag, fig, self.learn.train_iter)
        if not taken or self.log == "both" or self.path is not None:
            folder = Path(self.path) if self.path is not None else Path(self.learn.path) / "attributions"
            files.write_new(folder / f"{self.tag}-epoch{self.learn.epoch:03d}.png", png_of_figure(fig))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)

"""`Learner.insights`: the viewer over items or rows of the data, with the Learner behind it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch
from torch import Tensor

from interp_plugins.api.binding import first_looks
from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core import files
from interp_plugins.core.errors import InterpError, ModelError, TargetError, concise, unknown
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.literals import rather_than
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.batch import ReadBatch
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.labels import label_number, label_of
from interp_plugins.fastai.reader import reader_of
from interp_plugins.insights import Ask, Live, Made, Session, serve, widget
from interp_plugins.insights.forms import forms, typed
from interp_plugins.insights.outcomes import Truth
from interp_plugins.insights.records import as_records
from interp_plugins.insights.report import PAGE, catalogue
from interp_plugins.insights.subject import prediction_of
from interp_plugins.viz.figure import in_notebook

_HOSTS = ("notebook", "server", "file")


@patch
def insights(
    self: Learner,
    item: Any = None,  # what `predict` takes (path, PIL image, array, tensor, row), or a list of them
    methods: Methods | None = None,  # explained beforehand; None: a first page, cheaply; in a file the default ones
    target: Any = None,  # what is explained where no class is pressed; as for `explain`
    against: Any = None,  # why this target rather than that one; as for `explain`
    *,
    dl: Any = None,  # or a loader, always read with validation transforms
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split (1 if none is named); None: all
    xb: Any = None,  # or a batch that is encoded already
    layer: Any = None,  # for methods at a layer; None: the last map of the body
    baselines: Any = None,  # the baseline called "default" in the page
    seed: int = 0,  # seed of all random draws
    rm_type_tfms: Any = None,  # as for `predict`
    show: str | None = None,  # "notebook", "server", "file"; None: a notebook's cell where there is one, else a server
    path: str | Path = "insights.html",  # where the file is written, for "file"
    curves: bool = False,  # insertion and deletion curves of what is explained beforehand
    records: Sequence[Any] = (),  # results shown beside, each in a tab: `learn.suspects()`, `learn.influence(...)`, ...
    title: str = "Insights",  # heading of the page
    port: int = 0,  # of the server; 0: a free one
    **params: Any,  # further arguments of `explain` and of the methods
) -> Any:
    """Look at predictions and their reasons in the viewer, with the same transforms, labels and targets as `explain`.

    Samples can be filtered, sorted and searched, explained by any method and for any class, compared, tagged and saved.
    The ground truth is that of the data (for raw items: where the data's label function knows it). The Learner may
    go on training; the page asks its model as it is then, and the predictions shown stay those of the beginning.

    Returns:
        A widget ("notebook"); the running server, which ends with the program or by `stop()`, its address printed
        ("server"); or the path of the file, which needs no server and no model ("file").

    Raises:
        InterpError: one of its kinds, as for `explain`.

    Example:
        learn.insights(get_image_files("pictures"))
        learn.insights(ds_idx=1, idxs=slice(200), methods=("gradcam", "ig"), show="file", path="look.html")
        learn.insights(records=[learn.suspects()])
    """
    with concise():
        host = show if show is not None else "notebook" if in_notebook() else "server"
        if host not in _HOSTS:
            raise unknown("host", host, _HOSTS)
        beside = as_records(records)
        if beside and item is None and dl is None and ds_idx is None and xb is None and idxs is None:
            return _shown(lambda: Session.of_records(*beside, title=title), host, path, title, port)
        subject = LearnerSubject(
            self,
            SampleSource(item, dl, ds_idx, idxs, xb),
            target=rather_than(target, against),
            baselines=baselines,
            seed=seed,
            rm_type_tfms=rm_type_tfms,
            params={"layer": layer, **params},
        )
        if methods is not None or host == "file":
            subject.prepare(DEFAULT_METHODS if methods is None else methods, curves=curves)
        else:
            _show_at_once(subject)
        about = catalogue(subject, title=title)
        return _shown(lambda: Session.over(subject, about, records=beside), host, path, title, port)


def _shown(new_session: Callable[[], Session], host: str, path: str | Path, title: str, port: int) -> Any:
    """The viewer in a file, a notebook, or on a page of this machine."""
    if host == "file":
        return files.write(path, new_session().to_html())
    if host == "notebook":
        return widget(new_session())
    server = serve(new_session, port=port, title=title, open_browser=hasattr(sys, "ps1"))
    print(server.url)
    return server


def _show_at_once(subject: Any) -> None:
    """Explain the first page by the cheapest method that can; what keeps one from it is said where it is asked for."""
    for method in first_looks(subject.spec.kind):
        with contextlib.suppress(InterpError):
            subject.prepare(method, first=PAGE)
            return


class LearnerSubject(Live):
    """Samples of a Learner, encoded by its own transforms, and explained as `Learner.explain` does.

    Args:
        learn: the Learner.
        source: the samples.
        target: what is explained where the page names no class.
        baselines: the default baseline.
        seed: of all random draws.
        rm_type_tfms: as for `explain`.
        params: further arguments of `explain`.
    """

    def __init__(
        self,
        learn: Learner,
        source: SampleSource,
        *,
        target: Any = None,
        baselines: Any = None,
        seed: int = 0,
        rm_type_tfms: Any = None,
        params: dict[str, Any] | None = None,
    ):
        self.reader, self.target, self.seed = reader_of(learn), target, check_seed(seed)
        self.params = dict(params or {})
        self.whose = {name: self.params.pop(name, None) for name in ("output", "label_key")}
        self.models, self.functions = [type(self.reader.model).__name__], [self.reader.model]
        with self.reader.unchanged():
            try:
                self.batches = self.reader.read(source, labelled=True, rm_type_tfms=rm_type_tfms)
            except TargetError:  # raw items without a ground truth
                self.batches = self.reader.read(source, rm_type_tfms=rm_type_tfms)
            self.default = self.reader.encoded_baselines(baselines, rm_type_tfms)
        self.rows = [batch.rows([i]) for batch in self.batches for i in range(len(batch))]
        self.n = len(self.rows)
        self.spec = self.input(0).spec
        self.names = [row.names[0] if row.names else "" for row in self.rows]
        number = label_number(self.whose["label_key"], self.whose["output"])
        self.truths = [_truth(row, self.spec, number) for row in self.rows]
        self.baselines = self.reader.baseline_names

    def forms(self) -> list[dict[str, Any]]:
        """The methods to choose from, with their parameters."""
        return forms(as_tuple(self.arguments(0, 0, None)["inputs"]), self.spec)

    def call(self, i: int) -> str:
        """The call that explains sample i, as a person writes it."""
        return f"learn.explain(items[{i}]"

    def arguments(self, m: int, i: int | None, ask: Ask | None) -> dict[str, Any]:
        """The arguments of the core's `explain`, as `Learner.explain` would call it."""
        batch = self.rows[i] if i is not None else self.batches[0]
        with self.reader.unchanged():
            return self.reader.arguments(batch, **self._asked(ask))

    def predictions(self, m: int) -> list[tuple[Prediction | str, int]]:
        """What the model says of each sample; texts are asked one by one."""
        found: list[tuple[Prediction | str, int]] = []
        with self.reader.unchanged():
            for batch in self.batches:
                try:
                    said = prediction_of(**self.reader.arguments(batch, **self._asked(None)), seed=self.seed)
                except ModelError:  # one sample can be the reason, and the others can be looked at
                    found += [(self.alone(m, len(found) + i), 0) for i in range(len(batch))]
                else:
                    found += [(said, i) for i in range(len(batch))]
        return found

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it, with its tokens or its column values."""
        known = self.arguments(0, i, None)
        inputs, spec = known["inputs"], known["input_spec"]
        seen = Explanation(attributions=inputs, inputs=inputs, method="input", spec=spec)
        return self.reader.told(Explanations([seen]), self.rows[i], self.default)[0]

    def explain(self, m: int, i: int, ask: Ask) -> Explanations:
        """Explain sample i, as `Learner.explain` does."""
        methods = {ask.method: typed(ask.params)}
        with self.locked(m), self.reader.unchanged():
            return self.reader.explain(
                [self.rows[i]], methods, **self._asked(ask), seed=self.seed, progress=False, **self.params
            )

    def curves(self, i: int, made: Made, baseline: str) -> dict[str, Any]:
        """Insertion and deletion curves of an explanation of sample i."""
        with self.reader.unchanged():
            return super().curves(i, made, baseline)

    def _asked(self, ask: Ask | None) -> dict[str, Any]:
        if ask is None:
            return {"target": None, "baselines": self.default, **self.whose}
        target = self.target if ask.target is None else ask.target
        baselines = self.default if ask.baseline == "default" else ask.baseline
        return {"target": target, "baselines": baselines, **self.whose}


def _truth(row: ReadBatch, spec: InputSpec, number: int | None) -> Truth | None:
    """The ground truth, where it is one class, several labels, or one value."""
    truth = label_of(row.labels, number)
    if not isinstance(truth, Tensor):
        return None
    label = truth[0]
    classes = len(spec.vocab) if spec.vocab is not None else None
    if label.numel() == 1:
        return Truth.of(label.reshape(()), spec)
    if label.ndim == 1 and len(label) == classes and bool(((label == 0) | (label == 1)).all()):
        return Truth.of(label, spec)
    return None

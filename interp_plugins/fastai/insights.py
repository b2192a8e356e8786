"""`Learner.insights`: the viewer over items or rows of the data, with the Learner behind it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastai.learner import Learner
from fastai.torch_core import get_model
from fastcore.basics import patch
from torch import Tensor

from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.core.baseline import BASELINES
from interp_plugins.core.errors import TargetError, unknown
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.guard import preserved_rng
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.fastai.batch import Batch, from_items, to_model
from interp_plugins.fastai.items import is_item
from interp_plugins.fastai.learner import explain_batch, read_batches
from interp_plugins.fastai.restore import restored_state
from interp_plugins.fastai.tabular import is_table
from interp_plugins.fastai.text import tokens_of
from interp_plugins.insights import Ask, Live, Made, Session, serve, widget
from interp_plugins.insights.forms import forms, typed
from interp_plugins.insights.outcomes import Truth
from interp_plugins.insights.report import catalogue
from interp_plugins.insights.subject import prediction_of

_HOSTS = ("notebook", "server", "file")


@patch
def insights(
    self: Learner,
    item: Any = None,  # what `predict` takes (path, PIL image, array, tensor, row), or a list of them
    methods: Any = None,  # what is explained beforehand; None: nothing, in a file the default methods
    target: Any = None,  # what is explained where no class is pressed; as for `explain`
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
    """
    host = show if show is not None else "notebook" if _in_notebook() else "server"
    if host not in _HOSTS:
        raise unknown("host", host, _HOSTS)
    subject = LearnerSubject(
        self,
        (item, dl, ds_idx, idxs, xb),
        target=target,
        baselines=baselines,
        seed=seed,
        rm_type_tfms=rm_type_tfms,
        params={"layer": layer, **params},
    )
    if methods is not None or host == "file":
        subject.prepare(DEFAULT_METHODS if methods is None else methods, curves=curves)
    about = catalogue(subject, title=title)
    if host == "file":
        page = Path(path)
        page.write_text(Session.over(subject, about).to_html(), encoding="utf-8")
        return page
    if host == "notebook":
        return widget(Session.over(subject, about))
    server = serve(lambda: Session.over(subject, about), port=port, title=title, open_browser=hasattr(sys, "ps1"))
    print(server.url)
    return server


class LearnerSubject(Live):
    """Samples of a Learner, encoded by its own transforms, and explained as `Learner.explain` does.

    Args:
        learn: the Learner.
        source: item, dl, ds_idx, idxs and xb, as for `explain`.
        target: what is explained where the page names no class.
        baselines: the default baseline.
        seed: of all random draws.
        rm_type_tfms: as for `explain`.
        params: further arguments of `explain`.
    """

    def __init__(
        self,
        learn: Learner,
        source: Sequence[Any],
        *,
        target: Any = None,
        baselines: Any = None,
        seed: int = 0,
        rm_type_tfms: Any = None,
        params: dict[str, Any] | None = None,
    ):
        self.learn, self.target, self.seed = learn, target, seed
        self.params = params or {}
        model = get_model(learn.model)
        self.models, self.functions = [type(model).__name__], [model]
        with preserved_rng(), restored_state(learn.dls, model):
            try:
                self.batches = read_batches(learn, *source, labelled=True, rm_type_tfms=rm_type_tfms)
            except TargetError:  # raw items without a ground truth
                self.batches = read_batches(learn, *source, labelled=False, rm_type_tfms=rm_type_tfms)
            table = is_table(learn.dls)
            if is_item(baselines) and not table:
                baselines = to_model(from_items(learn.dls, baselines, rm_type_tfms=rm_type_tfms), model)
        self.default = baselines
        self.rows = [_row(batch, i) for batch in self.batches for i in range(len(batch))]
        self.n = len(self.rows)
        first = self.input(0)
        self.spec = first.spec
        self.names = [row.names[0] if row.names else "" for row in self.rows]
        self.truths = [_truth(row, self.spec) for row in self.rows]
        self.baselines = ("mean", "zero") if table else ("zero",) if tokens_of(learn.dls) else tuple(BASELINES)

    def forms(self) -> list[dict[str, Any]]:
        """The methods to choose from, with their parameters."""
        return forms(as_tuple(self.arguments(0, 0, None)["inputs"]), self.spec)

    def call(self, i: int) -> str:
        """The call that explains sample i, as a person writes it."""
        return f"learn.explain(items[{i}]"

    def arguments(self, m: int, i: int | None, ask: Ask | None) -> dict[str, Any]:
        """The arguments of the core's `explain`, as `Learner.explain` would call it."""
        batch = self.rows[i] if i is not None else self.batches[0]
        return self._caught(batch, ask)[0]

    def predictions(self, m: int) -> list[tuple[Prediction, int]]:
        """What the model says of each sample; texts are asked one by one."""
        found = []
        with self._unchanged():
            for batch in self.batches:
                said = prediction_of(**self._caught(batch, None)[0], seed=self.seed)
                found += [(said, i) for i in range(len(batch))]
        return found

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it, with its tokens or its column values."""
        return self._caught(self.rows[i], None)[1][0]

    def explain(self, m: int, i: int, ask: Ask) -> Explanations:
        """Explain sample i, as `Learner.explain` does."""
        with self.locked(m), self._unchanged():
            return explain_batch(
                self.learn,
                self.rows[i],
                {ask.method: typed(ask.params)},
                **self._asked(ask),
                seed=self.seed,
                progress=False,
                **self.params,
            )

    def curves(self, i: int, made: Made, baseline: str) -> dict[str, Any]:
        """Insertion and deletion curves of an explanation of sample i."""
        with self._unchanged():
            return super().curves(i, made, baseline)

    def _asked(self, ask: Ask | None) -> dict[str, Any]:
        if ask is None:
            return {"target": None, "baselines": self.default}
        target = self.target if ask.target is None else ask.target
        return {"target": target, "baselines": self.default if ask.baseline == "default" else ask.baseline}

    def _caught(self, batch: Batch, ask: Ask | None) -> tuple[dict[str, Any], Explanations]:
        """What `Learner.explain` would call the core with, and the inputs told as it tells them."""
        caught: dict[str, Any] = {}

        def look(model: Any, inputs: Any, *, input_spec: InputSpec | None = None, **known: Any) -> Explanations:
            first = as_tuple(inputs)[0]
            spec = input_spec or InputSpec.guess(first)
            caught.update(model=model, inputs=inputs, input_spec=spec, **known)
            return Explanations([Explanation(attributions=inputs, inputs=inputs, method="input", spec=spec)])

        with self._unchanged():
            told = explain_batch(self.learn, batch, (), **self._asked(ask), core=look)
        caught.pop("methods")
        return caught, told

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Random generators, transforms and hooks as they were, also after an error."""
        with preserved_rng(), restored_state(self.learn.dls, get_model(self.learn.model)):
            yield


def _row(batch: Batch, i: int) -> Batch:
    """One row as a batch."""

    def cut(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(v[i : i + 1] if isinstance(v, Tensor) else v for v in values)

    names = batch.names[i : i + 1] if batch.names else None
    return replace(batch, inputs=cut(batch.inputs), labels=cut(batch.labels), names=names)


def _truth(row: Batch, spec: InputSpec) -> Truth | None:
    """The ground truth, where it is one class, several labels, or one value."""
    if len(row.labels) != 1 or not isinstance(row.labels[0], Tensor):
        return None
    label = row.labels[0][0]
    classes = len(spec.vocab) if spec.vocab is not None else None
    if label.numel() == 1:
        return Truth.of(label.reshape(()), spec)
    if label.ndim == 1 and len(label) == classes and bool(((label == 0) | (label == 1)).all()):
        return Truth.of(label, spec)
    return None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")

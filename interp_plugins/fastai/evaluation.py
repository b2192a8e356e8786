"""`Learner.evaluate_explanations` and `Learner.compare_methods`: can these maps be trusted, and which method is best?

Items go through the same validation transforms as in `learn.explain`; what is judged, and how, is
`interp_plugins.evaluate` and `interp_plugins.compare_methods`.
"""

from __future__ import annotations

from typing import Any

from fastai.learner import Learner
from fastcore.basics import patch

from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.errors import concise
from interp_plugins.core.literals import rather_than
from interp_plugins.core.registry import Budget
from interp_plugins.fastai import learner as _learner  # noqa: F401 - the readers
from interp_plugins.fastai.items import SampleSource
from interp_plugins.fastai.reader import reader_of
from interp_plugins.fastai.sample_stream import named_or_first, sample_stream
from interp_plugins.metrics.asked_rows import AskedRows
from interp_plugins.metrics.comparing import Comparing
from interp_plugins.metrics.comparison import Comparison
from interp_plugins.metrics.evaluation import Evaluation, planned, run
from interp_plugins.metrics.scores import Scores


@patch
def evaluate_explanations(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    methods: Methods | None = None,  # as for `explain`
    metrics: Any = None,  # names, (name, parameters), metric(...) objects; None: `srg`, `gini_index`, more with masks
    target: Any = None,  # as for `explain`, one per sample; "label": ground truth; None: what is predicted
    *,
    against: Any = None,  # why `target` rather than this: a class by name or index
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 64,  # rows where none are named
    masks: Any = None,  # where the thing lies, one per sample: bool arrays, boxes, spans of tokens, names of columns
    truth: Any = None,  # what is true of the elements, one per sample
    baselines: Any = None,  # as for `explain`; removed parts are replaced by it as well
    features: Any = None,  # numbers of what goes together where parts are removed; None: a pixel, column, token
    controls: Any = (),  # maps that ignore the model: "control.random", "control.input", "control.edges", ...
    seed: int = 0,  # seed of all draws
    dry_run: bool = False,  # say how many rows would be asked of the model, instead
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    budget: Budget = "fast",  # of the methods, as for `explain`
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # the methods' own parameters, and `layer`
) -> Scores | AskedRows:
    """Judge explanations of a Learner's predictions by metrics, method by method; the Learner stays as it was.

    Pictures lose pixels, tables columns (a category is replaced by the most frequent one, a number by the mean), texts
    tokens; every text is judged alone, so padding is never a feature. Of labels that do not exclude each other each
    item's most probable one is judged, of a segmentation its largest class.

    Returns:
        `Scores`, a `Score` per method and metric, by the rows' numbers (items: their places); with `dry_run` the
        `AskedRows`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        learn.evaluate_explanations(methods=("ig", "gradcam"), controls=["control.random"], n=20).to_html("scores.html")
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx, idxs), n)
        options = {"budget": budget, **params}
        made = Evaluation(methods, metrics, features=features, controls=controls, seed=seed, options=options)
        with reader.unchanged():
            beside = {"masks": masks, "truth": truth, "output": output, "label_key": label_key, "baselines": baselines}
            stream = sample_stream(reader, source, rather_than(target, against), **beside)
            if dry_run:
                return planned(made, stream)
            run(made, stream, progress)
        return made.scores()


@patch
def compare_methods(
    self: Learner,
    item: Any = None,  # items as for `explain`; None: the first `n` rows of the validation set
    methods: Methods | None = None,  # as for `explain`; None: some of each family that run on this model
    target: Any = None,  # as for `explain`, one per sample; "label": ground truth; None: what is predicted
    *,
    against: Any = None,  # why `target` rather than this
    dl: Any = None,  # or a loader
    ds_idx: int | None = None,  # or a split of the data: 0 training, 1 validation
    idxs: Any = None,  # which rows of `dl` or of the split
    n: int = 64,  # rows where none are named
    masks: Any = None,  # where the thing lies, one per sample: they decide among equally faithful methods
    baselines: Any = None,  # as for `explain`; removed parts are replaced by it as well
    features: Any = None,  # numbers of what goes together where parts are removed; None: a pixel, column, token
    level: float = 0.95,  # of the intervals
    seed: int = 0,  # seed of all draws
    output: Any = None,  # as for `explain`
    label_key: int | None = None,  # as for `explain`
    budget: Budget = "fast",  # "fast", "normal", "thorough": how many methods, steps and draws
    progress: bool | None = None,  # None: a bar for long work
    **params: Any,  # the methods' own parameters, and `layer`
) -> Comparison:
    """Which method to use for this Learner's model, why, and what was not tested; the Learner stays as it was.

    `interp_plugins.compare_methods` says what a method must pass and how those that do are ranked.

    Returns:
        A `Comparison`: `.best` (None where no method passed), `.why()`, `.table`, `.show()`, `.to_html(path)`.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        found = learn.compare_methods(methods=("ig", "gradcam"), n=20)
        found.best, found.why()
    """
    with concise():
        reader = reader_of(self)
        source = named_or_first(reader, SampleSource(item, dl, ds_idx, idxs), n)
        made = Comparing(methods, features=features, budget=budget, level=level, seed=seed, options=params)
        with reader.unchanged():
            beside = {"masks": masks, "truth": None, "output": output, "label_key": label_key, "baselines": baselines}
            return made.of(sample_stream(reader, source, rather_than(target, against), **beside), progress)

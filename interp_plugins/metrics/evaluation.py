"""`evaluate`: methods judged by metrics on samples of a model, in one call; and `Evaluation`, the same batch by batch.

Maps are explained once for all metrics, rows that several metrics or methods ask go through the model once, and nothing
depends on how the samples are cut into batches: a score's values are those of the samples alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.attr.shared.names import Methods
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.errors import InputError, InterpError, concise
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen
from interp_plugins.core.literals import rather_than
from interp_plugins.core.random import check_seed
from interp_plugins.core.truth import Reading
from interp_plugins.metrics.accumulate import Metric
from interp_plugins.metrics.asked_rows import AskedRows
from interp_plugins.metrics.columns import Column, columns_of
from interp_plugins.metrics.controls import CONTROLS
from interp_plugins.metrics.explainer import Explainer
from interp_plugins.metrics.maps import Mapped, Method, mapped
from interp_plugins.metrics.registry import REPEATING
from interp_plugins.metrics.scores import Scores
from interp_plugins.metrics.sheet import shared_rows

State = tuple[str, dict[str, Any], dict[str, Any]]  # a metric's name, its parameters, what it found


class Evaluation:
    """Scores in the making: batches in any order and grouping, on one process or on several.

    Args:
        methods: as for `interp_plugins.explain`.
        metrics: names, (name, parameters), `metric(...)` objects, or a mapping name -> parameters; None: `srg` and
            `gini_index`, and where the first batch has masks or truth the metrics that need them.
        features: numbers of what goes together where parts are removed, as for `removal_curves`; None: each place.
        controls: maps that ignore the model, judged beside the methods: names of `metrics.controls.CONTROLS`.
        seed: of all draws.
        options: further arguments of `interp_plugins.explain` (`baselines`, `layer`, `budget`, ...) and the methods'
            parameters.
    """

    def __init__(
        self,
        methods: Methods | None = None,
        metrics: Any = None,
        *,
        features: Any = None,
        controls: Sequence[str] = (),
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        self.methods, self.metrics, self.features = methods, metrics, features
        self.controls, self.seed, self.options = tuple(controls), check_seed(seed), dict(options or {})
        self.rows = AskedRows()
        self._columns: list[Column] | None = None if metrics is None else columns_of(metrics)
        self._found: dict[tuple[str, str], Metric] = {}
        self.completeness: dict[str, dict[Any, float]] = {}  # method -> id -> relative error, where it promises one

    def add(self, batch: SampleBatch) -> None:
        """Explain a batch by every method and judge the maps.

        Raises:
            InputError: what a metric needs is missing, or a sample seen before has another value.
        """
        self.judge(mapped(batch, self.methods, self.controls, {**self.options, **batch.options}, self.seed))

    def judge(self, made: Mapped) -> None:
        """Judge maps that are there.

        Raises:
            InputError: what a metric needs is missing, or a sample seen before has another value.
        """
        batch = made.batch
        if self._columns is None:
            self._columns = columns_of(self.metrics, masks=batch.masks is not None, truth=batch.truth is not None)
        for label, exp in made.maps.items():
            errors = ((key, exp.relative_error(i)) for i, key in enumerate(batch.keys))
            self.completeness.setdefault(label, {}).update({k: e for k, e in errors if e is not None})
        rows = dict(made.rows)
        with contextlib.ExitStack() as scopes:
            if made.subject is not None:
                scopes.enter_context(frozen(made.subject.func, seed=self.seed))
            scopes.enter_context(shared_rows())
            for column in self._columns:
                again = column.info.needs in REPEATING  # controls have no method that could be asked again
                maps = {label: exp for label, exp in made.maps.items() if not again or label in made.methods}
                spent = [self._judge(column, label, exp, made) for label, exp in maps.items()]
                rows[column.label] = (sum(f for f, _ in spent), sum(b for _, b in spent))
        self.rows += AskedRows(rows, len(batch))

    def _judge(self, column: Column, label: str, exp: Explanation, made: Mapped) -> tuple[int, int]:
        """One metric of one method; the rows that it asked."""
        metric = self._found.setdefault((label, column.label), column.made(self.seed))
        before = metric.passes, metric.backward_passes
        given = _given(column, label, made, {"features": self.features, **self.options})
        if made.batch.told is not None and "model" not in given:
            [exp] = made.batch.told(Explanations([exp]))
        try:
            metric.update(exp, ids=made.batch.keys, **given)
        except InterpError as err:  # of many, it has to be said whose map it was
            err.args = (f"{column.label} of {label}: {err}",)
            raise
        return metric.passes - before[0], metric.backward_passes - before[1]

    def scores(self) -> Scores:
        """What was found so far.

        Raises:
            InputError: nothing was added yet.
        """
        if not self._found:
            raise InputError("Nothing was evaluated yet: there was no sample.")
        return Scores({key: metric.compute() for key, metric in self._found.items()}, rows=self.rows)

    def merge(self, *others: Evaluation) -> Evaluation:
        """One evaluation with the samples of all; a sample that several have counts once. None of them changes."""
        whole = Evaluation(
            self.methods,
            self.metrics,
            features=self.features,
            controls=self.controls,
            seed=self.seed,
            options=self.options,
        )
        whole._columns = self._columns
        for one in (self, *others):
            whole._columns = whole._columns or one._columns
            whole.rows += one.rows
            for key, metric in one._found.items():
                whole._found[key] = whole._found[key].merge(metric) if key in whole._found else metric.merge()
        return whole

    def sync(self) -> Evaluation:
        """The evaluation of all processes, where `torch.distributed` runs several; else itself."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, (self.state(), self.rows))
        return Evaluation.merge(*[self.restored(*state) for state in states])

    def state(self) -> dict[tuple[str, str], State]:
        """What was found so far, by method and metric, in plain Python."""
        return {key: (metric.name, dict(metric.params), metric.state_dict()) for key, metric in self._found.items()}

    def restored(self, found: Mapping[tuple[str, str], State], rows: AskedRows) -> Evaluation:
        """The same evaluation with what `state` gave, and the rows that it took."""
        other = Evaluation(self.methods, self.metrics, seed=self.seed)
        other.rows, other._columns = rows, self._columns
        for key, (name, params, state) in found.items():
            other._found[key] = Metric(name, **params)
            other._found[key].load_state_dict(state)
        return other


def _given(column: Column, label: str, made: Mapped, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric takes beside the map."""
    info, batch = column.info, made.batch
    if info.needs == "masks":
        return {} if batch.masks is None else {"masks": batch.masks}
    if info.needs == "truth":
        return {} if batch.truth is None else {"truth": batch.truth}
    if info.needs == "maps":
        return {}
    if made.subject is None:
        raise InputError(f"{column.name} asks the model, and none was given: model=.")
    known = {
        "target": made.subject.asked.target,
        "additional_forward_args": {**options, **batch.options}.get("additional_forward_args"),
        "features": options.get("features"),
        "batch_size": options.get("batch_size"),
    }
    if info.needs in REPEATING:
        known["explain"] = _asked_again(made.methods[label], {**options, **batch.options}, made.maps[label])
        known["references"] = made.references
    elif info.kind != "axioms":  # an axiom is kept with the method's own baseline
        known["baselines"] = made.references
    takes = {*info.parameters, "baselines"} - set(column.params)
    return {"model": made.subject.func, **{k: v for k, v in known.items() if k in takes and v is not None}}


def _asked_again(method: Method, options: Mapping[str, Any], exp: Explanation) -> Explainer:
    """How a method is asked again, as it was asked for the maps: with what its defaults became as well."""
    params = {**exp.params, **method.params}
    params.pop("baselines", None)
    params.pop("feature_mask", None)  # that of the options, or the one that `explain` chooses again
    baselines = method.params.get("baselines", options.get("baselines"))
    if baselines is None and exp.params.get("baselines") not in (None, "given"):
        baselines = exp.params["baselines"]
    return Explainer(method.what, params, options.get("layer"), baselines, options.get("feature_mask"), exp.spec)


def evaluate(
    model: Callable[..., Any],
    data: Any,
    methods: Methods | None = None,
    metrics: Any = None,
    *,
    target: Any = None,
    masks: Any = None,
    truth: Any = None,
    ids: Sequence[int | str] | Tensor | None = None,
    n: int | None = None,
    baselines: Any = None,
    features: Any = None,
    controls: Sequence[str] = (),
    seed: int = 0,
    dry_run: bool = False,
    input_key: Any = None,
    input_fn: Callable[[Any], Any] | None = None,
    label_key: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    id_key: Any = None,
    progress: bool | None = None,
    **options: Any,
) -> Any:
    """Judge methods by metrics on samples of a model, which is left exactly as it was.

    Every method is explained once for all metrics, all methods are judged on the same rows, draws and baseline, and the
    values belong to the samples alone: batches of any size, any order and any number of processes give the same. Where
    `torch.distributed` runs, each process takes its loader's samples and all of them get the scores of all.

    Args:
        model: an `nn.Module` or any callable, as for `interp_plugins.explain`.
        data: a tensor, a tuple of tensors (several inputs) or a dict of them by name, batch first; or a DataLoader or
            any iterable of batches: a tensor, or (input, label).
        methods: as for `interp_plugins.explain`; None: those for this kind of data.
        metrics: names, (name, parameters), `metric(...)` objects, or a mapping name -> parameters; None: `srg` and
            `gini_index`, with masks `relevance_mass`, `mask_auc` and `pointing_game`, with truth `truth_rank` and
            `truth_auc`.
        target: as for `interp_plugins.explain`, for one explanation per sample; a tensor of a class index for each
            sample of the data; "label": the ground truth of a batch. None: the predicted class, of labels that do not
            exclude each other each sample's most probable one.
        masks: where the thing lies: one per sample of the data (see `metrics.masks.FORMS`), a dict by id, the key of
            the batch's part, or a function of the batch.
        truth: what is true of the elements: one per sample of the data, a dict by id, the key of the batch's part, or a
            function of the batch.
        ids: one per sample of the data, ints or texts. None: their numbers; those of a data set behind a DataLoader,
            whatever its order, so that a sampler that repeats samples counts them once.
        n: the first so many samples; None: all.
        baselines: what removed parts are replaced by, and the methods' baseline; as for `interp_plugins.explain`. None:
            black for normalised pictures, else zeros, the same for every method; the methods' own defaults.
        features: numbers of what goes together where parts are removed (superpixels, words), as for `removal_curves`.
        controls: maps that ignore the model, judged beside the methods: "control.random", "control.constant",
            "control.input", "control.edges", "control.centre".
        seed: of all draws.
        dry_run: say what would be asked of the model, and do no more than the first two samples of each shape.
        input_key: the part of a batch that is the input; None: the batch, or its first element.
        input_fn: batch -> input, instead.
        label_key: the part of a batch that is the ground truth; None: the other part of two.
        label_fn: batch -> ground truth, instead.
        id_key: the part of a batch that names the samples.
        progress: None = a bar for long work, True, False.
        **options: further arguments of `interp_plugins.explain` (`against`, `layer`, ...) and the methods'
            own parameters.

    Returns:
        `Scores`, a `Score` per method and metric; with `dry_run` the `AskedRows`, equal to `scores.rows` afterwards for
        methods that take as many rows for every sample.

    Raises:
        InterpError: one of its kinds, saying what came, what was expected and what to do.

    Example:
        scores = evaluate(model, x, methods=("saliency", "input_x_gradient"), metrics=("srg", "entropy"))
        scores["saliency", "srg"].n  # -> 2
    """
    with concise():
        reading = Reading(input_key, input_fn, label_key, label_fn, id_key)
        if baselines is not None:
            options["baselines"] = baselines
        for name in controls:
            if name not in CONTROLS:
                raise InputError(f"{name!r} is no control; there are {', '.join(CONTROLS)}.")
        target = rather_than(target, options.pop("against", None))
        stream = SampleStream(model, data, target, options, reading, ids, masks, truth, n)
        made = Evaluation(methods, metrics, features=features, controls=controls, seed=seed, options=options)
        with preserved_rng():
            if dry_run:
                return planned(made, stream)
            run(made, stream, progress)
        return made.sync().scores()


def run(made: Evaluation, stream: Iterable[SampleBatch], progress: bool | None = None) -> None:
    """Add all batches of a stream.

    Args:
        made: the evaluation.
        stream: batches.
        progress: None = a bar for long work, True, False.
    """
    with contextlib.closing(progress_bar(0, "Evaluating", progress)) as bar:
        for batch in stream:
            made.add(batch)
            bar.update(len(batch))


def planned(made: Evaluation, stream: Iterable[SampleBatch]) -> AskedRows:
    """The rows that an evaluation will ask: the first samples of each shape are evaluated, and stand for the others.

    What a batch costs is taken as a part for each sample and a part for each call (a layer is looked for once), told
    apart by one sample alone and two together.

    Args:
        made: a fresh evaluation, which is used up.
        stream: batches.
    """

    def cost(batch: SampleBatch) -> AskedRows:
        before = made.rows
        made.add(batch)
        return made.rows - before

    total, alone, more = AskedRows(), {}, {}
    for batch in stream:
        shape = batch.shape
        if shape not in alone:
            alone[shape] = cost(batch.rows([0]))
        if len(batch) > 1 and shape not in more:
            pair = replace(batch.rows([0, 1]), keys=("planned, one", "planned, two"))  # the first was judged already
            more[shape] = cost(pair) - alone[shape]
        total += alone[shape]
        if len(batch) > 1:
            total += more[shape].times(len(batch) - 1)
    return total

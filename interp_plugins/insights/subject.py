"""`Subject`: the samples behind a viewer and what can be asked about them. A session asks, and knows no model.

A subject holds nothing that a viewer changes, so that several sessions may share one, with its predictions.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from interp_plugins.api.explain import DEFAULT_METHOD, explain
from interp_plugins.api.prediction import predict
from interp_plugins.core.cancel import check_cancelled
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights.curves import curves_of
from interp_plugins.insights.outcomes import Truth, outcome

_LOCKS: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()
_LONGEST = 4000  # characters of a sample that the search looks at


def lock_of(model: Any) -> threading.Lock:
    """One lock per model in this process: two sessions must not freeze the same model at once."""
    with _LOCKS_GUARD:
        try:
            return _LOCKS.setdefault(model, threading.Lock())
        except TypeError:  # no weak references to it
            return threading.Lock()


@dataclass(frozen=True)
class Ask:
    """What the page asks about a sample.

    Attributes:
        method: name of the method.
        params: its parameters.
        target: an index, or None for what the subject explains by itself.
        baseline: a name among the subject's, or "default".
    """

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None
    baseline: str = "default"


@dataclass(frozen=True)
class Made:
    """An explanation of one sample, and how it came about.

    Attributes:
        exp: the explanation.
        model: number of the model.
        ask: what was asked for, or None where the explanation was given.
        target: which of several targets of the same question it is.
        signed: whether the method gives negative values; None: as this map does.
        curves: its insertion and deletion curves as the page gets them, once they are known.
    """

    exp: Explanation
    model: int = 0
    ask: Ask | None = None
    target: int = 0
    signed: bool | None = None
    curves: dict[str, Any] | None = None


class Subject:
    """Samples that have been explained, or can be.

    Attributes:
        n: number of samples.
        spec: kind of data, class and feature names.
        models: names of the models, none where there is nothing to ask.
        baselines: names of the baselines to choose from.
        input_names: a name per input, or None.
    """

    n: int
    spec: InputSpec
    models: Sequence[str] = ()
    baselines: Sequence[str] = ()
    input_names: Sequence[str] | None = None

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map."""
        raise NotImplementedError

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it: an explanation whose inputs are wanted, with tokens and values."""
        raise NotImplementedError

    def words(self, i: int) -> str:
        """What of sample i can be searched beside its name and classes: its tokens, or the values of its columns."""
        exp = self.input(i)
        parts = exp.tokens[0] if exp.tokens else exp.values[0] if exp.values else ()
        return " ".join(map(str, parts))[:_LONGEST]

    def call(self, i: int) -> str:
        """The call that explains sample i, as a person writes it, up to its methods."""
        return f"explain(model, inputs[[{i}]]"

    def given(self, i: int) -> list[Made]:
        """The explanations of sample i that are there from the beginning."""
        return []

    def forms(self) -> list[dict[str, Any]]:
        """The methods to choose from, with their parameters."""
        return []

    def explain(self, m: int, i: int, ask: Ask) -> Explanations:
        """Explain sample i by model m."""
        raise InputError("There is no model behind this page; open a live session for that.")

    def curves(self, i: int, made: Made, baseline: str) -> dict[str, Any]:
        """Insertion and deletion curves of an explanation of sample i."""
        raise InputError("There is no model behind this page, so no curve can be computed here.")


class NoSamples(Subject):
    """Nothing to explain: a viewer of records alone."""

    n = 0
    spec = InputSpec()

    def samples(self) -> list[dict[str, Any]]:
        """There are none here."""
        return []


class Live(Subject):
    """A subject with models: all follows from what the core's `explain` would be called with.

    Attributes:
        functions: the models, one per name.
        names: a name per sample, "" where there is none.
        truths: the ground truth per sample.
    """

    functions: Sequence[Callable[..., Any]]
    names: Sequence[str]
    truths: Sequence[Truth | None]
    seed: int = 0

    _prepared: Mapping[int, Sequence[Made]] = {}

    @contextlib.contextmanager
    def locked(self, m: int) -> Iterator[None]:
        """Keep model m from all other sessions; waiting for it can be cancelled."""
        lock = lock_of(self.functions[m])
        while not lock.acquire(timeout=0.05):
            check_cancelled()
        try:
            yield
        finally:
            lock.release()

    def prepare(self, methods: Any, *, curves: bool = False, first: int | None = None) -> Live:
        """Explain samples by every model, for all sessions over this subject. Returns itself.

        Args:
            methods: a name, several, or a mapping name -> parameters.
            curves: compute insertion and deletion curves as well.
            first: so many samples; None: all.

        Raises:
            InterpError: as `interp_plugins.explain`.
        """
        named = [methods] if isinstance(methods, str) else methods
        asks = (
            [Ask(name, params) for name, params in dict(named).items()]
            if isinstance(named, Mapping)
            else [Ask(name) for name in named]
        )
        prepared: dict[int, list[Made]] = {}
        for i in range(self.n if first is None else min(first, self.n)):
            found = [
                Made(exp, m, ask, k)
                for ask in asks
                for m in range(len(self.models))
                for k, exp in enumerate(self.explain(m, i, ask))
            ]
            prepared[i] = [replace(one, curves=self.curves(i, one, "default")) for one in found] if curves else found
        self._prepared = prepared
        return self

    def given(self, i: int) -> list[Made]:
        """The explanations of sample i that were prepared."""
        return list(self._prepared.get(i, ()))

    def arguments(self, m: int, i: int | None, ask: Ask | None) -> dict[str, Any]:
        """The arguments of the core's `explain` for sample i (None: all of them) and model m, without methods."""
        raise NotImplementedError

    def predictions(self, m: int) -> list[tuple[Prediction | str, int]]:
        """What model m says of each sample: a prediction and the row in it, or why there is none."""
        try:
            found = prediction_of(**self.arguments(m, None, None), seed=self.seed)
        except ModelError:  # one sample can be the reason, and the others can be looked at
            return [(self.alone(m, i), 0) for i in range(self.n)]
        return [(found, i) for i in range(self.n)]

    def alone(self, m: int, i: int) -> Prediction | str:
        """What model m says of sample i, or why it says nothing."""
        try:
            return prediction_of(**self.arguments(m, i, Ask(DEFAULT_METHOD)), seed=self.seed)
        except ModelError as err:
            return str(err)

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map."""
        said = []
        for m in range(len(self.functions)):
            with self.locked(m):
                said.append(self.predictions(m))
            reasons = [one for one, _ in said[-1] if isinstance(one, str)]
            if len(reasons) == self.n:
                raise ModelError(reasons[0])
        return [
            {
                "name": self.names[i],
                "labels": None if truth is None or truth.classes is None else list(truth.classes),
                "labelText": None if truth is None else truth.text,
                "completenessError": None,
                "words": self.words(i),
                "models": [outcome(*one[i], truth, self.spec) for one in said],
            }
            for i, truth in enumerate(self.truths)
        ]

    def explain(self, m: int, i: int, ask: Ask) -> Explanations:
        """Explain sample i by model m."""
        with self.locked(m):
            methods = {ask.method: dict(ask.params)}
            return explain(**self.arguments(m, i, ask), methods=methods, seed=self.seed, progress=False)

    def curves(self, i: int, made: Made, baseline: str) -> dict[str, Any]:
        """Insertion and deletion curves of an explanation of sample i."""
        ask = replace(made.ask or Ask(made.exp.method), baseline=baseline)
        with self.locked(made.model):
            return curves_of(made.exp, made.target, **self.arguments(made.model, i, ask), seed=self.seed)


def prediction_of(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    *,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    activation: Any = None,
    threshold: float | None = None,
    input_spec: InputSpec | None = None,
    seed: int = 0,
    **rest: Any,
) -> Prediction:
    """What a model says of a batch; the arguments are those of `interp_plugins.explain`, the others are not used."""
    func = Call(model, forward_kwargs, output) if forward_kwargs or output is not None else model
    xs = inputs if isinstance(inputs, tuple) else (inputs,)
    with frozen(func, seed=seed):
        forward = Forward.of(func, xs[0].shape[0], additional_forward_args=additional_forward_args)
        return predict(forward, xs, activation, threshold, names=input_spec.vocab if input_spec is not None else None)

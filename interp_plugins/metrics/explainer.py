"""`Explainer`: a method that a metric asks again, about changed inputs, other targets, or a model with other weights.

A metric needs no batch for it: a row's map depends on the row, the seed and the model alone. Methods that draw random
numbers are asked about one row at a time, each time with the same seed, so that two maps differ by what was changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe

_DRAWN = ("uniform", "gaussian")  # names of baselines that are random


@dataclass(frozen=True)
class Explainer:
    """How maps are made, for metrics that ask for them again; every such metric takes one as `explain=`.

    Args:
        method: a registered name or alias, a method object (ours, or anything with Captum's `attribute`), or a function
            (model, inputs, target) -> maps. The function gets rows in the layout of the inputs, and one class per row
            (R,), None for a model with one output, or a `Target`; a row's map must not depend on the other rows.
        params: parameters of the method.
        layer: for methods at a layer; None: the last one with places, as `explain` chooses.
        baselines: as for `explain`; None: the method's default.
        feature_mask: groups of elements, as for `explain`.
        spec: normalisation, so that "black" is black; None: guessed from the shape.
        title: what the method is called with what is inside it, for a check; None: no check.

    Example:
        Explainer("ig", {"n_steps": 20}).name  # -> 'ig'
    """

    method: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    layer: Any = None
    baselines: Any = None
    feature_mask: Any = None
    spec: InputSpec | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.method, type) or not (
            isinstance(self.method, str) or callable(self.method) or hasattr(self.method, "attribute")
        ):
            raise InputTypeError(
                "A metric that asks a method again takes a name, a method object with `attribute`, or a function "
                f"(model, inputs, target) -> maps; got {describe(self.method)}."
            )
        if self.is_function:
            _check_function(self.method)
            if self.params:
                raise InputError("Parameters belong to methods: a function (model, inputs, target) knows its own.")

    @property
    def is_function(self) -> bool:
        """Whether maps come from a function of the user's."""
        return not isinstance(self.method, str) and not hasattr(self.method, "attribute")

    @property
    def name(self) -> str:
        """The method's or the function's name."""
        if isinstance(self.method, str):
            return self.method
        return getattr(self.method, "__name__", type(self.method).__name__)

    @classmethod
    def of(cls, explain: Any, exp: Explanation | None = None) -> Explainer:
        """What the user gave as `explain=`: an `Explainer`, a name, (name, params), {name: params}, an object, ...

        Args:
            explain: see there; None: the method of the `Explanation`, with its parameters.
            exp: the explanation that is judged, if one is.

        Raises:
            InputError: neither is given, or the explanation does not keep what is needed.
        """
        if isinstance(explain, Explainer):
            return explain
        spec = None if exp is None else exp.spec
        if explain is None:
            if exp is None:
                raise InputError(
                    "This metric asks the method again: give explain=, a name, (name, parameters), a method object, or "
                    "a function (model, inputs, target) -> maps; or an Explanation, which knows its method."
                )
            return _of_explanation(exp)
        if isinstance(explain, Mapping):
            if len(explain) != 1:
                raise InputError(f"One method is asked again; explain= names {len(explain)}: {list(explain)[:6]}.")
            ((method, params),) = explain.items()
            return cls(method, dict(params or {}), spec=spec)
        if isinstance(explain, tuple) and len(explain) == 2 and isinstance(explain[1], Mapping):
            return cls(explain[0], dict(explain[1]), spec=spec)
        return cls(explain, spec=spec)


def _check_function(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with (model, inputs, target)."""
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:
        raise InputTypeError(
            f"A function that explains is called as explain(model, inputs, target); this one does not take that "
            f"({error})."
        ) from None
    except ValueError:  # it does not tell
        return


def _of_explanation(exp: Explanation) -> Explainer:
    """The method of an explanation, with the parameters and the baseline that it was run with."""
    params = dict(exp.params)
    named = params.pop("baselines", None)
    baselines = named
    if exp.baselines is not None and (named in (None, "given", *_DRAWN) or named == "mean"):
        baselines = exp.baselines  # as they were: what the batch or a draw decided is not drawn again
    elif named == "given":
        raise InputError(
            f"{exp.method} was run with baselines that its Explanation does not keep: say how it is asked again by "
            f"explain=Explainer({exp.method!r}, ..., baselines=...)."
        )
    if params.pop("feature_mask", "cells") != "cells":  # which `explain` chooses again
        raise InputError(
            f"{exp.method} was run with a feature_mask that its Explanation does not keep: say how it is asked again "
            f"by explain=Explainer({exp.method!r}, ..., feature_mask=...)."
        )
    return Explainer(exp.method, params, exp.layer, baselines, None, exp.spec, exp.title)


def refuse_batch_mean(baselines: Any, xs: tuple[Tensor, ...]) -> None:
    """Refuse a baseline that is the mean over the batch: it would change with the batch mates."""
    named = baselines if isinstance(baselines, tuple) else (baselines,) * len(xs)
    if any(isinstance(b, str) and b == "mean" and x.ndim < 3 for b, x in zip(named, xs)):
        raise InputError(
            "The baseline 'mean' of a table is the mean of the batch, which neighbours would move: give the mean of "
            "the data as a tensor."
        )

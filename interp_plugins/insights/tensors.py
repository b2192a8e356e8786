"""`Tensors`: models and a batch of tensors as the subject of a viewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import BASELINES
from interp_plugins.core.errors import InputError, TargetError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.literals import map_literals, wants_truth
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import check_inputs, like, take_rows
from interp_plugins.core.truth import TrueClasses
from interp_plugins.insights.forms import forms, typed
from interp_plugins.insights.outcomes import Truth, true_of
from interp_plugins.insights.subject import Ask, Live


class Tensors(Live):
    """Samples as tensors, explained by one model or several; the arguments are those of `Session`."""

    def __init__(
        self,
        models: Callable[..., Any] | Mapping[str, Callable[..., Any]],
        inputs: Tensor | tuple[Tensor, ...],
        *,
        labels: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
        input_spec: InputSpec | None = None,
        additional_forward_args: Any = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        activation: Callable[[Tensor], Tensor | None] | None = None,
        threshold: float | None = None,
        baselines: Mapping[str, Any] | None = None,
        input_names: Sequence[str] | None = None,
        target: Any = None,
        seed: int = 0,
    ):
        named = dict(models) if isinstance(models, Mapping) else {type(models).__name__: models}
        if not named:
            raise InputError("A session needs at least one model; got an empty mapping.")
        self.models, self.functions = list(named), list(named.values())
        self.xs, self.inputs = check_inputs(inputs), inputs
        self.n, self.spec = self.xs[0].shape[0], as_spec(input_spec, self.xs[0])
        given = {"labels": labels, "names": names, "lists of tokens": tokens}
        for what, values in given.items():
            if values is not None and len(values) != self.n:
                raise InputError(f"{len(values)} {what} came for {self.n} samples; give one per sample.")
        self.names = [str(name or "") for name in names] if names is not None else [""] * self.n
        every: Sequence[Any] = [None] * self.n if labels is None else labels
        self.labels = [v.item() if getattr(v, "ndim", 1) == 0 else v for v in every]
        self.truths = [Truth.of(label, self.spec) for label in self.labels]
        self.tokens, self.own, self.target, self.seed = tokens, dict(baselines or {}), target, check_seed(seed)
        self.baselines, self.input_names = [*self.own, *BASELINES], input_names
        self._call = {
            "additional_forward_args": additional_forward_args,
            "forward_kwargs": forward_kwargs,
            "output": output,
            "activation": activation,
            "threshold": threshold,
        }

    def forms(self) -> list[dict[str, Any]]:
        """The methods to choose from, with their parameters."""
        return forms(self.xs, self.spec)

    def arguments(self, m: int, i: int | None, ask: Ask | None) -> dict[str, Any]:
        """The arguments of the core's `explain`."""
        known = {"model": self.functions[m], "input_spec": self.spec}
        if i is None:
            return {**known, "inputs": self.inputs, **self._call}
        assert ask is not None
        call = dict(self._call)
        for name in ("additional_forward_args", "forward_kwargs"):
            call[name] = self._row(call[name], i)
        baseline = None if ask.baseline == "default" else self._row(self.own.get(ask.baseline, ask.baseline), i)
        target = ask.target
        if target is None:
            target = map_literals(self.target, lambda one: self._true(i) if wants_truth(one) else one)
        return {**known, "inputs": self._one(i), "target": target, "baselines": baseline, **call}

    def explain(self, m: int, i: int, ask: Ask) -> Explanations:
        """Explain sample i by model m."""
        found = super().explain(m, i, replace(ask, params=typed(ask.params)))
        return Explanations([self._told(exp, i) for exp in found])

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it."""
        inputs = self._one(i)
        shown = inputs[0] if isinstance(inputs, tuple) else inputs
        return self._told(Explanation(attributions=shown, inputs=inputs, method="input", spec=self.spec), i)

    def _told(self, exp: Explanation, i: int) -> Explanation:
        if self.tokens is None or exp.tokens is not None:
            return exp
        return replace(exp, tokens=(list(self.tokens[i]),))

    def _true(self, i: int) -> TrueClasses | list[TrueClasses]:
        """The true class of sample i as a target; several labels are several.

        Raises:
            TargetError: it has none.
        """
        classes = true_of(self.truths[i])
        if not classes:
            raise TargetError(f'target="label" means the true class, and sample {i} has no label. Choose a class.')
        found = [TrueClasses(torch.tensor([c])) for c in classes]
        return found[0] if len(found) == 1 else found

    def _one(self, i: int) -> Tensor | tuple[Tensor, ...]:
        return like(self.inputs, [x[i : i + 1] for x in self.xs])

    def _row(self, tree: Any, i: int) -> Any:
        return None if tree is None else take_rows(tree, torch.tensor([i]), self.n)

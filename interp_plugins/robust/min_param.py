"""`MinParamPerturbation`: the smallest value of an attack's parameter that turns the model, under Captum's name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, ModelError
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen
from interp_plugins.core.tensors import as_tuple, describe, take_rows
from interp_plugins.robust.together import check_passes, evaluated

MODES = ("linear", "binary")


def is_correct(model_out: Any, target: Any) -> bool:
    """Whether the largest output of every row is its target: what `MinParamPerturbation` asks without `correct_fn`.

    Args:
        model_out: (N, C).
        target: a class, or one per row.
    """
    if not isinstance(model_out, Tensor) or model_out.ndim != 2:
        raise ModelError(
            f"Without correct_fn the model's output must be scores of classes (N, C), got {describe(model_out)}. Give "
            "correct_fn=, a function of the output that says whether the model is still right."
        )
    return bool((model_out.argmax(1) == torch.as_tensor(target, device=model_out.device)).all())


class MinParamPerturbation:
    """Search of a grid of values for the first with which an attack turns the model.

    The grid is arg_min, arg_min + arg_step, ... below arg_max. A linear search asks from its beginning. A binary search
    asks its ends and then the middle of what is left; where an attack is stronger with a larger value it finds the same
    value, and where the answers show that it is not, a warning says so.

    Args:
        forward_func: an `nn.Module` or any callable.
        attack: a `Perturbation`, or any function of inputs and the parameter.
        arg_name: the parameter's name; it is given by keyword.
        arg_min: smallest value, an int or float.
        arg_max: end of the grid, itself not on it.
        arg_step: step of the grid; at most the distance of its ends.
        mode: "linear" or "binary".
        num_attempts: attacks per value, where the attack draws; the first that turns the model counts.
        preproc_fn: inputs -> what the model gets.
        apply_before_preproc: attack the inputs instead of what the model gets.
        correct_fn: (output, target=..., **correct_fn_kwargs) -> whether the model is right; None: whether the largest
            of (N, C) is the target in every row.

    Example:
        from interp_plugins.robust import FGSM

        smallest = MinParamPerturbation(model, FGSM(model), "epsilon", 0.0, 2.0, 0.1, mode="binary")
        moved, epsilon = smallest.evaluate(x[:1], target=3, attack_kwargs={"target": 3})
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        attack: Callable[..., Any],
        arg_name: str,
        arg_min: int | float,
        arg_max: int | float,
        arg_step: int | float,
        mode: str = "linear",
        num_attempts: int = 1,
        preproc_fn: Callable[..., Any] | None = None,
        apply_before_preproc: bool = False,
        correct_fn: Callable[..., Any] | None = None,
    ):
        for name, value in (("arg_min", arg_min), ("arg_max", arg_max), ("arg_step", arg_step)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}.")
        if not 0 < arg_step <= arg_max - arg_min:
            raise InputError(
                f"arg_step must be above 0 and at most arg_max - arg_min ({arg_max - arg_min:g}), got {arg_step!r}."
            )
        if not isinstance(mode, str) or mode.lower() not in MODES:
            raise InputError(f"mode must be 'linear' or 'binary', got {mode!r}.")
        if isinstance(num_attempts, bool) or not isinstance(num_attempts, int) or num_attempts < 1:
            raise InputError(f"num_attempts must be a positive int, got {num_attempts!r}.")
        if not callable(attack):
            raise InputTypeError(f"attack must be a Perturbation or a function, got {describe(attack)}.")
        self.forward_func, self.attack, self.arg_name = forward_func, attack, arg_name
        self.arg_min, self.arg_max, self.arg_step = arg_min, arg_max, arg_step
        self.mode, self.num_attempts = mode.lower(), num_attempts
        self.preproc_fn, self.apply_before_preproc = preproc_fn, apply_before_preproc
        self.correct_fn = correct_fn if correct_fn is not None else is_correct

    @property
    def values(self) -> list[int | float]:
        """The values that are tried, in their order."""
        count = math.ceil((self.arg_max - self.arg_min) / self.arg_step - 1e-9)  # 1e-9: 0.3 / 0.1 is 3 steps
        return [self.arg_min + k * self.arg_step for k in range(count)]

    def evaluate(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        target: Any = None,
        perturbations_per_eval: int = 1,
        attack_kwargs: dict[str, Any] | None = None,
        correct_fn_kwargs: dict[str, Any] | None = None,
        *,
        per_sample: bool = False,
    ) -> tuple[Any, Any]:
        """The perturbed inputs and the smallest value that turns the model, (None, None) where none does.

        A batch is turned where one of its samples is; `per_sample` asks for each of them.

        Args:
            inputs: whatever `preproc_fn`, or else the model, takes.
            additional_forward_args: further arguments of the model.
            target: the right class, given to `correct_fn`; None: not given.
            perturbations_per_eval: perturbed batches in one pass of the model.
            attack_kwargs: further arguments of the attack.
            correct_fn_kwargs: further arguments of `correct_fn`.
            per_sample: a value for each sample of `inputs` (tensors, batch first), and what belongs to samples in the
                other arguments follows them.

        Returns:
            (perturbed inputs, value). With `per_sample` the inputs of all, those that were not turned as they were, and
            the values (N,), float64 on the CPU, NaN where none turns the model.

        Raises:
            InputError: no target without `correct_fn`; no passes.
        """
        if target is None and self.correct_fn is is_correct:
            raise InputError("target, the right class, is needed without correct_fn.")
        at_once = check_passes(perturbations_per_eval)
        rest = (as_tuple(additional_forward_args) if additional_forward_args is not None else (), target)
        asked = (*rest, dict(attack_kwargs or {}), dict(correct_fn_kwargs or {}))
        whole = _Question(self, inputs, *asked, at_once)
        with frozen(self.forward_func), preserved_rng(), torch.no_grad():
            if not per_sample:
                return self._search(whole)
            if not isinstance(inputs, (Tensor, tuple)) or not all(isinstance(x, Tensor) for x in as_tuple(inputs)):
                raise InputTypeError(f"per_sample needs tensors, batch first, got {describe(inputs)}.")
            n = len(as_tuple(inputs)[0])
            found = [self._search(whole.of_row(i, n)) for i in range(n)]
        rows = [as_tuple(_row(inputs, i, n) if moved is None else moved) for i, (moved, _) in enumerate(found)]
        joined = tuple(torch.cat(column) for column in zip(*rows, strict=True))
        values = torch.tensor([math.nan if v is None else v for _, v in found], dtype=torch.float64)
        return (joined if isinstance(inputs, tuple) else joined[0]), values

    def _search(self, question: _Question) -> tuple[Any, Any]:
        values = self.values
        if self.mode == "linear":
            return question.first(values)
        if question.turns(values[0]):
            return question.answers[values[0]], values[0]
        last_turns = question.turns(values[-1])
        low, high = 0, len(values) - 1 if last_turns else len(values)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if question.turns(values[middle]) else (middle, high)
        if high == len(values):
            return None, None
        if not last_turns:
            warnings.warn(
                f"{self.arg_name}={values[high]:g} turns the model and the larger {values[-1]:g} does not: a binary "
                "search may then miss smaller values that do. mode='linear' asks for all of them.",
                InterpWarning,
                stacklevel=3,
            )
        return question.answers[values[high]], values[high]


@dataclass
class _Question:
    """One search: what is attacked, and what was answered."""

    asker: MinParamPerturbation
    inputs: Any
    args: tuple[Any, ...]
    target: Any
    attack_kwargs: dict[str, Any]
    correct_kwargs: dict[str, Any]
    at_once: int
    answers: dict[Any, Any] = field(default_factory=dict)

    def of_row(self, i: int, n: int) -> _Question:
        """The search for sample i of n: what belongs to samples is its row."""
        parts = {name: _row(getattr(self, name), i, n) for name in ("inputs", "args", "target")}
        for name in ("attack_kwargs", "correct_kwargs"):
            parts[name] = {key: _row(value, i, n) for key, value in getattr(self, name).items()}
        return _Question(self.asker, **parts, at_once=1)

    def turns(self, value: int | float) -> bool:
        """Whether a value turns the model in any attempt; the inputs that did are kept."""
        moved, found = self.first([value])
        if found is not None:
            self.answers[value] = moved
        return found is not None

    def first(self, values: list[int | float]) -> tuple[Any, Any]:
        """The inputs and the first of some values that turn the model."""
        waiting: list[tuple[Any, Any, Any]] = []
        total = len(values) * self.asker.num_attempts
        for k, (value, moved, given) in enumerate(self._attacked(values), start=1):
            waiting.append((value, moved, given))
            if len(waiting) < self.at_once and k < total:
                continue
            for (value, moved, _), output in zip(waiting, self._outputs(waiting), strict=True):
                if not self._is_right(output):
                    return moved, value
            waiting = []
        return None, None

    def _attacked(self, values: list[int | float]) -> Iterator[tuple[Any, Any, Any]]:
        """Value, perturbed inputs, and what the model gets of them, for every attempt."""
        before, prepare = self.asker.apply_before_preproc, self.asker.preproc_fn or (lambda x: x)
        source = self.inputs if before else prepare(self.inputs)
        for value in values:
            for _ in range(self.asker.num_attempts):
                with torch.enable_grad():
                    moved = self.asker.attack(source, **self.attack_kwargs, **{self.asker.arg_name: value})
                yield value, moved, prepare(moved) if before else moved

    def _outputs(self, waiting: list[tuple[Any, Any, Any]]) -> list[Any]:
        return evaluated(self.asker.forward_func, [given for _, _, given in waiting], self.args)

    def _is_right(self, output: Any) -> bool:
        labels = {} if self.target is None else {"target": self.target}
        return bool(self.asker.correct_fn(output, **labels, **self.correct_kwargs))


def _row(tree: Any, i: int, n: int) -> Any:
    """What belongs to sample i: one row of tensors and of lists with one entry per sample; the rest as it is."""
    if isinstance(tree, list) and len(tree) == n:
        return tree[i : i + 1]
    return take_rows(tree, torch.tensor([i]), n)

"""`AttackComparator`: a metric of a model under several attacks, batch by batch, under Captum's name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen
from interp_plugins.core.tensors import as_tuple, describe
from interp_plugins.robust.together import check_passes, evaluated

ORIGINAL = "Original"
_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda t: t.mean(0),
    "min": lambda t: t.amin(0),
    "max": lambda t: t.amax(0),
}


@dataclass(frozen=True)
class _Attack:
    """One attack, and how it is called."""

    function: Callable[..., Any]
    attempts: int
    before: bool
    kwargs: dict[str, Any]
    names: tuple[str, ...]


@dataclass
class _Sum:
    """A metric's sum over samples, part by part where the metric has several."""

    totals: list[Any] = field(default_factory=list)
    weight: int = 0
    form: Any = None

    def add(self, value: Any, samples: int) -> None:
        """Count the metric of a batch: a mean over dimension 0 of tensors with one value per sample."""
        parts = [_mean(p) * samples for p in as_tuple(value)]
        self.totals = [a + b for a, b in zip(self.totals, parts, strict=True)] if self.weight else parts
        self.weight += samples
        self.form = value

    def mean(self) -> Any:
        """The mean over all samples, in the metric's form."""
        return _in_form(self.form, [t / self.weight for t in self.totals])


class AttackComparator:
    """Compares a metric of a model on inputs as they are and under attacks, and its mean over all batches.

    The metric is computed without gradients, and nothing of the model's graph is kept. Means over batches weigh every
    sample alike.

    Args:
        forward_func: an `nn.Module` or any callable.
        metric: (model output, **kwargs of `evaluate`) -> a number, a tensor with one value per sample in dimension 0
            (or of length 1 for the batch), or a tuple or named tuple of these.
        preproc_fn: inputs -> what the model gets.

    Example:
        from interp_plugins.robust import FGSM

        def accuracy(output, target):
            return (output.argmax(1) == target).float()

        compared = AttackComparator(model, accuracy)
        compared.add_attack(FGSM(model), "FGSM", attack_kwargs={"epsilon": 0.1}, additional_attack_arg_names=["target"])
        sorted(compared.evaluate(x, target=torch.tensor([3, 1])))  # -> ['FGSM', 'Original']
    """

    def __init__(
        self, forward_func: Callable[..., Any], metric: Callable[..., Any], preproc_fn: Callable[..., Any] | None = None
    ):
        self.forward_func, self.metric, self.preproc_fn = forward_func, metric, preproc_fn
        self.attacks: dict[str, _Attack] = {}
        self.summary_results: dict[str, _Sum] = {}

    def add_attack(
        self,
        attack: Callable[..., Any],
        name: str | None = None,
        num_attempts: int = 1,
        apply_before_preproc: bool = True,
        attack_kwargs: dict[str, Any] | None = None,
        additional_attack_arg_names: list[str] | None = None,
    ) -> None:
        """Add an attack that `evaluate` makes.

        Args:
            attack: a `Perturbation`, or any function of the inputs, a transform of torchvision, say.
            name: its key in the results; None: the name of its class.
            num_attempts: how often it is made, where it draws; then results have a mean, smallest and largest value.
            apply_before_preproc: attack the inputs instead of what the model gets.
            attack_kwargs: further arguments of the attack.
            additional_attack_arg_names: arguments that it takes from `evaluate`, as its target.

        Raises:
            InputError: a name that is taken; no attempts.
            InputTypeError: no function.
        """
        if not callable(attack):
            raise InputTypeError(f"attack must be a Perturbation or a function, got {describe(attack)}.")
        name = type(attack).__name__ if name is None else name
        if name in self.attacks or name == ORIGINAL:
            raise InputError(f"There is an attack named {name!r} already; give this one another name=.")
        if isinstance(num_attempts, bool) or not isinstance(num_attempts, int) or num_attempts < 1:
            raise InputError(f"num_attempts must be a positive int, got {num_attempts!r}.")
        names = tuple(additional_attack_arg_names or ())
        self.attacks[name] = _Attack(attack, num_attempts, apply_before_preproc, dict(attack_kwargs or {}), names)

    def evaluate(
        self, inputs: Any, additional_forward_args: Any = None, perturbations_per_eval: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        """The metric of one batch, as it is and under every attack; counted for `summary`.

        Args:
            inputs: whatever `preproc_fn`, or else the model, takes.
            additional_forward_args: further arguments of the model.
            perturbations_per_eval: perturbed batches in one pass of the model.
            **kwargs: given to the metric, and to attacks that name them.

        Returns:
            {"Original": metric, name: {"mean": metric}}, of several attempts also "min" and "max", element by element.

        Raises:
            InputError: no passes.
        """
        at_once = check_passes(perturbations_per_eval)
        args = as_tuple(additional_forward_args) if additional_forward_args is not None else ()
        found: dict[str, list[Any]] = {}
        with frozen(self.forward_func), preserved_rng(), torch.no_grad():
            waiting: list[tuple[str, Any]] = []
            for key, batch in [*self._batches(inputs, kwargs), (None, None)]:
                if key is not None:
                    waiting.append((key, batch))
                if waiting and (key is None or len(waiting) >= at_once):
                    outputs = evaluated(self.forward_func, [b for _, b in waiting], args)
                    for (name, _), output in zip(waiting, outputs, strict=True):
                        found.setdefault(name, []).append(_without_graph(self.metric(output, **kwargs)))
                        samples = len(output) if isinstance(output, Tensor) and output.ndim else 1
                    waiting = []
        return self._counted(found, samples)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Means over all samples since the beginning or `reset`, each under "mean".

        Of attacks with several attempts there are three: "NAME Mean Attempt", "NAME Min Attempt", "NAME Max Attempt".
        """
        return {key: {"mean": one.mean()} for key, one in self.summary_results.items()}

    def reset(self) -> None:
        """Forget the results of all batches; the attacks stay."""
        self.summary_results = {}

    def _batches(self, inputs: Any, kwargs: dict[str, Any]) -> Iterator[tuple[str | None, Any]]:
        """What the model gets: as it is, then of every attack."""
        prepare = self.preproc_fn or (lambda x: x)
        plain = prepare(inputs)
        yield ORIGINAL, plain
        for name, attack in self.attacks.items():
            missing = [key for key in attack.names if key not in kwargs]
            if missing:
                warnings.warn(
                    f"The attack {name!r} takes {', '.join(missing)} from evaluate(), which did not get it.",
                    InterpWarning,
                    stacklevel=4,
                )
            more = {key: kwargs[key] for key in attack.names if key in kwargs} | attack.kwargs
            for _ in range(attack.attempts):
                with torch.enable_grad():
                    moved = attack.function(inputs if attack.before else plain, **more)
                yield name, prepare(moved) if attack.before else moved

    def _counted(self, found: dict[str, list[Any]], samples: int) -> dict[str, Any]:
        results: dict[str, Any] = {ORIGINAL: found[ORIGINAL][0]}
        self.summary_results.setdefault(ORIGINAL, _Sum()).add(results[ORIGINAL], samples)
        for name, attack in self.attacks.items():
            several = attack.attempts > 1
            results[name] = {key: _over(found[name], key) for key in (_STATISTICS if several else ("mean",))}
            for key, value in results[name].items():
                total = self.summary_results.setdefault(f"{name} {key.title()} Attempt" if several else name, _Sum())
                total.add(value, samples)
        return results


def _without_graph(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return _in_form(value, [_without_graph(v) for v in value]) if isinstance(value, tuple) else value


def _in_form(form: Any, parts: list[Any]) -> Any:
    """Parts as a metric gives them: alone, a tuple, or a named tuple."""
    if not isinstance(form, tuple):
        return parts[0]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


def _mean(value: Any) -> Any:
    """The mean over samples of a tensor with dimensions; other values are means already."""
    return value.float().mean(0) if isinstance(value, Tensor) and value.ndim else value


def _over(values: list[Any], statistic: str) -> Any:
    """A statistic over attempts, for each part and element of a metric."""
    columns = zip(*(as_tuple(v) for v in values), strict=True)
    parts = []
    for column in columns:
        stacked = torch.stack([torch.as_tensor(v) for v in column])
        got = _STATISTICS[statistic](stacked if stacked.is_floating_point() else stacked.float())
        parts.append(got if isinstance(column[0], Tensor) else got.item())
    return _in_form(values[0], parts)

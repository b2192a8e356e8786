"""`as_attack`: attacks of other packages, and functions of one's own, as attacks of `attack` and `robustness`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.forward import Forward
from interp_plugins.core.global_random import around_others_code, drew, seed_torch
from interp_plugins.core.tensors import describe
from interp_plugins.robust.search import Search

_AUTOATTACK = ("autoattack", "pyautoattack")  # the authors' package, and the same as a registry has it


class OutsideAttack:
    """An attack that was made elsewhere, as a function of a model of raw inputs.

    Args:
        attack: as for `as_attack`.

    Attributes:
        name: its class or function.
    """

    def __init__(self, attack: Any):
        self.attack, self.kind = attack, _kind(attack)
        self.name = getattr(attack, "__name__", type(attack).__name__)

    def moved(
        self, model: Callable[..., Any], x: Tensor, labels: Tensor, eps: float, low: float, high: float
    ) -> Tensor:
        """What the attack makes of raw inputs."""
        module = _Raw(model)
        if self.kind == "foolbox":
            foolbox = importlib.import_module("foolbox")
            around = foolbox.PyTorchModel(module, bounds=(low, high), device=x.device)
            raw = self.attack(
                around, x, foolbox.criteria.Misclassification(labels), epsilons=None if eps == torch.inf else eps
            )
            return torch.as_tensor(raw[1])
        if self.kind == "torchattacks":
            with contextlib.ExitStack() as stack:
                for one in _torchattacks(self.attack):
                    stack.enter_context(
                        _put(one, model=module, device=x.device, normalization_used=None, _normalization_applied=None)
                    )
                return torch.as_tensor(self.attack(x, labels))
        if self.kind == "autoattack":
            with contextlib.ExitStack() as stack:
                for one, names in _autoattacks(self.attack):
                    stack.enter_context(_put(one, **dict.fromkeys(names, module), device=x.device))
                found = self.attack.run_standard_evaluation(x, labels)
                return torch.as_tensor(found[0] if isinstance(found, tuple) else found)
        found = self.attack(module, x, labels)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            raise ModelError(
                f"{self.name} returned a {describe(found)}; an attack gives the changed inputs, of shape "
                f"{tuple(x.shape)}."
            )
        return found


def _torchattacks(attack: Any) -> list[Any]:
    """An attack of torchattacks and all that it is put together of; each holds a model of its own."""
    found = [attack]
    for one in found:
        found += [a for a in getattr(one, "_attacks", {}).values() if not any(a is b for b in found)]
    return found


def _autoattacks(attack: Any) -> list[tuple[Any, list[str]]]:
    """An AutoAttack and its parts, and the names under which each holds the model."""
    model = attack.model
    parts = [attack, *(v for v in vars(attack).values() if type(v).__module__.partition(".")[0] in _AUTOATTACK)]
    return [(one, [name for name, value in vars(one).items() if value is model]) for one in parts]


class _Raw(nn.Module):
    """The model as a module of raw inputs."""

    def __init__(self, func: Callable[..., Any]):
        super().__init__()
        self.func = func
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.func(x)


def as_attack(attack: Any) -> OutsideAttack:
    """Let `attack` and `robustness` run an attack of foolbox, torchattacks or AutoAttack, or a function of one's own.

    It meets the model in raw units, behind any normalisation, and what it gives is put into the ball and between the
    bounds. The model is frozen meanwhile, so that no `.grad` is left on it.

    Args:
        attack: an attack of foolbox (made without a model), of torchattacks or AutoAttack (made with any model: yours
            takes its place meanwhile), or a function (model, x, labels) -> changed x, of raw inputs.

    Returns:
        What `attack` and `robustness` take by `attack=`.

    Raises:
        InputError: none of these.

    Example:
        from interp_plugins.robust import as_attack, attack

        noise = as_attack(lambda model, x, labels: x + 0.1 * torch.randn_like(x).sign())
        attack(model, x, noise, eps=0.1, bounds=None).params["attack"]  # -> '<lambda>'
    """
    if isinstance(attack, OutsideAttack):
        return attack
    if not callable(attack) and not hasattr(attack, "run_standard_evaluation"):
        raise InputError(
            "An attack is one of foolbox, torchattacks or AutoAttack, or a function (model, x, labels) -> changed x, "
            f"got {describe(attack)}."
        )
    return OutsideAttack(attack)


def _kind(attack: Any) -> str:
    """Which package an attack is from."""
    names = {cls.__module__.partition(".")[0] for cls in type(attack).__mro__}
    if names & set(_AUTOATTACK):
        return "autoattack"
    return next((known for known in ("foolbox", "torchattacks") if known in names), "function")


@contextlib.contextmanager
def _put(attack: Any, **values: Any) -> Iterator[None]:
    """Attributes of an object, for the length of a block."""
    before = {name: vars(attack)[name] for name in values if name in vars(attack)}
    try:
        for name, value in values.items():
            object.__setattr__(attack, name, value)
        yield
    finally:
        for name in values:
            if name in before:
                object.__setattr__(attack, name, before[name])
            else:
                object.__delattr__(attack, name)


class Outside(Search):
    """One call of an attack that was made elsewhere."""

    def asked(self, attack: OutsideAttack, labels: Tensor) -> Outside:
        """The search by an attack, away from labels (N,)."""
        self.attack, self.labels = attack, labels
        return self

    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Ask for all rows but those that are skipped, bool (N,)."""
        rows = (~skipped).nonzero().flatten()
        if len(self.inputs) > 1:
            raise InputError("Attacks of other packages are of one input, and this model has several.")
        if not len(rows):
            return
        low, high = (float(torch.as_tensor(b).min()) for b in (self.bounds.lower, self.bounds.upper))
        x, forward = self.inputs[0][rows], self.climb.forward
        model = lambda v: forward.readable(forward.called([v], _rows_of(v, rows, forward)))  # noqa: E731
        with torch.enable_grad(), around_others_code():
            drew("torch")
            seed_torch(self.plan.generator.initial_seed() % 2**63)
            moved = self.attack.moved(model, x.detach().clone(), self.labels[rows], self.plan.radius, low, high)
        change = self.held(rows, (moved.detach().to(x) - x).flatten(1), self.plan.radius, self.plan.norm)
        look = self.climb.look(self.points(rows, change), rows, ahead=False)
        self.change[rows], self.height[rows] = change, look.height.to(self.height)
        self.fooled[rows] = self.turned(look.output, rows)
        self.steps[rows] = 1


def _rows_of(points: Tensor, rows: Tensor, forward: Forward) -> Tensor:
    """The samples that an attack asks about: all of them, or points of its own choice, which have no arguments."""
    if len(points) == len(rows):
        return rows
    if forward.args or forward.kwargs:
        raise InputError(
            f"The attack asks about {len(points)} of {len(rows)} samples and does not say which, and the model takes "
            "further arguments with a row per sample. Bind them to the model, or attack the samples one by one."
        )
    return rows[:1].expand(len(points))

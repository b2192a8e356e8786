"""The registry of tasks: one decorator that says all that is known of a task, and one look-up that reads it.

A task of one's own is one file with one decorator, in this package or in another one that has been imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from interp_plugins.benchmark.problem import KINDS, SIZES, TRUTH_KINDS, Problem, TaskError
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.global_random import preserved_rng, seed_torch

F = TypeVar("F", bound=Callable[[int, str], Problem])


@dataclass(frozen=True)
class TaskInfo:
    """What the registry knows of a task.

    Attributes:
        name: "family.kind" or one word.
        function: (seed, size) -> `Problem`; the seed trains the net, the samples are the task's own.
        truth_kind: of `TRUTH_KINDS`: what is known of the maps.
        kind: of data: "tabular", "image", "series" or "text".
        samples: size -> how many samples it has.
        says: what it is, in a few words.
        trained: whether the seed changes the net; else it is built once, for seed 0.
        needs: packages, by their import names, that it is made of.
        license: of the data and the net.
        seconds: to build the size "small", measured on two cores.
    """

    name: str
    function: Callable[[int, str], Problem]
    truth_kind: str
    kind: str
    samples: Mapping[str, int]
    says: str
    trained: bool
    needs: tuple[str, ...]
    license: str
    seconds: float

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages it needs that are not installed."""
        return tuple(name for name in self.needs if not _there(name))

    def build(self, seed: int = 0, size: str = "small") -> Problem:
        """Build the problem; the global random generators are as they were.

        Raises:
            TaskError: the net misses its accuracy, or the truth does not hold.
            ImportError: a package is missing.
            UnknownNameError: an unknown size.
        """
        if size not in SIZES:
            raise unknown("size of a task", size, SIZES)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed must be an int from 0, got {seed!r}.")
        if self.missing:
            raise ImportError(
                f"The task {self.name} needs {', '.join(self.missing)}: pip install 'interp-plugins[benchmark]'."
            )
        with preserved_rng():
            seed_torch(seed)
            found = self.function(seed, size)
        said = (self.truth_kind, self.kind, self.samples[size])
        came = (found.truth_kind, found.kind, len(found))
        if said != came:
            raise TaskError(f"{self.name} is registered with (truth, data, samples) {said}, and built {came}.")
        return found


_TASKS: dict[str, TaskInfo] = {}


def register_task(
    name: str,
    *,
    truth_kind: str,
    kind: str,
    samples: Mapping[str, int],
    says: str,
    trained: bool = True,
    needs: tuple[str, ...] = (),
    license: str = "made in code",
    seconds: float = 0.0,
) -> Callable[[F], F]:
    """Function decorator: make a task known by name; `TaskInfo` documents the arguments.

    Raises:
        UnknownNameError: a kind of truth or of data that there is not.
        InputError: samples that do not say a number for each size.
        ValueError: a name that another task has.

    Example:
        from interp_plugins.benchmark import Problem, register_task

        many = {"tiny": 4, "small": 16, "full": 64}
        say = "the sum of two numbers"

        @register_task("mine.sum", truth_kind="values", kind="tabular", samples=many, says=say, trained=False)
        def sum_of_two(seed, size):
            n = many[size]
            x = torch.rand(n, 2)
            net = nn.Linear(2, 1, bias=False).requires_grad_(False)
            net.weight[:] = 1.0
            return Problem(net, x, torch.zeros(n, dtype=torch.long), "values", {"shapley": x, "aumann_shapley": x})
    """
    if truth_kind not in TRUTH_KINDS:
        raise unknown("kind of truth", truth_kind, TRUTH_KINDS)
    if kind not in KINDS:
        raise unknown("kind of data", kind, KINDS)
    if set(samples) != set(SIZES) or min(samples.values()) < 1:
        raise InputError(f"samples says how many there are of each size of {SIZES}, got {dict(samples)}.")

    def add(function: F) -> F:
        known = _TASKS.get(name)
        if known is not None and _home(known.function) != _home(function):
            raise ValueError(f"The name {name!r} already belongs to the task of {_home(known.function)}.")
        _TASKS[name] = TaskInfo(name, function, truth_kind, kind, dict(samples), says, trained, needs, license, seconds)
        return function

    return add


def task_info(name: str) -> TaskInfo:
    """What is registered under a name.

    Raises:
        UnknownNameError: an unknown name, with the nearest known ones.

    Example:
        from interp_plugins.benchmark import task_info

        task_info("functions.max").truth_kind  # -> 'values'
    """
    if name not in _TASKS:
        raise unknown("task", name, sorted(_TASKS))
    return _TASKS[name]


def list_tasks(family: str | None = None) -> list[str]:
    """Names of the registered tasks, sorted.

    Args:
        family: only those whose name is this or begins with it and a dot.

    Raises:
        UnknownNameError: no task of this family.

    Example:
        from interp_plugins.benchmark import list_tasks

        list_tasks("functions")[0]  # -> 'functions.additive'
    """
    found = sorted(n for n in _TASKS if family is None or n == family or n.startswith(f"{family}."))
    if not found:
        raise unknown("family of tasks", family, sorted({n.partition(".")[0] for n in _TASKS}))
    return found


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _home(function: Callable[..., Problem]) -> str:
    """The module that a task comes from."""
    return getattr(function, "func", function).__module__

"""What a user writes in place of a `Target` (an index, a class name, "label"), wherever it stands in a target.

The adapters know what such a literal means for their data, and nothing of the targets around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from interp_plugins.core.errors import TargetError
from interp_plugins.core.target import RatherThan, Target
from interp_plugins.core.truth import TrueClasses


def map_literals(target: Any, function: Callable[[Any], Any]) -> Any:
    """A target with `function` applied to all that is no `Target` in it: alone, in a list, or inside other targets."""
    if isinstance(target, list):
        return [map_literals(one, function) for one in target]
    return target.map(lambda part: map_literals(part, function)) if isinstance(target, Target) else function(target)


def literals(target: Any) -> list[Any]:
    """All that is no `Target` in a target, see `map_literals`."""
    found: list[Any] = []

    def seen(literal: Any) -> Any:
        found.append(literal)
        return literal

    map_literals(target, seen)
    return found


def rather_than(target: Any, against: Any) -> Any:
    """What a door's `target=` and `against=` ask together: each target rather than the other one.

    Args:
        target: what `explain` takes.
        against: one target, of any kind that `explain` takes; None: nothing is compared, and `target` comes back as it
            is.

    Raises:
        TargetError: several targets to compare with, or every class with one.
    """
    if against is None:
        return target
    if isinstance(against, list):
        raise TargetError(
            f"against= takes one target, got a list of {len(against)}. Several comparisons are a list of targets: "
            "target=[RatherThan('cat', 'dog'), RatherThan('cat', 'fox')], with RatherThan from interp_plugins."
        )
    if isinstance(target, list):
        return [rather_than(one, against) for one in target]
    if isinstance(target, str) and target == "all":
        raise TargetError(
            "target='all' is several targets; name those to compare: target=['cat', 'fox'], against='dog'."
        )
    return RatherThan(target, against)


def wants_truth(literal: Any) -> bool:
    """Whether a literal asks for the ground truth: the text "label"; the class of that name is ("label", "label")."""
    return isinstance(literal, str) and literal == "label"


def with_truth(target: Any, labels: Tensor | None, missing: str) -> Any:
    """A target with "label" replaced by the true classes (N,), wherever it stands in it.

    Raises:
        TargetError: there are none; `missing` is what is said.
    """

    def truth(literal: Any) -> Any:
        if not wants_truth(literal):
            return literal
        if labels is None:
            raise TargetError(missing)
        return TrueClasses(labels)

    return map_literals(target, truth)

"""The method inside NoiseTunnel: what it takes, and its arguments for many noisy copies at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.shared.lookups import AtLookupsProblem
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.registry import contract_of
from interp_plugins.core.target import Target, as_target
from interp_plugins.core.tensors import as_tuple, take_rows


class Folding:
    """A method at look-ups, with maps of the ids' own shape."""

    def __init__(self, problem: AtLookupsProblem):
        self.problem, self.attribution_method, self.forward_func = problem, problem.method, problem.method.forward_func

    def attribute(self, inputs: Any, **kwargs: Any) -> Any:
        """The inner method's maps, folded."""
        inner = copy.copy(self.attribution_method)
        inner.forward_func = self.forward_func
        return self.problem.folded(inner.attribute(inputs, **kwargs))


@dataclass(frozen=True)
class Inner:
    """What matters of the inner method.

    Attributes:
        draws: it takes a generator.
        ahead: how its numbers are drawn before it runs, (generator, samples, dtype) -> what it takes for a generator.
        shift: its nodes are shifted at random in every copy.
        pooled: its baselines are rows to draw from, for all samples.
    """

    draws: bool
    ahead: Callable[[torch.Generator, int, torch.dtype], Any] | None
    shift: bool
    pooled: bool

    @classmethod
    def of(cls, method: Any, xs: tuple[Tensor, ...], kwargs: Mapping[str, Any], *, shift: bool, pooled: bool) -> Inner:
        """Read off the method's signature and its registration; nodes are shifted and pools kept only if allowed."""
        plain = method.attribution_method if isinstance(method, Folding) else method
        info = contract_of(plain)
        rows = as_tuple(kwargs.get("baselines"))
        pooled = pooled and info.baselines == "distribution"
        pooled = pooled and all(isinstance(b, Tensor) and b.ndim == x.ndim and len(b) for b, x in zip(rows, xs))
        ahead = getattr(plain, "draws_ahead", None) if pooled else None
        draws, shift = "generator" in info.takes, shift and "offsets" in info.takes
        return cls(draws, ahead(**kwargs) if ahead else None, shift, pooled)


def copies_alone(
    method: Any, xs: tuple[Tensor, ...], kwargs: Mapping[str, Any]
) -> tuple[str | None, Any, dict[str, Any]]:
    """Why noisy copies of the batch cannot share a pass, or None; and the method and its arguments.

    Where arguments have as many rows as the batch by accident, they are marked as fixed.
    """
    func, given = getattr(method, "forward_func", None), dict(kwargs)
    if not callable(func):
        return None, method, given
    forward = Forward.of(func, len(xs[0]), additional_forward_args=given.get("additional_forward_args"))
    facts = forward.row_facts(xs)
    if facts.fixed and forward.args:
        given["additional_forward_args"] = forward.args
    if facts.fixed and forward.kwargs:
        method = copy.copy(method)
        method.forward_func = Call(forward.func, forward.kwargs, forward.output)
    return facts.why if facts.together else None, method, given


def for_copies(method: Any, rows: Tensor, n: int) -> Any:
    """The method on a model whose bound keyword arguments follow the samples in its rows."""
    func = getattr(method, "forward_func", None)
    if not isinstance(func, Call) or not func.kwargs or len(rows) == n:
        return method
    of_copies = copy.copy(method)
    of_copies.forward_func = Call(func.func, take_rows(func.kwargs, rows, n), func.output)
    return of_copies


def expanded(kwargs: dict[str, Any], rows: Tensor, n: int, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments with a row per sample, repeated for the noisy rows; those to `keep` have no such rows."""
    target = kwargs.pop("target", None)
    target = torch.as_tensor(target) if isinstance(target, np.ndarray) else target
    out = {k: v if k in keep else take_rows(v, rows, n) for k, v in kwargs.items()}
    if isinstance(target, list) and len(target) == n:
        target = [target[r] for r in rows.tolist()]
    elif isinstance(target, Target):
        target = as_target(target, n).at(rows)
    elif isinstance(target, Tensor) and target.ndim == 1 and target.shape[0] == n:
        target = target.index_select(0, rows.to(target.device))
    if target is not None:
        out["target"] = target
    return out

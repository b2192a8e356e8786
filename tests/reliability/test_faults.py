"""Exceptions of five kinds at every forward call of a method: the model is as it was, and explains as before."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.cases import VARIANTS, Problem, attribute, distance, typical
from tests.reliability.test_interrupts import changed, facts
from tests.thorough import times

FAULTS: list[type[BaseException]] = [RuntimeError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit]


class Failing:
    """A hook in front of a model that raises at its k-th call.

    Args:
        net: the model.
    """

    def __init__(self, net: nn.Module):
        self.calls, self.at, self.fault = 0, 0, FAULTS[0]
        net.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.fault("at this call")

    def __deepcopy__(self, memo: Any) -> Failing:
        return self


def problem_of(variant: str) -> Problem:
    """Mixed modes and flags, some gradients there, a hook of the user's."""
    problem = typical(variant).build()
    problem.model.train()
    list(problem.model.modules())[-1].eval()
    next(problem.model.parameters()).requires_grad_(False)
    last: Tensor = list(problem.model.parameters())[-1]
    last.grad = torch.ones_like(last)
    return problem


@pytest.mark.filterwarnings("ignore:The model raised an error for more rows")  # one that does not come again
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_a_fault_at_any_forward_call_leaves_no_trace(variant: str) -> None:
    problem = problem_of(variant)
    expected = attribute(variant, problem, **seeded(variant))
    failing = Failing(problem.model)
    before = facts(problem.model)
    attribute(variant, problem, **seeded(variant))
    count = failing.calls
    every = max(1, count // times(2, 12))
    for k in range(1, count + 1, every):
        failing.calls, failing.at, failing.fault = 0, k, FAULTS[k % len(FAULTS)]
        told = (failing.fault, RuntimeError, MemoryError)  # memory that ran out is told in our words, or halves a chunk
        with contextlib.suppress(*told):
            attribute(variant, problem, **seeded(variant))
        assert changed(before, facts(problem.model)) == []
    failing.at = 0
    assert distance(attribute(variant, problem, **seeded(variant)), expected) < 1e-9


def seeded(variant: str) -> dict[str, Any]:
    from tests.conformance.cases import accepted, make

    return {"seed": 1} if "seed" in accepted(make(variant, typical(variant).build())) else {}

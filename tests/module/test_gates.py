"""Gates: Captum's names, files and numbers, the formulas against draws."""

from __future__ import annotations

import inspect
from typing import Any

import captum.module as peer
import pytest
import torch

from interp_plugins import module
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.module import BinaryConcreteStochasticGates, GaussianStochasticGates

KINDS = ("BinaryConcreteStochasticGates", "GaussianStochasticGates")


@pytest.mark.parametrize("name", [*KINDS, "StochasticGatesBase"])
def test_names_and_signatures_are_captums(name: str) -> None:
    for method in ("__init__", "forward", "get_gate_values", "get_gate_active_probs"):
        own, known = (inspect.signature(getattr(getattr(m, name), method)).parameters for m in (module, peer))
        assert [(p.name, p.default) for p in own.values()] == [(p.name, p.default) for p in known.values()]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_weights_and_numbers_are_captums_in_both_modes(name: str, masked: bool) -> None:
    mask = torch.tensor([[0, 0, 1, 2]]) if masked else None
    n = 3 if masked else 4
    theirs = getattr(peer, name)(n, mask=mask, reg_weight=0.3, reg_reduction="mean")
    mine = getattr(module, name)(n, mask=mask, reg_weight=0.3, reg_reduction="mean")
    assert list(mine.state_dict()) == list(theirs.state_dict())
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 4)
    for training in (False, True):
        found = []
        for gates in (mine.train(training), theirs.train(training)):
            torch.manual_seed(3)
            found.append(
                (*gates(x), gates.get_gate_values(), gates.get_gate_values(False), gates.get_gate_active_probs())
            )
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_are_those_of_draws(name: str) -> None:
    gates = getattr(module, name)(4)
    with torch.no_grad():
        next(gates.parameters()).copy_(torch.tensor([-1.5, -0.3, 0.4, 1.2]))
    gates.generator = torch.Generator().manual_seed(0)
    drawn = gates(torch.ones(100_000, 4))[0]
    p = gates.get_gate_active_probs()
    assert bool(((drawn > 0).double().mean(0) - p).abs().le(3 * (p * (1 - p) / 100_000).sqrt()).all())


@pytest.mark.parametrize("name", KINDS)
def test_eval_mode_draws_nothing_and_a_generator_keeps_the_global_one(name: str) -> None:
    gates, x = getattr(module, name)(4), torch.ones(3, 4)
    state = torch.get_rng_state()
    gates.generator = torch.Generator().manual_seed(1)
    drawn = gates(x)[0]
    assert torch.equal(state, torch.get_rng_state()) and not torch.equal(drawn[0], drawn[1])
    still, penalty = gates.eval()(x)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(still[0], gates.get_gate_values())
    penalty.backward()
    assert next(gates.parameters()).grad.abs().min() > 0


def test_the_most_extreme_draw_is_finite() -> None:
    gates = BinaryConcreteStochasticGates(2)
    gates.generator = torch.Generator().manual_seed(0)
    gates(torch.ones(2_000_000, 2))[0].sum().backward()
    assert bool(gates.log_alpha_param.grad.isfinite().all())


def test_gates_close_where_nothing_is_gained() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y, gates = 2 * x[:, 0] - x[:, 2], GaussianStochasticGates(4, reg_weight=0.3)
    weights = torch.tensor([2.0, 1.0, -1.0, 1.0])
    optimizer = torch.optim.Adam(gates.parameters(), 0.05)
    for _ in range(150):
        gated, penalty = gates(x)
        loss = ((gated @ weights - y) ** 2).mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (gates.get_gate_values() > 0.5).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: BinaryConcreteStochasticGates(3, temperature=1.5), InputError, "between 0 and 1"),
        (lambda: BinaryConcreteStochasticGates(3, lower_bound=0.1), InputError, "smaller than 0"),
        (lambda: BinaryConcreteStochasticGates(3, upper_bound=0.9), InputError, "larger than 1"),
        (lambda: GaussianStochasticGates(3, std=0), InputError, "should be positive"),
        (lambda: GaussianStochasticGates(3, mask=torch.tensor([0, 1])), InputError, "gates from 0 to 1"),
        (lambda: GaussianStochasticGates(3, mask=torch.ones(3)), InputTypeError, "whole numbers"),
        (lambda: GaussianStochasticGates(3, reg_reduction="max"), InputError, "reg_reduction must be"),
        (lambda: GaussianStochasticGates(3)(torch.ones(2, 4)), InputError, "3 gates for an input of shape"),
    ],
)
def test_wrong_gates_are_refused(make: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make()

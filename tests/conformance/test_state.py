"""No method leaves a trace: model, inputs, hooks and generators are as before, after success and after an exception."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.engine import acceleration
from tests.conformance.cases import (
    BY_NAME,
    VARIANTS,
    Case,
    Problem,
    accepted,
    applies,
    arguments,
    attribute,
    distance,
    leaves,
    make,
)


class BoomError(RuntimeError):
    """Raised inside a model."""


class Fussy(nn.Module):
    """In training mode, except one BatchNorm; dropout, an in-place ReLU, a frozen layer, gradients of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.act, self.drop, self.bn2 = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Tanh(), nn.Linear(4, 3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", None, persistent=False)
        self.fail_at = 0
        self.count = [0]  # shared with a planned view of the model

    @property
    def runs(self) -> int:
        return self.count[0]

    def forward(self, x: Tensor) -> Tensor:
        self.count[0] += 1
        self.calls += 1  # in place
        self.last = x.detach().mean()  # a buffer that was None
        y = self.drop(self.act(self.bn(self.conv(x))))
        if 0 < self.fail_at <= self.runs:
            raise BoomError("inside the model")
        random.random()
        np.random.rand()  # noqa: NPY002 - the legacy generator is what must be kept
        torch.rand(1)
        tokens = self.bn2(y).flatten(2).transpose(1, 2)
        tokens = tokens + nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(tokens.transpose(1, 2))


CASE = Case(
    "fussy", Fussy, ((2, 4, 4),), target=[0, 2, 1], baselines=lambda xs: xs[0] * 0.1, layer="bn", neuron=(1, 0, 2)
)


def fussy() -> Problem:
    """The model in mixed modes, with hooks of its own, some gradients already there."""
    problem = CASE.build()
    model = problem.model.train()
    assert isinstance(model, Fussy)
    model.bn2.eval()
    model.conv.bias.requires_grad_(False)
    model.head[1].weight.grad = torch.ones_like(model.head[1].weight)
    model.conv.register_forward_hook(lambda m, i, o: None)
    model.head.register_forward_pre_hook(lambda m, i: None)
    problem.inputs.requires_grad_()
    problem.inputs.grad = torch.full_like(problem.inputs, 2.0)
    return problem


def hooks(module: nn.Module) -> dict[str, int]:
    return {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks")}


def trace(problem: Problem) -> dict[str, Any]:
    """Everything that must not change, as plain values."""
    model = problem.model
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "objects": {name: id(t) for name, t in tensors.items()},
        "buffers": {f"{n}.{k}": id(b) for n, m in model.named_modules() for k, b in m._buffers.items()},
        "state_dict": list(model.state_dict()),
        "training": {name: m.training for name, m in model.named_modules()},
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "grad": {name: None if t.grad is None else t.grad.clone() for name, t in model.named_parameters()},
        "hooks": {name: hooks(m) for name, m in model.named_modules()},
        "global hooks": {
            k: len(v) for k, v in vars(nn.modules.module).items() if k.startswith("_global_") and hasattr(v, "__len__")
        },
        "inputs": [(x.detach().clone(), x.requires_grad, x.grad.clone() if x.grad is not None else None, x._version)
                   for x in problem.xs],
        "random": random.getstate(),
        "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        "torch": torch.get_rng_state(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.backends.cudnn.enabled),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return bool(a == b)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if not same(before[name], after[name])]


def small_chunks(variant: str, problem: Problem) -> dict[str, int]:
    """Two rows per pass, so that a failure can come in the middle."""
    parameters = accepted(make(variant, problem))
    return {k: 2 for k in ("internal_batch_size", "batch_size") if k in parameters}


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_changes_when_it_works(variant: str) -> None:
    problem = fussy()
    before = trace(problem)
    result = attribute(variant, problem)
    assert changed(before, trace(problem)) == []
    assert not any(t.requires_grad for t in leaves(result))


@pytest.mark.parametrize("fail_at", [1, 2, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_changes_when_the_model_raises(variant: str, fail_at: int) -> None:
    problem = fussy()
    model = problem.model
    assert isinstance(model, Fussy)
    before = trace(problem)
    model.fail_at = fail_at
    chunks = small_chunks(variant, problem)
    try:
        found = attribute(variant, problem, **chunks)
    except BoomError:
        assert model.runs >= fail_at
    else:  # no run failed, or one that only answers a question beside, such as whether rows feel each other
        assert fail_at > 1
        whole = fussy()
        assert distance(found, attribute(variant, whole, **small_chunks(variant, whole))) < 1e-9
    assert changed(before, trace(problem)) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_result_is_that_of_the_model_in_eval_mode(variant: str) -> None:
    calm = CASE.build()
    assert not any(m.training for m in calm.model.modules())
    with acceleration(False):
        for one, two in zip(leaves(attribute(variant, fussy())), leaves(attribute(variant, calm))):
            assert torch.equal(one, two)
    for one, two in zip(leaves(attribute(variant, fussy())), leaves(attribute(variant, calm))):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)  # the hooks of one keep its layers from being folded


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_changes_for_a_caller_without_gradients(variant: str, caller: Any) -> None:
    problem = fussy()
    with caller():
        before = trace(problem)
        attribute(variant, problem)
        assert changed(before, trace(problem)) == []


@pytest.mark.parametrize("fail_at", [0, 1, 2, 4])
@pytest.mark.parametrize("name", list_methods())
def test_explain_leaves_no_trace_either(name: str, fail_at: int) -> None:
    problem = fussy()
    model = problem.model
    assert isinstance(model, Fussy)
    needs = {"neuron_selector": (1, 0, 2)} if method_info(name).site == "neuron" else {}
    steps = {"n_steps": 3} if "n_steps" in accepted(make(name, problem)) else {}
    before = trace(problem)
    model.fail_at = fail_at
    try:
        explain(model, problem.inputs, name, layer="bn" if method_info(name).site != "input" else None, seed=3,
                progress=False, **needs, **steps)  # fmt: skip
        assert not fail_at or model.runs < fail_at
    except BoomError:
        assert fail_at
    assert changed(before, trace(problem)) == []


@pytest.mark.parametrize("variant", [v for v in VARIANTS if applies(v, BY_NAME["two inputs, tensor argument"])])
def test_model_that_works_in_place_on_its_arguments_reaches_private_copies_only(variant: str) -> None:
    problem = BY_NAME["two inputs, tensor argument"].build()
    weight = problem.args
    clean = [t.clone() for t in (*problem.xs, weight)]
    model = problem.model

    def greedy(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        out = model(x * 1, y * 1, w * 1)
        for t in (x, y, w):
            t.mul_(0)
        return out

    method = make(variant, problem, model=greedy)
    method.attribute(**arguments(variant, method, problem))
    assert all(torch.equal(a, b) for a, b in zip(clean, (*problem.xs, weight)))

"""The guard: it finds the model behind any callable, and puts back whatever it changed."""

from __future__ import annotations

import functools
import hashlib
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.api.fingerprint import model_facts
from interp_plugins.attr import LayerActivation, LayerGradientXActivation, Saliency
from interp_plugins.core.forward import Call
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.guard import frozen, modules_below, modules_of, named_below
from interp_plugins.core.layers import AtLayer, Layer

GLOBAL = nn.Linear(4, 3)


class Wrapper:
    """A plain object around a model."""

    def __init__(self, model: nn.Module):
        self.model = model

    def predict(self, x: Tensor) -> Tensor:
        return self.model(x)


class Callable_(Wrapper):
    """The same, callable."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


def positional(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def uses_a_global(x: Tensor) -> Tensor:
    return GLOBAL(x)


def uses_a_function_that_uses_a_global(x: Tensor) -> Tensor:
    return uses_a_global(x) * 2


def behind(kind: str, model: nn.Module) -> Any:
    wrapper, many, table = Wrapper(model), [model], {"main": model}
    return {
        "itself": model,
        "lambda": lambda x: model(x),
        "nested function": lambda x: (lambda y: model(y))(x),
        "forward": model.forward,
        "partial": functools.partial(positional, model),
        "partial by keyword": functools.partial(positional, model=model),
        "partial of a lambda": functools.partial(lambda m, x: m(x), model),
        "method of an object": wrapper.predict,
        "lambda around an object": lambda x: wrapper.predict(x),
        "callable object": Callable_(model),
        "list": lambda x: sum(m(x) for m in many),
        "dict": lambda x: table["main"](x),
        "default argument": lambda x, m=model: m(x),
        "keyword-only default": lambda x, *, m=model: m(x),
        "Call": Call(model, {}, None),
        "layer": AtLayer(model, [Layer(model)]),
    }[kind]


KINDS = [
    "itself", "lambda", "nested function", "forward", "partial", "partial by keyword", "partial of a lambda",
    "method of an object", "lambda around an object", "callable object", "list", "dict", "default argument",
    "keyword-only default", "Call", "layer",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_found_behind_any_callable(kind: str) -> None:
    model = nn.Linear(4, 3)
    assert modules_of(behind(kind, model)) == [model]


def test_global_models_are_found_through_functions() -> None:
    assert modules_of(uses_a_global) == [GLOBAL]
    assert modules_of(uses_a_function_that_uses_a_global) == [GLOBAL]
    assert modules_of(torch.relu) == modules_of(3) == modules_of(lambda x: x) == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("layer", "partial by keyword")])
def test_model_behind_a_callable_is_explained_in_eval_mode(kind: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).train(), torch.randn(5, 4)
    result = Saliency(behind(kind, model)).attribute(x, target=1, abs=False)
    assert torch.allclose(result, model[0].weight[1].expand(5, 4))
    assert model.training and model[1].training


def test_guard_sets_and_restores_everything() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()).train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    with torch.no_grad():
        with frozen(model):
            assert torch.is_grad_enabled()
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            model[1].running_mean.add_(5)
        assert not torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert model[1].running_mean.tolist() == [0, 0]


def test_buffers_that_appear_or_vanish_inside_are_put_back() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("cache", None)
    model.register_buffer("kept", torch.ones(1))
    kept = model.kept
    with frozen(model):
        model.cache = torch.zeros(3)
        model.register_buffer("extra", torch.zeros(1))
        model.kept = None
    assert model.cache is None and model.kept is kept and "extra" not in dict(model.named_buffers())


class Counting(nn.Module):
    """A model that counts its passes in a buffer, in place, and whose output depends on the count."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("still", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count * self.still


def test_a_scope_inside_another_begins_and_ends_with_the_buffers_of_the_outer_one() -> None:
    model, x = Counting(), torch.ones(1, 1)
    own = model.count
    with frozen(model):
        copy, still = model.count, model.still
        for _ in range(3):  # nothing was written yet: the copy itself is lent, and put right afterwards
            with frozen(model):
                assert model.still is still
                assert [model(x).item(), model(x).item()] == [1, 2]
            assert model.count.item() == 0 and model.still is still
        assert copy is not model.count
        model(x)
        for _ in range(2):  # the outer scope's own count is kept
            with frozen(model):
                assert [model(x).item(), model(x).item()] == [2, 3]
            assert model.count.item() == 1
        with frozen(model), frozen(model):
            model(x)
        assert model.count.item() == 1
        assert model(x).item() == 2
    assert model.count is own and own.item() == 0


def test_weights_made_in_inference_mode_can_be_explained_and_come_back() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        model.add_module("tied", model[0])
    weight = model[0].weight
    result = Saliency(lambda x: model[0](x)).attribute(torch.randn(2, 4), target=0)
    assert torch.allclose(result, weight[0].abs().expand(2, 4).clone())
    assert model[0].weight is weight and model.tied.weight is weight


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with frozen(model):
        assert model[1].weight is model[0].weight
    assert model[1].weight is model[0].weight and model[0].weight.requires_grad


def test_guards_may_lie_inside_one_another() -> None:
    model = nn.Dropout().train()
    with frozen(model), frozen(model):
        assert not model.training
    assert model.training


def test_seed_rules_inside_and_nothing_changes_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    # beside other threads only what a model is seen to draw is seeded: threads that earlier tests left do not count
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    with frozen(lambda: None, seed=4):
        first = drawn()
    with frozen(lambda: None, seed=4):
        assert drawn() == first
    with preserved_rng():
        expected = drawn()
    with pytest.raises(ZeroDivisionError), frozen(lambda: None):
        _ = drawn()[0] / 0
    assert drawn() == expected


def test_hooks_fire_in_a_compiled_model() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(3, 4)
    compiled(x)
    assert torch.equal(LayerActivation(compiled, "0").attribute(x), model[0](x).detach())
    plain = LayerGradientXActivation(model, model[0]).attribute(x, target=1)
    assert torch.allclose(LayerGradientXActivation(compiled, model[0]).attribute(x, target=1), plain)
    assert torch.allclose(LayerGradientXActivation(compiled, "_orig_mod.0").attribute(x, target=1), plain)


def test_compiler_is_not_loaded_for_a_model_that_is_not_compiled() -> None:
    program = (
        "import sys, torch; from interp_plugins.attr import Saliency; m = torch.nn.Linear(2, 2);"
        "Saliency(m).attribute(torch.ones(1, 2), target=0); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_cudnn_is_off_for_recurrent_nets_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward refuses eval mode. Where the weights lie is pretended here; tests/gpu has the real thing."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    for model, on in ((nn.Sequential(nn.GRU(2, 3)), False), (nn.Sequential(nn.Linear(2, 3)), True)):
        with frozen(model):
            assert torch.backends.cudnn.enabled == on
        assert torch.backends.cudnn.enabled


def test_a_walk_of_ours_names_modules_as_torch_does() -> None:
    shared = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Dropout()), "c": shared[0]})
    model.register_module("none", None)
    assert named_below(model) == list(model.named_modules())
    assert modules_below([model, shared]) == list(model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_fingerprint_is_of_names_shapes_and_bits_and_sees_weights_changed_behind_torchs_back(dtype: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(7, 3)).to(dtype)
    model.append(model[2])  # a weight that is there twice counts once
    digest = hashlib.blake2b(digest_size=8)
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        held = t.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        whole = len(held) // 8 * 8
        total = int(np.frombuffer(held[:whole], np.int64).sum()) + sum(held[whole:])
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}{total}".encode())
    assert model_facts(model)["fingerprint"] == digest.hexdigest()
    model[0].weight.data[0, 0, 0, 0] += 1
    assert model_facts(model)["fingerprint"] != digest.hexdigest()

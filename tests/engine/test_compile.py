"""`explain(compile=...)`: equal maps, one shape per run, code used again, clear refusals, an untouched model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import LayerIntegratedGradients, Occlusion
from interp_plugins.core.batching import chunks, most_rows
from interp_plugins.core.errors import InputError, InputTypeError, ModelError, UnknownNameError
from interp_plugins.core.guard import frozen
from interp_plugins.core.registry import traits_of
from interp_plugins.core.report import collect
from interp_plugins.engine.plan.compiled import Compiled, _made, check_methods, compilation
from tests.conformance.cases import BY_NAME, VARIANTS, attribute, distance, make, typical


class Net(nn.Module):
    """Convolution, norm, in-place ReLU, and a plain attribute that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc, self.scale = nn.Linear(4, 3), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.norm(self.conv(x))).mean((2, 3))) * self.scale


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net().double().eval()
    net.norm.running_mean.uniform_(-1, 1)
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_is_compiled_with_equal_maps_or_refused(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)  # threads of earlier tests
    problem = typical(variant).build()
    method = make(variant, problem)
    if not traits_of(method).compiles:
        with pytest.raises(InputError, match="is not compiled"):
            check_methods([(variant, False)])
        return
    plain = attribute(variant, problem)
    with compilation("eager"), collect() as report:
        found = attribute(variant, problem)
    assert report["compiled_rows"] > 0
    assert distance(found, plain) < 1e-10


@pytest.mark.usefixtures("another_thread")
@pytest.mark.parametrize("variant", ["gradient_shap", "integrated_gradients"])
def test_calls_that_are_watched_for_draws_beside_another_thread_run_as_they_are(variant: str) -> None:
    problem = typical(variant).build()
    plain = attribute(variant, problem)
    with compilation("eager"):
        assert distance(attribute(variant, problem), plain) < 1e-10


@pytest.mark.parametrize("case", ["two inputs, tensor argument", "tuple of arguments"])
@pytest.mark.parametrize("variant", ["integrated_gradients", "feature_ablation"])
def test_several_inputs_and_further_arguments_follow_the_rows(variant: str, case: str) -> None:
    problem = BY_NAME[case].build()
    option = {"integrated_gradients": {"internal_batch_size": 7}, "feature_ablation": {"perturbations_per_eval": 2}}
    plain = attribute(variant, problem, **option[variant])
    with compilation("eager"):
        assert distance(attribute(variant, problem, **option[variant]), plain) < 1e-10


@pytest.mark.parametrize("accelerate", [True, False])
def test_gradients_run_through_one_compiled_graph_whatever_the_last_chunk(
    net: nn.Module, x: Tensor, accelerate: bool
) -> None:
    asked = {"target": 1, "n_steps": 9, "batch_size": 4, "progress": False, "accelerate": accelerate}
    (plain,) = explain(net, x, "ig", **asked)
    (found,) = explain(net, x, "ig", compile="aot_eager", **asked)
    torch.testing.assert_close(found.attributions, plain.attributions)
    assert found.meta["compiled_rows"] == 18 and "compiled_rows" not in plain.meta
    code = _made.get(net, {})["aot_eager"]
    assert code.graphs == 1
    explain(net, x + 1, "ig", compile="aot_eager", **asked)
    assert code.graphs == 1  # a view of its own, and the same code


def test_what_changes_in_the_model_is_noticed(net: Any, x: Tensor) -> None:
    asked = {"target": 1, "n_steps": 5, "progress": False}

    def both() -> tuple[Tensor, Tensor]:
        first, second = (explain(net, x, "ig", compile=c, **asked)[0].attributions for c in ("eager", False))
        return first, second

    both()
    with torch.no_grad():
        net.conv.weight.mul_(2)
    torch.testing.assert_close(*both())
    net.scale = 3.0
    torch.testing.assert_close(*both())
    net.conv.register_forward_hook(lambda m, i, o: o * 0.5)
    torch.testing.assert_close(*both())


def test_the_users_model_is_left_as_it_was(net: Any, x: Tensor) -> None:
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    names = set(vars(net))
    explain(net, x, ("ig", "occlusion"), sliding_window_shapes=(3, 2, 2), target=1, compile="eager", n_steps=5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and set(vars(net)) == names and net._compiled_call_impl is None
    assert torch.compiler.is_compiling() is False and all(p.requires_grad for p in net.parameters())


def test_one_value_for_the_whole_batch_is_not_filled_up(x: Tensor) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 1)

        def forward(self, t: Tensor) -> Tensor:
            return self.fc(t).sum()[None]

    net = Sum().double()
    asked = {"sliding_window_shapes": (3, 2, 2), "target": None, "progress": False}
    plain = Occlusion(net).attribute(x, **asked)
    with compilation("eager"):
        torch.testing.assert_close(Occlusion(net).attribute(x, **asked), plain)


def test_chunks_are_not_filled_beyond_what_fits_into_memory(net: nn.Module) -> None:
    sizes: list[int] = []

    def code(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        sizes.append(len(args[0]))
        return func(*args, **kwargs)

    run = Compiled(net, code, (), {})
    rows = torch.zeros(20, 3, 6, 6, dtype=torch.float64)

    def work(start: int, stop: int) -> Tensor:
        out = run(rows[start:stop])
        if sizes[-1] > 4:
            raise RuntimeError("out of memory")
        return out

    with frozen(net):
        found = [len(part) for _, _, part in chunks(19, 16, work)]
        assert most_rows() == 4
    assert sizes == [16, 8, 4, 4, 4, 4, 4] and found == [4, 4, 4, 4, 3]


class Branching(nn.Module):
    """What it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if float(x.sum()) > 0 else -self.fc(x)


def test_what_cannot_be_compiled_is_refused_with_the_reason(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(UnknownNameError, match=r"'aot_eagre'\. Did you mean 'aot_eager'"):
        explain(net, x, "ig", compile="aot_eagre")
    with pytest.raises(InputTypeError, match="True, False or the name of a backend, got 3"):
        explain(net, x, "ig", compile=3)
    with pytest.raises(InputError, match="compile=: grad_cam is not compiled"):
        explain(net, x, ("ig", "gradcam"), compile="eager")
    with pytest.raises(InputError, match="compile=: layer_integrated_gradients is not compiled"):
        explain(net, x, "ig", layer=net.conv, compile="eager")
    with compilation("eager"), pytest.raises(InputError, match="layer inside the model cannot be read"):
        LayerIntegratedGradients(net, net.conv).attribute(x, target=1)
    with pytest.raises(ModelError, match="no private view of this model"):
        explain(lambda t: net(t), x, "ig", compile="eager", n_steps=3)
    with pytest.raises(ModelError, match=r"(?s)failed: .*one graph without breaks, or leave compile= out"):
        explain(Branching(), torch.rand(2, 6), "ig", compile="eager", n_steps=20)


def test_wrong_code_is_not_used(net: nn.Module, x: Tensor) -> None:
    @torch._dynamo.register_backend(name="halving")
    def halving(graph: Any, examples: Any) -> Any:
        return lambda *args: [out / 2 for out in graph(*args)]

    with pytest.raises(ModelError, match="computes something else than the model"):
        explain(net, x, "ig", compile="halving", n_steps=3)


def test_more_shapes_than_pay_are_refused(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.engine.plan.compiled.MOST_SHAPES", 2)
    for size in (5, 6):
        explain(net, torch.rand(1, 3, size, size).double(), "ig", compile="eager", n_steps=3)
    with pytest.raises(ModelError, match=r"code for 2 shapes was made .* Bring the inputs to one size"):
        explain(net, torch.rand(1, 3, 7, 7).double(), "ig", compile="eager", n_steps=3)


def test_a_whole_data_set_is_compiled_for_once(net: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    from interp_plugins.store import RunDiffersError, explain_dataset

    data = [torch.rand(3, 6, 6).double() for _ in range(5)]
    run = {"methods": "ig", "target": 1, "n_steps": 6, "progress": False}
    store = explain_dataset(net, data, tmp_path / "run", compile="aot_eager", **run)
    assert _made.get(net, {})["aot_eager"].graphs == 1
    plain = explain_dataset(net, data, tmp_path / "plain", **run)
    for i in range(5):
        torch.testing.assert_close(store[i]["ig"].attributions, plain[i]["ig"].attributions)
    with pytest.raises(RunDiffersError):
        explain_dataset(net, data, tmp_path / "run", **run)


@pytest.mark.slow
def test_inductor_agrees_and_says_when_there_is_no_cxx_compiler(
    x: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.GELU(), nn.Linear(8, 3)).float()
    asked = {"target": 1, "n_steps": 5, "progress": False}
    none = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False, "compile_threads": 1}
    advice = r"(?s)install a compiler \(g\+\+ or clang\+\+.*compile='aot_eager'"
    with inductor.patch(none), pytest.raises(ModelError, match=advice):
        explain(net, x.float(), "ig", compile=True, **asked)
    torch.compiler.reset()
    with inductor.patch({"compile_threads": 1}):
        (found,) = explain(net, x.float(), "ig", compile=True, **asked)
    (plain,) = explain(net, x.float(), "ig", **asked)
    torch.testing.assert_close(found.attributions, plain.attributions)
    assert found.meta["compiled_rows"] == 10

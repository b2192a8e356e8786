"""Where results differ from Captum on purpose: one test for each entry of docs/differences.md."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import captum.attr as theirs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins import row_probe
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.layers import Layer
from tests.conformance.cases import BY_NAME, Mlp
from tests.reference.oracle import double

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "differences.md"


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def net() -> Mlp:
    torch.manual_seed(0)
    return Mlp(nn.ReLU()).double()


def largest(a: Tensor, b: Tensor) -> float:
    return float((a.detach() - b.detach()).abs().max())


def test_trapezoid_weights_sum_to_one(x: Tensor) -> None:
    model = nn.Linear(4, 3).double()
    exact = x * model.weight[1]
    with double():
        mine, captums = (
            lib.IntegratedGradients(model).attribute(x, target=1, n_steps=10, method="riemann_trapezoid")
            for lib in (ours, theirs)
        )
    assert largest(mine, exact) < 1e-12
    assert largest(captums, 0.9 * exact) < 1e-12


def test_conductance_covers_the_whole_path(x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    change = (model(x) - model(x * 0))[:, 1].detach()
    with double():
        mine, captums = (lib.LayerConductance(model, model[0]).attribute(x, target=1) for lib in (ours, theirs))
    assert largest(mine.sum(1), change) < 1e-12
    assert 1e-4 < largest(captums.sum(1) / change, torch.ones(3)) < 1e-2


def test_neuron_conductance_of_a_slice_weighs_each_unit_by_its_own_gradient(net: Mlp, x: Tensor) -> None:
    def run(lib: Any, selector: Any) -> Tensor:
        method = lib.NeuronConductance(net, net.fc1)
        return method.attribute(x, selector, target=1, n_steps=9, method="riemann_middle")

    with double():
        units = sum(run(ours, j) for j in range(1, 4))
        assert largest(run(ours, (slice(1, 4),)), units) < 1e-12
        captums = run(theirs, (slice(1, 4),))
    assert largest(captums, units) > 1e-3
    product_of_sums = torch.zeros_like(x)
    for a in (torch.arange(9) + 0.5) / 9:
        hidden = net.fc1(a * x).detach().requires_grad_()
        outer = torch.autograd.grad(net.fc2(net.act(hidden))[:, 1].sum(), hidden)[0][:, 1:4].sum(1, keepdim=True)
        product_of_sums += outer * net.fc1.weight[1:4].sum(0).detach() * x / 9
    assert largest(captums, product_of_sums) < 1e-12


@row_probe(False)
def test_baselines_of_several_inputs_stay_paired() -> None:
    """Rows (1, 1) and (-1, -1): a product of matching rows is 1, of mixed ones -1."""
    a = torch.zeros(200, 1, dtype=torch.float64)
    pool = (torch.tensor([[1.0], [-1.0]], dtype=torch.float64),) * 2
    with double(), torch.random.fork_rng(devices=[]):
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        found = {}
        for lib in (ours, theirs):
            starts: list[Tensor] = []

            def model(u: Tensor, v: Tensor, starts: list[Tensor] = starts) -> Tensor:
                starts.append((u * v).detach().sign().flatten())
                return (u * v).sum(1)

            lib.GradientShap(model).attribute((a, a), pool, n_samples=2)
            found[lib] = torch.cat(starts)
            tunnel = lib.NoiseTunnel(lib.IntegratedGradients(model))
            starts.clear()
            tunnel.attribute((a, a), stdevs=0.0, baselines=pool, draw_baseline_from_distrib=True, n_steps=2)
            found[lib, "tunnel"] = torch.cat(starts)
        np.random.set_state(state)  # noqa: NPY002
    assert found[ours].min() == found[ours, "tunnel"].min() == 1
    assert found[theirs].min() == found[theirs, "tunnel"].min() == -1


def test_weights_are_as_exact_as_the_model(x: Tensor) -> None:
    model = nn.Linear(4, 3).double()
    mine, captums = (lib.IntegratedGradients(model).attribute(x, target=1) for lib in (ours, theirs))
    assert largest(mine, x * model.weight[1]) < 1e-14 < 1e-10 < largest(captums, x * model.weight[1])


def test_last_window_is_shifted_not_clipped(x: Tensor) -> None:
    sizes: dict[Any, set[int]] = {}
    for lib in (ours, theirs):
        seen: set[int] = set()

        def model(z: Tensor, seen: set[int] = seen) -> Tensor:
            seen.update((z == -9).sum(1).tolist())
            return z.sum(1)

        lib.Occlusion(model).attribute(x, (3,), (2,), baselines=-9.0)
        sizes[lib] = seen
    assert sizes == {ours: {0, 3}, theirs: {0, 2, 3}}


def test_model_is_explained_in_eval_mode(x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)).double()
    expected = ours.Saliency(model.eval()).attribute(x, target=1)
    model.train()
    assert largest(ours.Saliency(model).attribute(x, target=1), expected) == 0
    assert model[1].num_batches_tracked == 0
    assert largest(theirs.Saliency(model).attribute(x, target=1), expected) > 0
    assert model[1].num_batches_tracked == 1


def test_unused_input_gets_zeros_and_a_warning(net: Mlp, x: Tensor) -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return net(a)

    with pytest.warns(InterpWarning, match=r"input\[1\] does not influence the score; its attributions are zero"):
        used, unused = ours.IntegratedGradients(model).attribute((x, x), target=0)
    assert used.any() and not unused.any()
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        theirs.IntegratedGradients(model).attribute((x, x), target=0)


def test_draws_follow_torch_and_leave_the_generators_alone(net: Mlp, x: Tensor) -> None:
    state = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    one = ours.GradientShap(net).attribute(x, x, target=0)
    np.random.seed(3)  # noqa: NPY002
    two = ours.GradientShap(net).attribute(x, x, target=0)
    assert torch.equal(one, two) and state[2] == torch.get_rng_state().tolist() and state[0] == random.getstate()
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        theirs.NoiseTunnel(theirs.Saliency(net)).attribute(x.float().double(), target=0)
        assert not torch.equal(before, torch.get_rng_state())


def test_noise_does_not_depend_on_how_copies_are_grouped(net: Mlp, x: Tensor) -> None:
    spread = {}
    with double(), torch.random.fork_rng(devices=[]):
        for lib in (ours, theirs):
            maps = []
            for group in (1, 2, 4):
                torch.manual_seed(0)
                maps.append(lib.NoiseTunnel(lib.Saliency(net)).attribute(x, "smoothgrad", 4, group, 0.5, target=0))
            spread[lib] = max(largest(maps[0], m) for m in maps)
    assert spread[ours] < 1e-12 < 1e-3 < spread[theirs]


def test_in_place_relu_behind_a_layer_works() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    x = torch.randn(2, 4)
    result = ours.LayerIntegratedGradients(model, model[0]).attribute(x, target=0)
    pure = nn.Sequential(model[0], nn.ReLU(), model[2])
    assert torch.allclose(result, ours.LayerIntegratedGradients(pure, pure[0]).attribute(x, target=0))
    with pytest.raises(RuntimeError, match="in-place operation"):
        theirs.LayerIntegratedGradients(model, model[0]).attribute(x, target=0)


def test_layer_called_twice_warns_and_can_be_chosen(x: Tensor) -> None:
    f = nn.Linear(4, 4).double()
    model = nn.Sequential(f, nn.Tanh(), f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captums = theirs.LayerActivation(model, f).attribute(x)
    with pytest.warns(InterpWarning, match="runs 2 times in one forward pass; its last call"):
        mine = ours.LayerActivation(model, f).attribute(x)
    assert largest(mine, captums) == 0
    assert largest(ours.LayerActivation(model, Layer(f, call=0)).attribute(x), f(x)) == 0


def test_nested_layer_outputs_are_read() -> None:
    lstm = nn.LSTM(2, 3, batch_first=True)
    x = torch.randn(4, 5, 2)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = lstm

        def forward(self, z: Tensor) -> Tensor:
            return self.rnn(z)[0][:, -1]

    assert len(ours.LayerActivation(Last(), lstm).attribute(x)) == 3
    with pytest.raises(AttributeError):
        theirs.LayerActivation(Last(), lstm).attribute(x)


def test_layer_outputs_of_attention_are_read() -> None:
    """`nn.MultiheadAttention` gives (tokens, weights), and (tokens, None) where nobody asked for weights."""

    class Reader(nn.Module):
        def __init__(self, weights: bool) -> None:
            super().__init__()
            self.attend, self.fc = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
            self.weights = weights

        def forward(self, z: Tensor) -> Tensor:
            return self.fc(self.attend(z, z, z, need_weights=self.weights)[0].mean(1))

    z = torch.randn(2, 5, 4)
    plain, weighted = Reader(False), Reader(True)
    for cls in ("LayerActivation", "LayerGradientXActivation", "LayerIntegratedGradients"):
        given = {} if cls == "LayerActivation" else {"target": 0}
        assert getattr(ours, cls)(plain, plain.attend).attribute(z, **given).shape == z.shape
        with pytest.raises((AttributeError, AssertionError)):
            getattr(theirs, cls)(plain, plain.attend).attribute(z, **given)
    tokens, weights = ours.LayerActivation(weighted, weighted.attend).attribute(z)
    assert tokens.shape == (2, 5, 4) and weights.shape == (2, 5, 5)


class Words(nn.Module):
    """Token ids, looked up and read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.embed(ids).tanh().mean(1))


def test_token_ids_are_attributed_at_their_embedding() -> None:
    torch.manual_seed(0)
    model, ids = Words().double(), torch.tensor([[1, 7, 3], [2, 2, 8]])
    with double():
        at_embedding = theirs.LayerIntegratedGradients(model, model.embed).attribute(ids, ids * 0, target=0).sum(2)
        assert largest(ours.IntegratedGradients(model).attribute(ids, 0, target=0), at_embedding) < 1e-12
    assert ours.Saliency(model).attribute(ids, target=0).shape == ids.shape
    with pytest.raises(RuntimeError, match="scalar types: Long, Int"):
        theirs.IntegratedGradients(model).attribute(ids, target=0)
    with pytest.raises(RuntimeError, match="does not require grad"):
        theirs.Saliency(model).attribute(ids, target=0)


def test_under_autocast_maps_and_their_sums_are_float32() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(4, 8)
    whole = {name: getattr(ours, name)(model).attribute(x, target=1) for name in ("FeatureAblation", "DeepLift")}
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        for lib, dtype in ((ours, torch.float32), (theirs, torch.bfloat16)):
            assert lib.FeatureAblation(model).attribute(x, target=1).dtype == dtype
        for name, exact in whole.items():
            low = getattr(ours, name)(model).attribute(x, target=1)
            assert low.dtype == torch.float32 and 0 < largest(low, exact) < 0.05
        for cls, given in ((ours.DeepLift, {}), (ours.IntegratedGradients, {}), (ours.GradientShap, {"baselines": x})):
            delta = cls(model).attribute(x, target=1, return_convergence_delta=True, **given)[1]
            assert delta.dtype == torch.float32 and delta.any()
        assert torch.is_autocast_enabled("cpu")


def test_results_have_the_models_precision_and_half_is_summed_in_float32(x: Tensor) -> None:
    model = nn.Linear(4, 3).double()
    same: dict[str, Any] = {"inputs": x, "target": 1, "sliding_window_shapes": (2,)}
    assert ours.Occlusion(model).attribute(**same).dtype == torch.float64
    assert theirs.Occlusion(model).attribute(**same).dtype == torch.float32
    half = nn.Linear(4, 3).bfloat16()
    low = x.bfloat16()
    exact = low.double() * half.weight[1].double()
    maps = ours.IntegratedGradients(half).attribute(low, target=1)
    assert maps.dtype == torch.float32 and largest(maps.double(), exact) < 1e-5
    assert ours.Saliency(half).attribute(low, target=1).dtype == torch.bfloat16
    ablated = ours.FeatureAblation(half).attribute(low, target=1)
    assert ablated.dtype == torch.float32
    assert theirs.FeatureAblation(half).attribute(low, target=1).dtype == torch.bfloat16


def test_whole_numbers_from_a_model_give_float_maps() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    assert ours.FeatureAblation(lambda z: z.sum(1)).attribute(x).dtype == torch.float32
    assert theirs.FeatureAblation(lambda z: z.sum(1)).attribute(x).dtype == torch.int64


@pytest.mark.parametrize("cls", ["FeatureAblation", "Occlusion"])
@row_probe(False)
def test_one_perturbation_per_eval_leaves_the_size_to_the_engine(x: Tensor, cls: str) -> None:
    calls = {}
    for lib in (ours, theirs):
        seen: list[int] = []

        def model(z: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(z))
            return z.sum(1)

        window = {"sliding_window_shapes": (1,)} if cls == "Occlusion" else {}
        getattr(lib, cls)(model).attribute(x, **window)
        calls[lib] = seen
    assert calls == {ours: [3, 12], theirs: [3] * 5}


def test_chunks_may_be_smaller_than_the_batch(net: Mlp, x: Tensor) -> None:
    rows: dict[Any, int] = {}
    for lib in (ours, theirs):
        seen: list[int] = []

        def model(z: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(z))
            return net(z)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lib.IntegratedGradients(model).attribute(x, target=0, internal_batch_size=2)
        rows[lib] = max(seen)
    assert rows == {ours: 2, theirs: 3}


@pytest.mark.parametrize(
    "call",
    [
        lambda lib, m, x: lib.Saliency(m).attribute(x, target=[0]),
        lambda lib, m, x: lib.Saliency(m).attribute(x),
        lambda lib, m, x: lib.IntegratedGradients(m).attribute([x], target=0),
        lambda lib, m, x: lib.IntegratedGradients(m).attribute(x, torch.zeros(2, 4), target=0),
        lambda lib, m, x: lib.Occlusion(m).attribute(x, (2,), (3,), target=0),
    ],
)
def test_argument_errors_are_caught_as_captums_are(net: Mlp, x: Tensor, call: Any) -> None:
    with pytest.raises(AssertionError) as mine:
        call(ours, net, x)
    assert isinstance(mine.value, (ValueError, TypeError))
    with pytest.raises(AssertionError):
        call(theirs, net, x)


def test_numpy_targets_and_whole_stdevs_are_accepted(net: Mlp, x: Tensor) -> None:
    assert torch.equal(ours.Saliency(net).attribute(x, np.int64(1)), ours.Saliency(net).attribute(x, 1))
    ours.NoiseTunnel(ours.Saliency(net)).attribute(x, stdevs=1, target=0)
    with pytest.raises(AssertionError):
        theirs.Saliency(net).attribute(x, np.int64(1))
    with pytest.raises(AssertionError):
        theirs.NoiseTunnel(theirs.Saliency(net)).attribute(x, stdevs=1, target=0)


def test_one_baseline_and_a_block_of_neurons_are_accepted(net: Mlp, x: Tensor) -> None:
    one = ours.DeepLiftShap(net).attribute(x, x[:1], target=0)
    torch.testing.assert_close(one, ours.DeepLift(net).attribute(x, x[:1], target=0))
    with pytest.raises(AssertionError, match="more than one example"):
        theirs.DeepLiftShap(net).attribute(x, x[:1], target=0)

    conv = nn.Conv1d(2, 3, 1).double()
    series = x.reshape(3, 2, 2)
    block = ours.NeuronGradient(conv, conv).attribute(series, (1,))
    whole = ours.NeuronGradient(conv, conv).attribute(series, (1, slice(None)))
    torch.testing.assert_close(block, whole)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        theirs.NeuronGradient(conv, conv).attribute(series, (1,))


def test_nan_and_empty_batches_are_refused(net: Mlp, x: Tensor) -> None:
    for bad in (x * float("nan"), x[:0]):
        with pytest.raises(ValueError, match=r"contains NaN|empty batch"):
            ours.Saliency(net).attribute(bad, target=0)
    assert theirs.Saliency(net).attribute(x * float("nan"), target=0).isfinite().any()


def test_noise_tunnel_takes_any_method(net: Mlp, x: Tensor) -> None:
    class Mine(ours.Attribution):
        def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
            return inputs * 2

    assert ours.NoiseTunnel(Mine(net)).attribute(x, stdevs=0.0).allclose(2 * x)
    with pytest.raises((AttributeError, AssertionError, TypeError)):
        theirs.NoiseTunnel(Mine(net)).attribute(x, stdevs=0.0)


def test_inputs_that_are_subclasses_or_require_grad_stay_as_they_are(net: Mlp, x: Tensor) -> None:
    class Picture(Tensor):
        pass

    picture = x.clone().as_subclass(Picture)
    result = ours.NoiseTunnel(ours.Saliency(net)).attribute(picture, target=0, seed=0)
    assert type(result) is Tensor and not picture.requires_grad
    assert largest(result, ours.NoiseTunnel(ours.Saliency(net)).attribute(x, target=0, seed=0)) == 0


def test_the_document_names_these_tests_and_they_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    own = {name for name in globals() if name.startswith("test_") and "document" not in name}
    assert sorted(name for name in own if name not in text) == []
    rooms = "\n".join(p.read_text(encoding="utf-8") for p in Path(__file__).resolve().parents[1].rglob("test_*.py"))
    named = {word.strip("`,.;()") for word in text.split() if word.strip("`,.;()").startswith("test_")}
    assert sorted(n for n in named if not n.endswith(".py") and f"def {n}(" not in rooms) == []


def test_table_case_of_the_document_is_there() -> None:
    assert "in-place ReLU behind the layer" in BY_NAME

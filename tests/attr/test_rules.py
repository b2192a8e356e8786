"""DeepLift's rules: completeness of every kind of step, whatever its spelling, and the same numbers going forward."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import row_probe
from interp_plugins.attr import DeepLift, DeepLiftShap, GuidedBackprop, LayerDeepLift, LayerDeepLiftShap
from interp_plugins.attr.backward.rules.names import op_name
from interp_plugins.core.errors import ConvergenceWarning, InputError, InputTypeError, ModelError

Function = Callable[[Tensor], Tensor]
G = torch.Generator().manual_seed(0)
X, B, W = (torch.randn(3, 4, 6, generator=G, dtype=torch.float64) for _ in range(3))
MATRIX = torch.randn(6, 6, generator=G, dtype=torch.float64)


def in_place(z: Tensor) -> Tensor:
    y = F.relu(z)
    y += z
    y = torch.sigmoid(y)
    k = y.tanh()
    y *= k
    y[:, 0] = y[:, 1].exp()
    return y.mul_(2).sigmoid_()


STEPS: dict[str, Function] = {
    "F.relu": F.relu,
    "relu_": lambda z: z.relu_(),
    "hardtanh in place": lambda z: F.hardtanh(z, inplace=True),
    "gelu": F.gelu,
    "silu": F.silu,
    "exp": torch.exp,
    "softmax": lambda z: z.softmax(-1),
    "softmax over channels": lambda z: F.softmax(z, 1),
    "log_softmax": lambda z: F.log_softmax(z, -1),
    "logsumexp": lambda z: z.logsumexp(1),
    "layer_norm": lambda z: F.layer_norm(z, (6,), W[0, 0], W[0, 1]),
    "group_norm": lambda z: F.group_norm(z, 2),
    "instance_norm": F.instance_norm,
    "rms_norm": lambda z: F.rms_norm(z, (6,)),
    "normalize": lambda z: F.normalize(z, dim=-1),
    "max_pool": lambda z: F.max_pool1d(z, 3, 2),
    "adaptive_max_pool": lambda z: F.adaptive_max_pool1d(z, 4),
    "amax": lambda z: z.amax(1),
    "max over a dimension": lambda z: z.max(1)[0],
    "min": lambda z: z.min(1).values,
    "maximum": lambda z: torch.maximum(z, z.flip(1)),
    "product": lambda z: z * z.flip(1),
    "square": lambda z: z * z,
    "matmul": lambda z: z @ z.mT,
    "division": lambda z: z / (z * z + 1),
    "number / x": lambda z: 1 / (z * z + 1),
    "power": lambda z: z**3,
    "einsum of three": lambda z: torch.einsum("nct,nct,nct->n", z, z, z),
    "prod": lambda z: z.prod(-1),
    "std": lambda z: z.std(-1),
    "glu": F.glu,
    "attention": lambda z: F.scaled_dot_product_attention(z, z.sin(), z, is_causal=True),
    "masked attention": lambda z: F.scaled_dot_product_attention(z, z, z, torch.eye(4, dtype=torch.bool)),
    "interpolate": lambda z: F.interpolate(z, scale_factor=2, mode="linear").tanh(),
    "in place": in_place,
    "clamp": lambda z: z.clamp(-0.5, 0.5),
}


@pytest.mark.parametrize("name", STEPS)
def test_step_is_complete_and_computes_what_it_did(name: str) -> None:
    def model(x: Tensor) -> Tensor:
        y = STEPS[name](x @ MATRIX).reshape(len(x), -1)
        return (y * torch.linspace(1, 2, y.shape[1], dtype=y.dtype)).sum(1)

    maps, delta = DeepLift(model).attribute(X, B, return_convergence_delta=True)
    change = model(X) - model(B)
    tolerance = (1e-5 if name == "std" else 1e-12) * float(change.abs().max() + 1)  # std is integrated numerically
    assert float((maps.flatten(1).sum(1) - change).abs().max()) <= tolerance
    assert float(delta.abs().max()) <= tolerance


class Sequence(nn.Module):
    """A recurrent network, its outputs and last states; packed with lengths 2, 4, 3 if asked."""

    def __init__(self, net: nn.Module, packed: bool):
        super().__init__()
        self.net, self.packed = net, packed

    def forward(self, x: Tensor) -> Tensor:
        given: Any = x
        if self.packed:
            given = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 4, 3]), True, False)
        out, state = self.net(given)
        if self.packed:
            out, _ = nn.utils.rnn.pad_packed_sequence(out, True)
        states = state if isinstance(state, tuple) else (state,)
        score: Tensor = out.sum((1, 2)) + sum(s.tanh().sum((0, 2)) for s in states)
        return score


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True),
        lambda: nn.LSTM(6, 5, proj_size=3, batch_first=True),
        lambda: nn.GRU(6, 5, 2, bias=False, bidirectional=True, batch_first=True),
        lambda: nn.RNN(6, 5, nonlinearity="relu", batch_first=True),
    ],
)
@row_probe(False)
def test_recurrent_networks_are_complete(build: Callable[[], nn.Module], packed: bool) -> None:
    model = Sequence(build(), packed).double()
    maps, delta = DeepLift(model).attribute(X, B, return_convergence_delta=True)
    assert float(delta.abs().max()) <= 1e-12
    assert torch.allclose(maps.flatten(1).sum(1), (model(X) - model(B)).detach(), atol=1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 6, "vdim": 6}])
@row_probe(False)
def test_multi_head_attention_is_complete(kwargs: dict[str, Any]) -> None:
    attention = nn.MultiheadAttention(6, 2, batch_first=True, **kwargs).double().eval()
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)

    def model(x: Tensor) -> Tensor:
        out, weights = attention(x, x, x, attn_mask=mask)
        return (out * W).sum((1, 2)) + (weights * weights).sum((1, 2))

    maps, delta = DeepLift(model).attribute(X, B, return_convergence_delta=True)
    assert float(delta.abs().max()) <= 1e-12
    assert torch.allclose(maps.flatten(1).sum(1), (model(X) - model(B)).detach(), atol=1e-12)


def test_softmax_of_two_is_the_sigmoid_and_survives_large_logits() -> None:
    x, b = X[:, 0, :2], B[:, 0, :2]
    two = DeepLift(lambda z: z.softmax(1)[:, 0]).attribute(x, b)
    sigmoid = DeepLift(lambda z: (z[:, 0] - z[:, 1]).sigmoid()).attribute(x, b)
    assert torch.allclose(two, sigmoid, atol=1e-14)
    far = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float64)
    maps, delta = DeepLift(lambda z: z.softmax(1)[:, 0]).attribute(far, far.flip(1), return_convergence_delta=True)
    assert torch.isfinite(maps).all() and float(delta.abs()) <= 1e-12


def test_product_is_split_as_by_shapley() -> None:
    a, b = X[:, 0, 0], X[:, 1, 1]
    maps = DeepLift(lambda z: z[:, 0] * z[:, 1]).attribute(torch.stack([a, b], 1), torch.zeros(3, 2).double() + 0.5)
    expected = torch.stack([(a - 0.5) * (b + 0.5) / 2, (b - 0.5) * (a + 0.5) / 2], 1)
    assert torch.allclose(maps, expected)


def test_model_that_takes_another_way_for_the_baseline_is_refused() -> None:
    def model(x: Tensor) -> Tensor:
        return x.exp().sum(1) if float(x.detach().sum()) > 0 else x.tanh().sum(1)

    with pytest.raises(ModelError, match="takes another way for the baseline"):
        DeepLift(model).attribute(torch.ones(1, 2), -torch.ones(1, 2))


def test_step_without_multipliers_is_told() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * 0.1 + 2).sum(1)

    with pytest.warns(ConvergenceWarning, match="do not add up to the change of the score for 1 of 1 rows"):
        DeepLift(model).attribute(torch.ones(1, 2), -torch.ones(1, 2))


def test_random_numbers_in_the_model_are_the_same_for_both_runs() -> None:
    def model(x: Tensor) -> Tensor:
        return (x.tanh() * torch.rand(x.shape)).sum(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The model draws random numbers")
        DeepLift(model).attribute(X[:, 0].float(), B[:, 0].float())


def test_baselines_of_each_sample() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, sets = X[:, 0], torch.stack([B[:, 0], B[:, 1]], 1)
    together, deltas = DeepLiftShap(net).attribute(x, sets, target=1, return_convergence_delta=True)
    assert deltas.shape == (6,)
    at_layer = LayerDeepLiftShap(net, "1").attribute(x, sets, target=1)
    for i in range(3):
        alone = DeepLift(net).attribute(x[i].expand(2, 6), sets[i], target=1).mean(0)
        assert torch.allclose(together[i], alone)
        assert torch.allclose(
            at_layer[i], LayerDeepLift(net, "1").attribute(x[i].expand(2, 6), sets[i], target=1).mean(0)
        )
    with pytest.raises(InputError, match=r"one set per sample has the shape \(N, n_baselines, ...\)"):
        DeepLiftShap(net).attribute(x, sets[:2], target=1)


def test_wrong_custom_function_is_refused() -> None:
    f, x = (lambda z: z.sum(1)), X[:, 0]
    with pytest.raises(InputTypeError, match="must be a callable function but int 3 provided"):
        DeepLift(f).attribute(x, custom_attribution_func=3)
    with pytest.raises(InputError, match="must take at least one and at most 3 arguments"):
        DeepLift(f).attribute(x, custom_attribution_func=lambda a, b, c, d: a)


@pytest.mark.parametrize(
    "rectifier",
    [
        F.relu, torch.relu, lambda z: z.relu_(), lambda z: z.clamp(min=0), lambda z: F.threshold(z, 0, 0),
        lambda z: F.relu(z, inplace=True), lambda z: z.clamp_(0),
    ],
)  # fmt: skip
def test_every_rectifier_is_guided(rectifier: Function) -> None:
    def model(x: Tensor, f: Function = rectifier) -> Tensor:
        return f(f(x @ MATRIX) @ MATRIX.mT).sum(1)

    x = X[:, 0]
    first = (x @ MATRIX).relu()
    inner = ((first @ MATRIX.mT) > 0).double() @ MATRIX
    expected = (inner.clamp(min=0) * (first > 0)) @ MATRIX.mT
    assert torch.allclose(GuidedBackprop(model).attribute(x), expected)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (F.relu, "relu"), (torch.Tensor.relu_, "relu"), (torch.Tensor.__iadd__, "add"), (torch.Tensor.add_, "add"),
        (torch.multiply, "mul"), (torch.Tensor.__rsub__, "rsub"), (torch.Tensor.__getitem__, "getitem"),
    ],
)  # fmt: skip
def test_spellings_have_one_name(func: Any, name: str) -> None:
    assert op_name(func)[0] == name


@pytest.mark.parametrize("inputs", [1.0, 255.0, 25_500.0, 1e6])
def test_a_saturated_softmax_is_complete_in_float32(inputs: float) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(100, 512), nn.ReLU(), nn.Linear(512, 3))
        for layer in (body[0], body[2]):
            nn.init.kaiming_normal_(layer.weight)
        x = torch.rand(8, 100) * inputs
        logits, at_zero = (10 * body(v).detach() for v in (x, x * 0))
        target = int(logits[0].argmax())
        maps = DeepLift(nn.Softmax(-1)).attribute(logits, at_zero, target=target)
        change = (logits.double().softmax(-1) - at_zero.double().softmax(-1))[:, target]
        assert (maps.double().sum(1) - change).abs().max() < 1e-5  # it was 4e-3 of a probability

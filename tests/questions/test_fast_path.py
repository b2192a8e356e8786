"""The fast path of `nn.TransformerEncoder`: all methods explain the function with gradients, and torch is as before.

In eval mode without gradients torch may run another kernel, which gives zeros at padded positions and hands nested
tensors from layer to layer.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.attr import LayerActivation, LayerIntegratedGradients, NeuronGradient
from interp_plugins.core.guard import frozen

MASK = torch.tensor([[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]]).bool()
X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Two encoder layers, and a mean over all positions, the padded ones as well."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        one = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(one, 2, enable_nested_tensor=not options.get("norm_first"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=mask).mean(1))


@pytest.fixture(params=[{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
def net(request: Any) -> Net:
    return Net(**request.param).eval()


def with_gradients(net: Net, x: Tensor) -> Tensor:
    """The function that gradients belong to."""
    return net(x.requires_grad_(), MASK).detach()


def test_scores_are_those_of_the_function_with_gradients(net: Net) -> None:
    exp = ip.explain(net, X, "ig", target=1, additional_forward_args=(MASK,), n_steps=100)[0]
    expected = with_gradients(net, X.clone())[:, 1]
    assert exp.score is not None and torch.allclose(exp.score, expected, atol=1e-6)
    assert exp.relative_delta is not None and exp.relative_delta.max() < 0.02


def test_perturbation_and_gradient_methods_see_one_function(net: Net) -> None:
    """Every place taken away at once: the change of the same scores."""
    everything = torch.zeros_like(X[:1], dtype=torch.long)
    found = ip.explain(
        net, X, "feature_ablation", target=1, additional_forward_args=(MASK,), feature_mask=everything, baselines=0
    )[0]
    change = with_gradients(net, X.clone()) - with_gradients(net, torch.zeros_like(X))
    assert torch.allclose(found.attributions[:, 0, 0], change[:, 1], atol=1e-5)


@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.0.linear1", "encoder.layers.1.self_attn"])
def test_layers_give_plain_tensors(net: Net, layer: str) -> None:
    seen: list[Tensor] = []
    module = net.get_submodule(layer)
    with module.register_forward_hook(lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o)):
        with_gradients(net, X.clone())
    found = LayerActivation(net, layer).attribute(X, additional_forward_args=(MASK,))
    found = found[0] if isinstance(found, tuple) else found
    assert not found.is_nested and torch.allclose(found, seen[0].detach(), atol=1e-5)
    maps = LayerIntegratedGradients(net, layer).attribute(X, target=1, additional_forward_args=(MASK,), n_steps=5)
    assert not (maps[0] if isinstance(maps, tuple) else maps).is_nested
    first = (0, 0) if "self_attn" not in layer else lambda t: t[0][:, 0, 0] if isinstance(t, tuple) else t[:, 0, 0]
    assert NeuronGradient(net, layer).attribute(X, first, additional_forward_args=(MASK,)).shape == X.shape


def test_multi_head_attention_alone() -> None:
    """The layer has a fast path of its own."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()

    def model(x: Tensor, mask: Tensor) -> Tensor:
        return attention(x, x, x, need_weights=False, key_padding_mask=mask)[0].flatten(1)

    x = torch.randn(2, 6, 4)
    exps = ip.explain(model, x, ("feature_ablation", "saliency"), target=5, additional_forward_args=(MASK,))
    assert exps[0].score is not None
    assert torch.allclose(exps[0].score, model(x.clone().requires_grad_(), MASK)[:, 5].detach(), atol=1e-6)


@pytest.mark.parametrize("before", [True, False])
def test_the_switch_is_put_back(before: bool) -> None:
    switch, net = torch.backends.mha, Net().eval()
    switch.set_fastpath_enabled(before)
    try:
        with frozen(net):
            assert not switch.get_fastpath_enabled()
            with frozen(net):
                assert not switch.get_fastpath_enabled()
            assert not switch.get_fastpath_enabled()
        assert switch.get_fastpath_enabled() is before
        with pytest.raises(ZeroDivisionError), frozen(net):
            1 / 0  # noqa: B018
        assert switch.get_fastpath_enabled() is before
    finally:
        switch.set_fastpath_enabled(True)


def test_runs_that_overlap_in_two_threads_put_it_back() -> None:
    """The one that began first ends first."""
    entered, leave = threading.Event(), threading.Event()
    during: list[bool] = []

    def first() -> None:
        with frozen(nn.Linear(2, 2)):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with frozen(nn.Linear(2, 2)):
        leave.set()
        thread.join()
        during.append(torch.backends.mha.get_fastpath_enabled())
    assert during == [False] and torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_model_alone_is_as_fast_as_before() -> None:
    """Outside, the fast path gives what it gave."""
    net = Net().eval()
    with torch.no_grad():
        before = net(X, MASK)
        ip.explain(net, X, "saliency", target=1, additional_forward_args=(MASK,))
        assert torch.equal(net(X, MASK), before)

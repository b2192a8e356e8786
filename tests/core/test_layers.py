"""Layers by module or name, through wrappers; several calls, several tensors, recurrent layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import (
    LayerActivation,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronGradient,
)
from interp_plugins.core.errors import InterpWarning, LayerError
from interp_plugins.core.layers import Layer, layer_name, resolve_layer


class Twice(nn.Module):
    """One linear layer, used twice: f(f(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.f(torch.tanh(self.f(x)))))


class Recurrent(nn.Module):
    """An LSTM with the batch first, its last step classified."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_layer_is_found_by_module_name_site_or_function() -> None:
    model = net()
    for layer in (model[1][1], "1.1", Layer("1.1"), Layer(model[1][1]), lambda m: m[1][1]):
        assert resolve_layer(model, layer).module is model[1][1]
    assert layer_name(model, model[1][1]) == "1.1"
    assert layer_name(model, nn.Tanh()) == "Tanh"
    assert resolve_layer(lambda x: model(x), "1.0").module is model[1][0]


def test_names_need_no_prefix_of_a_wrapper() -> None:
    model = net()
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert resolve_layer(wrapped, "1.1").module is model[1][1]
        assert layer_name(wrapped, model[1][1]) == "1.1"
    assert resolve_layer(nn.DataParallel(model), "module.1.1").module is model[1][1]


def test_layer_of_a_data_parallel_model_is_explained() -> None:
    model, x = net(), torch.randn(2, 3)
    wrapped = nn.DataParallel(model)
    plain = LayerGradientXActivation(model, "0").attribute(x, target=1)
    assert torch.equal(LayerGradientXActivation(wrapped, "0").attribute(x, target=1), plain)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("1.2", "No layer named '1.2'. Did you mean"),
        ("nothing like it", "The model has 4 named modules, for instance"),
        (7, "must be an nn.Module or its dotted name, got int 7"),
        (lambda m: "text", "No layer named 'text'"),
    ],
)
def test_layers_that_do_not_exist_are_refused(layer: Any, says: str) -> None:
    with pytest.raises(LayerError) as caught:
        resolve_layer(net(), layer)
    assert says in str(caught.value)


def test_name_without_any_module_behind_is_said() -> None:
    with pytest.raises(LayerError, match=r"no nn\.Module behind this callable"):
        resolve_layer(torch.relu, "fc")


def test_side_must_be_input_or_output() -> None:
    with pytest.raises(LayerError, match="io must be 'input' or 'output', got 'in'"):
        Layer("0", io="in")


def test_layer_site_says_its_own_side() -> None:
    model, x = net(), torch.randn(2, 3)
    assert torch.equal(LayerActivation(model, Layer("0", io="input")).attribute(x), x)
    assert torch.equal(LayerActivation(model, "0").attribute(x, attribute_to_layer_input=True), x)


def test_layer_called_twice_warns_and_takes_the_last_call() -> None:
    model, x = Twice(), torch.randn(2, 3)
    first = model.f(x).detach()
    second = model.f(torch.tanh(first)).detach()
    with pytest.warns(InterpWarning, match=r"'f' runs 2 times in one forward pass; its last call.*call=0..1"):
        assert torch.equal(LayerActivation(model, "f").attribute(x), second)
    for call, expected in ((0, first), (1, second), (-1, second), (-2, first)):
        assert torch.equal(LayerActivation(model, Layer("f", call=call)).attribute(x), expected)
    with pytest.raises(LayerError, match="'f' ran 2 times; call=2 does not exist"):
        LayerActivation(model, Layer("f", call=2)).attribute(x)


@pytest.mark.parametrize("call", [0, 1, -1])
def test_each_call_of_a_layer_is_complete_on_its_own(call: int) -> None:
    model, x = Twice().double(), torch.randn(2, 3, dtype=torch.float64)
    difference = (model(x) - model(x * 0))[:, 1]
    for cls in (LayerIntegratedGradients, LayerConductance):
        result, delta = cls(model, Layer("f", call=call)).attribute(
            x, target=1, n_steps=200, return_convergence_delta=True
        )
        assert torch.allclose(result.sum(1), difference, atol=1e-4)
        assert delta.abs().max() < 1e-4


def test_tensors_of_nested_outputs_are_all_read() -> None:
    model, x = Recurrent(), torch.randn(4, 5, 2)
    out, (h, c) = model.rnn(x)
    for found, expected in zip(LayerActivation(model, "rnn").attribute(x), (out, h, c)):
        assert torch.allclose(found, expected)
    with pytest.warns(InterpWarning, match=r"layer\[[12]\] does not influence the score"):
        grads = LayerGradientXActivation(model, "rnn").attribute(x, target=0)
    assert [g.shape for g in grads] == [out.shape, h.shape, c.shape]
    assert torch.allclose(grads[0][:, -1], (out[:, -1] * model.fc.weight[0]).detach())
    assert not grads[0][:, :-1].any() and not grads[1].any() and not grads[2].any()


def test_neuron_of_a_recurrent_layer_is_chosen_by_a_function() -> None:
    model, x = Recurrent().train(), torch.randn(4, 5, 2)
    result = NeuronGradient(model, "rnn").attribute(x, lambda tensors: tensors[0][:, -1, 1])
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model.rnn(leaf)[0][:, -1, 1].sum(), leaf)
    assert torch.allclose(result, expected, atol=1e-6) and model.rnn.training


def test_layer_that_gives_no_float_tensor_is_refused() -> None:
    class Argmax(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    model = nn.Sequential(nn.Linear(3, 4), Argmax())
    with pytest.raises(LayerError, match="The layer Argmax gave no floating-point tensor"):
        LayerActivation(model, "1").attribute(torch.randn(2, 3))


def test_frozen_weights_and_token_ids_give_gradients_at_the_layer() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).requires_grad_(False)
    ids = torch.tensor([[1, 2], [3, 4]])
    result = LayerGradientXActivation(model, "0", multiply_by_inputs=False).attribute(ids, target=1)
    assert torch.allclose(result, model[2].weight[1].reshape(1, 2, 3).expand(2, 2, 3))


def test_in_place_operation_behind_a_layer_does_not_change_what_is_read() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    assert torch.equal(LayerActivation(model, "0").attribute(x), model[0](x).detach())
    result, delta = LayerIntegratedGradients(model, "0").attribute(
        x, target=0, n_steps=300, return_convergence_delta=True
    )
    assert result.shape == (5, 4) and delta.abs().max() < 0.02

"""Models in another form than a plain module: what works, and that nothing is silently something else.

`python -m tests.questions.test_runtimes` prints the table of docs/runtimes.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.attr import LRP, Deconvolution, DeepLift, GuidedBackprop, LayerActivation, Saliency
from interp_plugins.core.errors import InterpError, InterpWarning, LayerError, ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered"),
    pytest.mark.filterwarnings("ignore:.*reduce_range"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python"),
]
DOCS = Path(__file__).parents[2] / "docs" / "runtimes.md"
FAMILIES = {
    "Gradients and paths": ("saliency", "ig", "noise_tunnel"),
    "Perturbation": ("occlusion", "feature_ablation", "shapley_value_sampling"),
    "Rules": ("deep_lift", "lrp", "guided_backprop", "deconvolution"),
    "Layers": ("gradcam", "layer_integrated_gradients"),
}


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 3),
    ).eval()  # fmt: skip


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def exported(net: nn.Module) -> Any:
    return torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=512)},))


def decomposed(net: nn.Module) -> nn.Module:
    return exported(net).run_decompositions().module()


def static_int8(net: nn.Sequential) -> nn.Module:
    """Eager quantization: a stub in front, observers that see the data once, a stub behind."""
    q = torch.ao.quantization
    whole = nn.Sequential(q.QuantStub(), *[m for m in net if not isinstance(m, nn.BatchNorm2d)], q.DeQuantStub()).eval()
    whole.qconfig = q.get_default_qconfig(torch.backends.quantized.engine)
    prepared = q.prepare(whole)
    prepared(X)
    return q.convert(prepared)


def in_numpy(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.from_numpy(np.array(net(torch.from_numpy(x.detach().numpy())).numpy()))

    return model


FORMS: dict[str, Callable[[nn.Sequential], Any]] = {
    "`torch.compile`": lambda net: torch.compile(net, backend="eager"),
    "`torch.fx.symbolic_trace`": torch.fx.symbolic_trace,
    "`torch.export`": lambda net: exported(net).module(),
    "`torch.export`, decomposed": decomposed,
    "`torch.jit.script`": torch.jit.script,
    "`torch.jit.trace`": lambda net: torch.jit.trace(net, X),
    "`torch.jit.freeze`": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "int8, dynamic": lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8),
    "float16, dynamic": lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.float16),
    "int8, static": static_int8,
    "NumPy inside": in_numpy,
}


def verdict(form: str, family: str) -> str:
    """What all methods of a family give for a form: the maps of the network, or an error that helps."""
    found = set()
    for method in FAMILIES[family]:
        more: dict[str, Any] = {"sliding_window_shapes": (1, 4, 4)} if method == "occlusion" else {}
        more |= {"layer": "4"} if family == "Layers" else {}
        more |= {"n_samples": 2} if method == "shapley_value_sampling" else {}
        if family == "Perturbation":
            more["feature_mask"] = torch.arange(4).repeat_interleave(16).reshape(1, 1, 8, 8)
            more.pop("feature_mask" if method == "occlusion" else "", None)
        model = FORMS[form](network())
        try:
            got = ip.explain(model, X, method, target=1, progress=False, **more)[0].attributions
        except InterpError as error:
            helps = any(word in str(error) for word in ("perturbation", "occlusion", "layer"))
            found.add("refused" if helps else f"{method}: {error}")
            continue
        reference = model if form.startswith(("int8", "float16")) else network()
        right = ip.explain(reference, X, method, target=1, progress=False, **more)[0].attributions
        found.add("yes" if torch.allclose(got, right, atol=2e-5) else f"{method} differs")
    return " and ".join(sorted(found))


def table() -> str:
    lines = [f"| Form | {' | '.join(FAMILIES)} |", "|---|" + "---|" * len(FAMILIES)]
    lines += [f"| {form} | {' | '.join(verdict(form, family) for family in FAMILIES)} |" for form in FORMS]
    return "\n".join(lines)


@pytest.mark.parametrize("form", FORMS)
def test_the_table_of_the_documents_is_true(form: str) -> None:
    line = f"| {form} | {' | '.join(verdict(form, family) for family in FAMILIES)} |"
    assert line in DOCS.read_text().splitlines()


class Tokens(nn.Module):
    """Norms, attention, activations and a quotient: what an export takes apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.b, self.g = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)
        self.n, self.a, self.l = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
        self.up = nn.ConvTranspose1d(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.g(self.b(self.up(self.c(x))))).transpose(1, 2)
        y = self.n(y)
        y = y + self.a(y, y, y, need_weights=False)[0]
        y = F.gelu(self.l(y[:, 1:])) + F.hardtanh(y[:, :-1], 0, 6)
        return (y / (1 + y.abs().sum(-1, keepdim=True))).mean(1).log_softmax(-1)


@pytest.mark.filterwarnings(
    "ignore:The rows of this model feel each other, or it takes"
)  # the batch is written into the program
@pytest.mark.parametrize("take_apart", [False, True])
@pytest.mark.parametrize("cls", [DeepLift, LRP, GuidedBackprop, Deconvolution])
def test_rules_meet_the_operators_of_exported_programs(cls: Any, take_apart: bool) -> None:
    net, x = Tokens().double().eval(), torch.randn(2, 3, 9, dtype=torch.float64)
    program = torch.export.export(net, (x,))
    model = (program.run_decompositions() if take_apart else program).module()
    right, got = (cls(m).attribute(x, target=1) for m in (net, model))
    # Taken apart, attention is products by hand: DeepLift and LRP share them in the same way, up to the fused scale.
    assert torch.allclose(got, right, atol=1e-6), float((got - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("cls", [DeepLift, LRP, GuidedBackprop, Deconvolution])
@pytest.mark.parametrize("warm", [0, 3])
def test_rule_methods_refuse_torchscript(cls: Any, warm: int) -> None:
    """Also when its executor has fused what it runs."""
    model = torch.jit.script(network())
    for _ in range(warm):
        model(X.clone().requires_grad_())
    with pytest.raises(ModelError, match=r"met no call that it has a rule for.*TorchScript.*integrated_gradients"):
        cls(model).attribute(X, target=1)


@pytest.mark.parametrize("cls", [LRP, GuidedBackprop])
def test_a_part_that_is_torchscript_is_told(cls: Any) -> None:
    net = network()
    mixed = nn.Sequential(torch.jit.script(net[:3]), *net[3:])
    with pytest.warns(InterpWarning, match=r"could not reach a part of the model.*TorchScript"):
        cls(mixed).attribute(X, target=1)


def test_a_custom_function_is_told() -> None:
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * (x.sigmoid() + x * x.sigmoid() * (1 - x.sigmoid()))

    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU()).eval()
    with pytest.warns(InterpWarning, match=r"LRP could not reach a part of the model \(Swish\)"):
        LRP(lambda x: Swish.apply(net(x))).attribute(torch.randn(2, 4), target=1)


@pytest.mark.parametrize("cls, name", [(GuidedBackprop, "Guided backpropagation"), (Deconvolution, "Deconvolution")])
def test_a_model_without_rectifiers_is_told(cls: Any, name: str) -> None:
    net, x = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).eval(), torch.randn(2, 4)
    with pytest.warns(InterpWarning, match=f"{name} met no rectifier"):
        got = cls(net).attribute(x, target=1)
    assert torch.allclose(got, Saliency(net).attribute(x, target=1, abs=False))


def test_a_linear_model_needs_no_rectifier() -> None:
    net = nn.Linear(4, 3)
    assert torch.equal(GuidedBackprop(net).attribute(torch.randn(2, 4), target=1)[0], net.weight[1].detach())


class Recurrent(nn.Module):
    """The last state of a recurrent net, which `quantize_dynamic` takes as it takes linear layers."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.states, self.head = kind(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).mean(1).relu())


DYNAMIC: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), (2, 5)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (2, 4, 5)),
    "GRU": (lambda: Recurrent(nn.GRU), (2, 4, 5)),
    "encoder": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(32, 3)),
        (2, 4, 8),
    ),
    "words": (Words, (2, 4)),
}


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize("kind", DYNAMIC)
def test_dynamic_quantization_of_each_kind_of_layer(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = DYNAMIC[kind]
    torch.manual_seed(3)
    ids = kind == "words"
    net, x = make().eval(), torch.randint(1, 20, shape) if ids else torch.randn(shape)
    packed = torch.ao.quantization.quantize_dynamic(net, {nn.Linear, nn.LSTM, nn.GRU}, dtype=dtype)
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # torch's own cannot run this
    by_hand = torch.empty(shape)
    for i, one in enumerate(x.split(1)):
        for j in range(one.numel()):
            without = one.clone()
            without.view(-1)[j] = 0
            by_hand[i].view(-1)[j] = (packed(one) - packed(without))[0, 1].detach()
        alone = ip.explain(packed, one, "feature_ablation", target=1, perturbations_per_eval=1)[0].attributions
        assert torch.allclose(alone[0], by_hand[i], atol=1e-6)
    together = ip.explain(packed, x, "feature_ablation", target=1)[0].attributions
    # int8 is rounded by the range of all that shares a pass
    assert (together - by_hand).abs().max() <= (0.03 if dtype == torch.qint8 else 1e-6) * packed(x).abs().max()
    for method in ("saliency", "ig", "deep_lift", "lrp", "guided_backprop"):
        with pytest.raises(ModelError, match=r"quantized model.*perturbation"):
            ip.explain(packed, x, method, target=1)


def test_relevance_that_gets_past_an_int8_layer_by_another_way_is_told() -> None:
    """A residual connection around a packed layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            return y + self.a(y)

    model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.warns(InterpWarning, match=r"LRP: nothing got past quantized.linear_dynamic.*perturbation"):
        LRP(model).attribute(torch.randn(2, 4), target=1)
    with pytest.raises(ModelError, match="no gradient"):
        GuidedBackprop(model).attribute(torch.randn(2, 4), target=1)


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
@pytest.mark.parametrize("method", ["gradcam", "full_grad", "layer_activation"])
@pytest.mark.parametrize("more", [{}, {"layer": "3"}])
def test_layers_of_torchscript_are_refused(make: Any, method: str, more: dict[str, Any]) -> None:
    with pytest.raises(LayerError, match=r"TorchScript.*(Give|from)"):
        ip.explain(make(network()), X, method, target=1, **more)


def test_a_layer_in_front_of_a_script_is_read() -> None:
    net = network()
    mixed = nn.Sequential(*net[:3], torch.jit.script(net[3:]))
    found = LayerActivation(mixed, mixed[2]).attribute(X)
    assert torch.allclose(found, net[:3](X).detach())
    cam = ip.explain(mixed, X, "gradcam", target=1)[0]
    right = ip.explain(net, X, "gradcam", target=1, layer="2")[0]
    assert torch.allclose(cam.attributions, right.attributions, atol=1e-6)


def test_a_frozen_script_is_left_as_it_was() -> None:
    model = torch.jit.freeze(torch.jit.script(network()))
    before = model(X)
    ip.explain(model, X, ("saliency", "occlusion"), target=1, sliding_window_shapes=(1, 4, 4))
    assert torch.equal(model(X), before)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(table())

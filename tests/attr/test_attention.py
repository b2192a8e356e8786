"""Attention methods: weights seen wherever they are computed, slow formulas, agreement over ways to write a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins import explain
from interp_plugins.attr.attention.maps import Attentions
from interp_plugins.core.errors import LayerError, ModelError, UnknownNameError
from interp_plugins.core.forward import Call

METHODS = [attr.AttentionRollout, attr.AttentionRelevance, attr.LeGrad]


class Layer(nn.Module):
    """One attention layer, written out by hand."""

    def __init__(self, width: int = 8, heads: int = 2, kind: str = "plain"):
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(t)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            a = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
            self.last = a  # the tests look at it
            out = a @ v
        return t + self.out(out.transpose(1, 2).flatten(2))


class Net(nn.Module):
    """Layers, then a head that reads the first token or the mean."""

    def __init__(self, kind: str = "plain", first: bool = True, layers: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.head, self.first = (
            nn.ModuleList(Layer(kind=kind) for _ in range(layers)),
            nn.Linear(8, 3),
            first,
        )

    def forward(self, t: Tensor, upto: int | None = None) -> Tensor:
        for layer in self.layers[:upto]:
            t = layer(t)
        return self.head(t[:, 0] if self.first else t.mean(1))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


def weights_and_gradients(net: Net, x: Tensor, target: int) -> tuple[list[Tensor], list[Tensor]]:
    score = net(x)[:, target].sum()
    maps = [layer.last for layer in net.layers]
    return [m.detach() for m in maps], list(torch.autograd.grad(score, maps))


@pytest.mark.parametrize("first", [True, False], ids=["class token", "mean"])
def test_methods_are_the_papers_formulas(x: Tensor, first: bool) -> None:
    net = Net(first=first).double().eval()
    maps, grads = weights_and_gradients(net, x, 1)
    for n in range(2):
        roll, rel = torch.eye(5).double(), torch.eye(5).double()
        for a, g in zip(maps, grads):
            step = sum(a[n, h] for h in range(2)) / 2 + torch.eye(5)
            roll = step / step.sum(1, keepdim=True) @ roll
            rel = rel + sum((a[n, h] * g[n, h]).clamp_min(0) for h in range(2)) / 2 @ rel
        read = (lambda r: r[0]) if first else (lambda r: r.mean(0))
        assert close(attr.AttentionRollout(net).attribute(x, target=1)[n], read(roll))
        assert close(attr.AttentionRelevance(net).attribute(x, target=1)[n], read(rel - torch.eye(5)))
    expected = 0
    for k in (1, 2, 3):
        score = net(x, upto=k)[:, 1].sum()
        (g,) = torch.autograd.grad(score, [net.layers[k - 1].last])
        expected = expected + g.clamp_min(0).mean((1, 2)) / 3
    assert close(attr.LeGrad(net).attribute(x, target=1), expected)


def test_last_layers_of_legrad(x: Tensor) -> None:
    net = Net().double().eval()
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), [net.layers[2].last])
    assert close(attr.LeGrad(net).attribute(x, target=1, n_layers=1), g.clamp_min(0).mean((1, 2)))


@pytest.mark.parametrize("cls", METHODS)
def test_fused_attention_gives_the_same(x: Tensor, cls: Any) -> None:
    plain, fused = Net().double().eval(), Net("fused").double().eval()
    assert close(cls(fused).attribute(x, target=0), cls(plain).attribute(x, target=0))


@pytest.mark.parametrize("mask", [None, "bool", "add", "causal", "gqa", "scale"])
def test_fused_attention_in_steps_is_equal(mask: str | None) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 3, generator=g, dtype=torch.float64) for _ in range(3))
    more: dict[str, Any] = {
        "bool": {"attn_mask": torch.rand(2, 1, 5, 5, generator=g) > 0.4},
        "add": {"attn_mask": torch.randn(5, 5, generator=g, dtype=torch.float64)},
        "causal": {"is_causal": True},
        "gqa": {"enable_gqa": True},
        "scale": {"scale": 0.3},
    }.get(str(mask), {})
    k, v = (k[:, :2], v[:, :2]) if mask == "gqa" else (k, v)
    expected = F.scaled_dot_product_attention(q, k, v, **more)
    with Attentions() as mode:
        found = F.scaled_dot_product_attention(q, k, v, **more)
    assert close(found, expected) and len(mode.found) == 1
    assert close(mode.found[0].weights.sum(-1), torch.ones(2, 4, 5).double())


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"add_bias_kv": True}, {"add_zero_attn": True},
                                     {"kdim": 3, "vdim": 5}, {"bias": False}])  # fmt: skip
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_multi_head_attention_in_steps_is_equal(options: dict[str, Any], masked: bool, average: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **options).double().eval()
    q = torch.randn(3, 3, 8).double()
    k, v = torch.randn(3, 3, options.get("kdim", 8)).double(), torch.randn(3, 3, options.get("vdim", 8)).double()
    more: dict[str, Any] = {"average_attn_weights": average}
    if masked:
        more |= {"key_padding_mask": torch.tensor([[0, 0, 1], [0, 1, 1], [0, 0, 0]]).bool(),
                 "attn_mask": torch.triu(torch.ones(3, 3), 1).bool()}  # fmt: skip
    expected, weights = layer(q, k, v, **more)
    with Attentions() as mode:
        found, seen = layer(q, k, v, **more)
    assert close(found, expected) and close(seen, weights) and len(mode.found) == 1


@pytest.mark.parametrize("cls", METHODS)
def test_transformer_encoders_of_torch_are_read(cls: Any) -> None:
    torch.manual_seed(0)
    one = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(one, 2, enable_nested_tensor=False)).eval()
    found = cls(lambda t: net(t).mean(1)).attribute(torch.randn(2, 5, 8), target=0)
    assert found.shape == (2, 5) and bool((found > 0).any())


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("source", ["timm", "torchvision", "eager", "sdpa"])
def test_vision_transformers_give_a_grid_whoever_wrote_them(cls: Any, source: str) -> None:
    from tests.attr.test_cam import vit

    net: Any = vit("transformers" if source in ("eager", "sdpa") else source)
    if source in ("eager", "sdpa"):
        net.config._attn_implementation = source
        net = Call(net, output="logits")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = cls(net).attribute(x, target=1)
    assert found.shape == (2, 1, 4, 4) and bool((found > 0).any())
    if source == "eager":
        net.func.config._attn_implementation = "sdpa"
        assert close(cls(net).attribute(x, target=1), found, 1e-6)


def test_text_is_explained_token_by_token() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    net = BertForSequenceClassification(config).eval()
    ids = torch.tensor([[1, 5, 7, 2, 0], [1, 9, 2, 0, 0]])
    exps = explain(net, ids, ("rollout", "chefer", "le_grad"), target=1, output="logits",
                   forward_kwargs={"attention_mask": (ids > 0).long()})  # fmt: skip
    for exp in exps:
        assert exp.attribution.shape == (2, 5) and bool((exp.attribution[0, :4] > 0).any())
        assert not exp.attribution[1, 3:].any() or exp.method == "le_grad"  # what is masked gets no attention


def test_models_without_one_set_of_tokens_are_refused(x: Tensor) -> None:
    from tests.attr.test_cam import swin

    with pytest.raises(ModelError, match="the model computed none"):
        attr.AttentionRollout(nn.Linear(8, 2).double()).attribute(x.mean(1), target=0)
    for cls in METHODS:
        with pytest.raises(ModelError, match=r"one set of tokens in all layers.*as in Swin"):
            cls(swin("timm")).attribute(torch.randn(2, 3, 16, 16), target=0)
    shared = Net(layers=1).double().eval()
    with pytest.raises(LayerError, match="do not lie in a chain of layers"):
        attr.LeGrad(lambda t: shared.head(shared.layers[0](shared.layers[0](t))[:, 0])).attribute(x, target=0)
    with pytest.raises(UnknownNameError, match="Unknown head_fusion 'median'"):
        attr.AttentionRollout(shared).attribute(x, target=0, head_fusion="median")

"""AttnLRP of a Llama-like model: its equations written as a gradient, the sum that arrives, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

from interp_plugins.attr import LRP
from interp_plugins.core.errors import UnknownNameError
from interp_plugins.llm import explain_text

from .language_models import ids, model, tokenizer

TEXT = "the cat sat on a big red mat"


def shared(x: Tensor, parts: int) -> Tensor:
    """The same value; its gradient is divided."""
    return x / parts + (x - x / parts).detach()


def gradient_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """AttnLRP as gradient times input (Achtibat et al. 2024): scales are constants, factors share, gates pass."""

    def attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **kwargs: Any) -> Any:
        groups = module.num_key_value_groups
        k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
        found = shared(q, 2) @ shared(k, 2).mT * scaling
        length = found.shape[-1]
        found = found.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)
        return (shared(found, 2) @ shared(v, 2)).transpose(1, 2).contiguous(), found

    def mlp(self: Any, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = gate * (self.act_fn(gate) / gate).detach()
        return self.down_proj(shared(gate, 2) * shared(self.up_proj(x), 2))

    def norm(self: Any, x: Tensor) -> Tensor:
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt().detach()

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", mlp)
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)


def test_it_is_the_papers_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model("llama")
    found = explain_text(net, tokenizer(), TEXT, "Rome", "attn_lrp", level="token")
    assert found.method == "lrp" and found.absence == "none" and found.empty is None
    monkeypatch.setattr(net.config, "_attn_implementation", "eager")
    gradient_form(monkeypatch)
    embedded = net.get_input_embeddings()(ids(TEXT)[None]).detach().requires_grad_()
    logit = net(inputs_embeds=embedded, use_cache=False).logits[0, -1, ids("Rome")[0]]
    (grad,) = torch.autograd.grad(logit, embedded)
    expected = (grad * embedded).detach().sum(-1)[0]
    assert torch.allclose(found.seq_attr.double(), expected, atol=1e-5)
    assert f"{float(logit.detach()):.3g} in sum, of which {float(expected.sum()):.3g} arrives" in found.notes[-1]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_epsilon_keeps_the_sum_of_a_model_without_biases(kind: str) -> None:
    net = model(kind)
    found = explain_text(net, tokenizer(), TEXT, "Rome", "lrp", level="token", composite="epsilon")
    logit = float(net(ids(TEXT)[None]).logits[0, -1, ids("Rome")[0]].detach())
    assert float(found.seq_attr.sum()) == pytest.approx(logit, rel=1e-5) and set(found.completeness) == {"sum"}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "t5"])
def test_every_kind_of_model_has_relevance_for_each_output_token(kind: str) -> None:
    both = explain_text(model(kind), tokenizer(), TEXT, "Rome is", "lrp")
    one = explain_text(model(kind), tokenizer(), TEXT, "Rome", "lrp")
    assert both.token_attr is not None and both.token_attr.shape == (2, 8)
    assert torch.isfinite(both.token_attr).all() and torch.allclose(both.token_attr[0], one.seq_attr, atol=1e-6)


def test_normalizations_that_are_written_out_have_the_rule_of_normalizations() -> None:
    x = torch.randn(2, 6, dtype=torch.float64)

    def roots(t: Tensor) -> Tensor:
        return (t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6)).sum(1)

    def divided(t: Tensor) -> Tensor:
        return (t / torch.sqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6)).sum(1)

    def powers(t: Tensor) -> Tensor:
        return (t * torch.pow(t.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5)).sum(1)

    expected = x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    for form in (roots, divided, powers):
        for composite in ("epsilon", "attn_lrp"):
            assert torch.allclose(LRP(form, composite=composite).attribute(x), expected, atol=1e-5)
    root = LRP(lambda t: (t * t[:, :1].abs().sqrt()).sum(1), composite="attn_lrp").attribute(x)
    assert torch.allclose(root[:, 1:], (x * x[:, :1].abs().sqrt() / 2)[:, 1:], atol=1e-5)  # no spread, so no scale


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Unknown composite 'attn_lrpp'"):
        explain_text(model("llama"), tokenizer(), TEXT, "Rome", "lrp", composite="attn_lrpp")

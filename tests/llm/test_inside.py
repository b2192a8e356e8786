"""Inside a language model: the lens ends at the output, logits add up, patching everything brings everything back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError, ModelError, UnknownNameError
from interp_plugins.llm import context_cite, direct_logits, lens, patch
from interp_plugins.llm.blocks import Blocks
from interp_plugins.llm.context import _fitted, logit
from tests.llm.language_models import ids, model, slow_scores, tokenizer

KINDS = ["llama", "gpt2", "gemma2"]
TEXT, OTHER = "the big dog sat on a red mat", "the big cat sat on a red mat"


@pytest.mark.parametrize("kind", KINDS)
def test_last_row_of_the_lens_is_the_output_and_others_go_through_norm_and_head(kind: str) -> None:
    net = model(kind)
    found = lens(net, tokenizer(), TEXT, "Rome", last=3)
    with torch.no_grad():
        out = net(input_ids=ids(TEXT)[None], output_hidden_states=True)
        logs = out.logits[0, -3:].log_softmax(-1)
        middle = (net.transformer.ln_f if kind == "gpt2" else net.model.norm)(out.hidden_states[1][0, -3:])
        said = net.lm_head(middle)
        if kind == "gemma2":
            said = torch.tanh(said / 3.0) * 3.0
    rome = int(ids("Rome")[0])
    torch.testing.assert_close(found.target_logs[-1], logs[:, rome])
    torch.testing.assert_close(found.probs[-1], logs.exp().max(-1).values)
    torch.testing.assert_close(found.target_logs[1], said.log_softmax(-1)[:, rome])
    assert found.ranks[-1].tolist() == (logs > logs[:, [rome]]).sum(-1).tolist()
    assert found.tokens == ("a", "red", "mat") and found.layers == ("embedding", "block 0", "block 1")
    assert found.words[-1] == tuple(tokenizer().decode([int(i)]) for i in logs.argmax(-1))
    assert found.plot().fig is not None
    assert lens(net, tokenizer(), TEXT, last=1).ranks[-1].tolist() == [0]


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_direct_logits_add_up_to_the_logit(kind: str, heads: bool) -> None:
    net = model(kind)
    found = direct_logits(net, tokenizer(), TEXT, "Rome", heads=heads)
    assert found.error < 1e-9 * (1 + abs(found.logit))
    with torch.no_grad():
        state = net.base_model(input_ids=ids(TEXT)[None]).last_hidden_state
        raw = net.lm_head(state)[0, -1]
    assert found.logit == pytest.approx(float(raw[ids("Rome")[0]]))
    gap = direct_logits(net, tokenizer(), TEXT, "Rome", "Paris", heads=heads)
    assert gap.logit == pytest.approx(float(raw[ids("Rome")[0]] - raw[ids("Paris")[0]])) and gap.error < 1e-9
    split = heads and kind != "gemma2"  # a norm behind Gemma's attention mixes its heads
    assert len(found.names) == 2 + 2 * (2 + (2 if split else 0))
    assert len(found.top(3)) == 3 and found.plot().fig is not None


@pytest.mark.parametrize("site", ["resid", "attn", "mlp", "heads"])
@pytest.mark.parametrize("kind", KINDS)
def test_patching(kind: str, site: str) -> None:
    net = model(kind)
    found = patch(net, tokenizer(), TEXT, OTHER, "Rome", site=site)
    clean, corrupt = (slow_scores(net, ids(text), ids("Rome"))[0] for text in (TEXT, OTHER))
    assert found.clean == pytest.approx(float(clean)) and found.corrupt == pytest.approx(float(corrupt))
    assert found.values.shape == (2, 2 if site == "heads" else 8)
    assert found.whole is not None
    if site == "resid":
        torch.testing.assert_close(
            found.whole, torch.ones(2, dtype=torch.float64)
        )  # all of a layer's input: everything
        assert found.values[0].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0], abs=1e-5)  # the word that differs
        assert found.values[1, :2].abs().max() < 1e-5  # nothing before it differs
        assert (0, "dog") in [place[:2] for place in found.top(8)]
    assert found.plot().fig is not None


def test_patched_attention_is_the_clean_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the clean output of layer 1's attention at the last position, in the corrupt run."""
    net, kept = model("llama"), []
    attention = net.model.layers[1].self_attn
    hook = attention.register_forward_hook(lambda m, a, out: kept.append(out[0]))
    with torch.no_grad():
        clean = net(input_ids=ids(TEXT)[None]).logits[0, -1].log_softmax(-1)
        hook.remove()

        def put(module: nn.Module, args: Any, out: Any) -> Any:
            new = out[0].clone()
            new[:, -1] = kept[0][:, -1]
            return (new, *out[1:])

        corrupt = net(input_ids=ids(OTHER)[None]).logits[0, -1].log_softmax(-1)
        hook = attention.register_forward_hook(put)
        patched = net(input_ids=ids(OTHER)[None]).logits[0, -1].log_softmax(-1)
        hook.remove()
    token = int(ids("Rome")[0])
    share = (patched - corrupt)[token] / (clean - corrupt)[token]
    found = patch(net, tokenizer(), TEXT, OTHER, "Rome", site="attn")
    assert float(found.values[1, -1]) == pytest.approx(float(share))


@pytest.mark.parametrize("site", ["resid", "attn", "mlp", "heads"])
@pytest.mark.parametrize("kind", KINDS)
def test_attribution_patching_is_the_first_order(kind: str, site: str) -> None:
    """Of two prompts that hardly differ, by the embedding of one word."""
    net = model(kind)
    weight, (dog, cat) = net.get_input_embeddings().weight, (int(ids(w)[0]) for w in ("dog", "cat"))
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[cat] = weight[dog] + 1e-3 * (weight[cat] - weight[dog])
        both = [patch(net, tokenizer(), TEXT, OTHER, 4, site=site, method=m) for m in ("activation", "attribution")]
    except InputError:  # so near that the metric is the same
        both = []
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert both and both[1].whole is None
    torch.testing.assert_close(both[0].values, both[1].values, atol=2e-2, rtol=2e-2)


def test_hooks_weights_and_gradients_stay() -> None:
    net = model("llama")
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    for call in (lambda: lens(net, tokenizer(), TEXT), lambda: patch(net, tokenizer(), TEXT, OTHER, "Rome")):
        call()
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_context_cite() -> None:
    net = model("gpt2")
    context = ["the cat sat on a mat .", "Rome is big .", "a bird ran under the house .", "the dog saw Paris ."]
    found = context_cite(net, tokenizer(), context, "the dog is in", "Rome", n_samples=64)
    assert found.inputs == tuple(context) and found.method == "context_cite"
    full = slow_scores(net, ids(found.text), ids("Rome")).sum()
    assert found.score == pytest.approx(float(logit(full)), abs=1e-4)
    assert found.notes[0].startswith("rank correlation with 32 held-out contexts: 0.")
    again = context_cite(net, tokenizer(), " ".join(context), "the dog is in", "Rome", n_samples=64)
    torch.testing.assert_close(again.seq_attr, found.seq_attr)
    rows = (torch.rand(60, 5, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    truth = torch.tensor([3.0, 0.0, -1.0, 0.0, 0.5], dtype=torch.float64)
    weights, foretold = _fitted(rows, rows @ truth - 4, 40, 1e-4)
    torch.testing.assert_close(weights, truth, atol=2e-2, rtol=1e-2)
    assert foretold > 0.99
    p = torch.tensor([0.25, 0.5, 0.999], dtype=torch.float64)
    torch.testing.assert_close(logit(p.log()), torch.logit(p))


def test_wrong_questions_are_refused() -> None:
    net, words = model("llama"), tokenizer()
    for kind, text, call in (
        (InputError, "8 tokens and the corrupt one 3", lambda: patch(net, words, TEXT, "the cat sat", "Rome")),
        (InputError, "nothing to bring back", lambda: patch(net, words, TEXT, TEXT, "Rome")),
        (UnknownNameError, "site", lambda: patch(net, words, TEXT, OTHER, "Rome", site="norm")),
        (UnknownNameError, "method", lambda: patch(net, words, TEXT, OTHER, "Rome", method="path")),
        (ModelError, "an encoder and a decoder", lambda: lens(model("t5"), words, TEXT)),
        (ModelError, "no head", lambda: Blocks(nn.Linear(2, 2))),
        (InputError, "1 sentence", lambda: context_cite(net, words, "the cat sat", "is a cat", "Rome")),
        (InputError, "template must hold", lambda: context_cite(net, words, "a . b", "is", "Rome", template="{query}")),
    ):
        with pytest.raises(kind, match=text):
            call()

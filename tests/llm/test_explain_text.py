"""`explain_text`: the right tokens are explained, the sums are right, and the page shows them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from interp_plugins.attr.language.spans import parts
from interp_plugins.core.errors import InputError, InputTypeError, ModelError, TargetError, UnknownNameError
from interp_plugins.core.target import RatherThan
from interp_plugins.llm import ChatInput, TextExplanation, TextExplanations, explain_text
from tests.llm.language_models import WORDS, ids, model, slow_scores, tokenizer

CHAT = [
    {"role": "system", "content": "big house ."},
    {"role": "user", "content": "the cat sat . a dog ran under the mat"},
    {"role": "assistant", "content": "the bird saw"},
    {"role": "user", "content": "the red cat is in Rome"},
]
OUTPUT = "Rome and Paris"


def chat(level: str, **more: Any) -> ChatInput:
    return ChatInput(CHAT, tokenizer(), level, **more)


def test_template_and_system_are_never_features() -> None:
    assert chat("turn").values == [one["content"] for one in CHAT[1:]]
    assert chat("sentence").values == ["the cat sat .", "a dog ran under the mat", "the bird saw", CHAT[3]["content"]]
    words = " ".join(one["content"] for one in CHAT[1:]).split()
    assert chat("word").values == words == chat("token").values
    every = chat("word", keep=())
    assert every.values == ["big", "house", ".", *words]
    inp = chat("word")
    fixed = tokenizer().decode(inp.ids[0, inp.feature_of_token < 0])
    assert fixed == "<user> big house . </s> <user> </s> <bot> </s> <user> </s> <bot>"


def test_what_is_missing_is_left_out_or_replaced() -> None:
    switches = torch.ones(1, 4)
    switches[0, 1] = 0
    left = chat("sentence").to_model_input(switches)[0]
    assert "dog" not in tokenizer().decode(left) and len(left) == len(chat("sentence").ids[0]) - 6
    replaced = chat("sentence", absence="baseline").to_model_input(switches)[0]
    assert tokenizer().convert_ids_to_tokens(replaced.tolist()).count("<unk>") == 6
    assert ChatInput("the cat", tokenizer(), bos=True).ids.tolist() == [[1, *ids("the cat").tolist()]]


def test_sentences_of_a_text() -> None:
    text = 'He said "no." Then 3.5 km!\nNew line without end'
    found = [text[a:b].strip() for a, b in parts(text, (0, len(text)), "sentence")]
    assert found == ['He said "no."', "Then 3.5 km!", "New line without end"]
    assert "".join(text[a:b] for a, b in parts(text, (0, len(text)), "word")) == text


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "t5"])
@pytest.mark.parametrize("absence", ["remove", "baseline"])
def test_ablation_of_a_chat_is_the_difference_of_slow_scores(kind: str, absence: str) -> None:
    net, inp = model(kind), chat("sentence", absence=absence)
    found = explain_text(net, tokenizer(), CHAT, OUTPUT, level="sentence", absence=absence)
    full = slow_scores(net, inp.ids[0], ids(OUTPUT))
    for k in range(inp.n_itp_features):
        switches = torch.ones(1, inp.n_itp_features)
        switches[0, k] = 0
        without = slow_scores(net, inp.to_model_input(switches)[0], ids(OUTPUT))
        torch.testing.assert_close(found.token_attr[:, k].double(), full - without, atol=1e-4, rtol=1e-4)
    assert found.score == pytest.approx(float(full.sum()), rel=1e-5)
    nothing = slow_scores(net, inp.to_model_input(torch.zeros(1, 4))[0], ids(OUTPUT)).sum()
    assert found.empty == pytest.approx(float(nothing), rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "t5"])
@pytest.mark.parametrize("method", ["shapley_values", "kernel_shap", "integrated_gradients"])
def test_attributions_sum_to_the_change_of_the_score(kind: str, method: str) -> None:
    more = {"n_steps": 200} if method == "integrated_gradients" else {}
    found = explain_text(model(kind), tokenizer(), CHAT, OUTPUT, method, level="sentence", **more)
    assert found.completeness["error"] < (0.01 if more else 1e-4)
    if found.token_attr is not None:
        torch.testing.assert_close(found.token_attr.sum(0), found.seq_attr)


def test_contrast_is_the_difference_of_two_explanations() -> None:
    net = model("llama")
    both = [explain_text(net, tokenizer(), CHAT, text, level="word") for text in ("Rome", "Paris is")]
    found = explain_text(net, tokenizer(), CHAT, "Rome", against="Paris is")
    torch.testing.assert_close(found.seq_attr, both[0].seq_attr - both[1].seq_attr)
    assert found.score == pytest.approx(both[0].score - both[1].score)
    assert found.against == "Paris is"
    same = explain_text(net, tokenizer(), CHAT, RatherThan("Rome", "Paris is"))
    torch.testing.assert_close(same.seq_attr, found.seq_attr)
    with pytest.raises(InputError, match="the same tokens"):
        explain_text(net, tokenizer(), CHAT, "Rome", against="Rome")


@pytest.mark.parametrize("method", ["feature_ablation", "input_x_gradient"])
def test_streamed_explanations_grow_to_the_whole(method: str) -> None:
    net = model("gpt2")
    whole = explain_text(net, tokenizer(), CHAT, OUTPUT, method)
    streamed = list(explain_text(net, tokenizer(), CHAT, OUTPUT, method, stream=True))
    assert [len(one.outputs) for one in streamed] == [1, 2, 3]
    torch.testing.assert_close(streamed[-1].token_attr, whole.token_attr, atol=1e-5, rtol=1e-4)
    assert streamed[-1].score == pytest.approx(whole.score)


def test_generated_output_is_seeded_and_leaves_the_generators() -> None:
    net, args = model("gpt2"), {"max_new_tokens": 6, "do_sample": True, "temperature": 3.0}
    state = torch.get_rng_state()
    made = {explain_text(net, tokenizer(), CHAT, level="turn", gen_args=args, seed=s).output for s in (1, 1, 2, 3)}
    assert 2 <= len(made) <= 3 and torch.equal(torch.get_rng_state(), state)


def test_faithfulness_asks_the_model_again() -> None:
    found = explain_text(model("llama"), tokenizer(), CHAT, OUTPUT)
    falls = found.faithfulness((1, 3, 99))
    assert set(falls) == {1, 3}
    assert falls[1]["top"] == pytest.approx(float(found.seq_attr.max()), rel=1e-4)


def test_results_are_saved_and_shown(tmp_path: Path) -> None:
    found = TextExplanations(
        [
            explain_text(model("llama"), tokenizer(), CHAT, OUTPUT),
            explain_text(model("llama"), tokenizer(), "the cat <b> is in", "Rome", against="Paris"),
            explain_text(model("llama"), tokenizer(), CHAT, OUTPUT, "kernel_shap", level="turn"),
        ]
    )
    again = TextExplanation.load(found[0].save(tmp_path / "one.json"))
    assert again.to_html() == found[0].to_html() and again.by_sentence() == found[0].by_sentence()
    assert sum(value for _, value in again.by_sentence()) == pytest.approx(float(found[0].seq_attr.sum()), rel=1e-4)
    with pytest.raises(InputError, match="explain again"):
        again.faithfulness()
    with pytest.raises(InputError, match="The record is of kind 'image'"):
        TextExplanation.from_record({"kind": "image"})
    with pytest.raises(InputError, match="has no spans, inputs"):
        TextExplanation.from_record({**json.loads((tmp_path / "one.json").read_text()), "spans": None, "inputs": None})
    text = found.to_html(tmp_path / "page.html", "Answers").read_text(encoding="utf-8")
    assert (
        "<script" not in text
        and "https:" not in text
        and "src=" not in text.replace('src="data:', "")
        and "&lt;b&gt;" in text
    )
    assert text.count('type="radio"') == (1 + 3) + 1 + 1
    assert "sum" in found[0]._repr_html_() and "feature_ablation of 'Rome and Paris'" in str(found[0])
    assert found[0].plot().axes[0, 0].get_xticklabels()[0].get_text() == "the"


def small_bert(kind: type, **more: Any) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(WORDS.split()), initializer_range=0.5, **size, **more)
    return kind(config).double().eval()


@pytest.mark.parametrize("method", ["feature_ablation", "shapley_value_sampling", "integrated_gradients"])
def test_classifiers_of_texts(method: str) -> None:
    net = small_bert(BertForSequenceClassification, num_labels=3, id2label={0: "bad", 1: "fair", 2: "good"})
    text, more = "the big dog ran under the house", {"n_steps": 200} if method == "integrated_gradients" else {}
    pipeline = SimpleNamespace(model=net, tokenizer=tokenizer())
    found = explain_text(pipeline, None, text, "good", method, task="classification", bos=True, **more)
    with torch.no_grad():
        expected = net(input_ids=torch.tensor([[1, *ids(text).tolist()]])).logits.log_softmax(1)[0]
    assert found.outputs == ("good",) and found.score == pytest.approx(float(expected[2]), rel=1e-5)
    if method == "feature_ablation":
        rows = [[1, *[v for k, v in enumerate(ids(text).tolist()) if k != j]] for j in range(7)]
        with torch.no_grad():
            gone = torch.stack([net(input_ids=torch.tensor([r])).logits.log_softmax(1)[0, 2] for r in rows])
        torch.testing.assert_close(found.seq_attr.double(), expected[2] - gone, atol=1e-5, rtol=1e-4)
    else:
        assert found.completeness["error"] < 0.01
    predicted = explain_text(net, tokenizer(), text, method=method, task="classification", bos=True, **more)
    assert predicted.outputs[0] in ("bad", "fair", "good")


def test_a_prompt_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ModelError, match="absence='baseline', or bos=True"):
        explain_text(model("llama"), tokenizer(), "the cat", "sat", "shapley_values")
    with pytest.raises(ModelError, match="no token left"):
        explain_text(small_bert(BertForSequenceClassification), tokenizer(), "the", task="classification")
    assert explain_text(model("llama"), tokenizer(), "the cat", "sat", "shapley_values", bos=True).empty is not None


def test_wrong_questions_are_refused() -> None:
    net, words = model("llama"), tokenizer()
    for kind, text, call in (
        (UnknownNameError, "task", lambda: explain_text(net, words, "the", task="translation")),
        (UnknownNameError, "methods that explain texts", lambda: explain_text(net, words, "the", "cat", "occlusion")),
        (UnknownNameError, "level", lambda: explain_text(net, words, "the", "cat", level="letter")),
        (UnknownNameError, "absence", lambda: explain_text(net, words, "the", "cat", absence="blur")),
        (InputTypeError, "list of messages", lambda: explain_text(net, words, [{"text": "the"}], "cat")),
        (InputError, "nothing to explain", lambda: explain_text(net, words, "  ", "cat")),
        (InputError, "nothing to explain", lambda: explain_text(net, words, CHAT[:1], "cat")),
        (InputError, "no parameter 'steps'", lambda: explain_text(net, words, "the", "cat", steps=3)),
        (InputError, "stream=True", lambda: explain_text(net, words, "the", "cat", against="dog", stream=True)),
        (InputError, "No tokenizer", lambda: explain_text(net, None, "the", "cat")),
        (InputError, "does not write texts", lambda: explain_text(small_bert(BertForMaskedLM), words, "the", "cat")),
        (InputError, "2 tokens", lambda: explain_text(net, words, "the", "cat", baseline="the cat")),
    ):
        with pytest.raises(kind, match=text):
            call()
    judge = small_bert(BertForSequenceClassification, num_labels=2)
    with pytest.raises(TargetError, match="Class 5 is out of range"):
        explain_text(judge, words, "the cat", 5, task="classification")
    with pytest.raises(UnknownNameError, match="classes of the model's config"):
        explain_text(judge, words, "the cat", "nice", task="classification")


def test_the_first_positions_share_is_told() -> None:
    found = explain_text(model("llama"), tokenizer(), "the cat", "sat", level="token")
    assert 0 < found.first_share <= 1
    for text in ("the cat sat on", "Rome is in a house"):
        found = explain_text(model("gpt2"), tokenizer(), text, "mat", level="token")
        told = any("of all attribution" in note for note in found.notes)
        assert told == (found.first_share > 1 / 3)


def test_a_model_that_was_trained_since_is_asked_as_it_is_now() -> None:
    net = copy.deepcopy(model("llama"))
    before = explain_text(net, tokenizer(), "the cat sat on a mat", "Rome is", level="token")
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.1)
    now = explain_text(net, tokenizer(), "the cat sat on a mat", "Rome is", level="token")
    top = replace(before, seq_attr=now.seq_attr).faithfulness(k=(2,))
    assert top == now.faithfulness(k=(2,)) and now.score != before.score

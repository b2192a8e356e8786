"""Texts: real fits of AWD-LSTM and of a transformer, one value per token, in order, whatever the length."""

import copy
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.rnn import ModelResetter
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.transforms import ColReader, RandomSplitter
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.text.all import (
    AWD_LSTM,
    BaseTokenizer,
    TensorText,
    TextDataLoaders,
    Transform,
    awd_lstm_clas_config,
    awd_lstm_lm_config,
    language_model_learner,
    pad_input,
    text_classifier_learner,
)
from fastai.torch_core import set_seed
from torch import nn

import interp_plugins.fastai  # noqa: F401 - Learner.explain
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanations

LIKED, DISLIKED = ["wonderful", "great", "lovely", "brilliant"], ["awful", "boring", "terrible", "dull"]
REST = re.findall(r"\w+", "the film was a story with actors and music in this old town we saw it on monday night")
SMALL = {"emb_sz": 16, "n_hid": 24, "n_layers": 2}


def text(rng, liked, words=None):
    found = list(rng.choice(REST, words or rng.integers(4, 24)))
    for _ in range(2):
        found.insert(rng.integers(0, len(found) + 1), rng.choice(LIKED if liked else DISLIKED))
    return " ".join(found)


@pytest.fixture(scope="module")
def reviews():
    """Made sentences whose label is that of two keywords."""
    rng = np.random.default_rng(0)
    liked = rng.integers(0, 2, 240)
    return pd.DataFrame({"text": [text(rng, y) for y in liked], "label": np.where(liked, "pos", "neg")})


def loaders(df, **kwargs):
    more = {"bs": 32, "seed": 1, "seq_len": 8, "tok_tfm": BaseTokenizer(), "device": torch.device("cpu")}
    return TextDataLoaders.from_df(df, text_col="text", **{**more, **kwargs})


@pytest.fixture(scope="module")
def learn(reviews):
    """A classifier that reads 8 tokens at a time and pools the last 16."""
    set_seed(0)
    config = {**awd_lstm_clas_config, **SMALL}
    dls = loaders(reviews, label_col="label")
    learn = text_classifier_learner(
        dls, AWD_LSTM, pretrained=False, config=config, seq_len=8, max_len=16, drop_mult=0.1
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 3e-2)
    return learn


def texts():
    rng = np.random.default_rng(5)
    return ["a great film", text(rng, False, 5), text(rng, True, 11), text(rng, False, 45)]


def test_F19_one_value_per_token_complete_for_any_length(learn, unchanged):
    with unchanged(learn):
        exp = learn.explain(texts(), "ig", tol=0.01, max_steps=2048)[0]
    lengths = [len(t.split()) + 1 for t in texts()]
    assert [len(t) for t in exp.tokens] == lengths and [e.attributions.shape[1] for e in exp] == lengths
    assert exp.attributions.shape == exp.inputs.shape == (4, max(lengths))
    assert float(exp.relative_delta.median()) < 0.01 and float(exp.relative_delta.max()) < 0.03
    finer = learn.explain(texts(), "ig", tol=0.001, max_steps=2000)[0]
    assert float(finer.relative_delta.max()) < 0.01
    assert all(e.tokens[0][0] == "xxbos" and float(e.attributions[0, 0]) == 0 for e in exp)


def test_F19_order_is_kept_and_neighbours_do_not_matter(learn):
    methods = {"integrated_gradients": {"n_steps": 10}, "occlusion": {}}
    together = learn.explain(texts(), methods)
    for i, one in enumerate(texts()):
        alone = learn.explain(one, methods)
        for a, b in zip(together, alone):
            assert a.tokens[i] == b.tokens[0] == ["xxbos", *one.split()]
            torch.testing.assert_close(a[i].attributions, b.attributions, atol=1e-5, rtol=1e-4)
    back = learn.explain(texts()[::-1], "occlusion")[0]
    assert [len(t) for t in back.tokens] == [len(t) for t in together[0].tokens][::-1]


def test_F19_the_keywords_are_found(learn, reviews):
    exp = learn.explain(list(reviews.text[:30]), "ig", n_steps=30)[0]
    top = [tokens[int(one.attributions[0].argmax())] for one, tokens in zip(exp, exp.tokens)]
    assert sum(t in LIKED + DISLIKED for t in top) >= 28


def test_F19_the_reference_is_no_padding(learn):
    exps = learn.explain(texts()[2], ("ig", "occlusion"), n_steps=5)
    pad, unknown = (learn.dls.vocab[0].index(t) for t in ("xxpad", "xxunk"))
    assert exps["ig"].baselines[0].tolist() == [exps["ig"].inputs[0, 0], *[-1] * (exps["ig"].inputs.shape[1] - 1)]
    assert not (exps["occlusion"].baselines == pad).any() and (exps["occlusion"].baselines[0, 1:] == unknown).all()
    named, number = (learn.explain(texts()[2], "ig", baselines=b, n_steps=5)[0] for b in ("xxunk", unknown))
    assert torch.equal(named.attributions, number.attributions)
    with pytest.raises(InputError, match="'xxnothing' is no token"):
        learn.explain(texts()[2], "ig", baselines="xxnothing")


def test_texts_in_every_form(learn, reviews):
    one = texts()[0]
    want = learn.explain(one, "saliency")[0]
    tokens = tuple(want.tokens[0])
    ids = want.inputs[0]
    padded = torch.cat([torch.full((3,), learn.dls.vocab[0].index("xxpad")), ids])[None]
    for kw in ({"item": [one]}, {"item": tokens}, {"item": ids}, {"item": TensorText(ids)}, {"xb": padded}):
        got = learn.explain(**kw, methods="saliency")[0]
        torch.testing.assert_close(got.attributions, want.attributions)
    valid = [learn.dls.valid_ds[i] for i in (7, 1, 4)]
    exp = learn.explain(ds_idx=1, idxs=[7, 1, 4], methods="saliency", target="label")[0]
    assert [len(t) for t in exp.tokens] == [len(x) for x, _ in valid]
    assert exp.target == tuple(int(y) for _, y in valid)
    assert learn.explain(ds_idx=0, idxs=3, methods="saliency")[0].tokens
    for bad in (5, None, torch.rand(4)):
        with pytest.raises(InputTypeError, match=r"text|nothing to explain"):
            learn.explain(bad, "saliency")
    with pytest.raises(InputError, match="list of texts is empty"):
        learn.explain([], "saliency")


def test_F20_the_model_can_be_copied_afterwards(learn, unchanged):
    with torch.enable_grad():
        learn.model.eval()(torch.tensor([[2, 9, 10]]))  # leaves a weight that is no leaf of a graph
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(learn.model)
    with unchanged(learn):
        learn.explain("a great film", "ig", n_steps=3)
    copied = copy.deepcopy(learn.model)
    with unchanged(learn), pytest.raises(InputTypeError):
        learn.explain("a great film", "ig", steps=3)
    assert torch.equal(copied(torch.tensor([[2, 9, 10]]))[0], learn.model(torch.tensor([[2, 9, 10]]))[0])


@pytest.fixture(scope="module")
def language_model(reviews):
    set_seed(0)
    dls = loaders(reviews, is_lm=True)
    learn = language_model_learner(dls, AWD_LSTM, pretrained=False, config={**awd_lstm_lm_config, **SMALL})
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 3e-2)
    return learn


def test_F20_a_language_model_is_explained_for_its_next_token(language_model, unchanged):
    lm = language_model
    hidden = [h.clone() for pair in lm.model[0].hidden for h in pair]
    with unchanged(lm):
        first, second = (lm.explain("we saw the film", ("ig", "occlusion"), tol=0.01) for _ in range(2))
    assert all(torch.equal(a.attributions, b.attributions) for a, b in zip(first, second))
    assert all(torch.equal(a, b) for a, b in zip(hidden, [h for pair in lm.model[0].hidden for h in pair]))
    assert first[0].tokens == (["xxbos", "we", "saw", "the", "film"],) and float(first[0].relative_delta) < 0.02
    vocab = list(lm.dls.vocab)
    assert first[0].target_label == (vocab[first[0].target[0]],)
    for target in ("great", vocab.index("great")):
        exp = lm.explain("we saw the film", "ig", target=target, n_steps=5)[0]
        assert exp.target_label == ("great",)
        with torch.no_grad():
            lm.model.reset()
            want = lm.model.eval()(exp.inputs)[0][0, -1, vocab.index("great")]
        torch.testing.assert_close(exp.score[0], want)
    with torch.no_grad():
        lm.model.reset()
    with pytest.raises(InputTypeError, match="next token"):
        lm.explain(ds_idx=1)
    copy.deepcopy(lm.model)


class Words:
    """A tokenizer with the methods that transformers' have."""

    pad_token_id, unk_token_id, mask_token_id, all_special_ids = 0, 1, None, [0, 1, 2]

    def __init__(self, words):
        self.words = ["[PAD]", "[UNK]", "[CLS]", *words]

    def get_vocab(self):
        return {w: i for i, w in enumerate(self.words)}

    def convert_ids_to_tokens(self, i):
        return self.words[i]


class Tokenize(Transform):
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encodes(self, x: str):
        ids = self.tokenizer.get_vocab()
        return TensorText(torch.tensor([2, *(ids.get(w, 1) for w in x.split())]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_F19_a_transformer_inside_a_learner(reviews, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    class Logits(nn.Module):
        def __init__(self, size):
            super().__init__()
            config = BertConfig(
                vocab_size=size,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
                pad_token_id=0,
            )
            self.bert = BertForSequenceClassification(config)

        def forward(self, ids):
            return self.bert(ids, attention_mask=(ids != 0).long()).logits

    set_seed(0)
    words = Words(sorted({w for t in reviews.text for w in t.split()}))
    block = DataBlock(
        blocks=(TransformBlock(type_tfms=[Tokenize(words)]), CategoryBlock),
        get_x=ColReader("text"),
        get_y=ColReader("label"),
        splitter=RandomSplitter(seed=1),
    )
    dls = block.dataloaders(
        reviews, bs=32, device=torch.device("cpu"), num_workers=0, before_batch=lambda b: pad_input(b, pad_idx=0)
    )
    learn = Learner(dls, Logits(len(words.words)), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 3e-3)
    assert not any(isinstance(cb, ModelResetter) for cb in learn.cbs)
    exp = learn.explain(["we saw a great film", "a dull story in the old town"], "ig", tol=0.01, max_steps=2048)[0]
    assert exp.tokens == (
        ["[CLS]", *["we", "saw", "a", "great", "film"]],
        ["[CLS]", *["a", "dull", "story", "in", "the", "old", "town"]],
    )
    assert float(exp.relative_delta.median()) < 0.02 and float(exp.attributions[:, 0].abs().max()) == 0


def test_texts_are_shown_as_coloured_tokens(learn, tmp_path):
    exps = learn.explain(["a great film", texts()[3]], ("ig", "occlusion"), n_steps=5)
    tokens = (["xxbos", "a", "<b>great</b>", "film"], *exps[0].tokens[1:])
    exps = Explanations([dataclasses.replace(e, tokens=tokens) for e in exps])
    fig, axes = exps.plot()
    fig.canvas.draw()
    assert axes.shape == (2, 3) and [t.get_text() for t in axes[0, 1].texts][:2] == ["xxbos", "a"]
    for html in (exps.to_html(), exps._repr_html_()):
        assert "&lt;b&gt;" in html and "<b>great" not in html and 'dir="auto"' in html
    table = exps[0].to_df()
    assert list(table.token[:2]) == ["xxbos", "a"] and len(table) == sum(map(len, exps[0].tokens))
    exps.save(tmp_path / "e.safetensors")
    loaded = Explanations.load(tmp_path / "e.safetensors")
    assert loaded[0].tokens == exps[0].tokens and loaded[0][0].attributions.shape == exps[0][0].attributions.shape

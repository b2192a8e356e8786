"""What people read of queries and training items, and what of it is close: counted by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import interp_plugins as ip
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence import Influences
from interp_plugins.influence.readable import Vocabulary, key
from interp_plugins.influence.result import joined

WORDS = ["<pad>", "xxbos", "the", "Film", "good", "bad", "<b>", "."]
TEXTS = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 7], [1, 2, 6, 0], [1, 2, 4, 7], [1, 2, 5, 7], [1, 2, 5, 7]])


def table() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor([[0.0, 1.0, 5.0], [1.0, 1.0, 5.0], [2.0, 0.0, 5.0], [3.0, 0.0, 5.0]])
    return x, torch.tensor([0, 0, 1, 1])


def reader() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.EmbeddingBag(8, 3), nn.Linear(3, 2))


def written(found: Influences, path: Path) -> str:
    found.to_html(path)
    return path.read_text()


def test_columns_are_close_by_the_training_items_spread():
    x, y = table()
    spec = InputSpec("tabular", mean=(10.0, 0.0, 0.0), std=(2.0, 1.0, 1.0), feature_names=("age", "<sex>", "same"))
    query = torch.tensor([[0.25, 0.9, 5.0], [1.3, 0.2, 4.0]])
    found = ip.influence(nn.Linear(3, 2), query, (x, y), k=4, input_spec=spec)
    held = found.readable
    assert held.names == spec.feature_names and held.kind == "tabular"
    assert held.queries == (("10.5", "0.9", "5"), ("12.6", "0.2", "4")) and held.items[3] == ("16", "0", "5")
    # spreads sqrt(1.25) and 0.5: a quarter of them is .2795 and .125; what never changes is close where it is equal
    assert [held.close(0, i) for i in (0, 1, 2)] == [[True, True, True], [False, True, True], [False, False, True]]
    assert held.close(1, 1) == [False, False, False]
    assert held.query_units[0][0] == pytest.approx(0.25 / 1.25**0.5) and held.query_units[0][2] is None


def test_the_columns_of_a_table_may_be_told_by_a_function():
    x, y = table()
    codes = torch.tensor([[7], [8], [7], [8]])

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, cats, numbers):
            return self.head(torch.cat([cats.float(), numbers], 1))

    def told(inputs):
        return [({7: "cat", 8: "dog"}[c], *row) for c, row in zip(inputs[0][:, 0].tolist(), inputs[1].tolist())]

    found = ip.influence(
        Both(), (codes[:1], x[:1]), (codes, x, y), k=4, input_spec=InputSpec("tabular"), words=told
    ).readable
    assert found.names[:2] == ("feature 0", "feature 1") and found.items[1] == ("dog", "1", "1", "5")
    assert found.close(0, 2)[0] and not found.close(0, 1)[0]  # 7 and 8 are no numbers that could be near


def test_words_that_are_shared_and_not_common(tmp_path):
    y = torch.tensor([1, 0, 0, 1, 0, 0])
    found = ip.influence(reader(), TEXTS[:2], (TEXTS, y), k=6, words=WORDS, query_names=["<i>a", "b"])
    held = found.readable
    assert held.queries[0] == ("xxbos", "the", "Film", "good") and held.items[2] == ("xxbos", "the", "<b>")
    assert set(held.common) == {"the", "good", "bad"}  # of six texts, more than 1.2
    assert held.close(0, 0) == [False, False, True, False] and not any(held.close(0, 3))
    page = written(found, tmp_path / "a.html")
    assert "<mark>Film</mark>" in page and "&lt;b&gt;" in page and "<b>." not in page and "&lt;i&gt;a" in page
    found.save(tmp_path / "a.st")
    assert Influences.load(tmp_path / "a.st").readable == held
    assert joined([found, found]).readable.queries == held.queries * 2
    with pytest.raises(InputError, match="to_html"):
        found.show()


def test_a_table_on_the_page(tmp_path):
    x, y = table()
    found = ip.influence(
        nn.Linear(3, 2), x[:1], (x, y), k=2, input_spec=InputSpec("tabular", feature_names=("<a>", "b", "c"))
    )
    page = written(found, tmp_path / "a.html")
    assert "&lt;a&gt;" in page and page.count('class="for"') == 2 and "a quarter of a standard deviation" in page
    found.save(tmp_path / "a.st")
    assert Influences.load(tmp_path / "a.st").readable == found.readable


def test_missing_numbers_are_close_to_missing_ones_alone():
    x, y = table()
    x[1, 0] = math.nan
    net = nn.Sequential(Filled(), nn.Linear(3, 2))
    held = ip.influence(
        net, torch.stack([x[0], x[1]]), (x, y), k=4, input_spec=InputSpec("tabular", missing="nan")
    ).readable
    assert [held.close(1, i)[0] for i in range(4)] == [False, True, False, False]
    assert [held.close(0, i)[0] for i in range(4)] == [True, False, False, False]
    assert held.query_units[0][1] is not None


class Filled(nn.Module):
    def forward(self, x):
        return x.nan_to_num()


def test_arguments_by_name_with_a_tokenizer(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Embedding(8, 3), nn.Linear(3, 2)

        def forward(self, input_ids, attention_mask):
            seen = attention_mask[..., None]
            return self.head((self.body(input_ids) * seen).sum(1) / seen.sum(1))

    mask = torch.ones_like(TEXTS)
    mask[0, 3] = 0
    batch = {"input_ids": TEXTS, "attention_mask": mask, "labels": torch.tensor([1, 0, 0, 1, 0, 0])}
    query = {"input_ids": TEXTS[:1], "attention_mask": mask[:1]}
    held = ip.influence(Model(), query, [batch], k=6, words=WORDS).readable
    assert held.queries == (("xxbos", "the", "Film"),) and held.items[0] == held.queries[0]
    assert held.items[3] == ("xxbos", "the", "good", ".")


def test_pieces_make_words():
    assert Vocabulary(["[CLS]", "un", "##fair", "play", "[PAD]"]).words([0, 1, 2, 3, 4]) == ("[CLS]", "unfair", "play")
    assert Vocabulary({3: "\u0120un", 4: "fair", 5: "\u0120play"}).words([3, 4, 5]) == ("un" + "fair", "play")
    assert Vocabulary(lambda i: f"\u2581w{i}").words([1, 2]) == ("w1", "w2")
    assert Vocabulary(["a"]).words([0, 9]) == ("a", "#9")

    class Tokenizer:
        convert_ids_to_tokens = staticmethod(lambda i: ["\u0120caf", "\u00c3\u00a9"][i])
        convert_tokens_to_string = staticmethod(lambda tokens: " caf\u00e9" if len(tokens) == 2 else "?")

    assert Vocabulary(Tokenizer()).words([0, 1]) == ("caf\u00e9",)
    assert [key(w) for w in ("Film,", "xxbos", "[CLS]", "...", "(it's)")] == ["film", "", "", "", "it's"]


def test_words_that_are_none_are_refused_and_none_are_none():
    x, y = table()
    with pytest.raises(InputTypeError, match="a tokenizer, a vocabulary"):
        ip.influence(reader(), TEXTS[:1], (TEXTS, torch.zeros(6, dtype=torch.long)), words=3)
    with pytest.raises(InputTypeError, match="function of the model's inputs"):
        ip.influence(nn.Linear(3, 2), x[:1], (x, y), input_spec=InputSpec("tabular"), words=["a"])
    assert ip.influence(nn.Linear(3, 2), x[:1], (x, y), input_spec=InputSpec("generic")).readable is None
    assert ip.influence(reader(), TEXTS[:1], (TEXTS, torch.zeros(6, dtype=torch.long))).readable is None  # ids of what?
    wide = torch.rand(4, 201)
    assert ip.influence(nn.Linear(201, 2), wide[:1], (wide, y)).readable is None

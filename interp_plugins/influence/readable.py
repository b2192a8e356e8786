"""Queries and training items as people read them: the values of a row's columns, or the words of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputTypeError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.influence.walk import Items
from interp_plugins.viz.tabular import readable
from interp_plugins.viz.text import spelled

NEAR = 0.25  # standard deviations within which two numbers are close
WIDEST = 200  # columns of a table that is written out
COMMON = 0.2  # share of the training texts from which a word says nothing by being shared
_BEGINS = ("\u0120", "\u2581")  # before the first piece of a word: byte-level BPE, SentencePiece
_PADDING = ("xxpad", "[PAD]", "<pad>", "<|padding|>")


@dataclass(frozen=True)
class Readable:
    """What stands in the queries and in the items that are shown.

    Attributes:
        kind: "tabular" or "text".
        names: of the columns; empty for texts.
        queries: per query the values of its columns, or its words.
        items: per item shown, by number, the values of its columns, or its words.
        query_units: per query and column, the number in standard deviations of the training items; None for what is
            no number or never changes, where only equality counts. Empty for texts.
        item_units: per item shown, by number, and column, the number in standard deviations of the training items; None
            for what is no number or never changes. Empty for texts.
        common: words of the queries that are in more than a fifth of the training texts, in small letters.

    Example:
        from interp_plugins.influence import Readable

        held = Readable("text", (), (("a", "good", "film"),), {7: ("good", "day")})
        held.close(0, 7)  # -> [True, False]
    """

    kind: str
    names: tuple[str, ...]
    queries: tuple[tuple[str, ...], ...]
    items: Mapping[int, tuple[str, ...]]
    query_units: tuple[tuple[float | None, ...], ...] = ()
    item_units: Mapping[int, tuple[float | None, ...]] = field(default_factory=dict)
    common: tuple[str, ...] = ()

    def close(self, query: int, number: int) -> list[bool]:
        """Per column or word of an item, whether it is close to the query's or shared with it.

        Args:
            query: place of the query.
            number: of an item that is shown.
        """
        own, theirs = self.queries[query], self.items[number]
        if self.kind == "text":
            shared = set(map(key, own)) - {"", *self.common}
            return [key(word) in shared for word in theirs]
        units = zip(self.query_units[query], self.item_units[number], strict=True)
        return [a == b if x is None or y is None else abs(x - y) <= NEAR for a, b, (x, y) in zip(own, theirs, units)]

    def and_of(self, other: Readable) -> Readable:
        """The queries and items of both, one after the other.

        Args:
            other: of the same training items.
        """
        return replace(
            self,
            queries=self.queries + other.queries,
            items={**self.items, **other.items},
            query_units=self.query_units + other.query_units,
            item_units={**self.item_units, **other.item_units},
            common=tuple(dict.fromkeys(self.common + other.common)),
        )

    @classmethod
    def of_json(cls, held: Mapping[str, Any]) -> Readable:
        """The one that `dataclasses.asdict` and JSON have taken apart.

        Args:
            held: a mapping of its fields.
        """
        return cls(
            held["kind"],
            tuple(held["names"]),
            tuple(map(tuple, held["queries"])),
            {int(k): tuple(v) for k, v in held["items"].items()},
            tuple(map(tuple, held["query_units"])),
            {int(k): tuple(v) for k, v in held["item_units"].items()},
            tuple(held["common"]),
        )


def read(own: Items, picked: Sequence[Items], walk: Any, spec: InputSpec, words: Any) -> Readable | None:
    """What people read of queries and items; None where the inputs are neither rows nor texts whose words are known.

    Args:
        own: the queries.
        picked: the items shown, batch by batch.
        walk: all training items, for the columns' spread and how common words are.
        spec: kind of data and names of columns.
        words: of texts, a tokenizer, a vocabulary (id -> token) or a function of an id; of tables, None or a function
            of the model's inputs -> values per row.

    Raises:
        InputTypeError: words that are none of these.
    """
    ids = _ids(own)
    if words is not None and ids is not None and (spec.kind == "text" or not callable(words) or _tokenizes(words)):
        return _texts(own, picked, walk, Vocabulary(words))
    if spec.kind == "tabular" and (words is not None or ids is None or spec.feature_names) and _is_table(own):
        if words is not None and not callable(words):
            raise InputTypeError(f"words of a table are a function of the model's inputs, got {describe(words)}.")
        return _rows(own, picked, walk, spec, words)
    return None


def _is_table(items: Items) -> bool:
    """Whether all inputs are columns, of a number that can be read."""
    rows = [x for x in items.inputs if isinstance(x, Tensor) and x.ndim == 2 and not x.is_complex()]
    return bool(rows) and len(rows) == len(items.inputs) and sum(x.shape[1] for x in rows) <= WIDEST


# -- tables ----------------------------------------------------------------------------------------------------------


def _rows(own: Items, picked: Sequence[Items], walk: Any, spec: InputSpec, words: Any) -> Readable:
    sums: list[Tensor] = []
    first: Tensor | None = None
    for items in walk:
        x = _side(items)
        first = x[:1].nan_to_num() if first is None else first  # numbers far from 0 keep their spread
        x, known = (x - first).nan_to_num(), ~x.isnan()
        sums.append(torch.stack([known.double().sum(0), x.sum(0), x.square().sum(0)]))
    n, total, squares = torch.stack(sums).sum(0)
    spread = (squares / n - (total / n).square()).clamp_min(0).sqrt()
    spread[torch.tensor(_whole(own))] = 0  # codes are no numbers
    values = words if words is not None else lambda inputs: _plain(inputs, spec)
    width = len(spread)
    names = spec.feature_names or ()
    names = tuple(map(str, names)) if len(names) == width else tuple(f"feature {f}" for f in range(width))

    def units(items: Items) -> list[tuple[float | None, ...]]:
        return [
            tuple(v / s if s > 0 and v == v else None for v, s in zip(row, spread.tolist()))
            for row in _side(items).tolist()
        ]

    def told(items: Items) -> list[tuple[str, ...]]:
        return [tuple(readable(v) if isinstance(v, float) else str(v) for v in row) for row in values(items.inputs)]

    return Readable(
        "tabular",
        names,
        tuple(told(own)),
        {i: row for items in picked for i, row in zip(items.numbers, told(items), strict=True)},
        tuple(units(own)),
        {i: row for items in picked for i, row in zip(items.numbers, units(items), strict=True)},
    )


def _side(items: Items) -> Tensor:
    """The columns of all inputs side by side."""
    return torch.cat([x.detach().cpu().double() for x in items.inputs], 1)


def _whole(items: Items) -> list[bool]:
    return [not x.is_floating_point() for x in items.inputs for _ in range(x.shape[1])]


def _plain(inputs: Sequence[Tensor], spec: InputSpec) -> list[list[float]]:
    """Values in raw units, where these are known."""
    parts = [x.detach().cpu() for x in inputs]
    if len(parts) == 1 and parts[0].is_floating_point():
        return spec.denormalise(parts[0].double()).tolist()
    return [[v for x in parts for v in x[i].tolist()] for i in range(len(parts[0]))]


# -- texts -----------------------------------------------------------------------------------------------------------


def _texts(own: Items, picked: Sequence[Items], walk: Any, vocabulary: Vocabulary) -> Readable:
    queries = tuple(_words(own, vocabulary))
    asked = {key(word) for text in queries for word in text} - {""}
    counts: Counter[str] = Counter()
    n = 0
    for items in walk:
        for text in _words(items, vocabulary):
            counts.update(asked.intersection(map(key, text)))
            n += 1
    items_of = {i: text for items in picked for i, text in zip(items.numbers, _words(items, vocabulary), strict=True)}
    common = tuple(sorted(word for word, count in counts.items() if count > COMMON * n))
    return Readable("text", (), queries, items_of, common=common)


def _ids(items: Items) -> Tensor | None:
    """Token ids (N, T) of texts."""
    found = items.kwargs.get("input_ids", items.inputs[0] if items.inputs else None)
    whole = isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point() and not found.is_complex()
    return found if whole else None


def _words(items: Items, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """The words of each text, without its padding."""
    ids = _ids(items)
    assert ids is not None
    seen = items.kwargs.get("attention_mask")
    kept = torch.ones_like(ids) if seen is None else seen
    return [
        vocabulary.words([i for i, k in zip(row, mask) if k])
        for row, mask in zip(ids.tolist(), kept.tolist(), strict=True)
    ]


class Vocabulary:
    """What ids of tokens mean, and which of them make a word.

    Args:
        given: a tokenizer, a vocabulary (a list, or a dict id -> token), or a function of an id.

    Raises:
        InputTypeError: none of these.
    """

    def __init__(self, given: Any):
        self._known: dict[int, str] = {}
        self._spelling = getattr(given, "convert_tokens_to_string", None)
        if _tokenizes(given):
            self._of: Callable[[int], Any] = given.convert_ids_to_tokens
        elif callable(given):
            self._of = given
        elif isinstance(given, Mapping) or (isinstance(given, Sequence) and not isinstance(given, str)):
            held = given if isinstance(given, Mapping) else dict(enumerate(given))
            self._of = lambda i: held.get(i, f"#{i}")
        else:
            raise InputTypeError(
                "words of a text are a tokenizer, a vocabulary (a list, or a dict id -> token) or a function of an id; "
                f"got {describe(given)}."
            )
        self._spelled: dict[tuple[str, ...], str] = {}

    def words(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Pieces of a word together, padding left out."""
        tokens = [t for t in map(self._token, ids) if t not in _PADDING]
        begins = any(t.startswith(_BEGINS) for t in tokens)  # then a token without that mark goes on
        groups: list[list[str]] = []
        for token in tokens:
            goes_on = not token.startswith(_BEGINS) if begins else token.startswith("##") and len(token) > 2
            if groups and goes_on and not _special(token) and not _special(groups[-1][-1]):
                groups[-1].append(token)
            else:
                groups.append([token])
        return tuple(self._word(tuple(group)) for group in groups)

    def _token(self, i: int) -> str:
        if i not in self._known:
            self._known[i] = str(self._of(i))
        return self._known[i]

    def _word(self, group: tuple[str, ...]) -> str:
        if group not in self._spelled:
            plain = "".join(spelled(token)[1] for token in group)
            self._spelled[group] = self._spelling(list(group)).strip() if self._spelling is not None else plain
        return self._spelled[group]


def _tokenizes(words: Any) -> bool:
    return hasattr(words, "convert_ids_to_tokens")


def key(word: str) -> str:
    """A word as it is compared: in small letters, without what stands around it; "" for marks, which say nothing."""
    if _special(word):
        return ""
    letters = [k for k, letter in enumerate(word) if letter.isalnum()]
    return word[letters[0] : letters[-1] + 1].casefold() if letters else ""


def _special(token: str) -> bool:
    """Whether a token is a mark of its tokenizer: xxbos, [CLS], <s>."""
    return token.startswith("xx") or (len(token) > 2 and token[0] + token[-1] in ("[]", "<>"))

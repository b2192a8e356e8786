"""Texts (classifiers and language models): one value per token, each text on its own, in the order given.

Texts go through the data's own tokenizer and vocabulary, one at a time: a padded batch would come back sorted by
length, and padding is no token to credit. A recurrent model is called from a clean state every time (`reset`), and its
hidden state is not cut off from the graph between the chunks of a long text, so that the map is complete over all of
them. Of a language model the score of the next token is explained.

The reference is no text: rows of zeros in the embedding, or `xxunk` where a method replaces tokens. The mark of the
beginning (`xxbos`, `[CLS]` and their like) stays, since it is in every text. Padding would shorten the text instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fastai.callback.rnn import ModelResetter
from fastai.data.load import DataLoader
from fastai.text.core import BOS, PAD, UNK
from fastai.text.data import LMDataLoader, Numericalize
from fastai.text.models.awdlstm import WeightDropout
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp_plugins.core.baseline import NO_ID, IdBaseline
from interp_plugins.core.errors import InputError, InputTypeError, TargetError
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.fastai.batch import QUIET, ReadBatch, no_data, plain
from interp_plugins.fastai.items import indices
from interp_plugins.fastai.learner_info import class_names, valid
from interp_plugins.fastai.reader import Reader, register_reader


@dataclass(frozen=True)
class Tokens:
    """What is known of the ids.

    Attributes:
        names: id -> token.
        ids: token -> id, or None for an unknown one.
        pad: the id of padding, or None.
        unknown: the id that stands for no word.
        kept: ids that stay in the reference.
    """

    names: Callable[[int], str]
    ids: Callable[[str], int | None]
    pad: int | None
    unknown: int
    kept: tuple[int, ...]


def _names_ids(dls: Any) -> list[str] | Any | None:
    """What names the ids of the data's first input: a vocabulary, or a tokenizer; None where it is no text."""
    dataset = getattr(valid(dls), "dataset", None)
    lists = getattr(dataset, "tls", None)
    transforms = getattr(getattr(lists[0] if lists else dataset, "tfms", None), "fs", [])
    for transform in transforms:
        if isinstance(transform, Numericalize):
            return list(transform.vocab)
        for value in vars(transform).values():
            if hasattr(value, "convert_ids_to_tokens"):
                return value
    return None


def _of_vocab(vocab: list[str]) -> Tokens:
    number = {token: i for i, token in reversed(list(enumerate(vocab)))}
    return Tokens(
        names=lambda i: vocab[i] if 0 <= i < len(vocab) else f"#{i}",
        ids=number.get,
        pad=number.get(PAD),
        unknown=number.get(UNK, 0),
        kept=tuple(number[t] for t in (BOS,) if t in number),
    )


def _of_tokenizer(tokenizer: Any) -> Tokens:
    vocab = tokenizer.get_vocab()
    unknown = next((i for i in (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) if i), 0)
    return Tokens(
        names=lambda i: str(tokenizer.convert_ids_to_tokens(i)),
        ids=vocab.get,
        pad=tokenizer.pad_token_id,
        unknown=unknown,
        kept=tuple(i for i in tokenizer.all_special_ids if i not in (tokenizer.pad_token_id, tokenizer.unk_token_id)),
    )


@register_reader
class TextReader(Reader):
    """Texts, explained one by one: for a classifier, or for the next token of a language model."""

    baseline_names = ("zero",)
    plural = "texts"

    def __init__(self, learn: Any):
        super().__init__(learn)
        known = _names_ids(self.dls)
        self.tokens = _of_vocab(known) if isinstance(known, list) else _of_tokenizer(known)
        self.pad = self.tokens.pad if self.tokens.pad is not None else 0
        self.is_language_model = isinstance(valid(self.dls), LMDataLoader)
        self.resets = any(isinstance(cb, ModelResetter) for cb in learn.cbs)

    @classmethod
    def reads(cls, learn: Any) -> bool:
        """Whether the data's first input is a text."""
        return _names_ids(learn.dls) is not None

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """As for all data; and recurrent weights belong to no graph, so that the model can be copied."""
        try:
            with super().unchanged():
                yield
        finally:
            settle(self.model)

    # -- reading -------------------------------------------------------------------------------------------------

    def from_items(self, item: Any, *, labelled: bool = False, rm_type_tfms: Any = None) -> list[ReadBatch]:
        """One batch per text: a str or file, a tuple of tokens, a 1-d tensor of ids; or a list of these.

        Raises:
            InputError: no texts, or an empty one.
            InputTypeError: something that is no text.
        """
        values = [item] if isinstance(item, (str, Path, tuple, Tensor)) or not _many(item) else list(item)
        if not values:
            raise InputError("There is nothing to explain: the list of texts is empty.")
        batches = [self._one(value, labelled) for value in values]
        named = any(b.names for b in batches)
        return [replace(b, names=b.names or ("",)) for b in batches] if named else batches

    def _one(self, value: Any, labelled: bool) -> ReadBatch:
        name = value.name if isinstance(value, Path) else ""
        if isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point():
            batch = ReadBatch((value.detach().as_subclass(Tensor)[None].long(),))
        elif isinstance(value, tuple) and all(isinstance(t, str) for t in value):
            unknown = self.tokens.unknown
            ids = [unknown if (i := self.tokens.ids(t)) is None else i for t in value]
            batch = ReadBatch((torch.tensor([ids], dtype=torch.long),))
        elif isinstance(value, (int, float, bool)) or value is None or isinstance(value, Tensor):
            raise InputTypeError(
                f"A text is a str, a file, a tuple of tokens, or a 1-d tensor of ids (or a list of these); got "
                f"{describe(value)}."
            )
        elif self.is_language_model:
            batch = ReadBatch((self.dls.test_dl([value], **_FEW).items[0].as_subclass(Tensor)[None],))
        else:
            try:
                batch = next(self._rows(self.dls.test_dl([value], with_labels=labelled, **QUIET)))
            except (AssertionError, KeyError, AttributeError) as err:
                if not labelled:
                    raise
                raise TargetError(
                    "target='label' needs the ground truth, and the data's label function finds none for this item. "
                    "Give the class by name or index, or take the texts from the data: ds_idx=1, idxs=[...]."
                ) from err
        if not batch.inputs[0].numel():
            raise InputError(f"The text {value!r} has no token.")
        return replace(batch, names=(name,) if name else None)

    def from_dl(self, dl: Any, idxs: Any = None) -> list[ReadBatch]:
        """One batch per row of a loader, in the order of its items."""
        if self.is_language_model:
            raise InputTypeError("A language model is explained for the next token of a text: learn.explain('...').")
        if not isinstance(dl, DataLoader):
            return super().from_dl(dl, idxs)
        if not len(dl.dataset):
            raise InputError(no_data(self.dls, dl, "its vocabulary", "texts"))
        rows = indices(idxs, len(dl.dataset))
        return [next(self._rows(dl.new(get_idxs=lambda r=r: [r], **QUIET))) for r in rows]

    def from_xb(self, xb: Any) -> list[ReadBatch]:
        """One batch per row of an encoded batch (N, T), without its padding."""
        parts = plain(tuple(xb) if isinstance(xb, (tuple, list)) else (xb,))
        if not parts or not isinstance(parts[0], Tensor) or parts[0].ndim != 2 or parts[0].is_floating_point():
            raise InputError(f"xb= takes an encoded batch of texts, ids (N, T); got {describe(xb)}.")
        n = self.dls.n_inp
        return self.ready(ReadBatch(parts[:n], parts[n:]))

    def ready(self, batch: ReadBatch) -> list[ReadBatch]:
        """Every text of a batch alone, without its padding."""
        found = []
        for i, row in enumerate(batch.inputs[0]):
            ids = row if self.tokens.pad is None else row[row != self.tokens.pad]
            labels = tuple(y[i : i + 1] for y in batch.labels)
            name = batch.names[i : i + 1] if batch.names else None
            found.append(ReadBatch((ids[None], *(x[i : i + 1] for x in batch.inputs[1:])), labels, name))
        return found

    def _rows(self, dl: Any) -> Iterator[ReadBatch]:
        n = self.dls.n_inp
        for b in dl:
            parts = tuple(b) if isinstance(b, (tuple, list)) else (b,)
            yield ReadBatch(plain(parts[:n]), plain(parts[n:]))

    # -- the model -----------------------------------------------------------------------------------------------

    def call(self, batch: ReadBatch) -> tuple[Any, ReadBatch]:
        """The model as a function of ids alone.

        Raises:
            InputError: it takes more than the text.
        """
        if len(batch.inputs) != 1:
            raise InputError(
                f"The model takes {len(batch.inputs)} inputs beside the text; give an encoded batch to a model "
                "of the text alone, or explain it with interp_plugins.explain."
            )
        stateful = self.resets and callable(getattr(self.model, "reset", None))
        return (_Stateless(self.model) if stateful else self.model), batch

    def outputs(self) -> dict[str, Any]:
        """As for all data, and how the scores are found in the model's output."""
        return {**super().outputs(), "output": self.output}

    def output(self, value: Any) -> Tensor:
        """The scores in a model's output: its first part (as `RNNCallback` takes it), or its logits."""
        value = getattr(value, "logits", value)
        if isinstance(value, (tuple, list)):
            value = value[-1] if isinstance(value, list) else value[0]
            value = value[-1] if isinstance(value, list) else value
        return value[:, -1] if self.is_language_model else value

    def spec(self, inputs: Any, batch: ReadBatch) -> InputSpec:
        """Kind of data and class names (of a language model: its tokens)."""
        return InputSpec(kind="text", vocab=class_names(self.dls))

    def encoded_baselines(self, given: Any, rm_type_tfms: Any = None) -> Any:
        """As they came: a baseline of a text is a token, an id or ids."""
        return given

    def baselines(self, given: Any, inputs: Any) -> Any:
        """The reference for one text of ids (1, T): None, "zero", a token, an id, ids, or an `IdBaseline`."""
        if isinstance(given, str) and given.lower() != "zero":
            number = self.tokens.ids(given)
            if number is None:
                raise InputError(f"The baseline {given!r} is no token of the vocabulary. Give a token, an id, or None.")
            return number
        if given is not None and not isinstance(given, str):
            return given
        kept = torch.isin(inputs, torch.tensor(self.tokens.kept, dtype=inputs.dtype, device=inputs.device))
        return IdBaseline(torch.where(kept, inputs, self.tokens.unknown), torch.where(kept, inputs, NO_ID))

    # -- the result ----------------------------------------------------------------------------------------------

    def told(self, exps: Explanations, batch: ReadBatch, baselines: Any = None) -> Explanations:
        """The explanations of a text with its tokens."""
        tokens = tuple([self.tokens.names(i) for i in row] for row in batch.inputs[0].tolist())
        return super().told(Explanations([replace(e, tokens=tokens) for e in exps]), batch, baselines)


_FEW = {"num_workers": 0, "bs": 1}


def _many(item: Any) -> bool:
    return hasattr(item, "__iter__") and not isinstance(item, (dict, bytes))


class _Stateless(Wrapper):
    """A recurrent model, called from a clean state, its hidden state kept in the graph between chunks."""

    def __init__(self, model: nn.Module):
        self.func, self.__name__ = model, type(model).__name__

    def wrapped_callables(self) -> list[Any]:
        """The model inside (for the guard and for layers)."""
        return [self.func]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call that neither knows of the last one nor is known of by the next."""
        self.func.reset()
        with _WholeGraph():
            return self.func(*args, **kwargs)


class _WholeGraph(TorchFunctionMode):
    """Without `detach`, which cuts a long text's graph between chunks to save memory in training."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.detach:
            return args[0]
        return func(*args, **(kwargs or {}))


def settle(model: nn.Module) -> None:
    """Leave recurrent weights that belong to no graph, so that the model can be copied."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, WeightDropout):
                for name in module.layer_names:
                    weight = getattr(module.module, name)
                    if not weight.is_leaf:
                        setattr(module.module, name, weight.detach())

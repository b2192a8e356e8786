"""Texts and chats as an interpretable input: tokens, words, sentences or turns are the features, templates never.

Features are found in the text and then in its tokens, by where these lie, so that what is removed or replaced are
tokens of the very prompt that the model gets: it is never split into tokens anew.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.interpretable import InterpretableInput, TextTokenInput
from interp_plugins.attr.language.spans import (
    Span,
    check_level,
    check_messages,
    message_spans,
    parts,
    rendered,
    with_offsets,
)
from interp_plugins.core.errors import InputError, unknown

ABSENCES = ("remove", "baseline")
_SUBSTITUTES = (" ", "_", ".")


class ChatInput(InterpretableInput):
    """A prompt, text or chat, whose words (tokens, sentences, turns) are the features.

    What a chat template writes (role headers, marks of begin and end, a system message of its own), special tokens and
    the messages of roles in `keep` are always there, and are never features.

    Args:
        messages: a text, or a list of {"role": ..., "content": ...}.
        tokenizer: a fast tokenizer of Hugging Face; of a chat, with a chat template.
        level: "token", "word", "sentence" or "turn" (a whole message; of a text, all of it).
        absence: what stands for a missing feature: "remove" (its tokens are left out) or "baseline" (each of its tokens
            is replaced by one that says little, so that all others keep their places). None: "baseline" for tokens,
            else "remove".
        baseline: that token, as text or id, also for the paths of gradient methods. None: the tokenizer's mask token,
            a true unknown token, or the space.
        keep: roles that are not explained.
        bos: whether a text begins with the begin-of-text token. None: as the tokenizer does it itself.
        **template_args: of the tokenizer's `apply_chat_template`.

    Attributes:
        text: the prompt as the model gets it.
        ids: its token ids, (1, P).
        feature_of_token: for each token its feature, (P,); -1 where it has none.
        spans: where the features lie in `text`, (start, stop).
        values: what they are, one text each.

    Raises:
        InputError: nothing is left to explain, or template and contents cannot be told apart.
        InputTypeError: neither a text nor messages.
        UnknownNameError: an unknown level or absence.
    """

    def __init__(
        self,
        messages: str | Sequence[Mapping[str, str]],
        tokenizer: Any,
        level: str = "word",
        *,
        absence: str | None = None,
        baseline: int | str | None = None,
        keep: Sequence[str] = ("system",),
        bos: bool | None = None,
        **template_args: Any,
    ):
        check_level(level)
        if absence is not None and absence not in ABSENCES:
            raise unknown("absence", absence, ABSENCES)
        self.tokenizer, self.level = tokenizer, level
        self.absence = absence or ("baseline" if level == "token" else "remove")
        self.baseline = quiet_token(tokenizer) if baseline is None else _id_of(tokenizer, baseline)
        if isinstance(messages, str):
            self.text, self.messages, stretches = messages, None, [(0, len(messages))]
        else:
            self.messages = check_messages(messages)
            self.text = rendered(tokenizer, self.messages, **template_args)
            spans = message_spans(self.text, self.messages)
            stretches = [s for s, m in zip(spans, self.messages, strict=True) if m["role"] not in set(keep)]
        self.stretches = stretches
        self._read(stretches, bos)

    def _read(self, stretches: list[Span], bos: bool | None) -> None:
        """Find the features' tokens."""
        chat = self.messages is not None
        ids, offsets, special = with_offsets(self.tokenizer, self.text, special=not chat and bos is not False)
        begin = getattr(self.tokenizer, "bos_token_id", None)
        if bos and begin is not None and ids[:1] != [begin]:
            ids, offsets, special = [begin, *ids], [(0, 0), *offsets], [True, *special]
        if self.level == "token":
            inside = [any(a <= s and e <= b for a, b in stretches) for s, e in map(self._seen, offsets)]
            spans = [o for o, i, m in zip(offsets, inside, special, strict=True) if i and not m and o[1] > o[0]]
            numbers = iter(range(len(spans)))
            of_token = [
                next(numbers) if i and not m and o[1] > o[0] else -1
                for o, i, m in zip(offsets, inside, special, strict=True)
            ]
        else:
            spans = [span for stretch in stretches for span in parts(self.text, stretch, self.level)]
            of_token = [-1 if m else self._part_of(o, spans) for o, m in zip(offsets, special, strict=True)]
            there = sorted(set(of_token) - {-1})  # two words of one token: the token is the first one's
            spans, renamed = [spans[k] for k in there], {old: new for new, old in enumerate(there)}
            of_token = [renamed.get(k, -1) for k in of_token]
        if not spans:
            raise InputError("The prompt has nothing to explain: no text, or only roles that are kept.")
        self.ids, self.offsets, self.spans = torch.tensor([ids]), offsets, spans
        self.feature_of_token = torch.tensor(of_token)
        self.values = [self.text[a:b].strip() or repr(self.text[a:b])[1:-1] for a, b in spans]
        self.n_itp_features = len(spans)

    def _seen(self, offset: Span) -> Span:
        """A token's stretch without the space before it."""
        a, b = offset
        inside = self.text[a:b]
        return (a + len(inside) - len(inside.lstrip()) if inside.strip() else a, b)

    def _part_of(self, offset: Span, spans: Sequence[Span]) -> int:
        """The part that a token belongs to: the one where its first letter lies."""
        at, stop = self._seen(offset)
        return next((k for k, (a, b) in enumerate(spans) if a <= at < b and stop > at), -1)

    def to_tensor(self) -> Tensor:
        """A one for each feature, (1, n_itp_features): nothing is missing yet."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids (1, P) without what is missing in a row of switches (1, n_itp_features)."""
        if perturbed_tensor is None:
            return self.ids
        gone = (perturbed_tensor.detach().cpu().reshape(-1) == 0).nonzero().flatten()
        missing = torch.isin(self.feature_of_token, gone)
        if self.absence == "baseline":
            return torch.where(missing, torch.tensor(self.baseline), self.ids[0])[None]
        return self.ids[:, ~missing]

    def followed_by(self, tokens: Tensor) -> ChatInput:
        """The same prompt with tokens (T,) behind it that are always there."""
        new = copy.copy(self)
        new.ids = torch.cat([self.ids, tokens[None].to(self.ids)], 1)
        new.feature_of_token = torch.cat([self.feature_of_token, torch.full((len(tokens),), -1)])
        return new

    def within(self, start: int, stop: int) -> ChatInput:
        """The same prompt with the features of a stretch of its text alone, (start, stop) in characters.

        A feature that goes beyond the stretch is cut off there.
        """
        new = copy.copy(self)
        new.stretches = [(max(a, start), min(b, stop)) for a, b in self.stretches if a < stop and start < b]
        new._read(new.stretches, None)
        return new

    def with_absence(self, absence: str) -> ChatInput:
        """The same prompt with another way to miss a feature."""
        new = copy.copy(self)
        new.absence = absence
        return new

    def of_tokens(self) -> TextTokenInput:
        """The tokens that belong to features, as an input of their own, for gradients."""
        return TextTokenInput.of_ids(self.ids, self.tokenizer, self.baseline, self.feature_of_token >= 0)

    def by_feature(self, attr: Tensor) -> Tensor:
        """Attributions of the features' tokens (..., tokens) -> of the features (..., n_itp_features)."""
        which = self.feature_of_token[self.feature_of_token >= 0].to(attr.device)
        return attr.new_zeros(*attr.shape[:-1], self.n_itp_features).index_add_(-1, which, attr)


def _id_of(tokenizer: Any, token: int | str) -> int:
    """The id of a token given as text or id."""
    if isinstance(token, int):
        return token
    ids = list(tokenizer.encode(token, add_special_tokens=False))
    if len(ids) != 1:
        raise InputError(f"baseline={token!r} is {len(ids)} tokens of this tokenizer; give one that is a single token.")
    return int(ids[0])


def quiet_token(tokenizer: Any) -> int:
    """The token that stands for a missing one: the mask, a true unknown token, or a space.

    A token that begins or ends texts is none: it says that what comes before no longer counts.
    """
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is not None:
        return int(mask)
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    inner = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if unknown_id is not None and getattr(inner, "unk_token", None):
        return int(unknown_id)
    for text in _SUBSTITUTES:
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        if len(ids) == 1:
            return int(ids[0])
    if unknown_id is None:
        raise InputError("No token of this tokenizer says little; give baseline=, a token as text or id.")
    return int(unknown_id)

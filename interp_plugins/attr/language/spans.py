"""Where the parts of a text lie: words, sentences, messages of a chat, and the tokens that make them up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.tensors import describe

LEVELS = ("token", "word", "sentence", "turn")
Span = tuple[int, int]

_WORD = re.compile(r"\s*\S+")
# A sentence goes on to a full stop, question or exclamation mark (with closing quotes) before a space, or a line's end.
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?\u3002\uff01\uff1f]+[\"')\]\u201d\u2019]*(?=\s|$)|(?=\n)|$)", re.DOTALL)


def check_level(level: str) -> None:
    """Refuse a level that there is not."""
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)


def parts(text: str, span: Span, level: str) -> list[Span]:
    """The words, the sentences or the one turn of a stretch of a text, as (start, stop) in characters.

    A part begins with the space before it, as tokens of words do; space at the stretch's end belongs to the last part.

    Example:
        parts("Rome is old. Paris, too.", (0, 24), "sentence")  # -> [(0, 12), (12, 24)]
    """
    start, stop = span
    inside = text[start:stop]
    if not inside.strip():
        return []
    if level == "turn":
        return [span]
    found = [m.span() for m in (_WORD if level == "word" else _SENTENCE).finditer(inside)]
    ends = [a for a, _ in found[1:]] + [len(inside)]
    return [(start + a, start + b) for (a, _), b in zip(found, ends, strict=True)]


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], **template_args: Any) -> str:
    """The text that a tokenizer's chat template makes of messages, with the begin of the answer.

    Raises:
        InputError: there is no template, or it refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "The tokenizer has no chat template, so messages cannot become a prompt. Give the prompt as one text, or "
            "set tokenizer.chat_template."
        )
    given = {"add_generation_prompt": True, **template_args}
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **given))
    except Exception as error:
        raise InputError(f"The tokenizer's chat template refuses the messages: {error}") from error


def check_messages(messages: Any) -> list[Mapping[str, str]]:
    """Refuse what is no list of {"role": ..., "content": text}.

    Raises:
        InputTypeError: what came instead.
    """
    right = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
    for one in messages if right else ():
        right = right and isinstance(one, Mapping) and isinstance(one.get("role"), str)
        right = right and isinstance(one.get("content"), str)
    if not right:
        raise InputTypeError(
            "A prompt is a text, or a list of messages {'role': 'user', 'content': 'text'}; got "
            f"{describe(messages)}" + (f" with {messages[0]!r}." if isinstance(messages, list) and messages else ".")
        )
    return list(messages)


def message_spans(text: str, messages: Sequence[Mapping[str, str]]) -> list[Span]:
    """Where each message's content lies in the rendered text; an empty message lies nowhere.

    Contents are looked for one behind the other from the end, since a template may write words of its own (a system
    message, say) before the first, and writes little behind the last.

    Raises:
        InputError: the template rewrites a content, so that it cannot be found.
    """
    found: list[Span] = []
    stop = len(text)
    for one in reversed(messages):
        content = one["content"].strip()
        at = text.rfind(content, 0, stop)
        if at < 0:
            raise InputError(
                f"The chat template does not show the content of a {one['role']} message as it is "
                f"({content[:60]!r}), so its words cannot be told from the template's. Give the rendered prompt as one "
                "text instead."
            )
        found.append((at, at + len(content)))
        stop = at
    return found[::-1]


def with_offsets(tokenizer: Any, text: str, special: bool) -> tuple[list[int], list[Span], list[bool]]:
    """Token ids of a text, where each token lies in it, and which are special tokens.

    Raises:
        InputError: the tokenizer does not say where its tokens lie.
    """
    asked = {"return_offsets_mapping": True, "add_special_tokens": special, "return_special_tokens_mask": True}
    try:
        found = tokenizer(text, **asked)
        ids, offsets = list(found["input_ids"]), [(int(a), int(b)) for a, b in found["offset_mapping"]]
    except (NotImplementedError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "The tokenizer does not say where its tokens lie in the text (return_offsets_mapping), which words, "
            f"sentences and chats are found by; take a fast tokenizer (AutoTokenizer's default): {error}"
        ) from error
    marks = found.get("special_tokens_mask") if hasattr(found, "get") else None
    specials = set(getattr(tokenizer, "all_special_ids", None) or ())
    known = [bool(m) for m in marks] if marks is not None else [False] * len(ids)
    return ids, offsets, [m or i in specials for m, i in zip(known, ids, strict=True)]

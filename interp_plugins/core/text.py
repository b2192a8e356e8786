"""Text that can be drawn and written down: file names and what JSON spells need not be, and pages and tables have to.

A byte of a file name that is not UTF-8 stands in Python's text as a surrogate, which is no character. Explanations and
input specs replace them when they are made, so that nothing behind them meets one.
"""

from __future__ import annotations

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def legible(text: str) -> str:
    r"""A text in which what is no character is the mark U+FFFD.

    Example:
        legible("caf\udce9.png")  # -> 'caf\ufffd.png'
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def all_legible(value: Any) -> Any:
    """The same of every text in nested tuples and lists; the very object where nothing has to change."""
    if isinstance(value, str):
        return legible(value)
    if type(value) not in (tuple, list):
        return value
    try:
        joined = "".join(value)  # a vocabulary of thousands is looked through at once
    except TypeError:
        if not any(isinstance(v, (str, tuple, list)) for v in value):
            return value
        made = [all_legible(v) for v in value]
    else:
        if legible(joined) == joined:
            return value
        made = [legible(v) for v in value]
    return value if all(a is b for a, b in zip(made, value)) else type(value)(made)

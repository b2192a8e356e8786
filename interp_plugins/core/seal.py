"""A digest of a file that stands in the file itself, so that any byte that changes is noticed.

The writer puts `BLANK` where the digest will stand; `close` fills it in with the digest of the file as it was with the
blank. It is a checksum against bad luck (disks, copies, cut connections), and no signature: who changes a file on
purpose can make it anew.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

_SIZE = 20
BLANK = "blake2b:" + "0" * 2 * _SIZE


def digest_of(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        made = hashlib.blake2b(digest_size=_SIZE)
        while part := file.read(1 << 20):
            made.update(part)
    return f"blake2b:{made.hexdigest()}"


def close(path: Path, *, last: bool = False) -> None:
    """Fill in the blank of a file.

    Args:
        path: the file.
        last: the last blank is the one, and not the first, where data stand before it.

    Raises:
        ValueError: there is no blank.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = _place(content, BLANK, last)
        if at < 0:
            raise ValueError(f"{path} has no place for its digest.")
        made = _digest(content, at)
        content[at : at + len(BLANK)] = made.encode()
        content.flush()


def holds(path: Path, seal: object, *, last: bool = False) -> bool:
    """Whether a file is as it was when it was closed.

    Args:
        path: the file.
        seal: the digest that was read from it.
        last: as for `close`.
    """
    if not isinstance(seal, str) or len(seal) != len(BLANK) or not os.path.getsize(path):
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = _place(content, seal, last)
        return at >= 0 and _digest(content, at) == seal


def _place(content: mmap.mmap, text: str, last: bool) -> int:
    find = content.rfind if last else content.find
    return find(text.encode("utf-8", "replace"))


def _digest(content: mmap.mmap, at: int) -> str:
    made = hashlib.blake2b(digest_size=_SIZE)
    with memoryview(content) as view, view[:at] as before, view[at + len(BLANK) :] as after:
        made.update(before)
        made.update(BLANK.encode())
        made.update(after)
    return f"blake2b:{made.hexdigest()}"

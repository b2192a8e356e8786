"""Files and directories that appear under their name whole or not at all.

They are made under a hidden name beside it and then moved, so neither a process that dies nor many processes that make
the same thing at the same moment leave half a thing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft_of(final: Path) -> Iterator[Path]:
    """A hidden name beside `final` under which to make it; what is left there afterwards is removed."""
    draft = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    try:
        yield draft
    finally:
        _remove(draft)


def claim(draft: Path, final: Path) -> bool:
    """Give a draft its name if nothing has it yet: of several processes the first wins. Whether this one did."""
    try:
        if draft.is_dir():
            os.rename(draft, final)  # fails where there is a directory that is not empty
        else:
            os.link(draft, final)
    except FileExistsError:
        return False
    except OSError:
        if final.exists():
            return False
        os.replace(draft, final)  # a file system without links
    sync_directory(final.parent)
    return True


def sweep(final: Path) -> None:
    """Remove drafts of `final` that processes which were killed have left; only where nobody is making one."""
    for left in final.parent.glob(f".{final.name}.*"):
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content down to the disk."""
    with path.open("r+b") as f:
        os.fsync(f.fileno())


def sync_directory(path: Path) -> None:
    """Make names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

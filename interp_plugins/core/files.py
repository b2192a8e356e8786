"""Files and directories that appear under their name whole or not at all.

They are made under a hidden name beside it, brought down to the disk and then moved, so neither a process that dies nor
a full disk nor many processes that make the same thing at the same moment leave half a thing behind, and what stood
there before stays until the new one is whole.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from interp_plugins.core.errors import FileError, InputTypeError
from interp_plugins.core.tensors import describe
from interp_plugins.core.text import legible

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}
_DRAFT = re.compile(r"\..+\.(?P<machine>\w*)-(?P<process>\d+)\.[0-9a-f]{12}")
_LONGEST = 80  # bytes of a name that its draft's name repeats: file systems end at 255
_FORGOTTEN = 86_400  # seconds after which a draft of another machine is taken for left behind


@dataclass(frozen=True)
class Page:
    """An HTML file that was written: a path (`os.PathLike`) that notebooks show as a link.

    Args:
        path: where it lies.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return legible(str(self.path))

    def _repr_html_(self) -> str:
        shown = escape(legible(str(self.path)), quote=True)
        return f'<a href="{shown}" target="_blank">{shown}</a>'


def check_path(path: Any) -> None:
    """Refuse what is no path."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputTypeError(f"A file is named by a path, got {describe(path)}.")


def write(path: str | Path, content: str | bytes) -> Path:
    r"""Write a file in place of an earlier one; text as UTF-8, where what is no character becomes a replacement mark.

    Args:
        path: the file; missing folders above it are made.
        content: all of it.

    Returns:
        The path.

    Raises:
        FileError: it cannot be written, with what to do; an earlier file is as it was.

    Example:
        from interp_plugins.core import files
        files.write("page.html", "<p>caf\xe9</p>")
    """
    data = content if isinstance(content, bytes) else legible(content).encode("utf-8")
    with replacing(path) as draft:
        draft.write_bytes(data)
    return Path(path)


def write_new(path: str | Path, data: bytes) -> Path:
    """Write a file beside earlier ones, replacing none: `map.png`, then `map-v1.png`, `map-v2.png`, ...

    Args:
        path: the name wanted; missing folders above it are made.
        data: all of it.

    Returns:
        The path that it got.

    Raises:
        FileError: it cannot be written, with what to do.
    """
    path = Path(path)
    with _saying(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            draft.write_bytes(data)
            sync(draft)
            for version in itertools.count():
                final = path.with_name(f"{path.stem}-v{version}{path.suffix}") if version else path
                if not final.exists() and claim(draft, final):
                    return final
    raise AssertionError("unreachable")


def append(path: str | Path, data: bytes) -> None:
    """Add to the end of a file, all or nothing.

    Raises:
        FileError: it cannot be written, with what to do; the file is as it was.
    """
    with _saying(path), Path(path).open("ab") as out:
        before = out.tell()
        try:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            os.truncate(path, before)
            raise


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A hidden name under which to write a file, which takes the place of `path` when the block ends well.

    A link is followed, and a file's permissions are kept. What is neither file nor folder (a pipe, /dev/stdout) is
    written as it is.

    Raises:
        FileError: it cannot be written, with what to do.
    """
    check_path(path)
    given, final = Path(path), Path(os.path.realpath(path))
    with _saying(path):
        if given.exists() and not given.is_file() and not given.is_dir():
            yield given
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        with draft_of(final) as draft:
            yield draft
            if final.exists():
                shutil.copymode(final, draft)
            sync(draft)
            os.replace(draft, final)
            sync_directory(final.parent)


@contextlib.contextmanager
def _saying(path: str | Path) -> Iterator[None]:
    """An error that says what kept a file from being written, and what to do."""
    try:
        yield
    except FileError:
        raise
    except OSError as err:
        raise FileError(f"{legible(os.fspath(path))} could not be written: {err}. {advice(err, path)}") from err


def advice(error: BaseException, path: str | Path) -> str:
    """What to do where something cannot be written."""
    if no_room(error) is not None:
        return f"Make room: {no_room(error)}. What stood there before is as it was."
    if isinstance(error, IsADirectoryError):
        return "Give the name of a file."
    asked = Path(path).absolute()
    if isinstance(error, (FileExistsError, NotADirectoryError)) and isinstance(error.filename, (str, bytes)):
        asked = Path(os.fsdecode(error.filename)) / "x"
    above = next((p for p in asked.parents if p.exists()), None)
    if above is not None and not above.is_dir():
        return f"{legible(str(above))} is a file, and a directory is needed there: give another path."
    return "Give a path on a disk that may be written to."


def no_room(error: BaseException) -> str | None:
    """What an error says about missing room on the disk, or None for other errors."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return _FULL[seen.errno]
        seen = seen.__cause__ or seen.__context__
    return None


# -- drafts ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def draft_of(final: Path) -> Iterator[Path]:
    """A hidden name beside `final` under which to make it; what is left there afterwards is removed."""
    draft = final.with_name(f"{_begin(final)}{_here()}-{os.getpid()}.{uuid.uuid4().hex[:12]}")
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


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder that processes which are no longer alive have left."""
    for left in folder.glob(".*"):
        found = _DRAFT.fullmatch(left.name)
        if found is not None and _forgotten(left, found["machine"], int(found["process"])):
            _remove(left)


def _begin(final: Path) -> str:
    name = os.fsencode(final.name)[:_LONGEST].decode("utf-8", "ignore")
    return f".{name}."


def _here() -> str:
    """This machine, as drafts name it."""
    return re.sub(r"\W", "_", socket.gethostname())[:40]


def _forgotten(draft: Path, machine: str, process: int) -> bool:
    """Whether nobody is at work on a draft: its process is gone, or it is of another machine and a day old."""
    if machine == _here() and os.name == "posix":
        return process != os.getpid() and not _alive(process)
    try:
        return time.time() - draft.stat().st_mtime > _FORGOTTEN
    except FileNotFoundError:
        return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
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

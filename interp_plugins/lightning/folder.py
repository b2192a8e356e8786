"""A directory of Lightning's own files, local or remote (an fsspec URL): what is written there appears whole."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from interp_plugins.core import files


def opened(directory: str) -> tuple[Any, str]:
    """The file system of a directory and the directory's path in it; made where it is missing."""
    system, root = url_to_fs(directory)
    system.makedirs(root, exist_ok=True)
    return system, root


def add_file(directory: str, name: str, data: bytes) -> str:
    """Write a file without replacing an earlier one: `a.png`, then `a-v1.png`. Returns its path."""
    system, root = opened(directory)
    if isinstance(system, LocalFileSystem):
        return str(files.write_new(f"{root}/{name}", data))
    path = free_path(system, root, name)
    system.pipe_file(path, data)
    return path


def free_path(system: Any, root: str, name: str) -> str:
    """The first name of `a.png`, `a-v1.png`, ... that no file has."""
    plain = PurePosixPath(name)
    path, version = f"{root}/{name}", 0
    while system.exists(path):
        version += 1
        path = f"{root}/{plain.stem}-v{version}{plain.suffix}"
    return path


def write(system: Any, path: str, data: bytes) -> None:
    """Write a file in place of an earlier one."""
    if isinstance(system, LocalFileSystem):
        files.write(path, data)
    else:
        system.pipe_file(path, data)


def append(system: Any, path: str, data: bytes) -> None:
    """Add to the end of a file, all or nothing; where the file system cannot, the file is written anew."""
    if isinstance(system, LocalFileSystem):
        files.append(path, data)
        return
    try:
        with system.open(path, "ab") as out:
            out.write(data)
    except (NotImplementedError, ValueError):
        system.pipe_file(path, system.cat_file(path) + data)

"""One Parquet file that appears whole or not at all, and that notices any byte that changed since.

It carries facts beside its rows, the last of them a digest of the file itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_plugins.core import files, seal
from interp_plugins.store.errors import DamagedError, need


def write(final: Path, table: Any, facts: Mapping[str, str]) -> bool:
    """Write a table under its name, unless another process has done so.

    Args:
        final: the file; the folder above it is made.
        table: a pyarrow table.
        facts: kept beside the rows.

    Returns:
        Whether the file is this process's.
    """
    pq = need("pyarrow.parquet")
    marked = table.replace_schema_metadata({**facts, "digest": seal.BLANK})  # the last one: names stand before it
    final.parent.mkdir(exist_ok=True)
    with files.draft_of(final) as draft:
        with draft.open("wb") as f:
            pq.write_table(marked, f, compression="zstd")
        seal.close(draft, last=True)
        files.sync(draft)
        return files.claim(draft, final)


def read(file: Path, sealed: bool = True) -> tuple[Any, dict[str, str]]:
    """The rows, without facts, and the facts.

    Args:
        file: that `write` has made.
        sealed: whether it holds its digest, which files of old runs do not.

    Raises:
        DamagedError: the digest does not fit.
        Exception: it is no Parquet file, in the words of its reader.
    """
    pq = need("pyarrow.parquet")
    with pq.ParquetFile(file) as parquet:
        known = {k.decode(): v.decode() for k, v in (parquet.metadata.metadata or {}).items()}
        if sealed and not seal.holds(file, known.get("digest"), last=True):
            raise DamagedError("its digest does not fit")
        return parquet.read().replace_schema_metadata(None), known

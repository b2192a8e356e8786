"""What a person said of suspects, read back from the page's file or from the viewer's notes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.tensors import describe
from interp_plugins.influence.suspect_rows import SuspectRows

TAGS = ("keep", "fix", "drop")


def read_tags(source: Any, found: SuspectRows) -> dict[int, tuple[str, str]]:
    """Item -> (tag, label), in the file's order.

    Args:
        source: a file of "Save tags" (CSV or JSON), or the notes of a viewer: item -> {"tags": [tag], "note": label}.
        found: the items that may be tagged.

    Raises:
        MissingFileError: there is no such file.
        InputError: it holds something else, an unknown tag or item, or was made when an item had another label.
    """
    rows = _of_notes(source) if isinstance(source, Mapping) else _of_file(source)
    place = {int(item): r for r, item in enumerate(found.items.tolist())}
    tags: dict[int, tuple[str, str]] = {}
    for row in rows:
        item, tag, label = int(row["item"]), str(row["tag"]), str(row.get("label") or "")
        if item not in place:
            raise InputError(f"There is no item {item} among these {len(found)} suspects; are the tags of other data?")
        if tag not in TAGS:
            raise InputError(f"Item {item} has the tag {tag!r}; known: {', '.join(TAGS)}.")
        now = found.label(found.given[place[item]])
        if row.get("given") not in (None, now):
            raise InputError(
                f"Item {item} was tagged when its label was {row['given']!r}, and now it is {now!r}: the labels have "
                "changed since, or these are other data. Tag anew on a page of these suspects."
            )
        tags[item] = (tag, label)
    return tags


def _of_notes(notes: Mapping[Any, Any]) -> list[dict[str, Any]]:
    with decoding(InputError, 'Notes of a viewer are item -> {"tags": [tag], "note": label}'):
        known = [(item, [t for t in one["tags"] if t in TAGS], one.get("note", "")) for item, one in notes.items()]
        return [{"item": int(item), "tag": tags[0], "label": note} for item, tags, note in known if tags]


def _of_file(path: Any) -> list[dict[str, Any]]:
    if not isinstance(path, (str, Path)):
        raise InputError(f"Tags come from a file of the page, or from a viewer's notes; got {describe(path)}.")
    if not Path(path).is_file():
        raise MissingFileError(f"There is no file {path}. The page writes it: Save tags (CSV) or (JSON).")
    with decoding(InputError, f"{path} holds no tags as a page of suspects saves them"):
        text = Path(path).read_text(encoding="utf-8")
        rows: list[dict[str, Any]] = (
            json.loads(text) if text.lstrip().startswith("[") else [*csv.DictReader(text.splitlines())]
        )
        return [{**row, "item": int(row["item"]), "tag": row["tag"]} for row in rows]

"""fastai's `ImageClassifierCleaner` with items in the order of suspicion instead of the training loss."""

from __future__ import annotations

import os
from typing import Any

from fastcore.foundation import L

from interp_plugins.core.errors import InputError
from interp_plugins.influence.suspect_rows import SuspectRows


def suspects_cleaner(source: Any, found: SuspectRows, n: int) -> Any:
    """The widget on the n most suspicious items; it shows one class at a time and changes no file.

    Args:
        source: of the Learner's data; `path(number)` is an item's file.
        found: the suspects.
        n: how many.

    Raises:
        InputError: items that are no files, labels that are no classes, or no notebook.
        ImportError: fastai's widgets need ipywidgets.
    """
    from fastai.vision import widgets
    from fastai.vision.widgets import ImageClassifierCleaner, ImagesCleaner
    from ipywidgets import Dropdown, VBox  # type: ignore[import-untyped]

    rows = found.order[:n].tolist()
    paths = [source.path(int(found.items[r])) for r in rows]
    if found.kind != "classes" or not all(isinstance(p, (str, os.PathLike)) for p in paths):
        raise InputError(
            "cleaner() is fastai's widget for pictures in files with one class each. to_html('suspects.html') writes a "
            "page on which any data are tagged."
        )
    if not hasattr(widgets, "display"):  # fastai has it in notebooks alone
        raise InputError(
            "cleaner() is a widget of fastai's, which draws in notebooks alone. to_html('suspects.html') writes a page "
            "on which items are tagged anywhere."
        )
    info = [(p, found.label(found.given[r]), float(found.score[r])) for p, r in zip(paths, rows, strict=True)]

    class _SuspectsCleaner(ImageClassifierCleaner):
        """Made of suspects instead of predictions."""

        def __init__(self) -> None:
            vocab = [str(v) for v in found.spec.vocab or ()]
            self.default = self.iw = ImagesCleaner(vocab, max_n=n)
            first = info[0][1] if info else None
            self.dd_cats = Dropdown(options=vocab, value=first)
            self.dd_ds = Dropdown(options=("Train", "Valid"))
            self.iwis = L(info), L()
            self.dd_ds.observe(self.on_change_ds, "value")
            self.dd_cats.observe(self.on_change_ds, "value")
            self.on_change_ds()
            self.widget = VBox([self.dd_cats, self.dd_ds, self.iw.widget])

    return _SuspectsCleaner()

"""`Suspects`: items in the order in which their labels are doubted, with reasons, suggestions, neighbours, copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_plugins.core import files
from interp_plugins.core.errors import InputError, concise
from interp_plugins.influence import saved
from interp_plugins.influence.suspect_page import page
from interp_plugins.influence.suspect_picture import grid, table
from interp_plugins.influence.suspect_rows import SuspectRows
from interp_plugins.influence.tags import read_tags

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Suspects(SuspectRows):
    """Items in the order in which their labels are doubted; nothing of the data is changed.

    All but `order` stands in the items' order: entry r belongs to item `items[r]`.

    Attributes:
        items: (N,) numbers of the items in their data set.
        order: (N,) entries, the most suspicious first; of equal scores the one with the smaller number.
        score: (N,) from 0 to 1, the mean rank of the votes; 0 where nothing can be said.
        given: the label of each item: an index, a tuple of indices, a value or several; of a mask the largest class.
        suggested: the label of each item that the votes prefer, of the same kind as `given`; equal to it where they
            prefer that.
        likely: (N,) whether neighbours and head prefer one other label, and the head is as sure of it as it usually is
            of that class's own items (Northcutt et al. 2021).
        reasons: (N,) each: "knn" (neighbours' margin for the label), "head" (that of a head that has not learned the
            item), "margin" (of a training's history, else of the outputs now), "loss".
        more: further columns: "label" (the doubted one of several), "share" (of a mask's places that are doubted).
        outlier: (N,) mean distance to the 10 nearest neighbours, 1 - cosine.
        neighbours: (N, 10) entries of the nearest items, -1 where there is none.
        cosines: (N, 10) their cosines.
        copies: items that are the same as others, in the data and across to the validation data.
        pred_probs: (N, C) out-of-fold probabilities, as cleanlab's `pred_probs` takes them; None for values and masks.
        names: of the items, or None.
        votes: the reasons whose ranks were averaged.
        kind: "classes", "labels", "values" or "pixels".
        layer: where the features were read.
        spec: kind of data and class names.
        notes: what concerns more than single items.
        searched_valid: whether copies in validation data were looked for.
        gallery: item numbers -> what is shown of them: pictures (H, W, 3) in [0, 1], texts, or dicts of columns.
    """

    def __repr__(self) -> str:
        said = f"Suspects({len(self)} items, {int(self.likely.sum())} likely wrong, by {' and '.join(self.votes)}"
        leaked = len(self.leakage())
        valid = f", {leaked} in the validation data as well" if leaked else ""
        return f"{said} on the features before {self.layer!r}{valid})" + "".join(f"\n  {note}" for note in self.notes)

    def to_df(self) -> pd.DataFrame:
        """A row per item, the most suspicious first: item, name, labels, score, likely, reasons, outlier, neighbours.

        Example:
            from interp_plugins.influence import suspects

            table = suspects(model, (torch.rand(60, 3, 24, 24), torch.arange(60) % 10), k=5).to_df()
            table[table["likely"]]
        """
        import pandas as pd

        rows = self.order.tolist()
        columns: dict[str, Any] = {"item": self.items[self.order].tolist()}
        if self.names is not None:
            columns["name"] = [self.names[r] for r in rows]
        columns["given"] = [self.label(self.given[r]) for r in rows]
        columns["suggested"] = [self.label(self.suggested[r]) for r in rows]
        columns["score"] = self.score[self.order].tolist()
        columns["likely"] = self.likely[self.order].tolist()
        columns |= {name: values[self.order].tolist() for name, values in self.reasons.items()}
        for name, values in self.more.items():
            many = values[self.order].tolist()
            columns[name] = [str(self.spec.label(v)) for v in many] if name == "label" else many
        columns["outlier"] = self.outlier[self.order].tolist()
        columns["neighbours"] = [self.near(r, 3) for r in rows]
        return pd.DataFrame(columns)

    def to_csv(self, path: str | Path, n: int | None = None) -> Path:
        """Write the table of the n most suspicious items (None: all). Returns the path."""
        table = self.to_df() if n is None else self.to_df().head(n)
        return files.write(path, table.to_csv(index=False))

    def show(self, max_n: int = 12, neighbours: int = 3, ncols: int = 4) -> Any:
        """The most suspicious items with their labels, and their nearest neighbours beneath.

        Args:
            max_n: items at most.
            neighbours: of each, with their labels.
            ncols: pictures in a row.

        Returns:
            A `Plot` for pictures; for other data a DataFrame, in which each item is followed by its neighbours.

        Raises:
            InputError: the items cannot be read again (the data were an iterator).
        """
        with concise():
            return (grid if self.pictures else table)(self, max_n, neighbours, ncols)

    def to_html(
        self, path: str | Path, n: int = 100, neighbours: int = 3, title: str = "Suspects", tags: Any = None
    ) -> files.Page:
        """Write a page on which each of the n most suspicious items is tagged by a key: keep, fix, drop.

        The page loads nothing and needs no server; "Save tags" gives a CSV or JSON file with a row per tagged item
        (item, name, given, suggested, score, tag, label), which `tags` reads.

        Args:
            path: the file.
            n: items at most.
            neighbours: shown of each.
            title: heading.
            tags: what was said before, as for `tags`: the page begins with it.

        Returns:
            The page's path; notebooks show it as a link.
        """
        with concise():
            return files.Page(files.write(path, page(self, n, neighbours, title, tags).html()))

    def tags(self, source: Any) -> pd.DataFrame:
        """What a person said of the items: a row per tag with item, name, given, suggested, score, tag, label.

        `label` is the right one: what was typed for "fix", the given one for "keep", none for "drop". You alone change
        labels.

        Args:
            source: a file that the page saved (CSV or JSON), or what `Session.said` of the viewer gives.

        Raises:
            MissingFileError: there is no such file.
            InputError: it holds something else, or tags of other data.
        """
        import pandas as pd

        with concise():
            known = read_tags(source, self)
        place = {int(item): r for r, item in enumerate(self.items.tolist())}
        rows = [
            {
                "item": item,
                "name": self.names[place[item]] if self.names is not None else "",
                "given": self.label(self.given[place[item]]),
                "suggested": self.label(self.suggested[place[item]]),
                "score": float(self.score[place[item]]),
                "tag": tag,
                "label": label,
            }
            for item, (tag, label) in known.items()
        ]
        return pd.DataFrame(rows, columns=["item", "name", "given", "suggested", "score", "tag", "label"])

    def cleaner(self, n: int = 100) -> Any:
        """Fastai's `ImageClassifierCleaner` widget on the n most suspicious items, in our order.

        It shows, and returns from `.delete()` and `.change()`, what you choose; files are moved by you alone.

        Raises:
            InputError: not of pictures in files; `learn.suspects` gives those.
        """
        with concise():
            made = getattr(self.gallery, "cleaner", None)
            if made is None:
                raise InputError(
                    "cleaner() is fastai's widget for pictures in files, and needs suspects of learn.suspects(). "
                    "to_html('suspects.html') writes a page on which any data are tagged."
                )
            return made(self, n)

    def save(self, path: str | Path, n: int = 100, neighbours: int = 3) -> Path:
        """Write all of it to one file, with what is shown of the n most suspicious items. Returns the path.

        Example:
            from interp_plugins.influence import Suspects, suspects

            found = suspects(model, (torch.rand(60, 3, 24, 24), torch.arange(60) % 10), k=5)
            found.save("suspects.safetensors")
            Suspects.load("suspects.safetensors").top(2) == found.top(2)  # -> True
        """
        return saved.save(self, path, self.shown(n, neighbours) if self.gallery is not None else {})

    @classmethod
    def load(cls, path: str | Path) -> Suspects:
        """Read what `save` wrote.

        Raises:
            MissingFileError: there is no file.
            InputError: a file of another kind, or a damaged one.
        """
        with concise():
            return cls(**saved.load(path))

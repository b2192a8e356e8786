"""`Scores`: a table of methods by metrics, with what it cost; shown in notebooks, drawn, written, read again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from interp_plugins.core import seal
from interp_plugins.core.errors import InputError, MissingFileError, decoding
from interp_plugins.core.files import Page, check_path, replacing, write
from interp_plugins.metrics import tables
from interp_plugins.metrics.asked_rows import AskedRows
from interp_plugins.metrics.registry import metric_info
from interp_plugins.metrics.score import Score

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


class Scores(Mapping[tuple[str, str], Score]):
    """Scores of methods by metrics; the keys are (method, metric).

    Args:
        found: the scores.
        rows: what was asked of the model for them, as far as that is known.

    Example:
        Scores({("saliency", "entropy"): metric("entropy").of(exp)}).methods  # -> ['saliency']
    """

    def __init__(self, found: Mapping[tuple[str, str], Score], rows: AskedRows | None = None):
        self._found = dict(found)
        self.rows = rows if rows is not None else AskedRows()

    def __getitem__(self, key: tuple[str, str]) -> Score:
        return self._found[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in their order."""
        return list(dict.fromkeys(method for method, _ in self._found))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in their order."""
        return list(dict.fromkeys(name for _, name in self._found))

    def ranks(self) -> dict[tuple[str, str], float]:
        """Rank of each method under each metric that has a direction, 1 the best, ties averaged.

        A method whose score is undefined has no rank.
        """
        found: dict[tuple[str, str], float] = {}
        for name in self.metrics:
            column = {m: s for (m, k), s in self._found.items() if k == name and s.higher_is_better is not None}
            means = {m: s.mean if s.higher_is_better else -s.mean for m, s in column.items() if s.mean == s.mean}
            for method, value in means.items():
                above = sum(v > value for v in means.values())
                equal = sum(v == value for v in means.values())
                found[method, name] = above + (equal + 1) / 2
        return found

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row per method and metric: mean and interval, chance, direction, rank, how many samples, and the cost."""
        ranks = self.ranks()
        return [
            {"method": method, **score.row(), "rank": ranks.get((method, name))}
            for (method, name), score in self._found.items()
        ]

    def _readable(self) -> list[dict[str, Any]]:
        """`table` as people read it: a mean and its interval in one cell, what nobody has left out."""
        rows = []
        for row in self.table:
            found = {name: value for name, value in row.items() if name not in ("ci_low", "ci_high")}
            found["mean"] = tables.with_interval(row["mean"], row["ci_low"], row["ci_high"])
            rows.append(found)
        empty = [name for name in ("undefined", "backward") if not any(row[name] for row in rows)]
        empty += ["chance"] if all(row["chance"] is None for row in rows) else []
        return [{name: value for name, value in row.items() if name not in empty} for row in rows]

    def __repr__(self) -> str:
        if not self._found:
            return "Scores of nothing"
        return tables.as_text([{"method": m, "": repr(s)} for (m, _), s in self._found.items()]).partition("\n")[2]

    # -- tables, pages, files ------------------------------------------------------------------------------------

    def to_df(self) -> pd.DataFrame:
        """A table with a row per method and metric (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.table)

    def per_sample(self) -> pd.DataFrame:
        """A table with a row per method, metric and sample: value, and why there is none (needs pandas)."""
        import pandas as pd

        rows = [
            {"method": method, "metric": name, "sample": key, "value": value, "undefined": score.reasons.get(key, "")}
            for (method, name), score in self._found.items()
            for key, value in zip(score.ids, score.values.tolist())
        ]
        return pd.DataFrame(rows, columns=["method", "metric", "sample", "value", "undefined"])

    def to_csv(self, path: str | Path) -> Path:
        """Write the table as CSV, whole or not at all; returns the path."""
        return write(path, tables.as_csv(self.table))

    def plot(self) -> Any:
        """Draw means with their intervals, a panel per metric; returns (figure, axes). Needs matplotlib."""
        from interp_plugins.viz.intervals import draw_intervals

        return draw_intervals(self.panels())

    def panels(self, methods: Sequence[str] | None = None, best: str | None = None) -> list[Any]:
        """What `plot` draws: a `viz.intervals.Panel` per metric.

        Args:
            methods: in this order; None: all, in their own.
            best: a method that is drawn in a colour of its own.
        """
        from interp_plugins.viz.intervals import Bar, Panel

        found = []
        for name in self.metrics:
            column = {m: s for m in methods or self.methods if (s := self.get((m, name))) is not None}
            bars = [Bar(m, s.mean, *s.ci(), m.startswith("control."), m == best) for m, s in column.items()]
            first = next(iter(column.values()))
            found.append(Panel(name, bars, first.chance, first.higher_is_better))
        return found

    @overload
    def to_html(self, path: None = None, *, title: str = "Scores") -> str: ...
    @overload
    def to_html(self, path: str | Path, *, title: str = "Scores") -> Page: ...
    def to_html(self, path: str | Path | None = None, *, title: str = "Scores") -> str | Page:
        """The table as HTML without scripts; with a path a page of its own, with a picture, and the file is returned.

        Args:
            path: the file; None: the table alone, as text.
            title: heading of the page.

        Example:
            evaluate(model, x, "saliency", ["srg", "entropy"]).to_html("scores.html")
        """
        if path is None:
            return tables.as_html(self._readable())
        from interp_plugins.viz.intervals import interval_page

        lead = f"{len(self.methods)} methods, {len(self.metrics)} metrics, {self.rows.n or self._most()} samples."
        parts = [("Means and their 95 % intervals", self.panels()), ("All numbers", tables.as_html(self._readable()))]
        if self.rows.rows:
            parts.append(("What was asked of the model", self.rows.as_html()))
        return Page(write(path, interval_page(title, lead, parts, self.legend())))

    def legend(self) -> list[tuple[str, str]]:
        """What each metric says, and how to read the numbers."""
        found = [(name, _said(score.name)) for name, score in zip(self.metrics, self._first_of_each())]
        return [
            *found,
            ("Interval", "where the mean of other samples like these would lie: a bootstrap of 95 %."),
            ("Chance", "what a map without knowledge gets in the mean; a dashed line."),
            ("Control", "a map that ignores the model, drawn in grey: a method that is no better says nothing of it."),
        ]

    def _first_of_each(self) -> list[Score]:
        return [next(s for (_, k), s in self._found.items() if k == name) for name in self.metrics]

    def _most(self) -> int:
        return max((score.n for score in self._found.values()), default=0)

    def _repr_html_(self) -> str:
        return self.to_html()

    def save(self, path: str | Path) -> Path:
        """Write all values, with their ids and what is known of them, to one JSON file, whole or not at all.

        Raises:
            FileError: it cannot be written, with what to do.

        Example:
            path = Scores({("saliency", "entropy"): metric("entropy").of(exp)}).save("scores.json")
            Scores.load(path).metrics  # -> ['entropy']
        """
        scores = [{"method": m, "metric": k, **_plain(s)} for (m, k), s in self._found.items()]
        rows = {what: list(pair) for what, pair in self.rows.rows.items()}
        content = {"digest": seal.BLANK, "format": FORMAT, "n": self.rows.n, "rows": rows, "scores": scores}
        with replacing(path) as draft:
            draft.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
            seal.close(draft)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no file.
            InputError: a file of another kind, or one that is damaged.
        """
        check_path(path)
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"No saved scores at {path}. Write some with Scores.save(path).")
        with decoding(InputError, f"{path} is not a file written by Scores.save, or it is damaged"):
            content = json.loads(path.read_bytes().decode("utf-8"))
            if content["format"] != FORMAT or not seal.holds(path, content["digest"]):
                raise InputError("its digest does not fit: bytes have changed since it was written; take another copy")
            found = {(one.pop("method"), one.pop("metric")): _score(one) for one in content["scores"]}
            rows = {what: (int(f), int(b)) for what, (f, b) in content["rows"].items()}
            return cls(found, AskedRows(rows, int(content["n"])))


def _said(name: str) -> str:
    info = metric_info(name)
    better = {True: "; high is better", False: "; low is better", None: "; neither end is better"}
    return f"{info.says}{better[info.higher_is_better]} ({info.reference})"


def _plain(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "values": [None if v != v else v for v in score.values.tolist()],
        "ids": list(score.ids),
        "reasons": [[key, reason] for key, reason in score.reasons.items()],
        "kind": score.kind,
        "higher_is_better": score.higher_is_better,
        "chance": score.chance,
        "params": {k: v if _is_plain(v) else repr(v)[:200] for k, v in score.params.items()},
        "passes": score.passes,
        "seconds": score.seconds,
        "seed": score.seed,
        "versions": dict(score.versions),
        "backward": score.backward,
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, str, type(None))) or (isinstance(value, float) and value == value)


def _score(one: dict[str, Any]) -> Score:
    values = torch.tensor([float("nan") if v is None else float(v) for v in one.pop("values")], dtype=torch.float64)
    ids = tuple(one.pop("ids"))
    if len(values) != len(ids):
        raise InputError(f"it has {len(values)} values for {len(ids)} samples")
    return Score(values=values, ids=ids, reasons=dict(map(tuple, one.pop("reasons"))), **one)

"""`Comparison`: which method to use for one model, with every number that says so, and what was not tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from interp_plugins.core.files import Page, write
from interp_plugins.metrics import tables
from interp_plugins.metrics.scores import Scores
from interp_plugins.metrics.statistics import PairedDifference

if TYPE_CHECKING:
    import pandas as pd

WORLD = (
    "Faithful to the model is not right about the world: the best map of a model that looks at the wrong thing shows "
    "the wrong thing."
)


@dataclass(frozen=True)
class Check:
    """One check of a method, or of the model.

    Attributes:
        name: what was checked.
        passed: None where it could not be.
        says: the finding in a sentence, with its numbers.
    """

    name: str
    passed: bool | None
    says: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare_methods` found.

    Attributes:
        scores: all scores of all methods and controls.
        checks: method -> its checks.
        model: checks of the model itself.
        order: the methods that passed, the most faithful first.
        ties: the methods that the samples cannot tell from the best in `order`.
        best: the method to use: of the ties the one of fewest passes; None where no method passed.
        passes: method -> passes a sample, forward and backward together, where it is asked alone.
        gaps: method -> paired difference of its faithfulness to that of the first in `order`.
        left_out: methods that could not be run, and why.
        untested: what nobody asked, in sentences.
        ranked_by: the metric that ranks.
        placed_by: the metric of places, where masks were given.
    """

    scores: Scores
    checks: Mapping[str, Sequence[Check]]
    model: Sequence[Check]
    order: Sequence[str]
    ties: Sequence[str]
    best: str | None
    passes: Mapping[str, float]
    gaps: Mapping[str, PairedDifference] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    untested: Sequence[str] = ()
    ranked_by: str = "srg"
    placed_by: str | None = None

    @property
    def methods(self) -> list[str]:
        """The methods that were compared, those that passed first, in their order; no controls."""
        others = [m for m in self.checks if m not in self.order]
        return [*self.order, *sorted(others, key=lambda m: -self.scores[m, self.ranked_by].mean)]

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row per method and control: verdict, the numbers of each metric, passes a sample."""
        rows = []
        controls = [m for m in self.scores.methods if m not in self.checks]
        for method in (*self.methods, *controls):
            row: dict[str, Any] = {"method": method, "verdict": self.verdict(method)}
            for name in self.scores.metrics:
                score = self.scores.get((method, name))
                low, high = (None, None) if score is None else score.ci()
                row |= {name: None if score is None else score.mean, f"{name} low": low, f"{name} high": high}
            rows.append({**row, "passes a sample": self.passes.get(method)})
        return rows

    def _readable(self) -> list[dict[str, Any]]:
        """`table` as people read it: a mean and its interval in one cell."""
        rows = []
        for row in self.table:
            found = {"method": row["method"], "verdict": row["verdict"]}
            for name in self.scores.metrics:
                span = [float("nan") if row[key] is None else row[key] for key in (name, f"{name} low", f"{name} high")]
                found[name] = tables.with_interval(*span)
            rows.append({**found, "passes a sample": row["passes a sample"]})
        return rows

    def verdict(self, method: str) -> str:
        """What became of a method, in a few words: "best", "as good", "less faithful", or the check that it failed."""
        if method not in self.checks:
            return "control"
        failed = [check.name for check in self.checks[method] if check.passed is False]
        if failed:
            return f"fails: {', '.join(failed)}"
        if method not in self.order:
            return "the model fails its check"
        if method == self.best:
            return "best"
        return "as good" if method in self.ties else "less faithful"

    def why(self) -> str:
        """The answer in sentences: what is best and by how much, what was ruled out and why, what was not tested."""
        parts = [self._answer(), *self._of_model(), *self._of_best(), *self._of_ties(), *self._of_others()]
        parts += [f"{name} was left out, as it cannot explain this model: {why}" for name, why in self.left_out.items()]
        return "\n".join([*parts, *(f"Not tested: {one}" for one in self.untested), WORLD])

    def _answer(self) -> str:
        n = max((s.n for s in self.scores.values()), default=0)
        if self.best is not None:
            return f"Use {self.best}, the first of {len(self.checks)} methods compared on {n} samples of this model."
        return f"None of {len(self.checks)} methods can be recommended for this model, after {n} samples."

    def _of_model(self) -> list[str]:
        return [check.says for check in self.model]

    def _of_best(self) -> list[str]:
        if self.best is None:
            return []
        return [check.says for check in self.checks[self.best]]

    def _of_ties(self) -> list[str]:
        found = []
        first = self.order[0] if self.order else None
        for method in self.order[1:]:
            gap = self.gaps[method]
            figures = f"{gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}], n = {gap.n}, p = {gap.p:.2g}"
            said = f"{first} less {method} in {self.ranked_by}: {figures}"
            tied, worse = "they cannot be told apart", f"{method} is less faithful"
            told = f"the interval holds 0, so {tied}" if method in self.ties else f"the interval is above 0, so {worse}"
            found.append(f"{said}; {told} ({self._price(method)} against {self._price(str(first))}).")
        if len(self.ties) > 1:
            by = f"{self.placed_by} and then " if self.placed_by else ""
            found.append(f"Among those that cannot be told apart {by}the number of passes decided.")
        return found

    def _price(self, method: str) -> str:
        return f"{self.passes[method]:.3g} passes a sample"

    def _of_others(self) -> list[str]:
        found = []
        for method in self.methods:
            failed = [check.says for check in self.checks[method] if check.passed is False]
            if failed:
                found.append(f"{method} was ruled out. {' '.join(failed)}")
        return found

    def __repr__(self) -> str:
        head = f"Comparison: best = {self.best!r} (why() says why)"
        short = [
            {
                "method": row["method"],
                "verdict": row["verdict"],
                **{name: row[name] for name in self.scores.metrics},
                "passes a sample": row["passes a sample"],
            }
            for row in self.table
        ]
        return f"{head}\n{tables.as_text(short)}"

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{tables.escaped(one)}</p>" for one in self.why().splitlines())
        return f"{tables.as_html(self._readable())}{sentences}"

    def to_df(self) -> pd.DataFrame:
        """`table` as a DataFrame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self.table)

    def show(self) -> Any:
        """Draw means with their intervals, a panel per metric, the best method in its own colour and controls in grey.

        Returns:
            (figure, axes); needs matplotlib.
        """
        from interp_plugins.viz.intervals import draw_intervals

        return draw_intervals(self._panels())

    def _panels(self) -> list[Any]:
        names = (*self.methods, *(m for m in self.scores.methods if m not in self.checks))
        return self.scores.panels(names, self.best)

    @overload
    def to_html(self, path: None = None, *, title: str = ...) -> str: ...
    @overload
    def to_html(self, path: str | Path, *, title: str = ...) -> Page: ...
    def to_html(self, path: str | Path | None = None, *, title: str = "Which method for this model") -> str | Page:
        """One page without a network: the answer, the picture, the table, and how to read them.

        Args:
            path: the file; None: the page as text.
            title: heading of the page.

        Raises:
            FileError: it cannot be written, with what to do.
        """
        from interp_plugins.viz.intervals import interval_page

        answer, *reasons = self.why().splitlines()
        parts = [
            ("Why", reasons),
            ("Means and their 95 % intervals", self._panels()),
            ("All numbers", tables.as_html(self._readable())),
            ("What was asked of the model", self.scores.rows.as_html()),
        ]
        page = interval_page(title, answer, parts, self.scores.legend())
        return page if path is None else Page(write(path, page))

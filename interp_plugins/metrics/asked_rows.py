"""`AskedRows`: what an evaluation asks of the model, in rows sent forward and backward, before it runs and after."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PREDICTION = "prediction"


@dataclass(frozen=True, repr=False)
class AskedRows:
    """Rows sent through the model, for all samples and all methods together.

    A row that several ask is counted where it was asked first. The comparison by which a model's rows are found to be
    independent (`interp_plugins.row_probe`) is not counted.

    Attributes:
        rows: what asks ("prediction", "map: " and a method, or a metric) -> rows (forward, backward).
        n: number of samples.
    """

    rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    n: int = 0

    @property
    def forward(self) -> int:
        """All rows sent forward."""
        return sum(f for f, _ in self.rows.values())

    @property
    def backward(self) -> int:
        """All rows sent backward."""
        return sum(b for _, b in self.rows.values())

    def __add__(self, other: AskedRows) -> AskedRows:
        both = {**self.rows, **other.rows}
        found = {}
        for what in both:
            (f, b), (g, c) = self.rows.get(what, (0, 0)), other.rows.get(what, (0, 0))
            found[what] = (f + g, b + c)
        return AskedRows(found, self.n + other.n)

    def __sub__(self, other: AskedRows) -> AskedRows:
        return self + other.times(-1)

    def times(self, count: int) -> AskedRows:
        """The cost of so many samples, each like the one that this is the cost of."""
        return AskedRows({what: (f * count, b * count) for what, (f, b) in self.rows.items()}, self.n * count)

    def _lines(self) -> list[tuple[str, int, int]]:
        return [(what, f, b) for what, (f, b) in self.rows.items()] + [("all", self.forward, self.backward)]

    def __repr__(self) -> str:
        width = max(len(what) for what, _, _ in self._lines())
        lines = [f"{what:<{width}} {f:>10,} forward {b:>10,} backward" for what, f, b in self._lines()]
        return "\n".join([f"Rows for {self.n} samples", *lines])

    def _repr_html_(self) -> str:
        return self.as_html()

    def as_html(self) -> str:
        """The table as HTML, without scripts."""
        cells = "".join(
            f"<tr><td>{html.escape(what)}</td><td>{f:,}</td><td>{b:,}</td></tr>" for what, f, b in self._lines()
        )
        return (
            f"<table><caption>Rows for {self.n} samples</caption><tr><th>asked by</th><th>forward</th>"
            f"<th>backward</th></tr>{cells}</table>"
        )

    def to_df(self) -> pd.DataFrame:
        """A table with a row per asker: `asked_by`, `forward`, `backward` (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(self._lines(), columns=["asked_by", "forward", "backward"])


def map_of(label: str) -> str:
    """The name under which a method's own rows stand."""
    return f"map: {label}"

"""`Score`: what a metric found on some samples, with its uncertainty.

Every number over samples is independent of their order and grouping: sums are exact (`math.fsum`), draws are of the
sorted values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError
from interp_plugins.metrics.tables import as_html, short

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 2**22  # numbers drawn at once for an interval


@dataclass(frozen=True, repr=False, eq=False)
class Score:
    """Values of one metric for N samples, and what they say together.

    Attributes:
        name: of the metric, or "a - b" for a difference.
        values: (N,) float64; NaN where the metric is undefined.
        ids: one per sample.
        reasons: id -> why it is undefined.
        kind: what is judged.
        higher_is_better: direction; None where neither end is better.
        chance: what a map without knowledge gets in the mean, or None where that is not known.
        params: the metric's parameters.
        passes: forward passes of all samples.
        seconds: wall-clock seconds of all updates.
        seed: of random draws.
        versions: of the packages that computed it.
        backward: backward passes of all samples.
    """

    name: str
    values: Tensor
    ids: tuple[Any, ...]
    reasons: Mapping[Any, str] = field(default_factory=dict)
    kind: str = ""
    higher_is_better: bool | None = None
    chance: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0
    seconds: float = 0.0
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    backward: int = 0

    @property
    def _defined(self) -> list[float]:
        return sorted(v for v in self.values.tolist() if not math.isnan(v))

    @property
    def n(self) -> int:
        """Number of samples, the undefined ones among them."""
        return len(self.ids)

    @property
    def n_undefined(self) -> int:
        """Number of samples for which the metric has no value."""
        return int(self.values.isnan().sum())

    @property
    def undefined(self) -> dict[str, int]:
        """Why samples have no value, and how many, the most frequent reason first."""
        return dict(Counter(self.reasons.values()).most_common())

    @property
    def mean(self) -> float:
        """Mean over the samples that have a value; NaN where none has."""
        found = self._defined
        return math.fsum(found) / len(found) if found else math.nan

    @property
    def median(self) -> float:
        """Median over the samples that have a value; NaN where none has."""
        found = self._defined
        if not found:
            return math.nan
        middle = len(found) // 2
        return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2

    @property
    def sd(self) -> float:
        """Standard deviation over the samples that have a value (N - 1); NaN for fewer than two."""
        found, mean = self._defined, self.mean
        if len(found) < 2:
            return math.nan
        return math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (len(found) - 1))

    def ci(self, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
        """Bootstrap interval of the mean: the middle `level` of the means of samples drawn anew.

        Args:
            level: of confidence, in (0, 1).
            draws: how many samples are drawn, by `seed`.

        Returns:
            Lower and upper end; NaN for fewer than two values.

        Raises:
            InputError: another level, or no draws.
        """
        if not 0 < level < 1 or draws < 1:
            raise InputError(f"level must be in (0, 1) and draws positive, got {level!r} and {draws!r}.")
        found = torch.tensor(self._defined, dtype=torch.float64)
        n = len(found)
        if n < 2:
            return math.nan, math.nan
        generator = torch.Generator().manual_seed(self.seed)
        means = []
        for start in range(0, draws, step := max(1, _BATCH // n)):
            picked = torch.randint(n, (min(step, draws - start), n), generator=generator)
            means.append(found[picked].mean(1))
        ends = torch.cat(means).quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
        return ends[0].item(), ends[1].item()

    def by(self, labels: Sequence[Any]) -> dict[Any, Score]:
        """A score per label, classes say.

        Args:
            labels: one per sample, in the order of `ids`.

        Raises:
            InputError: not one per sample.
        """
        if len(labels) != self.n:
            raise InputError(f"{len(labels)} labels for {self.n} samples: give one per sample.")
        rows: dict[Any, list[int]] = {}
        for i, label in enumerate(labels.tolist() if isinstance(labels, Tensor) else labels):
            rows.setdefault(label, []).append(i)
        return {label: self._of(picked) for label, picked in rows.items()}

    def _of(self, picked: list[int]) -> Score:
        ids = tuple(self.ids[i] for i in picked)
        return Score(
            self.name,
            self.values[picked],
            ids,
            {k: self.reasons[k] for k in ids if k in self.reasons},
            self.kind,
            self.higher_is_better,
            self.chance,
            self.params,
            round(self.passes * len(picked) / self.n),
            self.seconds * len(picked) / self.n,
            self.seed,
            self.versions,
            round(self.backward * len(picked) / self.n),
        )

    def __float__(self) -> float:
        return self.mean

    def __len__(self) -> int:
        return self.n

    def __sub__(self, other: Score) -> Score:
        """The paired difference over the samples that both have, with an interval of its own; its chance is 0."""
        at = {key: i for i, key in enumerate(other.ids)}
        common = [(i, at[key]) for i, key in enumerate(self.ids) if key in at]
        if not common:
            raise InputError(f"{self.name} and {other.name} have no sample in common: a difference is paired.")
        mine, theirs = ([pair[k] for pair in common] for k in (0, 1))
        ids = tuple(self.ids[i] for i in mine)
        why = {**other.reasons, **self.reasons}
        return Score(
            f"{self.name} - {other.name}",
            self.values[mine] - other.values[theirs],
            ids,
            {k: why[k] for k in ids if k in why},
            self.kind,
            self.higher_is_better,
            0.0,
            self.params,
            self.passes + other.passes,
            self.seconds + other.seconds,
            self.seed,
            self.versions,
            self.backward + other.backward,
        )

    def __repr__(self) -> str:
        low, high = self.ci()
        bits = [f"{self.name} {short(self.mean)}"]
        bits += [] if math.isnan(low) else [f"[{short(low)}, {short(high)}]"]
        bits.append(f"n={self.n}")
        if self.n_undefined:
            bits.append(f"undefined={self.n_undefined} ({', '.join(f'{t}: {k}' for t, k in self.undefined.items())})")
        bits += [] if self.chance is None else [f"(chance {short(self.chance)})"]
        bits += [f"{self.passes / max(self.n, 1):g} F a sample"] if self.passes else []
        return " ".join(bits)

    def _repr_html_(self) -> str:
        return as_html([self.row()])

    def row(self) -> dict[str, Any]:
        """What the score says, as a row of a table."""
        low, high = self.ci()
        return {
            "metric": self.name,
            "mean": self.mean,
            "ci_low": low,
            "ci_high": high,
            "median": self.median,
            "n": self.n,
            "undefined": self.n_undefined,
            "chance": self.chance,
            "better": {True: "high", False: "low", None: ""}[self.higher_is_better],
            "passes": self.passes,
            "backward": self.backward,
            "seconds": self.seconds,
        }

    def to_df(self) -> pd.DataFrame:
        """A table with a row per sample: id, value, reason (needs pandas)."""
        import pandas as pd

        reasons = [self.reasons.get(key, "") for key in self.ids]
        return pd.DataFrame({"sample": list(self.ids), self.name: self.values.tolist(), "undefined": reasons})

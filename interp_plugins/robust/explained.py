"""`ExplanationRobustness`: how much maps changed while the prediction stayed, method by method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core import files
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import Inputs
from interp_plugins.robust.explained_picture import page, picture

if TYPE_CHECKING:
    import pandas as pd

HOLDS = 0.5  # the least likeness of a map that holds
_MOST = 0.9  # of the samples


@dataclass(frozen=True, eq=False, repr=False)
class ExplanationRobustness:
    """Likenesses of maps to the clean ones under changes that keep the prediction: 1 is the same map.

    M methods, N samples. A number is NaN where no change that was tried kept the prediction.

    Attributes:
        methods: labels of the M methods.
        random_mean: mean over random changes, (M, N) float64.
        random_worst: the worst of them, (M, N).
        attacked: the worst that was found, (M, N); an upper bound of the worst there is.
        kept: share of the random changes that kept the prediction, (N,).
        by: what found the worst, per method and sample: "random", "gradient", "search", the label of the method whose
            own worst it is, or "none".
        how: how each method was attacked, "gradient" or "search".
        inputs: the samples, in the model's units.
        changed: per method the samples as they are at its worst; as they were where nothing was kept.
        before: per method the clean maps.
        after: per method the maps at its worst.
        params: what was asked.
        spec: facts about the inputs.
    """

    methods: tuple[str, ...]
    random_mean: Tensor
    random_worst: Tensor
    attacked: Tensor
    kept: Tensor
    by: tuple[tuple[str, ...], ...]
    how: tuple[str, ...]
    inputs: Inputs
    changed: tuple[Inputs, ...]
    before: tuple[Explanation, ...]
    after: tuple[Explanation, ...]
    params: dict[str, Any]
    spec: InputSpec

    def __len__(self) -> int:
        return self.attacked.shape[1]

    def __repr__(self) -> str:
        p = self.params
        lines = [
            f"ExplanationRobustness({len(self)} samples, eps={p['eps']:.4g} {p['norm']}, prediction kept within "
            f"{p['keep']:.0%}; {p['similarity']}: random mean, random worst, attacked)"
        ]
        for name, row in zip(self.methods, self.summary().to_dict("records"), strict=True):
            numbers = ", ".join(f"{row[c]:.2f}" for c in ("random_mean", "random_worst", "attacked"))
            lines.append(f"  {name}: {numbers} ({row['how']}{', holds' if row['holds'] else ''})")
        return "\n".join(lines)

    @property
    def holding(self) -> tuple[str, ...]:
        """Methods whose attacked likeness is at least a half in nine of ten samples; no proof that they hold."""
        return tuple(m for m, share in zip(self.methods, self._held(), strict=True) if share >= _MOST)

    def _held(self) -> list[float]:
        known = ~self.attacked.isnan()
        return [
            float((row[k] >= HOLDS).double().mean()) if bool(k.any()) else math.nan
            for row, k in zip(self.attacked, known, strict=True)
        ]

    def summary(self) -> pd.DataFrame:
        """A row per method: means over the samples, the share of samples whose map holds, and how it was attacked."""
        import pandas as pd

        columns: dict[str, Any] = {"method": self.methods}
        for name in ("random_mean", "random_worst", "attacked"):
            columns[name] = torch.nanmean(getattr(self, name), 1).tolist()
        held = self._held()
        return pd.DataFrame(columns | {"held": held, "holds": [h >= _MOST for h in held], "how": self.how})

    def to_df(self) -> pd.DataFrame:
        """A row per method and sample: the three likenesses, what found the worst, and the share that was kept."""
        import pandas as pd

        rows = []
        for m, name in enumerate(self.methods):
            target, names = self.before[m].target_label, self.before[m].names
            for i in range(len(self)):
                rows.append(
                    {
                        "method": name, "sample": names[i] if names is not None else i,
                        "target": target[i] if target is not None else None,
                        "random_mean": float(self.random_mean[m, i]), "random_worst": float(self.random_worst[m, i]),
                        "attacked": float(self.attacked[m, i]), "by": self.by[m][i], "kept": float(self.kept[i]),
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, max_n: int = 3) -> Any:
        """A row per sample and method: the input, its map, the changed input and its map.

        Args:
            max_n: samples at most.

        Returns:
            A `Plot`: the figure and its axes (rows, 4).
        """
        with concise():
            return picture(self, self._shown(max_n))

    def show(self, max_n: int = 3) -> Any:
        """`plot`; notebooks show it."""
        return self.plot(max_n)

    def to_html(self, path: str | Path, max_n: int = 12, title: str = "Robustness of explanations") -> files.Page:
        """Write a page: what was asked, a table of the methods, and the maps of samples before and after.

        The page loads nothing and needs no server.

        Returns:
            The page's path; notebooks show it as a link.
        """
        with concise():
            return files.Page(files.write(path, page(self, self._shown(max_n), title)))

    def _shown(self, max_n: int) -> int:
        if isinstance(max_n, bool) or not isinstance(max_n, int) or max_n < 1:
            raise InputError(f"max_n is a number of samples of at least 1, got {max_n!r}.")
        return min(len(self), max_n)

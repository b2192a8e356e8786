"""`ExplainedRows`: how much maps changed while the prediction stayed, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import Inputs

if TYPE_CHECKING:
    import pandas as pd

HOLDS = 0.5  # the least likeness of a map that holds
_MOST = 0.9  # of the samples


@dataclass(frozen=True, eq=False, repr=False)
class ExplainedRows:
    """The numbers and maps of an `ExplanationRobustness`, which says what they are."""

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
    wanted_before: Tensor | None = None
    wanted_after: Tensor | None = None

    def __len__(self) -> int:
        return self.attacked.shape[1]

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
        for name in ("wanted_before", "wanted_after"):
            if (value := getattr(self, name)) is not None:
                columns[name] = torch.nanmean(value, 1).tolist()
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
                for column in ("wanted_before", "wanted_after"):
                    if (value := getattr(self, column)) is not None:
                        rows[-1][column] = float(value[m, i])
        return pd.DataFrame(rows)

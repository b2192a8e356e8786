"""`ItemConcepts`: one item's score as a complete sum of concepts, and where each of them is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class ItemConcepts:
    """An item taken apart: `base + shares.sum() + residual + error` is `score`.

    Attributes:
        item: its id.
        target: what is explained, in words.
        prediction: what the model says, in words, or None.
        score: of the target.
        base: the score where all activations of the layer are 0.
        shares: what each concept adds (K,).
        residual: what activations add that are in no concept.
        error: what the path's steps leave out; of a head that is linear in the layer rounding alone.
        maps: how much of each concept is at every place (K, H, W); (K, 1, P) where places are no picture.
        names: of the concepts.
        pixels: the picture as bytes (h, w, 3), or None.
    """

    item: Any
    target: str
    prediction: str | None
    score: float
    base: float
    shares: Tensor
    residual: float
    error: float
    maps: Tensor
    names: tuple[str, ...]
    pixels: np.ndarray | None

    def __repr__(self) -> str:
        order = self.shares.abs().argsort(descending=True).tolist()[:3]
        best = ", ".join(f"{self.names[k]} {float(self.shares[k]):+.3g}" for k in order)
        return (
            f"ItemConcepts({self.target!r} {self.score:.3g} = {self.base:.3g} without the layer + concepts "
            f"{float(self.shares.sum()):+.3g} ({best}, ...) + rest {self.residual:+.3g})"
        )

    def to_df(self) -> pd.DataFrame:
        """A row per part of the sum: base, concepts, rest, error."""
        import pandas as pd

        rows = [("without the layer", self.base), *zip(self.names, self.shares.tolist(), strict=True)]
        return pd.DataFrame([*rows, ("rest", self.residual), ("error", self.error)], columns=["part", "adds"])

    def show(self) -> Any:
        """Draw the item with its most important concepts in colour, and the complete sum as bars.

        Returns:
            A `Plot`: the figure and its axes.
        """
        from interp_plugins.concept.pictures import item_figure

        return item_figure(self)

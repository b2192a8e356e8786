"""`Certificate`: sizes of changes within which something holds for sure, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core.errors import concise
from interp_plugins.robust.saved import load, save

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """What is certain of each sample.

    Attributes:
        method: "smoothing": the class that the smoothed model says stays; "region": the gradient map stays.
        radius: (N,) largest change, in raw units; 0 where nothing is certain.
        norm: of the change.
        prediction: the class that is certified, or None where the smoothed model abstains; of "region" what is said.
        p_low: lower bound of the probability of that class under noise, (N,); None of "region".
        capped: whether the radius is the largest that so many draws can show, bool (N,); None of "region".
        confidence: the probability with which each statement holds; 1 of "region".
        params: what was asked.
    """

    method: str
    radius: Tensor
    norm: str
    prediction: tuple[Any, ...]
    p_low: Tensor | None
    capped: Tensor | None
    confidence: float
    params: dict[str, Any]

    def __len__(self) -> int:
        return len(self.radius)

    def __repr__(self) -> str:
        what = "the smoothed model's class" if self.method == "smoothing" else "the gradient map"
        text = f"Certificate({what} stays within {self.norm} radius "
        text += ", ".join(f"{r:.3g}" for r in self.radius[:6].tolist()) + (", ..." if len(self) > 6 else "")
        if self.method == "smoothing":
            silent = sum(p is None for p in self.prediction)
            text += f"; each with probability {self.confidence:.4g}"
            text += f", {silent} abstained" if silent else ""
            if self.capped is not None and bool(self.capped.any()):
                text += f", {int(self.capped.sum())} at the most that {self.params['n']} draws can show"
        return text + ")"

    def to_df(self) -> pd.DataFrame:
        """A row per sample: what is certified, its radius, and how sure."""
        import pandas as pd

        columns: dict[str, Any] = {"prediction": self.prediction, "radius": self.radius.tolist()}
        if self.p_low is not None and self.capped is not None:
            columns |= {"p_low": self.p_low.tolist(), "capped": self.capped.tolist()}
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> Path:
        """Write all of it to one file, whole or not at all. Returns the path.

        Raises:
            FileError: it cannot be written.

        Example:
            from interp_plugins.robust import Certificate, certify

            found = certify(nn.Linear(4, 2), torch.randn(2, 4), n=50)
            found.save("certificate.safetensors")
            repr(Certificate.load("certificate.safetensors")) == repr(found)  # -> True
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read what `save` wrote, whole.

        Raises:
            FileNotFoundError: there is no file.
            InputError: a file of another kind, or a damaged one.
        """
        with concise():
            return load(path, cls)


def joined_certificates(many: Sequence[Certificate]) -> Certificate:
    """The samples of several results of one question in one, in their order.

    Args:
        many: at least one.
    """
    first = many[0]
    if len(many) == 1:
        return first
    bounds = [c.p_low for c in many if c.p_low is not None]
    capped = [c.capped for c in many if c.capped is not None]
    return replace(
        first,
        radius=torch.cat([c.radius for c in many]),
        prediction=tuple(p for c in many for p in c.prediction),
        p_low=torch.cat(bounds) if bounds else None,
        capped=torch.cat(capped) if capped else None,
    )

"""`Robustness`: what a model still says right under conditions of growing severity, attacks or corruptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp_plugins.core import files
from interp_plugins.core.errors import concise
from interp_plugins.robust.binomial import interval
from interp_plugins.robust.measured_page import curve, page
from interp_plugins.robust.measured_rows import MeasuredRows
from interp_plugins.robust.perturbed import Perturbed
from interp_plugins.robust.saved import load, save

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Robustness(MeasuredRows):
    """K conditions, the first of them the data as they are; N samples.

    Attributes:
        names: what each condition is: "clean", the attack, or the corruption.
        levels: how strong it is: the size of an attack in raw units, a corruption's severity; 0 for "clean".
        right: whether the model says the label, bool (K, N); without labels, what it says of the data as they are.
        labelled: whether there were labels.
        keys: the samples' ids.
        minimum: size of the smallest change that was found to turn each sample, (N,); 0 where it was wrong before,
            infinite where none was found.
        agreement: method -> how alike its maps are to the clean ones, (K, N); NaN where that was not asked.
        examples: some samples that were turned, by the smallest changes; None for corruptions.
        pictures: what was drawn of the conditions: label -> inputs as the model had them.
        maps: method -> maps of the examples before and after.
        notes: what to know of these numbers.
        params: what was asked.
        spec: facts about the inputs.
    """

    def __repr__(self) -> str:
        bound = "<= " if self.params["attack"] is not None else ""
        accuracy = [f"{a:.0%}" for a in self.accuracy.tolist()]
        later = [f"{self.names[k]} {self.sized(k)}{bound}{accuracy[k]}" for k in range(1, len(self.names))]
        shown = ", ".join([f"clean {accuracy[0]}", *later])
        what = "right" if self.labelled else "as clean"
        return f"Robustness({len(self)} samples, {what}: {shown})" + "".join(f"\n  {note}" for note in self.notes)

    @property
    def attack_success(self) -> torch.Tensor:
        """Of the samples that were right at first, the share that each condition turns, (K,)."""
        first = self.right[0]
        if not bool(first.any()):
            return torch.full((len(self.names),), math.nan, dtype=torch.float64)
        return 1 - self.right[:, first].double().mean(1)

    @property
    def area(self) -> float:
        """Area under the curve of accuracy over the size, as a share of that of a model that is always right.

        Of corruptions: mean accuracy over all of them.
        """
        accuracy = self.accuracy
        if self.params["attack"] is None:
            return float(accuracy[1:].mean())
        sizes = torch.tensor(self.levels, dtype=torch.float64)
        return float(torch.trapezoid(accuracy, sizes) / sizes[-1]) if float(sizes[-1]) else float(accuracy[0])

    def to_df(self) -> pd.DataFrame:
        """A row per condition: accuracy with its 95 % interval (of other samples like these), share that is turned.

        Accuracy under attack is an upper bound: a better attack may turn more. `error_ratio` is the error divided by
        that of the data as they are; each method has a column with the mean likeness of its maps.
        """
        import pandas as pd

        n, errors = len(self), 1 - self.accuracy
        rows = []
        for k, (name, level) in enumerate(zip(self.names, self.levels, strict=True)):
            low, high = interval(int(self.right[k].sum()), n)
            row: dict[str, Any] = {"condition": name, "level": level, "accuracy": float(self.accuracy[k])}
            row |= {"low": low, "high": high, "turned": float(self.attack_success[k])}
            row["error_ratio"] = float(errors[k] / errors[0]) if float(errors[0]) else math.nan
            rows.append(row | {m: float(torch.nanmean(v[k])) for m, v in self.agreement.items()})
        return pd.DataFrame(rows)

    def samples(self) -> pd.DataFrame:
        """A row per sample: its id, whether it was right at first, the smallest change that was found."""
        import pandas as pd

        return pd.DataFrame({"sample": self.keys, "right": self.right[0].tolist(), "minimum": self.minimum.tolist()})

    def plot(self) -> Any:
        """The curve of accuracy, and of the likeness of maps where methods were asked. Returns a `Plot`."""
        with concise():
            return curve(self)

    def show(self) -> Any:
        """`plot`; notebooks show it."""
        return self.plot()

    def to_html(self, path: str | Path, title: str = "Robustness") -> files.Page:
        """Write a page: the curve, the table, samples that were turned or corrupted, and their maps.

        The page loads nothing and needs no server.

        Returns:
            The page's path; notebooks show it as a link.
        """
        with concise():
            return files.Page(files.write(path, page(self, self.to_df(), title)))

    def save(self, path: str | Path) -> Path:
        """Write all of it to one file, whole or not at all. Returns the path.

        Raises:
            FileError: it cannot be written.

        Example:
            from interp_plugins.robust import Robustness, robustness

            found = robustness(model, x, eps=(0.2,), steps=3, check=False)
            found.save("robustness.safetensors")
            repr(Robustness.load("robustness.safetensors")) == repr(found)  # -> True
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Robustness:
        """Read what `save` wrote, whole.

        Raises:
            FileNotFoundError: there is no file.
            InputError: a file of another kind, or a damaged one.
        """
        with concise():
            return load(path, cls, {"Perturbed": Perturbed})

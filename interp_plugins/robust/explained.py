"""`ExplanationRobustness`: how much maps changed while the prediction stayed, method by method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_plugins.core import files
from interp_plugins.core.errors import InputError, concise
from interp_plugins.robust.explained_picture import page, picture
from interp_plugins.robust.explained_rows import ExplainedRows
from interp_plugins.robust.saved import load, save


@dataclass(frozen=True, eq=False, repr=False)
class ExplanationRobustness(ExplainedRows):
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
        wanted_before: with `towards`, likeness of the clean maps to that map, (M, N); else None.
        wanted_after: with `towards`, likeness of the maps at the end to that map, (M, N), where `attacked` is theirs to
            the clean ones; else None.
    """

    def __repr__(self) -> str:
        p = self.params
        lines = [
            f"ExplanationRobustness({len(self)} samples, eps={p['eps']:.4g} {p['norm']}, prediction kept within "
            f"{p['keep']:.0%}; {p['similarity']}: random mean, random worst, attacked)"
        ]
        for name, row in zip(self.methods, self.summary().to_dict("records"), strict=True):
            numbers = ", ".join(f"{row[c]:.2f}" for c in ("random_mean", "random_worst", "attacked"))
            drawn = (
                "" if self.wanted_after is None else f"; wanted {row['wanted_before']:.2f} -> {row['wanted_after']:.2f}"
            )
            lines.append(f"  {name}: {numbers} ({row['how']}{', holds' if row['holds'] else ''}){drawn}")
        return "\n".join(lines)

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

    def save(self, path: str | Path) -> Path:
        """Write all of it to one file, whole or not at all. Returns the path.

        Raises:
            FileError: it cannot be written.

        Example:
            from interp_plugins.robust import ExplanationRobustness, explanation_robustness

            found = explanation_robustness(model, x, "saliency", eps=0.2, n_random=2, steps=2)
            found.save("maps.safetensors")
            repr(ExplanationRobustness.load("maps.safetensors")) == repr(found)  # -> True
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> ExplanationRobustness:
        """Read what `save` wrote, whole.

        Raises:
            FileNotFoundError: there is no file.
            InputError: a file of another kind, or a damaged one.
        """
        with concise():
            return load(path, cls)

    def _shown(self, max_n: int) -> int:
        if isinstance(max_n, bool) or not isinstance(max_n, int) or max_n < 1:
            raise InputError(f"max_n is a number of samples of at least 1, got {max_n!r}.")
        return min(len(self), max_n)

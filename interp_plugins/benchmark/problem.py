"""`Problem`: a model, samples, and what is known to be true of them; what a task builds and an entrant explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InterpError, unknown
from interp_plugins.core.spec import InputSpec

SIZES = ("tiny", "small", "full")
KINDS = ("tabular", "image", "series", "text")  # of data
TRUTH_KINDS = {
    "values": "attributions are known: exact Shapley and Aumann-Shapley values",
    "support": "which elements can matter is known; the others are impossible",
    "mask": "where the thing lies that decides is known",
    "parts": "how much each part of the thing matters is known, by drawing it without the part",
    "none": "nothing is known",
}


class TaskError(InterpError, RuntimeError):
    """A task cannot be built: its net misses the accuracy it asks for, or its truth does not hold."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a task builds: N samples of a model, and what is true of them.

    Attributes:
        model: called as `model(inputs)`; its output is (N, outputs).
        inputs: (N, ...) as the model takes them; ids (N, T) for texts.
        targets: (N,) int64, the output that is explained per sample.
        truth_kind: of `TRUTH_KINDS`.
        truth: "values": game -> (N, D) of "shapley" and "aumann_shapley"; "support": bool of the inputs' shape, True
            where an element can matter; "mask": bool (N, H, W) for pictures, (N, C, T) for series, (N, T) for texts;
            "parts": (N, P); "none": None.
        kind: "tabular", "image", "series" or "text".
        baselines: what stands for nothing there: a number, or a tensor (1, ...) or (N, ...).
        parts: (N, H, W) int64, 0 for the background and p for part p, where the truth is about parts.
        names: one per feature of a table, or None.
        facts: what was found when it was built: accuracy, shares of outputs that flipped.
        first: number of the first sample among those of the task: draws of a sample are by its number.
        pixels: (mean, std) that were subtracted and divided by, per channel, for pictures; None: as they are.
    """

    model: Callable[..., Tensor]
    inputs: Tensor
    targets: Tensor
    truth_kind: str = "none"
    truth: Any = None
    kind: str = "tabular"
    baselines: Any = 0.0
    parts: Tensor | None = None
    names: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        if self.truth_kind not in TRUTH_KINDS:
            raise unknown("kind of truth", self.truth_kind, TRUTH_KINDS)
        known = self.truth.values() if isinstance(self.truth, Mapping) else (self.truth,)
        for one in (self.targets, self.parts, *known):
            if one is not None and len(one) != len(self.inputs):
                raise InputError(f"A problem of {len(self.inputs)} samples has {len(one)} targets, masks or truths.")
        if (self.truth is None) != (self.truth_kind == "none"):
            raise InputError(f"A problem whose truth is {self.truth_kind!r} came with {type(self.truth).__name__}.")

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, picked: slice) -> Problem:
        """The problem of some of its samples."""
        found: dict[str, Any] = {"first": self.first + picked.indices(len(self))[0]}
        for name in ("inputs", "targets", "truth", "parts", "baselines"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                found[name] = {key: one[picked] for key, one in value.items()}
            elif isinstance(value, Tensor) and len(value) == len(self):
                found[name] = value[picked]
        return replace(self, **found)

    @property
    def spec(self) -> InputSpec:
        """The same facts for `explain` and pictures."""
        mean, std = self.pixels or (None, None)
        return InputSpec(self.kind, mean=mean, std=std, feature_names=self.names)

    @property
    def games_agree(self) -> bool:
        """Whether Shapley and Aumann-Shapley values are one truth here, so that all methods are judged by it."""
        if self.truth_kind != "values":
            return True
        a, b = self.truth["shapley"].double(), self.truth["aumann_shapley"].double()
        return bool((a - b).norm() <= 1e-3 * a.norm())

    def truth_for(self, game: str | None) -> Tensor | None:
        """What a map of a method that claims a game is compared with; None where it claims none and games differ."""
        if self.truth_kind != "values":
            return self.truth
        if self.games_agree:
            return self.truth["shapley"]
        return self.truth.get(game)

    def scores(self, inputs: Tensor) -> Tensor:
        """(N,) what the model gives for the targets at other inputs, without a gradient."""
        with torch.no_grad():
            return self.model(inputs).gather(1, self.targets[:, None])[:, 0]

    @property
    def truth_map(self) -> Tensor:
        """What is true, as a map of the inputs' shape: of values the Shapley values, of parts each part's over it.

        Raises:
            InputError: nothing is known to be true.
        """
        x = self.inputs
        if self.truth_kind == "none":
            raise InputError("Nothing is known to be true of this task, so there is no control.truth.")
        if self.truth_kind == "values":
            values: Tensor = self.truth["shapley"].float()
            return values
        found = self.truth.float()
        if self.truth_kind == "parts":
            assert self.parts is not None
            sizes = torch.stack([(self.parts == p + 1).flatten(1).sum(1) for p in range(self.truth.shape[1])], 1)
            each = torch.cat([torch.zeros(len(x), 1), found / sizes.clamp_min(1)], 1)
            found = each.gather(1, self.parts.flatten(1)).reshape(self.parts.shape)
        return found if found.ndim == x.ndim else found[:, None].expand(x.shape) / x.shape[1]

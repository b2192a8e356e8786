"""`Perturbed`: what an attack found, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.api.explain import explain
from interp_plugins.core import files
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import Inputs, as_tuple
from interp_plugins.robust.contrast_map import ContrastMaps, contrast_maps
from interp_plugins.robust.norms import NORMS, sizes
from interp_plugins.robust.picture import lead, page, picture
from interp_plugins.robust.saved import load, save

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Inputs before and after an attack.

    Attributes:
        inputs: as they came, in the model's units.
        perturbed: as they are afterwards, in the model's units; samples that were not turned as far as they came.
        delta: the change, in raw units.
        state: per sample "turned", "held" (not turned), "masked" (not turned, and its gradient is zero, which says
            nothing), "none found" (no counterfactual was), or "already" (nothing was needed).
        target_label: the class to be left per sample.
        goal_label: the class to be reached per sample, or None.
        prediction: what the model said.
        prediction_after: what it says afterwards.
        margin: how far the model was from what is wanted, (N,), in nats: by how much the class to be left stood above
            all others together, or they above the goal (another class may be the largest before that is negative). Of a
            model that says two classes with one number, the score of the class to be left, or minus the goal's.
        margin_after: the same afterwards.
        steps: after how many steps, (N,).
        success_after_rounding: whether the picture, rounded to 8 bits, does it as well, (N,); None for other data.
        params: the attack and its parameters.
        spec: facts about the inputs.
        changes: per sample the columns of a table that changed: name, value before, value after, as people read them;
            None for other data.
        regions: per sample the numbers of the regions that were taken away (`smallest_flip`), else None.
    """

    inputs: Inputs
    perturbed: Inputs
    delta: Inputs
    state: tuple[str, ...]
    target_label: tuple[Any, ...]
    goal_label: tuple[Any, ...] | None
    prediction: tuple[Any, ...]
    prediction_after: tuple[Any, ...]
    margin: Tensor
    margin_after: Tensor
    steps: Tensor
    success_after_rounding: Tensor | None
    params: dict[str, Any]
    spec: InputSpec
    changes: tuple[tuple[tuple[str, Any, Any], ...], ...] | None = None
    regions: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.state)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.state.count(s)} {s}" for s in dict.fromkeys(self.state))
        p = self.params
        within = f"eps={p['eps']:.4g} {p['norm']}, " if math.isfinite(p["eps"]) else ""  # else of any size
        return f"Perturbed({p['attack']}, {within}{len(self)} samples: {counts})"

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Perturbed:
        """Some of the samples.

        Args:
            rows: a number, a slice, or a list of numbers.
        """
        many = range(len(self))[rows] if isinstance(rows, slice) else [rows] if isinstance(rows, int) else rows
        index = torch.tensor([range(len(self))[r] for r in many], dtype=torch.long)
        found: dict[str, Any] = {}
        for one in fields(Perturbed):
            value = getattr(self, one.name)
            found[one.name] = value if one.name in ("params", "spec") or value is None else _rows(value, index)
        return Perturbed(**found)

    @property
    def success(self) -> Tensor:
        """Whether the model says what is wanted, bool (N,); also where it did before."""
        return torch.tensor([s in ("turned", "already") for s in self.state])

    @property
    def norms(self) -> dict[str, Tensor]:
        """Sizes of the changes in raw units, (N,) each: "Linf", "L2", "L1", and "L0", how many elements changed."""
        change = torch.cat([d.reshape(len(d), -1) for d in as_tuple(self.delta)], 1)
        return {**{norm: sizes(change, norm) for norm in NORMS}, "L0": (change != 0).sum(1)}

    def to_df(self) -> pd.DataFrame:
        """A row per sample: state, classes, margins, sizes."""
        import pandas as pd

        columns: dict[str, Any] = {"state": self.state, "target": self.target_label}
        if self.goal_label is not None:
            columns["goal"] = self.goal_label
        columns |= {"prediction": self.prediction, "prediction_after": self.prediction_after}
        numbers = {"margin": self.margin, "margin_after": self.margin_after, "steps": self.steps, **self.norms}
        if self.success_after_rounding is not None:
            numbers["success_after_rounding"] = self.success_after_rounding
        if self.changes is not None:
            columns["changes"] = [", ".join(f"{n}: {a} → {b}" for n, a, b in one) for one in self.changes]
        if self.regions is not None:
            columns["regions"] = self.regions
        return pd.DataFrame(columns | {name: values.tolist() for name, values in numbers.items()})

    def explain(
        self, model: Callable[..., Any], methods: Any = None, **options: Any
    ) -> tuple[Explanations, Explanations]:
        """Maps of the inputs before and after, each of the class that was to be left.

        Args:
            model: the model that was attacked.
            methods: as for `explain`.
            **options: further arguments of `explain`; `target` chooses another class.

        Example:
            from interp_plugins.robust import attack

            before, after = attack(model, x, eps=0.5, norm="L2", steps=10).explain(model, "saliency")
            before[0].attribution.shape == after[0].attribution.shape  # -> True
        """
        asked = {"input_spec": self.spec, **options}
        if "target" not in asked:
            asked["target"] = self._explained()
        return explain(model, self.inputs, methods, **asked), explain(model, self.perturbed, methods, **asked)

    def _explained(self) -> Tensor | None:
        """The classes that were to be left; None where a number was asked about."""
        if "goal" not in self.params:
            return torch.tensor([self.index(c) for c in self.target_label])
        known = self.spec.vocab is not None and all(c in self.spec.vocab for c in self.target_label)
        return torch.tensor([self.index(c) for c in self.target_label]) if known else None

    def plot(self, max_n: int = 4) -> Any:
        """`show`, under the name that all results have."""
        return self.show(max_n)

    def to_html(self, path: str | Path, max_n: int = 32, title: str = "Changed inputs") -> files.Page:
        """Write a page: a table of all samples, and pictures of the first before and after.

        The page loads nothing and needs no server.

        Args:
            path: of the file.
            max_n: pictures at most.
            title: of the page.

        Returns:
            The page's path; notebooks show it as a link.
        """
        with concise():
            drawn = None if self._undrawable() else self.show(max_n)
            return files.Page(files.write(path, page(self.to_df(), drawn, self._lead(), title)))

    def _lead(self) -> str:
        return lead(self.state, self.goal_label, self.params, self.spec)

    def _undrawable(self) -> bool:
        return self.spec.kind != "image" or isinstance(self.inputs, tuple) or self.inputs.shape[1] not in (1, 3)

    def save(self, path: str | Path) -> Path:
        """Write all of it to one file. Returns the path.

        Example:
            from interp_plugins.robust import Perturbed, attack

            found = attack(model, x, eps=0.5, norm="L2", steps=3)
            found.save("attack.safetensors")
            Perturbed.load("attack.safetensors").state == found.state  # -> True
        """
        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Perturbed:
        """Read what `save` wrote, whole.

        Raises:
            FileNotFoundError: there is no file.
            InputError: a file of another kind, or a damaged one.
        """
        with concise():
            return load(path, cls)

    def contrast(self, model: Callable[..., Any], method: Any = None, **options: Any) -> ContrastMaps:
        """Of samples whose class changed: the map of why the class before, rather than the one afterwards.

        It is of the inputs as they were: where a map sees the difference, a counterfactual should change something.

        Args:
            model: the model that was asked.
            method: one method, as for `explain`; None: its default.
            **options: further arguments of `explain`.

        Returns:
            `ContrastMaps`: `.rows` (samples), `.maps` (an `Explanation`), `.agreement` of each with the change.

        Raises:
            InputError: no class changed, or it is no class that was asked about.

        Example:
            from interp_plugins.robust import attack

            attack(model, x, "fmn").contrast(model, "saliency").agreement.shape  # -> (2,)
        """
        with concise():
            if "goal" in self.params:
                raise InputError("A value was to be reached and no class, so there are no two classes to be compared.")
            pairs = zip(self.prediction, self.prediction_after, strict=True)
            classes = [(self.index(a), self.index(b)) for a, b in pairs]
            return contrast_maps(model, self.inputs, self.delta, classes, self.spec, method, options)

    def show(self, max_n: int = 4, model: Callable[..., Any] | None = None, method: Any = None, **options: Any) -> Any:
        """Draw pictures before and after and the change between them, made visible by a factor that is written there.

        Args:
            max_n: samples at most.
            model: the model that was asked: the map of `contrast` stands beside the change; None: no map.
            method: of that map, as for `explain`.
            **options: further arguments of `explain`.

        Returns:
            A `Plot`: the figure and its axes. Data that are no pictures have `to_df()`.

        Raises:
            InputError: the inputs are no pictures.
        """
        maps = None if model is None else self.contrast(model, method, **options)
        return picture(self.inputs, self.perturbed, self.delta, self.spec, self.captions(), max_n, maps)

    def index(self, label: Any) -> int:
        """The class of a name as it is told here."""
        return int(label) if self.spec.vocab is None else self.spec.index_of(label)

    def captions(self) -> list[tuple[str, str]]:
        """What stands below each sample before and after."""
        sized = self.norms[self.params["norm"]]
        return [
            (f"says {b}", f"{s}: says {a} ({self.params['norm']} {size:.3g})")
            for b, a, s, size in zip(self.prediction, self.prediction_after, self.state, sized.tolist(), strict=True)
        ]


def joined(many: Sequence[Perturbed]) -> Perturbed:
    """The samples of several results of one attack in one, in their order.

    Args:
        many: at least one.

    Raises:
        InputError: samples of different shapes.
    """
    first = many[0]
    if len(many) == 1:
        return first
    found: dict[str, Any] = {}
    for one in fields(Perturbed):
        values = [getattr(part, one.name) for part in many]
        if one.name in ("params", "spec") or values[0] is None:
            found[one.name] = values[0]
        elif isinstance(values[0], Tensor):
            found[one.name] = _cat(values)
        elif isinstance(values[0][0], Tensor):
            found[one.name] = tuple(_cat(column) for column in zip(*values, strict=True))
        else:
            found[one.name] = tuple(v for part in values for v in part)
    return Perturbed(**found)


def _rows(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value[0], Tensor):
        return tuple(one[index] for one in value)
    return tuple(value[r] for r in index.tolist())


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(t.shape[1:]) for t in tensors}
    if len(shapes) > 1:
        raise InputError(f"The samples have different shapes, {sorted(shapes)}; attack those of one shape together.")
    return torch.cat(list(tensors))

"""Explanations on disk as the subject of a viewer: a run directory of `explain_dataset`, or a file of explanations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.tensors import as_tuple
from interp_plugins.insights.outcomes import number
from interp_plugins.insights.precomputed import Precomputed
from interp_plugins.insights.subject import Made, Subject
from interp_plugins.store import ExplanationStore


def read_subject(path: str | Path, most: int) -> Stored | Saved:
    """What is at a path, its first samples.

    Args:
        path: a run directory, or a file as `Explanations.save` writes it.
        most: samples at most.

    Raises:
        InputError: nothing there, a run without samples, or a file of another kind.
    """
    path = Path(path)
    if path.is_dir():
        return Stored(ExplanationStore(path), most)
    if not path.exists():
        raise InputError(
            f"There is nothing at {path}. Give a run directory (interp_plugins.store.explain_dataset makes one) or a "
            "file (Explanations.save)."
        )
    return Saved(Explanations.load(path), most)


class Stored(Subject):
    """The samples of a run that have maps. Only what is looked at is read.

    Args:
        store: the run.
        most: samples at most.

    Attributes:
        total: samples of the run that have maps.
    """

    def __init__(self, store: ExplanationStore, most: int):
        found = store.samples
        if not found:
            raise InputError(f"The run at {store.path} has no sample yet that was explained.")
        self.store, self.total, self.rows = store, len(found), found[:most]
        self.n = len(self.rows)
        first = store[self.rows[0]]
        self.spec, self.models = first[0].spec, [str(first[0].meta.get("model", "model"))]

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map, from the run's table."""
        wanted = set(self.rows)
        return [self._sample(row) for row in self.store.table().to_pylist() if row["sample"] in wanted]

    def _sample(self, row: dict[str, Any]) -> dict[str, Any]:
        label, said = row["label"], row["prediction"]
        targets = [name for name in row if name == "target" or (name.startswith("target_") and name[7:].isdigit())]
        p = {row[name]: number(row[name.replace("target", "probability", 1)]) for name in targets}
        errors = [number(row[f"{method}.relative_delta"]) for method in self.store.methods]
        likely = p.get(label) if label is not None else None
        text = row["label_name"] if row["label_name"] is not None else label
        return {
            "name": row["name"] or f"Sample {row['sample']}",
            "labels": None if label is None else [label],
            "labelText": None if text is None else str(text),
            "completenessError": max((e for e in errors if e is not None), default=None),
            "words": "",
            "models": [
                {
                    "predictions": None if said is None else [said],
                    "predictionText": row["prediction_label"],
                    "probability": p.get(said) if said is not None else None,
                    "correct": None if label is None or said is None else label == said,
                    "loss": None if likely is None else -math.log(max(likely, 1e-30)),
                    "top": [],
                }
            ],
        }

    def call(self, i: int) -> str:
        """The call that explains sample i, as a person writes it."""
        return f"explain(model, data[{self.rows[i]}]"

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it."""
        return self.store[self.rows[i]][0]

    def given(self, i: int) -> list[Made]:
        """The explanations of sample i."""
        return [Made(exp) for exp in self.store[self.rows[i]]]


class Saved(Subject):
    """The explanations of a file; those of the same inputs belong together.

    Args:
        exps: the explanations, in any order.
        most: samples at most.

    Attributes:
        total: samples of the file.
    """

    def __init__(self, exps: Sequence[Explanation], most: int):
        groups: list[list[Explanation]] = []
        for exp in exps:
            same = next((group for group in groups if _same_inputs(group[0], exp)), None)
            if same is None:
                groups.append([exp])
            else:
                same.append(exp)
        if not groups:
            raise InputError("The file holds no explanation.")
        self.parts = [Precomputed(group) for group in groups]
        places = [(part, i) for part in self.parts for i in range(part.n)]
        self.total, self.places = len(places), places[:most]
        self.n, self.spec, self.models = len(self.places), self.parts[0].spec, self.parts[0].models

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map."""
        return [sample for part in self.parts for sample in part.samples()][: self.n]

    def input(self, i: int) -> Explanation:
        """Sample i as the viewer draws it."""
        part, at = self.places[i]
        return part.input(at)

    def given(self, i: int) -> list[Made]:
        """The explanations of sample i."""
        part, at = self.places[i]
        return part.given(at)


def _same_inputs(one: Explanation, other: Explanation) -> bool:
    a, b = as_tuple(one.inputs), as_tuple(other.inputs)
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b))

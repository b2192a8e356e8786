"""Explanations on disk as the subject of a viewer: a run directory of `explain_dataset`, or a file of explanations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.tensors import as_tuple
from interp_plugins.insights.outcomes import number
from interp_plugins.insights.precomputed import Precomputed
from interp_plugins.insights.subject import Made, Subject
from interp_plugins.store import ExplanationStore

ORDERS = ("index", "name", "confident", "unsure", "loss", "error")  # as on the page


def read_subject(path: str | Path, most: int, wrong: bool = False, order: str = "index") -> Stored | Saved:
    """What is at a path, its first samples.

    Args:
        path: a run directory, or a file as `Explanations.save` writes it.
        most: samples at most.
        wrong: only samples that the model gets wrong, of those whose truth is known.
        order: one of `ORDERS`, the page's own: "index" as in the data, "name", "confident" and "unsure" (largest and
            smallest probability first), "loss" and "error" (largest loss, largest completeness error first).

    Raises:
        InputError: nothing there, a run without samples, none that is wrong, or a file of another kind.
        UnknownNameError: another order.
    """
    path = Path(path)
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if path.is_dir():
        return Stored(ExplanationStore(path), most, wrong, order)
    if not path.exists():
        raise InputError(
            f"There is nothing at {path}. Give a run directory (interp_plugins.store.explain_dataset makes one) or a "
            "file (Explanations.save)."
        )
    return Saved(Explanations.load(path), most, wrong, order)


def chosen(records: Sequence[Mapping[str, Any]], wrong: bool, order: str) -> list[int]:
    """Which samples are looked at, in which order; arguments of `read_subject`.

    Raises:
        InputError: none is wrong, or what the order asks for is known of none.
    """
    key = _KEYS[order]
    found = [k for k, record in enumerate(records) if not wrong or record["models"][0]["correct"] is False]
    if not found:
        judged = sum(record["models"][0]["correct"] is not None for record in records)
        why = "the truth of no sample is known" if not judged else f"all {judged} samples of known truth are right"
        raise InputError(f"No sample is wrong: {why}.")
    values = [key(records[k]) for k in found]
    if all(value is None for value in values):
        raise InputError(f"The samples cannot be put in the order {order!r}: nothing is known of it.")
    known = sorted((k for k, v in zip(found, values) if v is not None), key=lambda k: key(records[k]))
    return known + [k for k, v in zip(found, values) if v is None]


def _falling(value: float | None) -> float | None:
    return None if value is None else -value


_KEYS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "index": lambda record: 0,
    "name": lambda record: record["name"] or None,
    "confident": lambda record: _falling(record["models"][0]["probability"]),
    "unsure": lambda record: record["models"][0]["probability"],
    "loss": lambda record: _falling(record["models"][0]["loss"]),
    "error": lambda record: _falling(record["completenessError"]),
}


class Stored(Subject):
    """The samples of a run that have maps. Only what is looked at is read.

    Args:
        store: the run.
        most: samples at most.
        wrong: only those that the model gets wrong.
        order: one of `ORDERS`.

    Attributes:
        total: samples of the run that have maps, and are wrong where that is asked for.
    """

    def __init__(self, store: ExplanationStore, most: int, wrong: bool = False, order: str = "index"):
        found = store.samples
        if not found:
            raise InputError(f"The run at {store.path} has no sample yet that was explained.")
        self.store, self.rows = store, found
        if wrong or order != "index":
            found = [found[k] for k in chosen(self.samples(), wrong, order)]
        self.total, self.rows = len(found), found[:most]
        self.n = len(self.rows)
        first = store[self.rows[0]]
        self.spec, self.models = first[0].spec, [str(first[0].meta.get("model", "model"))]

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map, from the run's table."""
        wanted = set(self.rows)
        table = {row["sample"]: row for row in self.store.table().to_pylist() if row["sample"] in wanted}
        return [self._sample(table[sample]) for sample in self.rows]

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
        wrong: only those that the model gets wrong.
        order: one of `ORDERS`.

    Attributes:
        total: samples of the file, and wrong where that is asked for.
    """

    def __init__(self, exps: Sequence[Explanation], most: int, wrong: bool = False, order: str = "index"):
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
        known = [sample for part in self.parts for sample in part.samples()]
        order_of = chosen(known, wrong, order) if wrong or order != "index" else list(range(len(places)))
        self.total, self.places = len(order_of), [places[k] for k in order_of[:most]]
        self._known = [known[k] for k in order_of[:most]]
        self.n, self.spec, self.models = len(self.places), self.parts[0].spec, self.parts[0].models

    def samples(self) -> list[dict[str, Any]]:
        """What is known of each sample without any map."""
        return list(self._known)

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

"""`Influences`: which training items made a model say so, query by query."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp_plugins.core import files
from interp_plugins.core.errors import InputError, MissingFileError, SampleError, decoding
from interp_plugins.core.spec import InputSpec
from interp_plugins.influence.readable import Readable

if TYPE_CHECKING:
    import pandas as pd

_TENSORS = ("indices", "scores", "opponent_indices", "opponent_scores", "share", "inputs", "item_inputs", "every")


@dataclass(frozen=True, repr=False, eq=False)
class Influences:
    """The training items that count most for what a model says of Q queries.

    Attributes:
        indices: (Q, k) numbers of the proponents in the training data, the highest score first.
        scores: (Q, k) their scores; positive where training on the item raised what was asked for.
        opponent_indices: (Q, k) numbers of the opponents, the lowest score first.
        opponent_scores: (Q, k).
        n: number of training items.
        share: (Q,) of the sum of all absolute scores, the part that the shown items carry.
        asked: per query what was asked for, in words.
        method: its name.
        params: checkpoints, learning rates, weights that count, what fell back.
        labels: label of each shown item, by number, in words.
        predictions: what the model says of each shown item, by number, in words.
        names: file or row of each shown item, by number.
        query_names: of the queries, or empty.
        numbers: of the items in `item_inputs`.
        inputs: what the model got of the queries (Q, ...), for pictures; None where that is no tensor.
        item_inputs: what the model got of the shown items, in the order of `numbers`; None where that is no tensor.
        every: all scores (Q, N), where they were asked for.
        spec: facts about the inputs.
        lds: how well sums of scores foretell a retrained head (`check=True`), -1 to 1; None: not asked.
        notes: what has to be said beside.
        readable: what people read of queries and items, where they are rows of a table, or texts whose words are known.
    """

    indices: Tensor
    scores: Tensor
    opponent_indices: Tensor
    opponent_scores: Tensor
    n: int
    share: Tensor
    asked: tuple[str, ...]
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    predictions: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    query_names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    inputs: Tensor | None = None
    item_inputs: Tensor | None = None
    every: Tensor | None = None
    spec: InputSpec = field(default_factory=InputSpec)
    lds: float | None = None
    notes: tuple[str, ...] = ()
    readable: Readable | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        share = ", ".join(f"{s:.0%}" for s in self.share[:4].tolist()) + (", ..." if len(self) > 4 else "")
        asked = "query" if len(self) == 1 else "queries"
        told = [f"{self.method}, {len(self)} {asked} of {self.n} training items", self.params.get("weights", "")]
        checkpoints = self.params.get("checkpoints", ())
        if checkpoints:
            told.append(f"{len(checkpoints)} checkpoint{'s' if len(checkpoints) > 1 else ''}")
        told.append(f"those shown carry {share} of all absolute scores")
        if self.lds is not None:
            told.append(f"LDS {self.lds:.2f}")
        return f"Influences({'; '.join(t for t in [*told, *self.notes] if t)})"

    def noted(self, text: str) -> Influences:
        """The same with something more to say.

        Args:
            text: what.
        """
        return dataclasses.replace(self, notes=(*self.notes, text))

    @property
    def proponents(self) -> Tensor:
        """Numbers of the items that speak for it, (Q, k)."""
        return self.indices

    @property
    def opponents(self) -> Tensor:
        """Numbers of the items that speak against it, (Q, k)."""
        return self.opponent_indices

    def all_scores(self) -> Tensor:
        """Scores of all items, (Q, N).

        Raises:
            InputError: they were not kept.
        """
        if self.every is None:
            raise InputError("Only the scores of the shown items were kept: ask with all_scores=True.")
        return self.every

    def items(self, i: int = 0) -> list[tuple[int, float]]:
        """(number, score) of the shown items of one query: proponents, then opponents, the strongest first.

        Args:
            i: the query.

        Raises:
            SampleError: there is no such query.
        """
        if not -len(self) <= i < len(self):
            raise SampleError(f"There are {len(self)} queries, so no query {i}.")
        pairs = [(self.indices, self.scores), (self.opponent_indices, self.opponent_scores)]
        return [(int(n), float(s)) for at, values in pairs for n, s in zip(at[i], values[i])]

    def to_df(self) -> pd.DataFrame:
        """A row per query and shown item: query, asked, role, item, name, label, predicted, score."""
        import pandas as pd

        rows = []
        for q in range(len(self)):
            for role, at, values in (
                ("proponent", self.indices, self.scores),
                ("opponent", self.opponent_indices, self.opponent_scores),
            ):
                for number, score in zip(at[q].tolist(), values[q].tolist()):
                    rows.append(
                        {
                            "query": self.query_names[q] if self.query_names else q,
                            "asked": self.asked[q],
                            "role": role,
                            "item": number,
                            "name": self.names.get(number, ""),
                            "label": self.labels.get(number, ""),
                            "predicted": self.predictions.get(number, ""),
                            "score": score,
                        }
                    )
        return pd.DataFrame(rows)

    def show(self, max_n: int = 4, k: int = 6, maps: Any = None) -> Any:
        """Draw each query with its proponents (orange) and opponents (blue) beside it.

        Args:
            max_n: queries at most.
            k: items of each kind at most.
            maps: (queries' maps, items' maps), explanations of `inputs` and of `item_inputs`, to lay over the pictures.

        Returns:
            A `Plot`: the figure and its axes.

        Raises:
            InputError: the inputs are no pictures; `to_df()` has a row per item.
        """
        from interp_plugins.influence.picture import picture

        return picture(self, max_n, k, maps)

    def explain(self, model: Any, method: str = "saliency", **options: Any) -> tuple[Any, Any]:
        """Maps of the queries and of the shown items, for `show(maps=...)`: which part do they share?

        Args:
            model: the model.
            method: as for `interp_plugins.explain`.
            **options: further arguments of it.
        """
        from interp_plugins.api.explain import explain

        if self.inputs is None or self.item_inputs is None:
            raise InputError("The inputs of these queries were not kept, so there is nothing to map.")
        asked = {"input_spec": self.spec, **options}
        return explain(model, self.inputs, method, **asked)[0], explain(model, self.item_inputs, method, **asked)[0]

    def to_html(self, path: str | Path, maps: Any = None) -> files.Page:
        """Write one HTML file: each query with its items, where these are pictures, rows or texts, and all scores.

        Args:
            path: the file.
            maps: (queries' maps, items' maps) as `explain` gives them: pointing at an item shows its map and the
                query's.
        """
        from interp_plugins.influence.page import page

        return files.Page(files.write(path, page(self, maps).html()))

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, whole or not at all.

        Args:
            path: the file.
        """
        from safetensors.torch import save_file

        tensors = {k: getattr(self, k).contiguous() for k in _TENSORS if getattr(self, k) is not None}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _TENSORS}
        rest["readable"] = None if self.readable is None else dataclasses.asdict(self.readable)
        rest["spec"] = dataclasses.asdict(dataclasses.replace(self.spec, others=()))
        with files.replacing(path) as draft:
            save_file(tensors, draft, {"influences": json.dumps(rest, default=str)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Influences:
        """What `save` wrote.

        Args:
            path: the file.

        Raises:
            MissingFileError: there is none.
            InputError: it holds something else.
        """
        from safetensors import safe_open

        if not Path(path).exists():
            raise MissingFileError(f"There is no file {path}.")
        with decoding(InputError, f"{path} holds no influences"), safe_open(path, "pt") as held:
            rest = json.loads((held.metadata() or {})["influences"])
            tensors = {k: held.get_tensor(k) for k in held.keys()}  # noqa: SIM118 - no mapping
            spec: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in rest.pop("spec").items()}
            for name in ("labels", "predictions", "names"):
                rest[name] = {int(k): v for k, v in rest[name].items()}
            for name in ("asked", "query_names", "numbers", "notes"):
                rest[name] = tuple(rest[name])
            if rest.get("readable") is not None:
                rest["readable"] = Readable.of_json(rest["readable"])
            return cls(**tensors, **rest, spec=InputSpec(**spec))


def joined(many: Sequence[Influences]) -> Influences:
    """The queries of several results of one question in one."""
    if len(many) == 1:
        return many[0]
    first = many[0]

    def cat(name: str) -> Any:
        values = [getattr(one, name) for one in many]
        if any(v is None for v in values) or len({v.shape[1:] for v in values}) > 1:
            return None
        return torch.cat(values)

    found: dict[str, Any] = {name: cat(name) for name in _TENSORS}
    for name in ("labels", "predictions", "names"):
        found[name] = {k: v for one in many for k, v in getattr(one, name).items()}
    for name in ("asked", "query_names", "numbers"):
        found[name] = tuple(v for one in many for v in getattr(one, name))
    told = [one.readable for one in many if one.readable is not None]
    found["readable"] = functools.reduce(Readable.and_of, told) if len(told) == len(many) else None
    return dataclasses.replace(first, **found)

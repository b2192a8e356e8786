"""`ConceptBank`: the concepts that were found, what they add to a score, and how certain they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.api.explain import explain as core_explain
from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.concept.crops import Crop, pixels
from interp_plugins.concept.factor import amounts_of
from interp_plugins.concept.item import ItemConcepts
from interp_plugins.concept.items import is_picture, opened
from interp_plugins.concept.place import OfConcepts, Place, amounts_at, shares_of
from interp_plugins.core.errors import InputError, MissingFileError, SampleError, concise, decoding
from interp_plugins.core.explanation import Explanations
from interp_plugins.core.files import Page, check_path, write
from interp_plugins.core.grid import Grid
from interp_plugins.core.layers import Layer, resolve_layer
from interp_plugins.core.metadata import from_json, to_json
from interp_plugins.core.saving import written
from interp_plugins.core.spec import InputSpec

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1
_NUMBERS = ("residual", "base", "score", "explained", "explained_best")
_TENSORS = ("atoms", "importance", "shares", "seeds", "halves")
UNSTABLE = 0.8  # cosine with the atoms of other beginnings or halves below which a concept is called unstable


@dataclass(frozen=True)
class BankSource:
    """How an item becomes what the model gets, and what is explained.

    Attributes:
        batch_of: item -> a batch.
        target: the target that was asked for.
    """

    batch_of: Callable[[Any], SampleBatch]
    target: Any


@dataclass(eq=False)
class ConceptBank:
    """Concepts of a class, the most important first.

    Attributes:
        atoms: the concepts as directions of the layer's channels (K, C), each of length one.
        importance: (K,): of a head that is linear in the layer the mean of what the concept adds to the score; else its
            total Sobol index, the share of the score's variance that it takes part in.
        shares: what each concept adds to the score in the mean over the items (K,); of a head that is not linear along
            the path from 0.
        residual: what activations add that are in no concept.
        base: the score where all activations of the layer are 0; `base + shares.sum() + residual` is `score`.
        score: the mean score of the items.
        explained: share of the squared activations that the concepts hold.
        explained_best: the share that as many directions without any rule could hold.
        seeds: cosines with the concepts found from other beginnings (S, K).
        halves: the smaller cosine with the concepts of two halves of the items (K,); NaN where there are too few.
        signed: whether the layer has negative values (semi-NMF) or not (NMF).
        linear: whether the score is a linear function of the layer.
        target: what is explained, in words.
        place: the layer.
        crops: of each concept the parts in which it is strongest.
        pictures: their pixels, and where in them the concept is.
        names: given by `name`, or None.
        suggested: of each concept what the data's labels suggest, or None.
        facts: numbers of items and rows, share of the crops' side ("segments", None: places), seed.
        spec: of the inputs.
        source: how items are read; None after `load` without a model.
    """

    atoms: Tensor
    importance: Tensor
    shares: Tensor
    residual: float
    base: float
    score: float
    explained: float
    explained_best: float
    seeds: Tensor
    halves: Tensor
    signed: bool
    linear: bool
    target: str
    place: Place
    crops: tuple[tuple[Crop, ...], ...]
    pictures: list[list[tuple[np.ndarray, np.ndarray | None]]]
    names: list[str | None]
    suggested: list[str | None]
    facts: dict[str, Any]
    spec: InputSpec = field(default_factory=InputSpec)
    source: BankSource | None = None

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        stable = [k for k in range(len(self)) if self.is_stable(k)]
        kind = "adds" if self.linear else "has the total Sobol index"
        share = self.facts.get("share")
        if isinstance(share, str):
            where = share
        else:
            where = "places of the layer" if share is None else f"crops of {share:.0%} of the side"
        best = ", ".join(f"{self.label(k)} {kind} {float(self.importance[k]):.3g}" for k in range(min(3, len(self))))
        rows, items, how = self.facts["rows"], self.facts["items"], "semi-NMF" if self.signed else "NMF"
        return (
            f"ConceptBank({len(self)} concepts of {self.target!r} at {self.place.name!r} from {items} items "
            f"({rows} {where}), {how}: they hold {self.explained:.0%} of the squared activations "
            f"(at best {self.explained_best:.0%}), {len(stable)} of {len(self)} stable; {best})"
        )

    def label(self, k: int) -> str:
        """A concept's name, or "concept k"."""
        return self.names[self._number(k)] or f"concept {k}"

    def name(self, k: int, text: str) -> ConceptBank:
        """Give a concept a name, which pictures and tables show.

        Args:
            k: its number.
            text: its name; "": none.

        Returns:
            The bank itself.
        """
        self.names[self._number(k)] = str(text) or None
        return self

    def is_stable(self, k: int) -> bool:
        """Whether other beginnings, and halves of the items where there are enough, find the concept as well."""
        found = [float(self.seeds[:, k].mean()), float(self.halves[k])]
        return all(not c < UNSTABLE for c in found)

    def test(self, k: int) -> dict[str, Any]:
        """How certain a concept is.

        Args:
            k: its number.

        Returns:
            "seeds": the cosine with the nearest concept from each of several other beginnings; "halves": the smaller
            one with those of two halves of the items (NaN: too few); "stable": whether both are at least .8 (the mean
            of the first).
        """
        k = self._number(k)
        return {"seeds": self.seeds[:, k].tolist(), "halves": float(self.halves[k]), "stable": self.is_stable(k)}

    def to_df(self) -> pd.DataFrame:
        """A row per concept: name, importance, share, stability, suggestion."""
        import pandas as pd

        columns = {
            "concept": [self.label(k) for k in range(len(self))],
            "importance": self.importance.tolist(),
            "share": self.shares.tolist(),
            "seeds": self.seeds.mean(0).tolist(),
            "halves": self.halves.tolist(),
            "stable": [self.is_stable(k) for k in range(len(self))],
            "suggested": self.suggested,
        }
        return pd.DataFrame(columns)

    def amounts(self, activations: Tensor) -> Tensor:
        """How much of each concept is in activations of the layer, (n, K) of (n, C), none of it negative."""
        return amounts_of(activations, self.atoms)

    def explain(self, item: Any, methods: Any = None, concept: int | None = None, **options: Any) -> Any:
        """Which concepts speak for an item, and where; or a map of one concept by any method.

        Args:
            item: as the bank was made of them: a tensor (1, ...), in fastai also a path, a row of a table.
            methods: None: the item taken apart; else methods of `explain`, for maps of one concept's amount.
            concept: its number, with `methods`.
            **options: further arguments of `explain`, with `methods`.

        Returns:
            An `ItemConcepts` with `.show()`; with `methods` an `Explanations`.

        Raises:
            InputError: several items, no model, methods without a concept.

        Example:
            from interp_plugins.concept import concepts

            bank = concepts(model, x, target=3, n_concepts=2, items="all")
            taken = bank.explain(x[:1])
            abs(taken.base + taken.shares.sum() + taken.residual - taken.score) < 1e-5  # -> True
        """
        with concise():
            if methods is None and (concept is not None or options):
                raise InputError("concept= and options belong to a method: explain(item, 'ig', concept=0).")
            batch = self._source().batch_of(item)
            if len(batch) != 1:
                raise InputError(f"explain takes one item, got {len(batch)}; call it once for each.")
            if methods is not None:
                return self._maps(batch, methods, concept, options)
            return self._taken_apart(batch)

    def _maps(self, batch: SampleBatch, methods: Any, concept: int | None, options: dict[str, Any]) -> Explanations:
        if concept is None:
            raise InputError("Say which concept the maps are of: explain(item, 'ig', concept=0).")
        with opened(batch, None) as one:
            func = OfConcepts(one.forward.func, self._place(one.forward.func), self.atoms)
            given = one.xs if len(one.xs) > 1 else one.xs[0]
            more, kwargs = one.forward.args or None, dict(one.forward.kwargs) or None
        spec = InputSpec(**{**vars(self.spec), "vocab": tuple(self.label(k) for k in range(len(self)))})
        asked = {
            "input_spec": spec,
            "activation": _no_classes,
            "additional_forward_args": more,
            "forward_kwargs": kwargs,
        }
        return core_explain(func, given, methods, target=self._number(concept), **{**asked, **options})

    def _taken_apart(self, batch: SampleBatch) -> ItemConcepts:
        with opened(batch, self._source().target) as one:
            place = self._place(one.forward.func)
            got = place.reading(one.forward, one.xs)
            u = amounts_at(got.activations, self.atoms)
            shares = shares_of(u, got.gradients, self.atoms)[0]
            size = place.size if len(place.size) == 2 else (1, place.activations(one.forward, one.xs).shape[2])
            return ItemConcepts(
                item=batch.keys[0],
                target=str(one.asked.labels[0]),
                prediction=None if one.words is None else str(one.words[0]),
                score=float(got.scores[0]),
                base=float(got.base[0]),
                shares=shares,
                residual=float(got.total[0]) - float(shares.sum()),
                error=float(got.scores[0]) - float(got.base[0]) - float(got.total[0]),
                maps=u[0].T.reshape(len(self), *size),
                names=tuple(self.label(k) for k in range(len(self))),
                pixels=pixels(one.xs[0], one.spec, 320) if is_picture(one) else None,
            )

    def show(self, max_n: int = 10) -> Any:
        """Draw a row per concept: its bar and the parts in which it is strongest, outlined where it is.

        Args:
            max_n: concepts at most.

        Returns:
            A `Plot`: the figure and its axes.

        Raises:
            InputError: the data are no pictures; `to_df` has a row per concept.
        """
        from interp_plugins.concept.pictures import bank_figure

        return bank_figure(self, max_n)

    def to_html(self, path: str | Path, items: Sequence[Any] = ()) -> Page:
        """Write a page that loads nothing: the concepts, a table of how certain they are, and some items.

        Args:
            path: the file.
            items: items that are shown taken apart, as for `explain`.
        """
        from interp_plugins.concept.pictures import bank_page

        return Page(write(path, bank_page(self, items).html()))

    def save(self, path: str | Path) -> Path:
        """Write concepts, numbers and pictures to one safetensors file; the model is not in it.

        Raises:
            FileError: it cannot be written, with what to do.
        """
        stored = {name: getattr(self, name).detach().clone().contiguous() for name in _TENSORS}
        for k, row in enumerate(self.pictures):
            for j, (shown, where) in enumerate(row):
                stored[f"pictures/{k}/{j}"] = torch.from_numpy(shown.copy())
                if where is not None:
                    stored[f"where/{k}/{j}"] = torch.from_numpy(where.copy())
        return written(stored, "concepts", self._record(), path)

    def _record(self) -> dict[str, Any]:
        grid, layer = self.place.grid, self.place.layer
        facts = {
            name: getattr(self, name)
            for name in (*_NUMBERS, "signed", "linear", "target", "names", "suggested", "facts")
        }
        where = {"name": self.place.name, "io": layer.io, "call": layer.call}
        laid = {"kind": grid.kind, "size": tuple(grid.size), "prefix": grid.prefix}
        crops = [[(c.item, c.box, c.amount) for c in row] for row in self.crops]
        record = {
            "format": _FORMAT,
            "layer": where,
            "grid": laid,
            "crops": crops,
            "spec": dict(vars(self.spec)),
            **facts,
        }
        record["spec"].pop("others")
        return {name: to_json(value) for name, value in record.items()}

    @classmethod
    def load(cls, path: str | Path, model: Any = None, target: Any = None, **options: Any) -> ConceptBank:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: the model, for `explain`; None: pictures and tables only.
            target: what is explained, as for `concepts`; None: what is predicted.
            **options: further arguments of `concepts` for the model (`additional_forward_args`, ...).

        Raises:
            InputError: a file of another kind, or damaged.
            MissingFileError: there is none.
        """
        from safetensors import safe_open

        check_path(path)
        if not Path(path).is_file():
            raise MissingFileError(f"No saved concepts at {path}. Write some with ConceptBank.save(path).")
        with decoding(InputError, f"{path} is not a file written by ConceptBank.save, or it is damaged"):
            with safe_open(path, framework="pt") as file:
                record = {k: from_json(v) for k, v in json.loads((file.metadata() or {})["concepts"]).items()}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return _loaded(record, tensors, model, target, options)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _number(self, k: int) -> int:
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < len(self.atoms):
            raise SampleError(f"There is no concept {k!r}: they are numbered from 0 to {len(self.atoms) - 1}.")
        return k

    def _source(self) -> BankSource:
        if self.source is None:
            raise InputError("These concepts were loaded without their model: ConceptBank.load(path, model).")
        return self.source

    def _place(self, func: Any) -> Place:
        """The layer in the model; one that was loaded is known by its name."""
        if isinstance(self.place.layer.module, str):
            self.place = Place(resolve_layer(func, self.place.layer), self.place.name, self.place.grid)
        return self.place


def _no_classes(_: Tensor) -> None:
    """Amounts are no scores of classes."""


def _loaded(
    record: dict[str, Any], tensors: dict[str, Tensor], model: Any, target: Any, options: dict[str, Any]
) -> ConceptBank:
    spec = InputSpec(**record["spec"])
    where, laid = record["layer"], record["grid"]
    place = Place(
        Layer(where["name"], where["io"], where["call"]),
        where["name"],
        Grid(laid["kind"], laid["size"], laid["prefix"]),
    )
    crops = tuple(tuple(Crop(item, box, amount) for item, box, amount in row) for row in record["crops"])
    pictures = [
        [
            (
                tensors[f"pictures/{k}/{j}"].numpy(),
                tensors[f"where/{k}/{j}"].numpy() if f"where/{k}/{j}" in tensors else None,
            )
            for j in range(len(row))
        ]
        for k, row in enumerate(crops)
        if f"pictures/{k}/0" in tensors
    ]
    given = {"input_spec": spec, **options}
    source = None
    if model is not None:
        source = BankSource(lambda item: next(iter(SampleStream(model, item, None, given))), target)
    known: dict[str, Any] = {name: record[name] for name in (*_NUMBERS, "signed", "linear", "target", "facts")}
    known |= {name: list(record[name]) for name in ("names", "suggested")}
    known |= {name: tensors[name] for name in _TENSORS}
    return ConceptBank(**known, place=place, crops=crops, pictures=pictures, spec=spec, source=source)

"""Concepts without labels: what parts a class's pictures are made of, as the network sees them.

Parts of the items (crops, or places of the layer) become activations; these are taken apart into atoms that add up;
and each atom is weighed by what it adds to the score. After Fel et al. 2023 (CRAFT), arXiv:2211.10154, sections 3.1 and
3.2, with one difference where a head is linear in the layer: there shares are exact and complete, and no index is
estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.api.items import LabelledParts
from interp_plugins.api.samples import SampleBatch, SampleStream
from interp_plugins.attr.perturbation.sensitivity import Sobol
from interp_plugins.concept.bank import BankSource, ConceptBank
from interp_plugins.concept.crops import (
    Crop,
    Segment,
    around,
    boxes_of,
    enlarged,
    part_of,
    pixels,
    segments_of,
    share_of,
)
from interp_plugins.concept.factor import ConceptFactors, factorise, matched
from interp_plugins.concept.items import OpenBatch, chosen, is_picture, keys_of, labels_of, opened
from interp_plugins.concept.place import FromAmounts, Place, amounts_at, shares_of
from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.forward import Call
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.layers import AtLayer
from interp_plugins.core.random import check_seed, sample_seed
from interp_plugins.core.report import note
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.core.truth import Reading

SEEDS = 4  # other beginnings whose atoms are compared
BEST = 10  # crops that are kept per concept
FEW, TOLD = 5, 0.75  # items of a label, and AUC, below which it suggests no name
_SOBOL_ITEMS = 16


def concepts(
    model: Callable[..., Any],
    data: Any,
    target: Any = None,
    n_concepts: int = 10,
    *,
    layer: Any = None,
    crops: bool | float | str = True,
    items: Any = None,
    most: int = 100,
    seed: int = 0,
    input_spec: InputSpec | None = None,
    input_key: Any = None,
    label_key: Any = None,
    output: Any = None,
    **options: Any,
) -> ConceptBank:
    """Find the concepts that a network goes by for a class, without any labels of them; the model stays as it was.

    Args:
        model: an `nn.Module`, a LightningModule, or any callable around one.
        data: the inputs (a tensor or a dict of tensors, batch first), a tuple (inputs, labels) of tensors as for
            `suspects` and `influence` (several inputs: ((a, b), labels)), or a data set or loader of (input, label).
        target: the class, by index or by a name of `input_spec.vocab`, or what else `explain` takes for one target;
            None: each item's predicted class (then all items count).
        n_concepts: number of concepts.
        layer: module, dotted name or `Layer`; None: the last one with places that the score depends on.
        crops: find concepts in parts of the pictures: True, squares of half the side, or another share of it;
            "segments", about 15 parts of like colour of each, cut out (SLIC; needs scikit-image); False, or other data
            than pictures: at the places of the layer.
        items: which items: None, those that the model says are of the class; "all"; or their ids (places in the data).
        most: how many items at most, the first of them.
        seed: of the draws that only judge (other beginnings, halves).
        input_spec: kind of data, normalisation and class names; guessed from the shape if None.
        input_key: the part of a batch that is the input; None: the batch, or its first element.
        label_key: the part of a batch that is the label, for suggestions of names; None: the other part of two.
        output: which part of the model's output is explained, as for `explain`.
        **options: `activation`, `threshold`, `additional_forward_args` and `forward_kwargs` of `explain`.

    Returns:
        A `ConceptBank`: `.show()`, `.importance`, `.explain(item)`, `.name(k, text)`, `.save(path)`, `.test(k)`.

    Raises:
        InputError: no item of the class, more concepts than rows, or a tuple that is not (inputs, labels).
        LayerError: no layer with places, or a layer whose layout cannot be told.

    Example:
        from interp_plugins.concept import concepts

        bank = concepts(model, x, target=3, n_concepts=2, items="all")
        bank.importance.shape  # -> (2,)
    """
    with concise():
        given: Mapping[str, Any] = {"input_spec": input_spec, "output": output, **options}
        known = {name: value for name, value in given.items() if value is not None}
        stream = SampleStream(model, _of_pair(data), None, known, Reading(input_key, None, label_key, output=output))
        source = BankSource(lambda item: next(iter(SampleStream(model, item, None, known))), target)
        return find(stream, source, n_concepts, layer=layer, crops=crops, items=items, most=most, seed=seed)


def _of_pair(data: Any) -> Any:
    """A tuple (inputs, labels) as a data set; other data as they are."""
    if not isinstance(data, tuple):
        return data
    if len(data) != 2 or not isinstance(data[1], Tensor):
        raise InputError(
            f"A tuple of data is (inputs, labels), here as for `suspects`, got {describe(data)}. Write several inputs "
            "as ((a, b), labels), or as a dict by the names of the model's arguments."
        )
    return LabelledParts(*data)


def find(
    stream: Iterable[SampleBatch],
    source: BankSource,
    n_concepts: int,
    *,
    layer: Any = None,
    crops: bool | float | str = True,
    items: Any = None,
    most: int = 100,
    seed: int = 0,
) -> ConceptBank:
    """Find concepts in a stream of batches; see `concepts`.

    Args:
        stream: batches.
        source: how one item becomes a batch, and the target.
        n_concepts: number of concepts.
        layer: dotted name, module or `Layer`; None: the last one with places.
        crops: parts of pictures in which concepts are found: True, a share of the side, "segments", or False.
        items: which items: None, those that the model says are of the class; "all"; or their ids.
        most: how many items at most, the first of them.
        seed: of the draws that only judge (other beginnings, halves).
    """
    share, seed = share_of(crops), check_seed(seed)
    for name, value in (("n_concepts", n_concepts), ("most", most)):
        if check_chunk(name, value) is None:
            raise InputError(f"{name} must be a positive int, got None.")
    if items is None and source.target is None:
        items = "all"
    with preserved_rng():
        batches, label = chosen(stream, source.target, items, most)
        parts = _Parts.of(batches, source.target, layer, share)
        found = factorise(parts.rows, n_concepts)
        weighed = _weighed(batches, source.target, parts.place, found)
        order = weighed.importance.abs().argsort(descending=True, stable=True)
        best = [_best(found.amounts[:, k], parts, len(keys_of(batches))) for k in order.tolist()]
        drawn = _drawn(batches, source.target, parts, found.atoms[order], best)
        note(concepts="semi-NMF" if found.signed else "NMF", concepts_explained=found.explained)
        return ConceptBank(
            atoms=found.atoms[order],
            importance=weighed.importance[order],
            shares=weighed.shares[order],
            residual=weighed.residual,
            base=weighed.base,
            score=weighed.score,
            explained=found.explained,
            explained_best=found.best,
            seeds=torch.stack([matched(found.atoms[order], one) for one in _again(parts.rows, found, seed)]),
            halves=_halves(parts, found, batches, seed)[order],
            signed=found.signed,
            linear=weighed.linear,
            target=label if source.target is not None else "what is predicted",
            place=parts.place,
            crops=tuple(tuple(crop for crop, _ in row) for row in best),
            pictures=drawn,
            names=[None] * n_concepts,
            suggested=_suggested(weighed.amounts[:, order], batches, parts.spec),
            facts={"items": len(keys_of(batches)), "rows": len(parts.rows), "share": parts.share, "seed": seed},
            spec=parts.spec,
            source=source,
        )


@dataclass(frozen=True)
class _Parts:
    """Parts of items as rows of activations, and where they come from.

    Attributes:
        rows: (n, C).
        where: of each row the batch, the row in it, and the box (or the place of the layer).
        place: the layer.
        share: of the side of crops, "segments", None for places.
        keys: of each row the item's id.
        spec: of the inputs.
        laid: of crops the activations at every place (n, C, P), in half precision; empty for places.
    """

    rows: Tensor
    where: list[tuple[int, int, Any]]
    place: Place
    share: float | str | None
    keys: list[Any]
    spec: InputSpec
    laid: list[Tensor]

    @classmethod
    def of(cls, batches: Sequence[SampleBatch], target: Any, layer: Any, share: float | str | None) -> _Parts:
        rows: list[Tensor] = []
        laid: list[Tensor] = []
        where: list[tuple[int, int, Any]] = []
        place, spec = None, InputSpec()
        for b, batch in enumerate(batches):
            with opened(batch, target) as one:
                place, spec = place or Place.of(one.forward, one.xs, layer), one.spec
                share = share if is_picture(one) else None
                for samples, boxes, found in _cut(one, place, share):
                    rows.append(found.mean(2))
                    laid += found.half().unbind(0) if share is not None else []
                    where += [(b, i, box) for i, box in zip(samples, boxes, strict=True)]
        assert place is not None
        keys = [batches[b].keys[i] for b, i, _ in where]
        return cls(torch.cat(rows), where, place, share, keys, spec, laid)


def _cut(
    one: OpenBatch, place: Place, share: float | str | None
) -> Iterable[tuple[range | list[int], list[Any], Tensor]]:
    """Samples of a batch, the parts of them, and the activations there (n, C, P); of places those (n, C, 1)."""
    x = one.xs[0]
    every = range(len(x))
    if share is None:
        for at, found in enumerate(place.activations(one.forward, one.xs).split(1, 2)):
            yield every, [at] * len(x), found
    elif isinstance(share, str):
        for i in every:
            parts = segments_of(x[i])
            rows = [i] * len(parts)
            shown = torch.cat([enlarged(part.of(x[i : i + 1]), x.shape[2:]) for part in parts])
            yield rows, parts, place.activations(one.forward.of_rows(torch.tensor(rows)), [shown])
    else:
        for box in boxes_of(x.shape[2:], share):
            yield every, [box] * len(x), place.activations(one.forward, [enlarged(part_of(x, box), x.shape[2:])])


@dataclass(frozen=True)
class _Weighed:
    """What concepts add to the score, over the items."""

    importance: Tensor
    shares: Tensor
    residual: float
    base: float
    score: float
    linear: bool
    amounts: Tensor


def _weighed(batches: Sequence[SampleBatch], target: Any, place: Place, found: ConceptFactors) -> _Weighed:
    shares, totals, base, scores, amounts, sobol, linear, left = [], [], [], [], [], [], True, _SOBOL_ITEMS
    for batch in batches:
        with opened(batch, target) as one:
            got = place.reading(one.forward, one.xs)
            u = amounts_at(got.activations, found.atoms)
            shares.append(shares_of(u, got.gradients, found.atoms))
            totals.append(got.total)
            base.append(got.base)
            scores.append(got.scores)
            amounts.append(u.mean(1))
            linear = linear and got.linear
            if not linear and left > 0:
                sobol.append(_sobol(one, place, found.atoms, u, min(left, len(batch))))
                left -= len(sobol[-1])
    mean = torch.cat(shares).mean(0)
    total = float(torch.cat(totals).mean())
    importance = mean if linear else torch.cat(sobol).double().mean(0)
    return _Weighed(
        importance,
        mean,
        total - float(mean.sum()),
        float(torch.cat(base).double().mean()),
        float(torch.cat(scores).double().mean()),
        linear,
        torch.cat(amounts),
    )


def _sobol(one: OpenBatch, place: Place, atoms: Tensor, amounts: Tensor, n: int) -> Tensor:
    """Total Sobol indices of the concepts' strengths for the first items (n, K)."""
    rows = torch.arange(n)
    forward = one.forward.of_rows(rows)
    xs = [x[:n] for x in one.xs]
    at = AtLayer(forward.func, [place.layer])
    args, kwargs = forward.arguments(xs, None)
    tensor = at.encode(*args, **kwargs)[0]
    func = Call(FromAmounts(at, place, atoms), forward.kwargs, forward.output)
    given = (amounts[:n].to(tensor), tensor, *xs, *forward.args)
    strengths = torch.ones(n, amounts.shape[2]).to(tensor)
    found: Tensor = Sobol(func).attribute(
        strengths, target=forward.target, additional_forward_args=given, n_samples=32, seed=0
    )
    return found.cpu()


def _again(rows: Tensor, found: ConceptFactors, seed: int) -> list[Tensor]:
    """Atoms from other beginnings."""
    k = len(found.atoms)
    seeds = [sample_seed(seed, i) for i in range(SEEDS)]
    return [factorise(rows, k, signed=found.signed, seed=s).atoms for s in seeds]


def _halves(parts: _Parts, found: ConceptFactors, batches: Sequence[SampleBatch], seed: int) -> Tensor:
    """The smaller cosine with the atoms of two halves of the items (K,); NaN where a half is too small."""
    ranked = sorted(set(keys_of(batches)), key=lambda key: sample_seed(seed, str(key)))
    first = set(ranked[: len(ranked) // 2])
    mine = torch.tensor([key in first for key in parts.keys])
    k = len(found.atoms)
    if min(int(mine.sum()), int((~mine).sum())) < k:
        return torch.full((k,), math.nan)
    both = [factorise(parts.rows[m], k, signed=found.signed).atoms for m in (mine, ~mine)]
    return torch.stack([matched(found.atoms, one) for one in both]).amin(0)


def _best(amounts: Tensor, parts: _Parts, items: int) -> list[tuple[Crop, int]]:
    """The parts with most of a concept and their rows, few of any one item."""
    few, counts, found = max(2, math.ceil(BEST / items)), {}, []  # type: ignore[var-annotated]
    for row in amounts.argsort(descending=True, stable=True).tolist():
        key = parts.keys[row]
        if len(found) == BEST or not float(amounts[row]) > 0:
            break
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= few:
            box = parts.where[row][2] if parts.share is not None else None
            box = box.box if isinstance(box, Segment) else box
            found.append((Crop(key, box, float(amounts[row])), row))
    return found


def _drawn(
    batches: Sequence[SampleBatch],
    target: Any,
    parts: _Parts,
    atoms: Tensor,
    best: Sequence[Sequence[tuple[Crop, int]]],
) -> list[list[tuple[np.ndarray, np.ndarray | None]]]:
    """Pixels of every part that is shown, and where in it the concept is more than half its largest amount."""
    found: list[list[Any]] = [[None] * len(row) for row in best]
    for b, batch in enumerate(batches):
        asked = [(k, j, row) for k, rows in enumerate(best) for j, (_, row) in enumerate(rows)]
        mine = [(k, j, row) for k, j, row in asked if parts.where[row][0] == b]
        if not mine:
            continue
        with opened(batch, target) as one:
            if not is_picture(one):
                return []
            for k, j, row in mine:
                found[k][j] = _picture(one, parts, row, atoms, k)
    return found


def _picture(one: OpenBatch, parts: _Parts, row: int, atoms: Tensor, k: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A part's pixels, and the concept's amount at its places relative to the largest."""
    _, i, box = parts.where[row]
    x, size = one.xs[0][i : i + 1], parts.place.size
    if parts.share is None:
        whole = len(size) != 2
        return pixels(x if whole else part_of(x, around(int(box), size, x.shape[2:])), one.spec), None
    amounts = amounts_at(parts.laid[row][None].to(atoms), atoms)[0, :, k]
    where = (amounts / amounts.max().clamp_min(1e-12)).reshape(size).numpy() if len(size) == 2 else None
    return pixels(part_of(x, box), one.spec), where


def _suggested(amounts: Tensor, batches: Sequence[SampleBatch], spec: InputSpec) -> list[str | None]:
    """Of each concept the label whose items have more of it than others, with the share of pairs that say so (AUC)."""
    labels = torch.tensor(labels_of(batches))
    classes = [int(c) for c in labels.unique() if c >= 0 and FEW <= int((labels == c).sum()) <= len(labels) - FEW]
    found: list[str | None] = []
    for u in amounts.T:
        areas = {c: _area(u[labels == c], u[labels != c]) for c in classes}
        best = max(areas, key=lambda c: areas[c], default=None)
        found.append(
            None if best is None or areas[best] < TOLD else f"mostly {spec.label(best)} ({areas[best]:.2f} AUC)"
        )
    return found


def _area(mine: Tensor, others: Tensor) -> float:
    more = mine[:, None] - others[None]
    return float(((more > 0).double() + 0.5 * (more == 0).double()).mean())

"""What a change does to maps: maps of changed samples, how alike they are to the clean ones, what counts as kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.api.asking import Given, asked_of_rows
from interp_plugins.api.explain import explain
from interp_plugins.api.samples import PIECE
from interp_plugins.core.concat import joined
from interp_plugins.core.errors import InputError, ModelError, unknown
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import one_per_row
from interp_plugins.core.target import Asked
from interp_plugins.core.tensors import describe, like, take_rows
from interp_plugins.metrics.agreement import top_k_overlap
from interp_plugins.metrics.maps import Method
from interp_plugins.metrics.rows import element_rows
from interp_plugins.metrics.similarity import cosine_similarity, spearman_correlation
from interp_plugins.robust.climb import Climb
from interp_plugins.robust.loss import Loss
from interp_plugins.robust.opening import Opened

TOP = 0.1  # of the places, for "topk"
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": lambda a, b: spearman_correlation(a.abs(), b.abs()),
    "topk": lambda a, b: top_k_overlap(a, b, k=max(1, round(TOP * a.shape[1])), ties="index"),
    "cosine": cosine_similarity,
    "centre": lambda a, b: _near_centres(a, b, (a.shape[1],)),
}


def _near_centres(a: Tensor, b: Tensor, places: Sequence[int]) -> Tensor:
    """1 less the distance of two maps' centres of mass in halves of the diagonal, (R,) of sizes of maps (R, D)."""
    apart, diagonal = torch.zeros_like(a[:, 0]), 0.0
    for axis, size in enumerate(places):
        at = torch.arange(size, dtype=a.dtype, device=a.device)
        shape = [1] * len(places)
        shape[axis] = size
        flat = at.reshape(shape).expand(tuple(places)).reshape(1, -1)
        apart = apart + (_centre(a, flat) - _centre(b.to(a), flat)) ** 2
        diagonal += (size - 1) ** 2
    return 1 - (apart + 1e-20).sqrt() / (0.5 * max(diagonal, 1.0) ** 0.5)


def _centre(rows: Tensor, at: Tensor) -> Tensor:
    mass = rows.abs()
    total = mass.sum(1)
    middle = torch.where(total > 0, (mass * at).sum(1), at.mean())
    return middle / torch.where(total > 0, total, 1.0)


def wanted_rows(given: Any, clean: Explanation, n: int) -> Tensor:
    """A map that others are drawn towards, in the places of some maps, (N, D) float64.

    Args:
        given: a map or a region: places alone, (N or 1, *places) or (N or 1, C, *places), of any size;
            of a table a row of features.
        clean: the maps.
        n: number of samples.

    Raises:
        InputError: another shape, or a map without differences.
    """
    one = clean.attributions
    if isinstance(one, tuple) or clean.spec.kind == "text":
        raise InputError("towards= is of models with one input that is no text.")
    places = tuple(one.shape[2:]) if one.ndim >= 3 else tuple(one.shape[1:])
    flat = element_rows(given, "sum") if isinstance(given, Explanation) else None
    made = torch.as_tensor(flat.reshape(len(flat), *places) if flat is not None else given).detach().cpu().double()
    if made.ndim == len(places) + 2 and one.ndim >= 3:
        made = made.sum(1)
    made = made[None] if made.ndim == len(places) else made
    right = made.ndim == len(places) + 1 and len(made) in (1, n) and (one.ndim >= 3 or made.shape[1:] == places)
    if not right or not bool(made.isfinite().all()):
        raise InputError(
            f"towards= is a map or a region of places {places}, alone or one for each of {n} samples, of finite "
            f"numbers; got shape {tuple(torch.as_tensor(given).shape) if flat is None else tuple(made.shape)}."
        )
    if made.shape[1:] != places:
        made = torch.nn.functional.interpolate(made[:, None], size=places, mode="area")[:, 0]
    rows = made.reshape(len(made), -1).expand(n, -1)
    if bool((rows.amax(1) == rows.amin(1)).any()):
        raise InputError("towards= is the same everywhere, so no map could be drawn towards it.")
    return rows


class Likeness:
    """How alike maps are to the clean ones, 1 for the same.

    Args:
        similarity: "spearman", "topk", "cosine", "centre", or a function of two tensors (N, D) of maps, one number per
            place.
    """

    def __init__(self, similarity: Any):
        if isinstance(similarity, str) and similarity.lower() not in SIMILARITIES:
            raise unknown("similarity", similarity, tuple(SIMILARITIES))
        if not isinstance(similarity, str) and not callable(similarity):
            raise InputError(
                f"similarity is one of {', '.join(SIMILARITIES)}, or a function of two tensors of maps (N, D), got "
                f"{describe(similarity)}."
            )
        self.name = similarity.lower() if isinstance(similarity, str) else getattr(similarity, "__name__", "own")
        self.function = SIMILARITIES[self.name] if isinstance(similarity, str) else similarity

    def __call__(self, found: Explanation, clean: Explanation, rows: Tensor) -> Tensor:
        """(R,) of maps that belong to the samples `rows`; maps that are equal are alike, also if they are constant."""
        a, b = element_rows(clean, "sum")[rows.cpu()], element_rows(found, "sum")
        return self.between(a, b, self.places(clean))

    def places(self, clean: Explanation) -> tuple[int, ...]:
        """How many places maps have along each axis, where that matters ("centre"); else none.

        Raises:
            InputError: "centre" of maps without places.
        """
        if self.name != "centre" or self.function is not SIMILARITIES["centre"]:
            return ()
        one = clean.attributions
        if isinstance(one, tuple) or one.ndim < 3 or clean.spec.kind == "text":
            raise InputError(
                "similarity='centre' compares where the middle of two maps lies, and these maps have no places: choose "
                "'spearman', 'topk' or 'cosine'."
            )
        return tuple(one.shape[2:])

    def between(self, a: Tensor, b: Tensor, places: tuple[int, ...] = ()) -> Tensor:
        """(R,) of maps as rows (R, D), of so many places along each axis."""
        made = _near_centres(a, b, places) if places else self.function(a, b)
        value = torch.as_tensor(made).double().reshape(-1)
        if len(value) != len(b):
            raise InputError(f"similarity gave {len(value)} numbers for {len(b)} maps; expected one for each.")
        same = ((a - b).abs() <= 1e-9 * a.abs().amax(1, keepdim=True)).all(1)
        return torch.where(same, 1.0, value)

    def slope(self, maps: Tensor, clean: Tensor, places: tuple[int, ...] = ()) -> Tensor:
        """Something that falls as maps (R, D) become less alike, with a slope, (R,)."""
        if places:
            return _near_centres(maps, clean, places)
        if self.name == "topk":
            top = clean.abs().topk(max(1, round(TOP * clean.shape[1])), dim=1).indices
            mass = maps.abs()
            return mass.gather(1, top).sum(1) / mass.sum(1).clamp_min(1e-30)
        a, b = (maps, clean) if self.name == "cosine" else (maps.abs(), clean.abs())
        if self.name != "cosine":
            a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30)


@dataclass(frozen=True)
class SamePrediction:
    """Whether a changed sample is said to be the same: its class, and nearly its score.

    Attributes:
        subject: the model and its samples.
        asked: what is explained.
        share: by how much the score may change, as a share of its distance from the mean of all outputs (of its own
            size where there is one output).
    """

    subject: Opened
    asked: Asked
    share: float

    def scores(self, output: Tensor, rows: Tensor) -> Tensor:
        """The explained score of some rows, (R,)."""
        return one_per_row(self.asked.target.at(rows)(output), len(rows))

    def room(self) -> Tensor:
        """By how much each sample's score may change, (N,)."""
        output = self.subject.prediction.output
        score = self.clean()
        several = output.ndim == 2 and output.shape[1] > 1
        return self.share * (score - output.mean(1) if several else score).abs()

    def clean(self) -> Tensor:
        """The score of each sample as it is, (N,)."""
        output = self.subject.prediction.output
        return self.scores(output, torch.arange(len(output), device=output.device))

    def look(self, points: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of raw points: whether they are kept (R,), how far their scores are off (R,), and the way back (R, D)."""
        climb = Climb(self.subject.forward, _Score(self), 1.0, chunk=self.subject.asking.batch_size)
        seen = climb.look(points, rows)
        off = seen.height - self.clean()[rows]
        back = -seen.up * off.sign()[:, None]
        return self._same(seen.output, off, rows), off, back

    def holds(self, points: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Whether raw points of some samples are kept, (R,)."""
        climb = Climb(self.subject.forward, _Score(self), 1.0, chunk=self.subject.asking.batch_size)
        seen = climb.look(points, rows, ahead=False)
        return self._same(seen.output, seen.height - self.clean()[rows], rows)

    def _same(self, output: Tensor, off: Tensor, rows: Tensor) -> Tensor:
        near = off.abs() <= self.room()[rows] * (1 + 1e-6)
        return near & (self.classes(output) == self.classes(self.subject.prediction.output)[rows])

    def classes(self, output: Tensor) -> Tensor:
        """What is predicted, (R,); the same for all where the outputs are no classes."""
        prediction = self.subject.prediction
        if prediction.two is not None:
            return prediction.two.predicted(output).reshape(len(output))
        return output.argmax(1) if prediction.classes is not None else torch.zeros(len(output), device=output.device)


class _Score(Loss):
    """The explained score, as what is climbed."""

    def __init__(self, kept: SamePrediction):
        self.kept = kept

    def __call__(self, output: Tensor, rows: Tensor) -> Tensor:
        return self.kept.scores(output, rows)


class Maps:
    """One method's maps of samples and of what they are changed to.

    Args:
        subject: the model and its samples.
        asked: what is explained.
        method: the method, with its parameters and further arguments of `explain`.
    """

    def __init__(self, subject: Opened, asked: Asked, method: Method):
        self.subject, self.asked, self.method = subject, asked, method

    def at(self, points: Sequence[Tensor], rows: Tensor) -> Explanation:
        """Maps of raw points of some samples; what draws at random draws the same for each."""
        xs = self.subject.func.normalised(points)
        size = 1 if self.method.drawing else PIECE
        parts = [self._explained([x[i : i + size] for x in xs], rows[i : i + size]) for i in range(0, len(rows), size)]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _explained(self, xs: Sequence[Tensor], rows: Tensor) -> Explanation:
        asking, chosen = self.subject.asking, rows.cpu()
        options = asking.for_explain()
        for name in ("additional_forward_args", "forward_kwargs"):
            if name in options:
                options[name] = take_rows(options[name], chosen, len(self.subject))
        made = explain(
            self.subject.model,
            like(self.subject.given, list(xs)),
            [self.method.what],
            target=Given(asked_of_rows(self.asked, chosen.tolist())),
            input_spec=self.subject.spec,
            seed=asking.seed,
            progress=False,
            **options,
            **self.method.params,
        )
        return made[0]


def refuse_mates(subject: Opened) -> None:
    """Refuse models whose rows feel each other: a map of theirs belongs to a batch.

    Raises:
        ModelError: such a model.
    """
    facts = subject.forward.row_facts(subject.raw)
    if facts.together and len(subject) > 1:
        raise ModelError(
            f"The rows of this model feel each other ({facts.why}), so a sample's map cannot be changed alone. Give "
            "one sample at a time."
        )

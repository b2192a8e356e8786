"""From features to `Suspects`: which kind of labels these are, the votes, the rank mean, copies, outliers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError, InterpWarning, unknown
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.truth import class_labels
from interp_plugins.influence import voting
from interp_plugins.influence.copies import Copy, copies_across, copies_inside, groups_of, outlying
from interp_plugins.influence.features import ItemFeatures
from interp_plugins.influence.margins import Margins, margins_of
from interp_plugins.influence.neighbours import Neighbours, nearest
from interp_plugins.influence.suspected import Suspects
from interp_plugins.influence.voting import Votes

KINDS = ("classes", "labels", "values", "pixels")
REASONS = ("knn", "head", "margin", "loss")
_AUTO = ("knn", "head")
SHOWN = 10  # neighbours of each item that a result keeps


@dataclass(frozen=True)
class Options:
    """How suspects are ranked.

    Attributes:
        k: neighbours that vote.
        by: the votes whose ranks are averaged; None: `knn` and `head`, and `margin` with a history.
        kind: "classes", "labels", "values" or "pixels"; None: by the labels' form.
        history: margins of a training; None: none.
        spec: kind of data and class names.
        seed: of the folds.
    """

    k: int = 50
    by: str | Sequence[str] | None = None
    kind: str | None = None
    history: Margins | None = None
    spec: InputSpec = field(default_factory=InputSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"k must be a number of neighbours of at least 1, got {self.k!r}.")
        if self.kind is not None and self.kind not in KINDS:
            raise unknown("kind of labels", self.kind, KINDS)
        for name in self.votes:
            if name not in REASONS:
                raise unknown("reason", name, REASONS)
        if not self.votes:
            raise InputError(f"by= names at least one of {', '.join(REASONS)}.")

    @property
    def votes(self) -> tuple[str, ...]:
        """The reasons that are averaged."""
        if self.by is None:
            return _AUTO if self.history is None else (*_AUTO, "margin")
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)


def ranked(
    train: ItemFeatures,
    valid: ItemFeatures | None,
    options: Options,
    gallery: Callable[[Sequence[int]], list[Any]] | None,
) -> Suspects:
    """The items in the order of suspicion.

    Args:
        train: features of the data that are searched.
        valid: of the validation data, for copies of items in them; None: not looked for.
        options: how.
        gallery: item numbers -> what is shown of them; None: nothing can be.
    """
    kind = options.kind or kind_of(train)
    groups = groups_of(train.digests)
    near = nearest(train.of_items, train.of_items, max(options.k, SHOWN), groups=(groups, groups))
    labels = _labels(train, kind)
    votes = _votes(train, Neighbours(*(t[:, : options.k] for t in near)), labels, kind, groups, options)
    margin, loss, notes = _of_training(train, labels, kind, options)
    reasons = {"knn": votes.knn, "head": votes.head, "margin": margin, "loss": loss}
    used = tuple(name for name in options.votes if reasons[name] is not None)
    if missing := set(options.votes) - set(used):
        raise InputError(f"by={sorted(missing)[0]!r}: there is no such number for {kind} and this model's outputs.")
    score = _score([_suspicion(name, reasons[name]) for name in used], votes.known)
    truth = labels if kind != "pixels" else torch.tensor(votes.given)
    copies = copies_inside(train, near, truth)
    if valid is not None:
        others = _labels(valid, kind)
        copies += copies_across(train, valid, (truth, others if kind != "pixels" else _held(valid)))
    _tell(copies, votes, notes)
    order = torch.where(votes.known, -score, torch.ones_like(score)).argsort(stable=True)
    return Suspects(
        items=torch.tensor(train.numbers),
        order=order,
        score=score,
        given=tuple(votes.given),
        suggested=tuple(votes.suggested),
        likely=votes.likely,
        reasons={name: value for name, value in reasons.items() if value is not None},
        more=votes.more,
        outlier=outlying(near),
        neighbours=near.rows[:, :SHOWN].contiguous(),
        cosines=near.cosines[:, :SHOWN].contiguous(),
        copies=tuple(copies),
        pred_probs=votes.probabilities,
        names=train.names,
        votes=used,
        kind=kind,
        layer=train.layer,
        spec=options.spec,
        notes=tuple(notes),
        searched_valid=valid is not None,
        gallery=gallery,
    )


def kind_of(features: ItemFeatures) -> str:
    """What kind of labels these are, by their form.

    Raises:
        InputError: labels of no known form.
    """
    truth, outputs = features.truth, features.outputs
    if features.pixels:
        return "pixels"
    n, wide = len(outputs), outputs.reshape(len(outputs), -1).shape[1]
    if truth.numel() == n and not truth.is_floating_point():
        return "classes" if wide > 1 or int(truth.max()) <= 1 else "values"
    marks = truth.reshape(n, -1)
    two = bool(((marks == 0) | (marks == 1)).all())
    if marks.shape[1] == 1 and two and wide <= 2:
        return "classes"
    if marks.shape[1] > 1 and two:
        return "classes" if class_labels(marks, n) is not None and bool((marks.sum(1) == 1).all()) else "labels"
    if marks.shape[1] > 1 and class_labels(marks, n) is not None:
        return "classes"
    if marks.is_floating_point():
        return "values"
    raise InputError(
        f"Labels of shape {tuple(truth.shape)} and type {truth.dtype} for outputs of shape {tuple(outputs.shape)} are "
        "neither classes, marks of 0 and 1, values, nor masks. Say which: kind='classes', 'labels', 'values'."
    )


def _labels(features: ItemFeatures, kind: str) -> Tensor:
    """The labels in the form of their kind: indices (N,), marks (N, L), values (N, K), classes of places (R,)."""
    truth, n = features.truth, len(features.truth)
    if kind == "pixels":
        return truth.long()
    if kind == "classes":
        found = class_labels(truth, n)
        if found is None:
            raise InputError(f"kind='classes' takes one class per item; got labels of shape {tuple(truth.shape)}.")
        return found
    flat = truth.reshape(n, -1)
    if kind == "labels" and not bool(((flat == 0) | (flat == 1)).all()):
        raise InputError("kind='labels' takes marks of 0 and 1 (N, L).")
    return flat.long() if kind == "labels" else flat.double()


def _classes(features: ItemFeatures, labels: Tensor, options: Options) -> int:
    outputs = features.outputs.reshape(len(features.outputs), -1).shape[1]
    return max(2, outputs, int(labels.max()) + 1, len(options.spec.vocab or ()))


def _votes(train: ItemFeatures, near: Neighbours, labels: Tensor, kind: str, groups: Tensor, options: Options) -> Votes:
    if kind == "classes":
        return voting.class_votes(train, near, labels, _classes(train, labels, options), groups, options.seed)
    if kind == "pixels":
        return voting.pixel_votes(train, _classes(train, labels, options), groups, options.k, options.seed)
    if kind == "labels":
        return voting.label_votes(train, near, labels, groups, options.seed)
    return voting.value_votes(train, near, labels, groups, options.seed)


def _held(features: ItemFeatures) -> Tensor:
    """(N,) the class that most places of each picture have."""
    labels = features.truth.long()
    found = torch.zeros(len(features.numbers), int(labels.max()) + 1)
    return found.index_put((features.item, labels), torch.ones(len(labels)), accumulate=True).argmax(1)


def _of_training(
    train: ItemFeatures, labels: Tensor, kind: str, options: Options
) -> tuple[Tensor | None, Tensor | None, list[str]]:
    """The margin (of a history, else of the outputs now) and the loss of each item, as far as there are any."""
    notes: list[str] = []
    now, loss = _margin_and_loss(train, labels, kind)
    if options.history is None:
        return now, loss, notes
    margin = options.history.mean(train.numbers).float()
    unseen = int(margin.isnan().sum())
    if unseen == len(margin):
        raise InputError("history= holds no margin of these items. Give the history of the training on these data.")
    if unseen:
        notes.append(f"{unseen} of {len(margin)} items have no margin in the history; the median stands for them.")
        margin = margin.where(~margin.isnan(), margin.nanmedian())
    return margin, loss, notes


def _margin_and_loss(train: ItemFeatures, labels: Tensor, kind: str) -> tuple[Tensor | None, Tensor | None]:
    outputs = train.outputs
    if kind in ("classes", "pixels"):
        flat = outputs.reshape(len(outputs), -1)
        margin = margins_of(flat, labels)
        logits = flat if flat.shape[1] > 1 else torch.cat([torch.zeros_like(flat), flat], 1)
        inside = (labels >= 0) & (labels < logits.shape[1])
        loss = F.cross_entropy(logits, labels.where(inside, torch.zeros_like(labels)), reduction="none") * inside
        margin = None if margin is None else margin.nan_to_num(0.0).float()
        if kind == "pixels":
            return _item_mean(train, margin), _item_mean(train, loss)
        return margin, loss
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape != labels.shape:
        return None, None
    if kind == "labels":
        sign = 2.0 * labels - 1
        loss = F.binary_cross_entropy_with_logits(flat, labels.float(), reduction="none").mean(1)
        return (sign * flat).amin(1), loss
    return None, (flat - labels).square().mean(1).float().nan_to_num(0.0)


def _item_mean(train: ItemFeatures, values: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    n = len(train.numbers)
    total = torch.zeros(n).index_add(0, train.item, values.float())
    return total / torch.bincount(train.item, minlength=n).clamp_min(1)


def _suspicion(name: str, values: Tensor | None) -> Tensor:
    assert values is not None
    return values if name == "loss" else -values


def _score(votes: list[Tensor], known: Tensor) -> Tensor:
    """(N,) the mean of the ranks in (0, 1], large for suspects, 0 where nothing can be said."""
    at = known.nonzero().flatten()
    found = torch.zeros(len(known), dtype=torch.double)
    if len(at):
        found[at] = torch.stack([voting.ranks(v[at]) for v in votes]).mean(0)
    return found


def _tell(copies: list[Copy], votes: Votes, notes: list[str]) -> None:
    """Say aloud what concerns more than single items."""
    across = [c for c in copies if c.where == "valid"]
    inside = [c for c in copies if c.where == "train"]
    if across:
        exact = sum(c.exact for c in across)
        notes.append(
            f"LEAKAGE: {len(across)} items of the validation data are in the training data as well ({exact} exactly, "
            f"{len(across) - exact} nearly), so the validation score is too good. .leakage() lists them."
        )
        warnings.warn(notes[-1], InterpWarning, stacklevel=4)
    if inside:
        odd = sum(c.conflict for c in inside)
        differ = f", {odd} of them with different labels" if odd else ""
        notes.append(f"{len(inside)} pairs of copies inside the data{differ}: .copies.")
    if silent := int((~votes.known).sum()):
        notes.append(
            f"{silent} items have no label, or a class of fewer than 3 items: nothing can be said of them, and they "
            "stand last."
        )

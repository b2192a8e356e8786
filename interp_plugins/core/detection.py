"""Detections: a box of an object detector as a target.

torchvision's detectors return a dict per picture, {"boxes": (M, 4), "labels": (M,), "scores": (M,)}, with another M for
every picture. `as_table` makes one tensor of that, (R, M, 6): x1, y1, x2, y2, label, score; rows of zeros with label -1
fill up. `Box` reads a score off it: what the model says of one object, found again by its place and its class in every
perturbed picture. With perturbation methods that is D-RISE (Petsiuk et al., CVPR 2021, arXiv:2006.03204); with gradient
methods the derivative of the matched score, where the detector's selection of boxes is differentiated through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import TargetError, unknown
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, FromPrediction, Target
from interp_plugins.core.tensors import accumulation_dtype

MOST = 100  # detections kept per picture, those with the highest scores
_KEYS = ("boxes", "labels", "scores")
SCORINGS = ("match", "d_rise")
_FLAT = (
    "Boxes in volumes (six numbers) and turned ones (five) have other overlaps, which are not here: give output= a "
    "function of what the detector returns, which finds the object and gives its score, (N,)."
)


def is_detections(output: Any) -> bool:
    """Whether a model's output is a list with boxes, labels and scores for every picture."""
    return (
        isinstance(output, (list, tuple))
        and len(output) > 0
        and all(isinstance(one, Mapping) and all(isinstance(one.get(key), Tensor) for key in _KEYS) for one in output)
    )


def as_table(output: Sequence[Mapping[str, Tensor]], most: int = MOST) -> Tensor:
    """Detections of R pictures as one tensor (R, most, 6): x1, y1, x2, y2, label, score; the highest scores first."""
    rows = []
    for one in output:
        boxes, labels, scores = (one[key] for key in _KEYS)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise TargetError(
                f"A detector's boxes are x1, y1, x2, y2, (M, 4); here they are {tuple(boxes.shape)}. {_FLAT}"
            )
        order = scores.detach().argsort(descending=True, stable=True)[:most]
        dtype = accumulation_dtype(scores.dtype)  # half precision cannot hold the numbers of many classes
        found = torch.cat([part.to(dtype) for part in (boxes[order], labels[order, None], scores[order, None])], 1)
        empty = found.new_zeros(most - len(order), 6)
        empty[:, 4] = -1
        rows.append(torch.cat([found, empty]))
    return torch.stack(rows)


def is_table(output: Tensor) -> bool:
    """Whether a tensor is what `as_table` makes: whole labels from -1, and corners in order."""
    if output.ndim != 3 or output.shape[1:] != (MOST, 6):
        return False
    labels, there = output[..., 4], output[..., 4] >= 0
    ordered = (output[..., 2:4] >= output[..., :2]).all(-1)
    return bool((labels == labels.round()).all() and (labels >= -1).all() and (ordered | ~there).all())


def overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of boxes (..., M, 4) with one box (..., 4): (..., M); 0 for boxes without an area."""
    box = box.to(boxes)[..., None, :]
    low, high = torch.maximum(boxes[..., :2], box[..., :2]), torch.minimum(boxes[..., 2:], box[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (boxes, box)]
    union = areas[0] + areas[1] - shared
    return shared / union.where(union > 0, torch.ones_like(union))


class Box(Target):
    """The score that a detector gives to one object.

    Args:
        box: x1, y1, x2, y2 in pixels of the model's input, (4,), or one per sample (N, 4). Freeze it at the clean
            prediction (`Detection` does) or at the ground truth.
        label: class index, or one per sample.
        min_iou: overlap (intersection over union) from which a detection is the same object, with "match".
        scoring: "match" - the score of the detection of this class that overlaps most, 0 where none reaches `min_iou`;
            "d_rise" - the largest product of overlap and score among the detections of this class (equation 2 of the
            paper, with one-hot classes), 0 where there is none.
    """

    def __init__(self, box: Any, label: int | Sequence[int] | Tensor, min_iou: float = 0.5, scoring: str = "match"):
        self.box = torch.as_tensor(box).detach().float()
        self.label = torch.as_tensor(label).detach().long()
        if self.box.ndim not in (1, 2) or self.box.shape[-1] != 4 or self.label.ndim > 1:
            raise TargetError(
                f"A box is four numbers x1, y1, x2, y2 and a class index, the same for all samples or one per sample; "
                f"got shapes {tuple(self.box.shape)} and {tuple(self.label.shape)}."
                + f" {_FLAT}"
                * (self.box.shape[-1:] in ((5,), (6,)))
            )
        if bool((self.box[..., 2:] <= self.box[..., :2]).any()):
            raise TargetError(f"A box is x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {self.box.tolist()}.")
        if not 0 < min_iou <= 1:
            raise TargetError(f"min_iou must lie in (0, 1], got {min_iou!r}.")
        if scoring not in SCORINGS:
            raise unknown("scoring", scoring, SCORINGS)
        self.min_iou, self.scoring = float(min_iou), scoring

    def at(self, rows: Tensor | None) -> Target:
        """The boxes of some samples."""
        if rows is None:
            return self
        box = self.box if self.box.ndim == 1 else self.box.index_select(0, rows.to(self.box.device))
        label = self.label if self.label.ndim == 0 else self.label.index_select(0, rows.to(self.label.device))
        return Box(box, label, self.min_iou, self.scoring)

    def __call__(self, output: Tensor) -> Tensor:
        """Scores (R,) from a table of detections (R, M, 6)."""
        if output.ndim != 3 or output.shape[2] != 6:
            raise TargetError(
                f"A box target needs detections, a list of dicts with boxes, labels and scores as torchvision's "
                f"detectors return, or a table (N, M, 6) of x1, y1, x2, y2, label, score; the model's output has shape "
                f"{tuple(output.shape)}. Make such a table with explain(output=function of the output)."
            )
        boxes, labels, scores = output[..., :4], output[..., 4], output[..., 5]
        mine = labels.detach().round().long() == self.label.to(output.device).reshape(-1, 1)
        shared = overlap(boxes, self.box) * mine
        if self.scoring == "d_rise":
            return (shared * scores).amax(1)
        best = shared.detach().max(1)
        found = scores.gather(1, best.indices[:, None])[:, 0]
        return torch.where(best.values >= self.min_iou, found, found * 0)

    def describe(self, i: int) -> str | None:
        """Class and corners of the box of sample i."""
        label = int(self.label if self.label.ndim == 0 else self.label[i])
        corners = (self.box if self.box.ndim == 1 else self.box[i]).tolist()
        return f"box of class {label} at ({', '.join(f'{v:.0f}' for v in corners)})"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The box, with its class and score in words, and where it lies."""
        scores = self(prediction.output).tolist()
        names = [spec.label(c) for c in self.label.expand(n).tolist()]
        labels = tuple(f"{name} box {score:.2f}" for name, score in zip(names, scores))
        return Asked(self, None, labels, region=None if prediction.size is None else self.mask(prediction.size, n))

    def mask(self, size: tuple[int, int], n: int) -> Tensor:
        """The boxes as masks, bool (N, H, W)."""
        boxes = self.box.expand(n, 4)
        y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
        b = boxes.cpu()[:, :, None]
        across, down = (x > b[:, 0]) & (x < b[:, 2]), (y > b[:, 1]) & (y < b[:, 3])
        return down[:, :, None] & across[:, None, :]


@dataclass(frozen=True)
class Detection(FromPrediction):
    """What the model detects in the clean picture, as a `Box`; resolved by `explain`, which knows the prediction.

    Args:
        label: class index or name; None: any class.
        rank: 0 for the detection with the highest score (of this class), 1 for the next, ...
        min_iou: see `Box`.
        scoring: see `Box`.
    """

    label: Any = None
    rank: int = 0
    min_iou: float = 0.5
    scoring: str = "match"

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The frozen box, with its class and score in words, and where it lies."""
        return self.frozen(prediction.output, spec)[0].resolve(prediction, spec, n)

    def frozen(self, output: Tensor, spec: InputSpec) -> tuple[Box, tuple[int, ...]]:
        """The frozen box, and the class of every sample.

        Raises:
            TargetError: no table of detections, an unknown class, or a sample without such a detection.
        """
        if output.ndim != 3 or output.shape[2] != 6:
            raise TargetError(
                f"A detection needs a detector's output (a list of dicts with boxes, labels and scores), but the "
                f"model's output has shape {tuple(output.shape)}."
            )
        asked = None if self.label is None else self.label if _is_index(self.label) else spec.index_of(self.label)
        boxes, classes = [], []
        for i, table in enumerate(output.detach()):
            there = table[(table[:, 4] >= 0) if asked is None else (table[:, 4].round() == asked)]
            if not 0 <= self.rank < len(there):
                seen = sorted({str(spec.label(int(c))) for c in table[table[:, 4] >= 0][:, 4].tolist()})
                what = "detection" if asked is None else f"detection of {spec.label(asked)!r}"
                raise TargetError(
                    f"Sample {i} has no {what} number {self.rank}: the model finds {len(there)} there"
                    + (f", of classes {', '.join(seen[:10])}" if seen else "")
                    + ". Lower the model's score threshold, explain the other samples, or give a box: "
                    "core.detection.Box(box, label)."
                )
            boxes.append(there[self.rank, :4])
            classes.append(int(there[self.rank, 4].round()))
        return Box(torch.stack(boxes), torch.tensor(classes), self.min_iou, self.scoring), tuple(classes)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

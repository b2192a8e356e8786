"""`Region` and `ClassRegion`: a class of a segmentation in a mask, or where the model (or the ground truth) sees it.

The scalar is the sum of the class's scores over its region (Vinogradova et al., AAAI 2020, arXiv:2002.11434), and the
region is frozen on the clean output: one that is found anew in every pass moves with the perturbed input, and then the
attributions no longer add up to the score.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.indices import is_int
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, FromPrediction, Index, PerSample, Target
from interp_plugins.core.two_classes import TwoClasses, of_channel

_SPACE = (2, 3)  # dimensions of pictures and volumes
_BACKGROUND = re.compile(r"(back[ _-]?ground|bg|void|unlabell?ed|none|na)\b", re.IGNORECASE)


class Region(Target):
    """Sum of one class's scores over a fixed region of a segmentation output (N, C, H, W), or (N, C, D, H, W).

    Args:
        index: class index, or one per sample; or a target that leaves a score per pixel (N, H, W) or (N, D, H, W).
        mask: bool (N, H, W) or (H, W); of volumes (N, D, H, W), or (1, D, H, W) for all. Freeze it at the original
            input: a region recomputed inside the forward moves with every step, and completeness is lost.
    """

    def __init__(self, index: int | Sequence[int] | Target, mask: Tensor):
        self.index: int | tuple[int, ...] | Target
        if isinstance(index, Target):
            self.index = index
        else:
            self.index = int(index) if is_int(index) else tuple(int(i) for i in index)  # type: ignore[arg-type,union-attr]
        self.mask = mask.detach().bool()

    def at(self, rows: Tensor | None) -> Target:
        """The classes and regions of some samples."""
        if rows is None:
            return self
        single = self.mask.ndim == 2 or self.mask.shape[0] == 1
        if single and isinstance(self.index, int):
            return self
        if isinstance(self.index, Target):
            index: Any = self.index.at(rows)
        else:
            index = self.index if isinstance(self.index, int) else [self.index[r] for r in rows.tolist()]
        return Region(index, self.mask if single else self.mask.index_select(0, rows.to(self.mask.device)))

    def __call__(self, output: Tensor) -> Tensor:
        """The sums (R,), from an output (R, C, H, W) or (R, C, D, H, W)."""
        if isinstance(self.index, Target):
            scores = self.index(output)
        elif isinstance(self.index, int):
            scores = Index((self.index,))(output)
        else:
            scores = PerSample([(i,) for i in self.index])(output)
        space = scores.shape[1:]
        fits = len(space) in _SPACE and self.mask.shape[-len(space) :] == space
        if not fits or self.mask.ndim not in (2, scores.ndim):
            raise TargetError(
                f"Region mask of shape {tuple(self.mask.shape)} does not fit the class scores of shape "
                f"{tuple(scores.shape)}; expected an output (N, C, H, W) and a mask (N, H, W) or (H, W), or an output "
                "(N, C, D, H, W) and a mask (N, D, H, W)."
            )
        return (scores * self.mask.to(scores)).flatten(1).sum(1)

    def describe(self, i: int) -> str | None:
        """The class of sample i, in words."""
        if isinstance(self.index, Target):
            return f"region of class {self.index.describe(i)}"
        return f"region of class {self.index if isinstance(self.index, int) else self.index[i]}"

    def of_probabilities(self) -> Target:
        """The same region, with the classes' probabilities."""
        return Region(self.index.of_probabilities(), self.mask) if isinstance(self.index, Target) else self

    def in_region(self, mask: Tensor) -> Target:
        """The same classes in another region."""
        return Region(self.index, mask)

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The region; of a model that says two classes with one channel, that of the class, not of the channel."""
        if prediction.two is None or isinstance(self.index, Target):
            return super().resolve(prediction, spec, n)
        classes = [self.index] * n if isinstance(self.index, int) else self.index
        return Region(prediction.two.scores(classes), self.mask).resolve(prediction, spec, n)


@dataclass(frozen=True, eq=False)
class ClassRegion(FromPrediction):
    """The pixels of one class per sample; resolved by `explain`, which knows the prediction and the class names.

    Args:
        which: class index or name, the same for all samples. None: each sample's largest class that is not the
            background (a class of such a name, or class 0 where classes have no names).
        truth: true class indices (N, H, W) or (N, D, H, W); the region is where they say `which`. None: where the
            model predicts it.
    """

    which: Any = None
    truth: Tensor | None = None

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The frozen region, by the name of its class."""
        if prediction.output.shape[1:2] == (1,) and spec.vocab is not None and len(spec.vocab) == 1:
            spec = replace(spec, vocab=(f"not {spec.vocab[0]}", spec.vocab[0]))  # the channel says its one name
        region, classes = self.frozen(prediction.output, spec, prediction.two)
        return Asked(region, None, tuple(spec.label(c) for c in classes), classes, region.mask)

    def frozen(self, output: Tensor, spec: InputSpec, two: TwoClasses | None = None) -> tuple[Region, tuple[int, ...]]:
        """The frozen region, and the class of every sample.

        Args:
            output: clean class scores (N, C, H, W) or (N, C, D, H, W); one channel is a yes or no per pixel.
            spec: class names.
            two: how one channel says it; None: by logits, as values beyond [0, 1] show.

        Raises:
            TargetError: an output of another shape, an unknown class, or one that no sample has.
        """
        if output.ndim - 2 not in _SPACE:
            raise TargetError(
                "A class region needs scores per class and pixel, (N, C, H, W) or (N, C, D, H, W), but the model's "
                f"output has shape {tuple(output.shape)}. Give the index of an output, or a function output -> (N,); a "
                "mask (N, H, W) becomes one channel by output=lambda mask: mask[:, None]."
            )
        two = two or of_channel(output) if output.shape[1] == 1 else None
        count = 2 if two else output.shape[1]
        labels = self._labels(output, two)
        asked = None if self.which is None else _class_index(self.which, spec, count)
        if asked is None:
            background = _background(spec, count)
            classes = tuple(_largest(one, count, background) for one in labels)
        else:
            classes = (asked,) * len(labels)
        mask = labels == torch.tensor(classes, device=labels.device).view(-1, *(1,) * (labels.ndim - 1))
        if asked is not None:
            self._check_present(asked, mask, labels, spec)
        return Region(two.scores(classes) if two else classes, mask), classes

    def _labels(self, output: Tensor, two: TwoClasses | None) -> Tensor:
        if self.truth is None:
            return two.predicted(output) if two else output.argmax(1)
        truth = self.truth.long().to(output.device)
        if truth.ndim == output.ndim and truth.shape[1] == 1:
            truth = truth[:, 0]
        if truth.shape != (output.shape[0], *output.shape[2:]):
            raise TargetError(
                f"The true classes have shape {tuple(self.truth.shape)}, and the model's output {tuple(output.shape)}; "
                f"expected a class per pixel of the output, {(output.shape[0], *output.shape[2:])}."
            )
        return truth

    def _check_present(self, asked: int, mask: Tensor, labels: Tensor, spec: InputSpec) -> None:
        """Refuse a class that no sample has; warn of samples without it, whose maps are zero."""
        absent = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
        if not absent:
            return
        source = "the model predicts" if self.truth is None else "the ground truth has"
        name = spec.label(asked)
        if len(absent) == len(mask):
            seen = ", ".join(str(spec.label(i)) for i in torch.unique(labels).tolist()[:10])
            raise TargetError(
                f"{source[0].upper()}{source[1:]} class {name!r} nowhere, so there is no region to explain; it has: "
                f"{seen}. Give one of these, or core.region.Region(index, mask) with a mask of your own."
            )
        shown = ", ".join(str(i) for i in absent[:10])
        warnings.warn(
            f"In sample {shown} {source} class {name!r} nowhere; the region is empty and the map zero.",
            InterpWarning,
            stacklevel=3,
        )


def _class_index(which: Any, spec: InputSpec, count: int) -> int:
    if isinstance(which, int) and not isinstance(which, bool):
        if not -count <= which < count:
            raise TargetError(f"Target index {which} is out of range: the segmentation has classes 0 to {count - 1}.")
        return which % count
    index = spec.index_of(which)
    if index >= count:
        raise TargetError(f"Class {which!r} is number {index}, but the model has {count} classes.")
    return index


def _background(spec: InputSpec, count: int) -> frozenset[int]:
    """The classes that are no thing: by name, or class 0 where there are no names."""
    if spec.vocab is None:
        return frozenset({0})
    named = {i for i, name in enumerate(spec.vocab[:count]) if _BACKGROUND.match(str(name))}
    return frozenset(named if len(named) < count else ())


def _largest(labels: Tensor, count: int, background: frozenset[int]) -> int:
    """The most frequent class of one sample; the background only where there is nothing else."""
    known = labels[(labels >= 0) & (labels < count)]  # codes beyond the classes mark pixels to be left out
    sizes = torch.bincount(known.flatten(), minlength=count)
    things = sizes.clone()
    things[sorted(background)] = 0
    return int((things if bool(things.any()) else sizes).argmax())

"""`ClassRegion`: a class of a segmentation, where the model (or the ground truth) sees it.

The scalar is the sum of the class's scores over its region (Vinogradova et al., AAAI 2020, arXiv:2002.11434), and the
region is frozen on the clean output: one that is found anew in every pass moves with the perturbed input, and then the
attributions no longer add up to the score.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Asked, FromPrediction, Region

_BACKGROUND = re.compile(r"(back[ _-]?ground|bg|void|unlabell?ed|none|na)\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ClassRegion(FromPrediction):
    """The pixels of one class per sample; resolved by `explain`, which knows the prediction and the class names.

    Args:
        which: class index or name, the same for all samples. None: each sample's largest class that is not the
            background (a class of such a name, or class 0 where classes have no names).
        truth: true class indices (N, H, W); the region is where they say `which`. None: where the model predicts it.
    """

    which: Any = None
    truth: Tensor | None = None

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        """The frozen region, by the name of its class."""
        region, classes = self.frozen(prediction.output, spec)
        return Asked(region, None, tuple(spec.label(c) for c in classes), classes, region.mask)

    def frozen(self, output: Tensor, spec: InputSpec) -> tuple[Region, tuple[int, ...]]:
        """The frozen region, and the class of every sample.

        Args:
            output: clean class scores (N, C, H, W); one channel is a yes or no per pixel, yes above zero.
            spec: class names.

        Raises:
            TargetError: an output of another shape, an unknown class, or one that no sample has.
        """
        if output.ndim != 4:
            raise TargetError(
                f"A class region needs scores per class and pixel (N, C, H, W), but the model's output has shape "
                f"{tuple(output.shape)}. Give the index of an output, or a function output -> (N,)."
            )
        binary = output.shape[1] == 1
        count = 2 if binary else output.shape[1]
        labels = self._labels(output, binary)
        asked = None if self.which is None else _class_index(self.which, spec, count)
        if asked is None:
            background = _background(spec, count)
            classes = tuple(_largest(one, count, background) for one in labels)
        else:
            classes = (asked,) * len(labels)
        mask = labels == torch.tensor(classes, device=labels.device).view(-1, 1, 1)
        if asked is not None:
            self._check_present(asked, mask, labels, spec)
        return Region([0] * len(classes) if binary else classes, mask), classes

    def _labels(self, output: Tensor, binary: bool) -> Tensor:
        if self.truth is None:
            return (output[:, 0] > 0).long() if binary else output.argmax(1)
        truth = self.truth.reshape(len(self.truth), *self.truth.shape[-2:]).long().to(output.device)
        if truth.shape != (output.shape[0], *output.shape[2:]):
            raise TargetError(
                f"The true classes have shape {tuple(self.truth.shape)}, and the model's output {tuple(output.shape)}; "
                "expected a class per pixel of the output, (N, H, W)."
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
                f"{seen}. Give one of these, or core.target.Region(index, mask) with a mask of your own."
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

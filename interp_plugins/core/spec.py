"""What is known of an input beside its numbers: kind of data, normalisation, class and feature names.

Adapters fill an `InputSpec` from the framework's own transforms; baselines and pictures read it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InterpWarning, TargetError, did_you_mean
from interp_plugins.core.text import all_legible

_COLOURS = (1, 3, 4)  # numbers of channels of grey, RGB and RGBA pictures
_LEAST = 8  # sides from which pictures are taken to have their channels last: feature maps may be small
_CLEAR = 4  # times as many steps as channels: then the longer axis is time without a word
_PLACES = ("image", "volume", "clip", "series", "sequence")  # kinds in which neighbours belong together
_AXES = {"clip": "frames first, (N, T, C, H, W)", "series": "time last, (N, C, T)", "sequence": "time first, (N, T, C)"}
_OTHERWISE = {
    "clip": "they are volumes (N, C, D, H, W): InputSpec('volume')",
    "series": "time is first: InputSpec('sequence'), or that no axis is time: InputSpec('generic')",
    "sequence": "time is last: InputSpec('series'), or that no axis is time: InputSpec('generic')",
}


@dataclass(frozen=True)
class InputSpec:
    """Facts about the model's (first) input, and about further ones.

    Args:
        kind: "image" (N, C, H, W), "volume" (N, C, D, H, W), "clip" (N, T, C, H, W), "tabular" (N, F), "series"
            (N, C, T), "sequence" (N, T[, C]), "text" (token ids (N, T), or their embeddings (N, T, D)), or "generic".
        mean: per-channel mean that was subtracted, in the units of the raw data ([0, 1] for images), or None.
        std: per-channel standard deviation that was divided by, or None.
        value_range: smallest and largest raw value before normalisation.
        vocab: class names, in the order of the model's outputs.
        feature_names: one name per input feature (tabular columns, channels).
        name: the input's own name, "photograph" or "question", say.
        others: an `InputSpec` for each further input of a model with several; guessed from its shape where missing.
        layout: where the channels stand if not where the kind has them: "first" (N, C, ...) or "last" (N, ..., C).
            `explain` gives methods the channels first, whatever the model takes, and puts the maps back.
        missing: "nan" where NaN is a missing value that the model knows what to do with. It then stays missing in every
            baseline, step and perturbation, and its attribution is 0. None: NaN is a mistake, and refused.

    Example:
        spec = InputSpec("tabular", feature_names=("age", "income"), vocab=("no", "yes"))
        explain(nn.Linear(2, 2), torch.randn(5, 2), "ig", target="yes", input_spec=spec).to_df()
    """

    kind: str = "generic"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    vocab: tuple[Any, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    name: str | None = None
    others: tuple[InputSpec, ...] = ()
    layout: str | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        # Saved specs come back as mappings.
        others = tuple(one if isinstance(one, InputSpec) else InputSpec(**one) for one in self.others)
        object.__setattr__(self, "others", others)
        for name in ("vocab", "feature_names", "name"):
            object.__setattr__(self, name, all_legible(getattr(self, name)))
        if self.layout not in (None, "first", "last"):
            raise InputError(
                f"InputSpec layout must be 'first' (N, C, ...), 'last' (N, ..., C) or None (as the kind has it), got "
                f"{self.layout!r}."
            )
        if self.missing not in (None, "nan"):
            raise InputError(
                f"InputSpec missing must be 'nan' (NaN is a missing value) or None (a mistake), got {self.missing!r}."
            )
        if (self.mean is None) != (self.std is None):
            raise InputError("InputSpec got only one of mean and std; give both, or neither.")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise InputError(f"InputSpec mean has {len(self.mean)} channels, std has {len(self.std)}.")
            if any(not s > 0 for s in self.std):
                raise InputError(f"InputSpec std must be positive, got {self.std}.")

    @classmethod
    def guess(cls, x: Tensor, **known: Any) -> InputSpec:
        """Guess the kind from the shape, as torch's layers have it.

        (N, F) is a table row, (N, C, T) with fewer channels than steps a series, (N, T, C) a sequence, (N, C, H, W) an
        image, (N, C, D, H, W) a volume, with three colours a clip, as (N, T, C, H, W) is; images, volumes and clips of
        1, 3 or 4 channels at the end have them last. Ids (N, T) look like a table row: say kind="text".
        """
        kind, layout = _guessed(tuple(x.shape))
        measured = kind == "volume" or (kind == "image" and layout is None and x.shape[1] not in _COLOURS)
        # no photograph: its range is that of the data
        if measured and x.numel() and known.get("mean") is None and not x.is_complex():
            seen = x[~x.isnan()] if x.is_floating_point() else x
            if len(seen):
                known = {"value_range": (float(seen.min()), float(seen.max())), **known}
        return cls(**{"kind": kind, "layout": layout, **known})

    def channel_axis(self, ndim: int) -> int | None:
        """The axis of the channels in an input with so many axes; None where it has none."""
        if self.kind not in _PLACES or ndim < 3:
            return None
        if self.layout is not None:
            return 1 if self.layout == "first" else ndim - 1
        return ndim - 1 if self.kind == "sequence" else 2 if self.kind == "clip" and ndim == 5 else 1

    def within_place(self, ndim: int) -> int | None:
        """The axis of what belongs to one place: channels, or the numbers of a token; None where it has none."""
        if self.kind == "text":
            return ndim - 1 if ndim > 2 else None
        return self.channel_axis(ndim)

    def places(self, ndim: int) -> tuple[int, ...]:
        """The axes along which neighbours are: height and width, depth, time; none for tables, texts and others."""
        if self.kind not in _PLACES:
            return ()
        channels = self.channel_axis(ndim)
        return tuple(axis for axis in range(1, ndim) if axis != channels)

    def of_input(self, k: int, x: Tensor) -> InputSpec:
        """The facts about input k, x, with the class names of all."""
        if k == 0:
            return replace(self, others=())
        if k <= len(self.others):
            return replace(self.others[k - 1], vocab=self.vocab)
        return InputSpec.guess(x, vocab=self.vocab)

    @property
    def normalised(self) -> bool:
        """Whether the data were shifted and scaled per channel."""
        return self.mean is not None

    def _stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std shaped to broadcast over x."""
        assert self.mean is not None and self.std is not None
        axis = self.channel_axis(x.ndim) if self.kind != "sequence" else 1  # tables and others have theirs second
        axis = 1 if axis is None else axis
        if x.ndim < 2 or (len(self.mean) != 1 and x.shape[axis] != len(self.mean)):
            raise InputError(
                f"The input of shape {tuple(x.shape)} does not have the {len(self.mean)} channels of the "
                f"normalisation (mean={self.mean}). Give mean and std for its channels."
            )
        shape = [len(self.mean) if a == axis else 1 for a in range(x.ndim)]
        kw: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        return torch.tensor(self.mean, **kw).view(shape), torch.tensor(self.std, **kw).view(shape)

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw units to model units."""
        if not self.normalised:
            return raw
        mean, std = self._stats(raw)
        return (raw - mean) / std

    def denormalise(self, x: Tensor) -> Tensor:
        """Model units back to raw units."""
        if not self.normalised:
            return x
        mean, std = self._stats(x)
        return x * std + mean

    def label(self, index: int | None) -> Any:
        """Class name of an output index; the index itself without a vocabulary."""
        if index is None or self.vocab is None or not 0 <= index < len(self.vocab):
            return index
        return self.vocab[index]

    def index_of(self, label: Any) -> int:
        """Output index of a class name (an entry of the vocabulary, or its text, case-insensitive when unique)."""
        if self.vocab is None:
            raise TargetError(
                f"The target {label!r} is a label, but no class names are known. Give an index, or "
                "input_spec=InputSpec(vocab=[...])."
            )
        label = all_legible(label)
        for i, entry in enumerate(self.vocab):
            if type(entry) is type(label) and entry == label:
                return i
        for i, entry in enumerate(self.vocab):
            if not isinstance(label, bool) and not isinstance(entry, bool) and entry == label:
                return i
        folded = [i for i, entry in enumerate(self.vocab) if str(entry).lower() == str(label).lower()]
        if len(folded) == 1:
            return folded[0]
        shown = ", ".join(repr(v) for v in self.vocab[:10]) + (", ..." if len(self.vocab) > 10 else "")
        raise TargetError(
            f"Unknown label {label!r}.{did_you_mean(label, self.vocab)} The {len(self.vocab)} classes are: {shown}."
        )


def _guessed(shape: tuple[int, ...]) -> tuple[str, str | None]:
    """Kind and layout that a shape looks like; the layout only where it is not the kind's own."""
    if len(shape) == 2:
        return "tabular", None
    if len(shape) == 3:
        return ("series" if shape[1] < shape[2] else "sequence"), None
    if len(shape) not in (4, 5):
        return "generic", None
    if len(shape) == 5 and min(shape[3:]) > 1:
        rgb, grey = shape[2] == 3 and shape[1] not in (1, 3), shape[2] == 1 and shape[1] not in _COLOURS
        if rgb or grey:
            return "clip", None
    last = shape[-1] in _COLOURS and shape[1] not in _COLOURS
    space = shape[1:-1] if last else shape[2:]
    if min(space) < 2 or (last and min(space[-2:]) < _LEAST):
        return "generic", None
    kind = "image" if len(shape) == 4 else "clip" if (shape[-1] if last else shape[1]) == 3 else "volume"
    return kind, "last" if last else "first" if kind == "clip" else None


def guess_aloud(x: Tensor, *, time: bool = False, **known: Any) -> InputSpec:
    """`InputSpec.guess`, with a warning where something else may have that shape as well.

    Args:
        x: the input.
        time: whether that is said of the axis of time, too.
        **known: fields that are known.
    """
    spec, shape = InputSpec.guess(x, **known), tuple(x.shape)
    if spec.layout == "last":
        other = f"or that they have them first: InputSpec({spec.kind!r}, layout='first')"
    elif spec.kind == "clip" or (time and spec.kind in _OTHERWISE and max(shape[1:]) < _CLEAR * min(shape[1:])):
        other = f"or that {_OTHERWISE[spec.kind]}"
    else:
        return spec
    axes = {"first": "channels first", "last": "channels last"}.get(spec.layout or "", _AXES.get(spec.kind))
    layout = f", layout={spec.layout!r}" if spec.layout else ""
    warnings.warn(
        f"Inputs of shape {shape} are taken for kind {spec.kind!r} with {axes}. Say so with "
        f"input_spec=InputSpec({spec.kind!r}{layout}), {other}.",
        InterpWarning,
        stacklevel=4,
    )
    return spec


def as_spec(spec: InputSpec | None, x: Tensor, vocab: Sequence[Any] | None = None, *, aloud: bool = True) -> InputSpec:
    """An `InputSpec` for x: the given one, else a guess from its shape, which is said where it may be wrong.

    Not `aloud` of time for maps alone: their pictures show which axis it is, and shapes of windows name theirs.
    """
    if spec is None:
        names = tuple(vocab) if vocab is not None else None
        return guess_aloud(x, time=True, vocab=names) if aloud else InputSpec.guess(x, vocab=names)
    if not isinstance(spec, InputSpec):
        raise InputError(f"input_spec must be an InputSpec, got {type(spec).__name__}.")
    return spec

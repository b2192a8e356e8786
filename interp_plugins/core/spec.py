"""What is known of an input beside its numbers: kind of data, normalisation, class and feature names.

Adapters fill an `InputSpec` from the framework's own transforms; baselines and pictures read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, TargetError, did_you_mean
from interp_plugins.core.text import all_legible

_COLOURS = (1, 3, 4)  # numbers of channels of grey, RGB and RGBA pictures


@dataclass(frozen=True)
class InputSpec:
    """Facts about the model's (first) input, and about further ones.

    Args:
        kind: "image" (N, C, H, W), "volume" (N, C, D, H, W), "tabular" (N, F), "series" (N, C, T), "sequence"
            (N, T[, C]), "text" (token ids (N, T), or their embeddings (N, T, D)), or "generic".
        mean: per-channel mean that was subtracted, in the units of the raw data ([0, 1] for images), or None.
        std: per-channel standard deviation that was divided by, or None.
        value_range: smallest and largest raw value before normalisation.
        vocab: class names, in the order of the model's outputs.
        feature_names: one name per input feature (tabular columns, channels).
        name: the input's own name, "photograph" or "question", say.
        others: an `InputSpec` for each further input of a model with several; guessed from its shape where missing.

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

    def __post_init__(self) -> None:
        # Saved specs come back as mappings.
        others = tuple(one if isinstance(one, InputSpec) else InputSpec(**one) for one in self.others)
        object.__setattr__(self, "others", others)
        for name in ("vocab", "feature_names", "name"):
            object.__setattr__(self, name, all_legible(getattr(self, name)))
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

        (N, F) is a table row, (N, C, T) with fewer channels than steps a series, (N, T, C) a sequence, (N, C, H, W)
        an image and (N, C, D, H, W) a volume, unless a picture has its channels last. Ids (N, T) look like a table row:
        say kind="text".
        """
        kind = "generic"
        if x.ndim == 4 and min(x.shape[2:]) > 1 and (x.shape[1] in _COLOURS or x.shape[3] not in _COLOURS):
            kind = "image"
        elif x.ndim == 5 and min(x.shape[2:]) > 1 and (x.shape[1] in _COLOURS or x.shape[4] not in _COLOURS):
            kind = "volume"
        elif x.ndim == 2:
            kind = "tabular"
        elif x.ndim == 3:
            kind = "series" if x.shape[1] < x.shape[2] else "sequence"
        measured = kind == "volume" or (kind == "image" and x.shape[1] not in _COLOURS)
        if measured and x.numel() and known.get("mean") is None:  # no photograph: its range is that of the data
            known = {"value_range": (float(x.min()), float(x.max())), **known}
        return cls(**{"kind": kind, **known})

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
        """Mean and std shaped to broadcast over x (N, C, ...)."""
        assert self.mean is not None and self.std is not None
        if x.ndim < 2 or (len(self.mean) != 1 and x.shape[1] != len(self.mean)):
            raise InputError(
                f"The input of shape {tuple(x.shape)} does not have the {len(self.mean)} channels of the "
                f"normalisation (mean={self.mean}). Give mean and std for its channels."
            )
        shape = (1, len(self.mean)) + (1,) * (x.ndim - 2)
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


def as_spec(spec: InputSpec | None, x: Tensor, vocab: Sequence[Any] | None = None) -> InputSpec:
    """An `InputSpec` for x: the given one, else a guess from its shape."""
    if spec is None:
        return InputSpec.guess(x, vocab=tuple(vocab) if vocab is not None else None)
    if not isinstance(spec, InputSpec):
        raise InputError(f"input_spec must be an InputSpec, got {type(spec).__name__}.")
    return spec

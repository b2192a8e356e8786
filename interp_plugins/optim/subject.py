"""What is known before a picture begins: how the model is called, the sizes, the range of values, the colours."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import modules_of
from interp_plugins.core.placement import beside_weights
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import as_tuple, check_inputs, is_float
from interp_plugins.optim.colour import Colour, measured_matrix, natural_matrix

BOUNDED = ("image", "volume", "clip")  # kinds of data whose range of values is known
_SIZE = 224
_QUANTILES = (0.001, 0.999)


@dataclass(frozen=True)
class PictureSubject:
    """A model and what its first input looks like.

    Attributes:
        forward: the call, for one row.
        row: one row of every input, in the model's units, channels where the model has them.
        spec: kind, normalisation and layout of the first input.
        channels: of a picture.
        size: sizes of the model's input, without channels.
        told: whether an example, a spec or the data said so; else it was guessed from the model.
        place: of the picture among the inputs: the first of numbers that change by a little.
    """

    forward: Forward
    row: tuple[Tensor, ...]
    spec: InputSpec
    channels: int
    size: tuple[int, ...]
    told: bool
    place: int = 0

    def raw(self) -> Tensor:
        """The picture of the example in raw units, channels first."""
        found = self.spec.denormalise(self.row[self.place].to(self.dtype))
        axis = self.spec.channel_axis(found.ndim)
        return found if axis in (None, 1) else found.movedim(axis, 1)

    @property
    def device(self) -> torch.device:
        """Where the first input lies."""
        return self.row[self.place].device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which is climbed: float64 for such models, else float32."""
        return torch.float64 if self.row[self.place].dtype == torch.float64 else torch.float32


def subject_of(
    model: Callable[..., Any],
    like: Any,
    input_spec: InputSpec | None,
    size: Any,
    output: Any,
    additional_forward_args: Any,
    forward_kwargs: Mapping[str, Any] | None,
) -> PictureSubject:
    """How a model is called with a picture.

    Args:
        model: inside `frozen`.
        like: an example of its inputs, or None.
        input_spec: what is known of the first input, or None.
        size: of the picture, for models that do not say theirs.
        output: which part of the output is meant.
        additional_forward_args: further positional arguments.
        forward_kwargs: keyword arguments.

    Raises:
        InputTypeError: a first input of ids.
        InputError: no example, and a model from which none can be guessed.
    """
    told = like is not None
    if like is None:
        like = _guessed_example(model, size)
    inputs = tuple(x[:1] for x in check_inputs(beside_weights(_tensors(like), model)))
    place = next((k for k, x in enumerate(inputs) if is_float(x) and x.numel()), None)
    if place is None:
        raise InputTypeError(
            "The model's inputs hold ids (words, categories), which do not change by a little, so no picture can "
            "climb. dataset_examples(model, data, layer, ...) shows which of the data a unit is active for."
        )
    first = inputs[place]
    spec = as_spec(input_spec, inputs[0]).of_input(place, first) if place else as_spec(input_spec, first)
    if input_spec is None and spec.kind == "image":
        spec = replace(spec, value_range=(0.0, 1.0))
    axis = spec.channel_axis(first.ndim)
    placed = first if axis in (None, 1) else first.movedim(axis, 1)
    func = Call(model, forward_kwargs, output)
    forward = Forward.of(func, 1, None, additional_forward_args)
    forward.samples = inputs
    return PictureSubject(forward, inputs, spec, placed.shape[1], tuple(placed.shape[2:]), told, place)


def _tensors(like: Any) -> tuple[Tensor, ...]:
    found = tuple(like) if isinstance(like, list) else as_tuple(like)
    if not found or not all(isinstance(x, Tensor) for x in found):
        raise InputTypeError("like= is an example of the model's inputs: a tensor, or a tuple of tensors, batch first.")
    return found


def _guessed_example(model: Any, size: Any) -> Tensor:
    """A picture as the model's first convolution takes it, of the size that the model says, or else 224."""
    modules = [m for root in modules_of(model) for m in root.modules()]
    conv = next((m for m in modules if isinstance(m, nn.modules.conv._ConvNd)), None)
    if not isinstance(conv, nn.Conv2d):
        raise InputError(
            "What the model's input looks like is not known, since its first layer is no convolution of pictures. Give "
            "like= an example of its input, or data=."
        )
    own = next((_own_size(root) for root in modules_of(model) if _own_size(root) is not None), None)
    if own is None and size is None:
        warnings.warn(
            f"The model does not say the size of its input, so it sees pictures of {_SIZE} x {_SIZE}. Give size= or "
            "like= an example of its input.",
            InterpWarning,
            stacklevel=4,
        )
    shape = own or (check_size(size) if size is not None else (_SIZE, _SIZE))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, conv.in_channels, *shape, generator=generator)


def _own_size(root: nn.Module) -> tuple[int, int] | None:
    """The input size in a model's own configuration, as timm keeps it."""
    for name in ("pretrained_cfg", "default_cfg"):
        known = getattr(root, name, None)
        found = known.get("input_size") if isinstance(known, Mapping) else None
        if found is not None and len(found) == 3:
            return int(found[1]), int(found[2])
    return None


def check_size(size: Any, axes: int = 2) -> tuple[int, ...]:
    """Sizes of a picture from an int or several.

    Raises:
        InputError: no positive ints, or not one per axis.
    """
    found = (size,) * axes if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    good = len(found) == axes and all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in found)
    if not good or isinstance(size, bool):
        raise InputError(f"size must be a positive int or {axes} of them; got {size!r}.")
    return found


def colour_of(subject: PictureSubject, colour: Any, squash: Any, sample: Tensor | None) -> Colour:
    """Range and colours of the pictures.

    Args:
        subject: whose spec says the range.
        colour: "natural" (constants for RGB, none for others), "data", None, or a matrix (C, C).
        squash: as for `Colour`; "auto": "sigmoid" where the range is known.
        sample: data (N, C, ...) in raw units, or None.

    Raises:
        InputError: "data" without data; a matrix of another size.
    """
    channels, spec = subject.channels, subject.spec
    bounded = spec.kind in BOUNDED
    if bounded:
        low, high = (torch.full((channels,), float(v), dtype=torch.float64) for v in spec.value_range)
    elif sample is not None:
        low, high = _box(sample)
        bounded = True
    else:
        low, high = torch.full((channels,), -0.5).double(), torch.full((channels,), 0.5).double()
        if spec.normalised:
            mean, std = torch.tensor(spec.mean).double(), torch.tensor(spec.std).double()
            low, high = mean - 0.5 * std, mean + 0.5 * std
    squash = ("sigmoid" if bounded else None) if squash == "auto" else squash
    return Colour(low, high, _matrix(colour, channels, spec, sample), squash)


def _matrix(colour: Any, channels: int, spec: InputSpec, sample: Tensor | None) -> Tensor | None:
    if isinstance(colour, Tensor):
        if tuple(colour.shape) != (channels, channels):
            raise InputError(f"A colour matrix of {channels} channels is square of that size; got {colour.shape}.")
        return colour.double()
    if colour == "data":
        if sample is None:
            raise InputError("colour='data' measures the colours of data=; give some.")
        return measured_matrix(sample)
    if colour not in ("natural", None):
        raise InputError(f"colour must be 'natural', 'data', None or a matrix; got {colour!r}.")
    return natural_matrix() if colour == "natural" and channels == 3 and spec.kind == "image" else None


def _box(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Between which values nearly all data lie, per channel."""
    rows = sample.double().movedim(1, -1).flatten(0, -2)
    step = max(1, math.ceil(len(rows) / 200_000))
    low, high = torch.quantile(rows[::step], torch.tensor(_QUANTILES, dtype=torch.float64), dim=0)
    flat = high <= low
    return torch.where(flat, low - 0.5, low), torch.where(flat, high + 0.5, high)

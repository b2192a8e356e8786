"""Raw pictures as a model's input: files, PIL images and arrays, through the preprocessing of the model's training."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.global_random import preserved_rng
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe

_HOW = (
    "Give preprocess=: a function PIL image -> tensor (C, H, W), as for validation; for torchvision's models "
    "weights.transforms(), for timm's nothing (they say it themselves)."
)


class Encoded(NamedTuple):
    """Inputs as tensors, what is known of them, and the samples' names.

    Attributes:
        inputs: a batch; what was no raw picture is as it was.
        spec: what is known of it; None: nothing.
        samples: a name per sample, from its file; None: none has one.
    """

    inputs: Any
    spec: InputSpec | None
    samples: tuple[str, ...] | None


def encoded(model: Any, inputs: Any, preprocess: Any, spec: InputSpec | None) -> Encoded:
    """Raw pictures as a batch on the model's device, in its dtype; anything else as it is.

    Args:
        model: whose input they become; one of timm's says how.
        inputs: a path, PIL image or array, or a list of these; with `preprocess` also tensors of bytes (C, H, W) or
            (N, C, H, W).
        preprocess: PIL image -> tensor (C, H, W); an object with `transforms()` that gives one, such as torchvision's
            weights; None: that of timm's `pretrained_cfg`.
        spec: what the user says of the input; the rest is read from the preprocessing.

    Raises:
        InputError: raw pictures without a preprocessing, files that are not there, results that do not fit together.
        InputTypeError: a preprocessing that is none.
    """
    items = _raw(inputs, preprocess is not None)
    if items is None:
        if preprocess is not None:
            raise InputError(
                f"preprocess= encodes raw pictures (paths, PIL images, arrays, tensors of bytes), and the inputs are "
                f"{describe(inputs)}: encoded already. Leave it out, and say mean and std by input_spec=InputSpec(...)."
            )
        return Encoded(inputs, spec, None)
    for item in items:
        if isinstance(item, (str, os.PathLike)):
            _pictures().check_file(item)
    function = _function(model, preprocess, items)
    with preserved_rng():
        parts = [_tensor(function, _picture(item), item) for item in items]
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(dict.fromkeys(str(tuple(part.shape)) for part in parts))
        raise InputError(f"preprocess= gives pictures of several sizes: {shapes}. Let it end with a crop to one size.")
    names = tuple(_name(item) for item in items)
    weights = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    place: dict[str, Any] = {} if weights is None else {"device": weights.device, "dtype": weights.dtype}
    return Encoded(torch.stack(parts).to(**place), _told(spec, function, preprocess), names if any(names) else None)


def _raw(inputs: Any, asked: bool) -> list[Any] | None:
    """The raw pictures one by one; None where the inputs are encoded."""
    if _is_raw(inputs) or (asked and isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 3):
        several = isinstance(inputs, np.ndarray) and inputs.ndim == 4
        return list(inputs) if several else [inputs]
    if asked and isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return list(inputs)
    if isinstance(inputs, (list, tuple)) and len(inputs) and all(map(_is_raw, inputs)):
        return list(inputs)
    return None


def _is_raw(value: Any) -> bool:
    """Whether a value is a path, a PIL image or an array."""
    pil = type(value).__module__.startswith("PIL.") or any(k.__module__ == "PIL.Image" for k in type(value).__mro__)
    return pil or isinstance(value, (str, os.PathLike, np.ndarray))


def _function(model: Any, preprocess: Any, items: Sequence[Any]) -> Callable[[Any], Any]:
    """The preprocessing as a function."""
    if preprocess is None:
        if not isinstance(getattr(model, "pretrained_cfg", None), dict):
            if isinstance(items[0], np.ndarray) and not _may_be_picture(items[0]):
                raise InputTypeError(f"The inputs are an array of shape {items[0].shape}: give torch.from_numpy(x).")
            raise InputError(f"{describe(items[0])} is raw, and how the model wants it is not known. {_HOW}")
        timm = importlib.import_module("timm.data")  # the model is timm's, so it is here
        made: Callable[[Any], Any] = timm.create_transform(**timm.resolve_data_config({}, model=model))
        return made
    if not callable(preprocess) and callable(getattr(preprocess, "transforms", None)):
        preprocess = preprocess.transforms()
    if not callable(preprocess):
        raise InputTypeError(f"preprocess={describe(preprocess)} cannot be called. {_HOW}")
    found: Callable[[Any], Any] = preprocess
    return found


def _may_be_picture(value: np.ndarray) -> bool:
    return value.ndim in (2, 3, 4) and value.dtype == np.uint8


def _pictures() -> Any:
    """The module that reads pictures, which needs Pillow."""
    try:
        from interp_plugins.api import pictures
    except ModuleNotFoundError as err:
        raise ImportError(f"Raw pictures need {err.name}: pip install 'interp-plugins[viz]'.") from err
    return pictures


def _picture(item: Any) -> Any:
    """A raw picture as a PIL image."""
    pictures = _pictures()
    if isinstance(item, (str, os.PathLike)):
        return pictures.opened(item)
    if isinstance(item, (np.ndarray, Tensor)):
        return pictures.of_array(item, encoded="as a tensor")
    return pictures.loaded(item)


def _tensor(function: Callable[[Any], Any], image: Any, item: Any) -> Tensor:
    """What the preprocessing makes of a picture, without a batch axis."""
    found = function(image)
    if isinstance(found, Tensor) and found.ndim == 4 and len(found) == 1:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 3 or not found.is_floating_point():
        raise InputError(
            f"preprocess= gives {describe(found)} for {_name(item) or 'a picture'}; expected a tensor of floats "
            "(C, H, W)."
        )
    return found.detach().as_subclass(Tensor)


def _name(item: Any) -> str:
    """The name of the file that a picture came from; "" for one from memory."""
    source = item if isinstance(item, (str, os.PathLike)) else getattr(item, "filename", "")
    return Path(source).name if isinstance(source, (str, os.PathLike)) and source else ""


def _told(spec: InputSpec | None, function: Any, preprocess: Any) -> InputSpec:
    """The spec with mean, std and class names, where the preprocessing knows them and the user said none."""
    spec = spec or InputSpec("image")
    known: dict[str, Any] = {}
    mean, std = _statistics(function)
    if spec.mean is None and mean is not None:
        known |= {"mean": mean, "std": std}
    names = (getattr(preprocess, "meta", None) or {}).get("categories")
    if spec.vocab is None and names:
        known["vocab"] = tuple(names)
    return replace(spec, **known) if known else spec


def _statistics(function: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of the last normalisation inside a preprocessing; (None, None) without one."""
    steps = getattr(function, "transforms", None)
    for one in [function, *(reversed(steps) if isinstance(steps, (list, tuple, nn.ModuleList)) else ())]:
        mean, std = getattr(one, "mean", None), getattr(one, "std", None)
        if mean is not None and std is not None and not callable(mean):
            return _numbers(mean), _numbers(std)
    return None, None


def _numbers(values: Any) -> tuple[float, ...]:
    """Numbers per channel; of a tensor in single precision the shortest that are it: 0.485, not 0.48500001."""
    if isinstance(values, Tensor) and values.dtype == torch.float32:
        return tuple(float(str(value)) for value in values.reshape(-1).numpy())
    return tuple(torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist())

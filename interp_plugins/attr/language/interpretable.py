"""Inputs that people read, as switches that perturbation methods flip: filled templates, tokens, parts of a picture.

An `InterpretableInput` gives a row of ones, one per readable feature (`to_tensor`), and turns a row with some of them
zero into what the model takes (`to_model_input`).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.compat.visualization import drawing
from interp_plugins.attr.language.tokens import token_ids
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.tensors import describe

if TYPE_CHECKING:
    import PIL.Image

Values = list[Any] | dict[str, Any]


class ProductBaselines:
    """Baselines drawn independently for each feature; to be used as `baselines` of a `TextTemplateInput`.

    Args:
        baseline_values: the values to draw from: a list per feature, or a dict feature -> list; a tuple of features as
            a key has lists of tuples, drawn together.
        seed: seed of a stream of its own; None: Python's global `random`, as in Captum.
    """

    def __init__(self, baseline_values: Any, *, seed: int | None = None):
        self.dict_keys = list(baseline_values) if isinstance(baseline_values, dict) else []
        self.baseline_values = list(baseline_values.values()) if self.dict_keys else list(baseline_values)
        if any(len(values) == 0 for values in self.baseline_values):
            raise InputError("ProductBaselines needs at least one value for each feature; one list is empty.")
        self._draw = random if seed is None else random.Random(seed)

    def sample(self) -> Values:
        """A list, or a dict for dicts, with one value per feature."""
        drawn = [self._draw.choice(values) for values in self.baseline_values]
        if not self.dict_keys:
            return drawn
        found: dict[str, Any] = {}
        for key, value in zip(self.dict_keys, drawn, strict=True):
            found.update(zip(key, value) if isinstance(key, tuple) else [(key, value)])
        return found

    def __call__(self) -> Values:
        """Draw one value for each feature, as `sample` does."""
        return self.sample()


class InterpretableInput(ABC):
    """A model input with readable features.

    Attributes:
        n_itp_features: how many.
        values: what they are, one text each.
    """

    n_itp_features: int
    values: list[str]

    @abstractmethod
    def to_tensor(self) -> Tensor:
        """Ones (1, n_itp_features): every feature as it is."""

    @abstractmethod
    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """What the model takes, with the features that are zero replaced by their baseline."""

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions of the features (..., n_itp_features) -> of `values`."""
        return itp_attr


def _listed(name: str, given: Any, keys: list[str], what: str = "") -> list[Any]:
    """A list in the order of the values, from a list or a dict."""
    values: Any = given
    kind: type = dict if keys else list
    if not isinstance(given, kind):
        raise InputTypeError(
            f"if values is a {kind.__name__}, the {name} must also be a {kind.__name__}{what}, received "
            f"{describe(given)}."
        )
    missing = [k for k in keys if k not in values]
    if missing:
        raise InputError(f"{name} has no entry for {missing}.")
    return [values[k] for k in keys] if keys else list(values)


class TextTemplateInput(InterpretableInput):
    """A text made of a template and values, where the values are the features.

    Args:
        template: for `str.format` ("{} says {word}"), or a function of the values.
        values: a list, or a dict name -> value.
        baselines: what stands in for a missing value: list or dict like the values, or a function that returns one,
            called for each perturbation (`ProductBaselines`); None: the empty text.
        mask: numbers like the values; values with the same number are one feature.
    """

    def __init__(
        self,
        template: str | Callable[..., str],
        values: list[str] | dict[str, str],
        baselines: list[str] | dict[str, str] | Callable[[], Any] | None = None,
        mask: list[int] | dict[str, int] | None = None,
    ):
        if not isinstance(values, (list, dict)):
            raise InputTypeError(f"the values must be either a list or a dict, received {describe(values)}.")
        if not isinstance(template, str) and not callable(template):
            raise InputTypeError(f"the template must be either a string or a callable, received {describe(template)}.")
        self.dict_keys = list(values) if isinstance(values, dict) else []
        self.values = _listed("values", values, self.dict_keys)
        self.n_features = len(self.values)
        self.template = template
        self.format_fn: Callable[..., str] = template.format if isinstance(template, str) else template
        self.baselines: Any = [""] * self.n_features if baselines is None else baselines
        if not callable(self.baselines) and baselines is not None:
            self.baselines = self._same_length("baselines", _listed("baselines", baselines, self.dict_keys))
        self.mask = None if mask is None else self._same_length("mask", _listed("mask", mask, self.dict_keys))
        numbers = list(range(self.n_features)) if self.mask is None else self.mask
        order = {number: i for i, number in enumerate(dict.fromkeys(sorted(numbers)))}
        self.formatted_mask = [order[number] for number in numbers]
        self.n_itp_features = len(order)

    def _same_length(self, name: str, given: list[Any]) -> list[Any]:
        if len(given) != self.n_features:
            raise InputError(f"{name} has {len(given)} entries for {self.n_features} values; give one each.")
        return given

    def to_tensor(self) -> Tensor:
        """A one for each feature, (1, n_itp_features): nothing is perturbed yet."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
        """The text with the values of the features that are kept, and baselines for the others."""
        values = list(self.values)
        if perturbed_tensor is not None:
            bases = self.baselines
            if callable(bases):
                bases = _listed("baselines", bases(), self.dict_keys, " or a callable that returns one")
            keep = perturbed_tensor[0].tolist()
            values = [v if keep[k] else b for v, b, k in zip(values, bases, self.formatted_mask, strict=True)]
        return self.format_fn(**dict(zip(self.dict_keys, values))) if self.dict_keys else self.format_fn(*values)

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """One attribution per value: those of one feature share its number."""
        return itp_attr[..., self.formatted_mask]


class TextTokenInput(InterpretableInput):
    """A text whose tokens are the features.

    Args:
        text: the text.
        tokenizer: a tokenizer like those of Hugging Face.
        baselines: id (or token) that stands in for a missing token.
        skip_tokens: ids or tokens that are never replaced and not explained, such as a begin-of-text token.
    """

    def __init__(
        self,
        text: str,
        tokenizer: Any,
        baselines: int | str = 0,
        skip_tokens: Sequence[int] | Sequence[str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.inp_tensor: Tensor = token_ids(tokenizer, text)
        self.itp_tensor = self.inp_tensor
        self.itp_mask: Tensor | None = None
        if skip_tokens:
            ids: Any = list(skip_tokens)
            if isinstance(ids[0], str):
                ids = tokenizer.convert_tokens_to_ids(ids)
            self.itp_mask = ~torch.isin(self.inp_tensor, torch.tensor(ids))
            self.itp_tensor = self.inp_tensor[self.itp_mask][None]
            skip_tokens = ids
        if not self.itp_tensor.numel():
            raise InputError("The text has no tokens to explain: it is empty, or all of its tokens are skip_tokens.")
        self.skip_tokens: Any = skip_tokens
        self.values = tokenizer.convert_ids_to_tokens(self.itp_tensor[0].tolist())
        self.n_itp_features = len(self.values)
        self.baselines = (
            tokenizer.convert_tokens_to_ids([baselines])[0] if isinstance(baselines, str) else int(baselines)
        )

    @classmethod
    def of_ids(cls, ids: Tensor, tokenizer: Any, baselines: int, explained: Tensor) -> TextTokenInput:
        """The same of token ids (1, P), of which a mask (P,) says which are explained."""
        new = cls.__new__(cls)
        new.tokenizer, new.inp_tensor, new.itp_mask = tokenizer, ids, explained[None]
        new.itp_tensor, new.skip_tokens, new.baselines = ids[new.itp_mask][None], None, baselines
        new.values = tokenizer.convert_ids_to_tokens(new.itp_tensor[0].tolist())
        new.n_itp_features = len(new.values)
        return new

    def to_tensor(self) -> Tensor:
        """A one for each feature, (1, n_itp_features): nothing is perturbed yet."""
        return torch.ones_like(self.itp_tensor)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids (rows, tokens)."""
        if perturbed_tensor is None:
            return self.inp_tensor
        device, rows = perturbed_tensor.device, len(perturbed_tensor)
        base = torch.tensor(self.baselines, device=device)
        kept = torch.where(perturbed_tensor == 1, self.itp_tensor.to(device), base)
        if self.itp_mask is None:
            return kept
        full = self.inp_tensor.to(device).repeat(rows, 1)
        full[:, self.itp_mask[0].to(device)] = kept
        return full


def _as_it_is(image: Any) -> Any:
    return image


class ImageMaskInput(InterpretableInput):
    """A picture whose segments are the features.

    Args:
        image: an RGB picture (PIL).
        mask: segment numbers (H, W); None: the whole picture is one feature.
        mask_list: bool masks (H, W), one per feature, which may overlap; goes before `mask`.
        baseline: colour of a missing segment, 0 to 255 per channel; white.
        processor_fn: picture -> what the model takes.
    """

    def __init__(
        self,
        image: PIL.Image.Image,
        mask: Tensor | None = None,
        mask_list: list[Tensor] | None = None,
        baseline: tuple[int, int, int] = (255, 255, 255),
        processor_fn: Callable[[PIL.Image.Image], Any] = _as_it_is,
    ):
        self.image, self.baseline, self.processor_fn = image, baseline, processor_fn
        size = (image.size[1], image.size[0])
        for name, m in [("mask", mask), *((f"mask_list[{i}]", m) for i, m in enumerate(mask_list or []))]:
            if m is not None and tuple(m.shape) != size:
                raise InputError(f"{name} shape {tuple(m.shape)} must match image shape {size} (height, width).")
        if mask_list is not None:
            ids, self.mask, self.mask_list = list(range(len(mask_list))), torch.empty(0), list(mask_list)
        else:
            self.mask = torch.zeros(size, dtype=torch.int32) if mask is None else mask
            ids, self.mask_list = self.mask.unique().tolist(), []
        self.n_itp_features = len(ids)
        self.mask_id_to_idx = {int(number): i for i, number in enumerate(ids)}
        self.values = [f"image_feature_{number}" for number in ids]
        self.original_model_inputs = processor_fn(image)

    def to_tensor(self) -> Tensor:
        """A one for each feature, (1, n_itp_features): nothing is perturbed yet."""
        return torch.ones(1, self.n_itp_features)

    def get_mask_list(self) -> list[Tensor]:
        """A mask (H, W) per feature."""
        return self.mask_list or [self.mask == number for number in self.mask_id_to_idx]

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """The processed picture, missing segments in the baseline's colour."""
        if perturbed_tensor is None:
            return self.original_model_inputs
        from PIL import Image

        pixels = np.array(self.image)
        for keep, mask in zip(perturbed_tensor[0].tolist(), self.get_mask_list(), strict=True):
            if not keep:
                pixels[mask.bool().cpu().numpy()] = self.baseline
        return self.processor_fn(Image.fromarray(pixels.astype("uint8")))

    def format_pixel_attr(self, itp_attr: Tensor) -> Tensor:
        """Attributions of the features (..., features) -> of the pixels (..., H, W); overlaps add up."""
        masks = torch.stack(self.get_mask_list()).to(itp_attr)
        return torch.einsum("...f,fhw->...hw", itp_attr, masks)

    def plot_mask_overlay(self, show: bool = False, border_width: int = 0, show_legends: bool = True) -> Any:
        """Draw the segments over the picture; returns (figure, axis), or None after showing them."""
        return drawing("llm").plot_segments(self, show, border_width, show_legends)

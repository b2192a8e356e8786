"""What a Learner knows of its data and model: image class, normalisation, class names, probabilities, body.

Everything is read off; no transform is changed, and nothing is kept on the Learner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders, Datasets, TfmdLists
from fastai.data.load import DataLoader
from fastai.data.transforms import CategoryMap, IntToFloatTensor, Normalize, get_c
from fastai.losses import BaseLoss
from fastai.vision.core import AddMaskCodes, PILBase, TensorMask, TensorPoint
from fastai.vision.models.unet import DynamicUnet
from fastcore.foundation import L
from torch import Tensor, nn

from interp_plugins.core.spec import InputSpec, guess_aloud

_SIGMOID = (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits)
_IDENTITY = (nn.BCELoss, F.binary_cross_entropy)
_LOG = (nn.NLLLoss, F.nll_loss)
_REGRESSION = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
)


def valid(dls: Any) -> Any:
    """The validation loader, or the only one."""
    loaders = getattr(dls, "loaders", None) or [None]
    return loaders[1] if len(loaders) > 1 else loaders[0]


def n_inputs(dls: Any, default: Any = 1) -> Any:
    """How many of a batch's parts go to the model; `default` for plain PyTorch loaders, which do not say."""
    return getattr(dls, "n_inp", default)


def reads_items(dls: Any) -> bool:
    """Whether the data's transforms begin at raw items, so that `test_dl` can encode them."""
    own = getattr(type(dls), "test_dl", None) is not DataLoaders.test_dl  # tables have theirs
    loader = valid(dls)
    return isinstance(loader, DataLoader) and (own or isinstance(loader.dataset, (Datasets, TfmdLists)))


def image_class(dls: Any) -> type[PILBase] | None:
    """The class of the data's pictures (`PILImage`: RGB, `PILImageBW`: L), or None where the inputs are none."""
    dataset = getattr(valid(dls), "dataset", None)
    lists = getattr(dataset, "tls", None)
    types = getattr(lists[0] if lists else dataset, "types", None) or []
    return next((t for t in reversed(types) if isinstance(t, type) and issubclass(t, PILBase)), None)


def has_target(dls: Any, kind: type) -> bool:
    """Whether the data's targets are of a fastai tensor class, such as `TensorMask`."""

    def within(types: Any) -> bool:
        if isinstance(types, dict):  # {tuple: [types of the parts]}
            return any(within(part) for parts in types.values() for part in parts)
        return isinstance(types, type) and issubclass(types, kind)

    return within(getattr(valid(dls), "_types", None))


def spec_of(dls: Any, x: Tensor, image: bool) -> InputSpec:
    """Kind, normalisation, raw range and class names of the model's first input.

    Args:
        dls: the Learner's DataLoaders.
        x: the first input.
        image: whether it is a picture (N, C, H, W).
    """
    vocab = class_names(dls)
    if not image:
        return guess_aloud(x, vocab=vocab)
    transforms = getattr(getattr(valid(dls), "after_batch", None), "fs", [])
    mean, std = normalisation(transforms, x.shape[1])
    scale = next((f.div for f in transforms if isinstance(f, IntToFloatTensor)), 255.0)
    return InputSpec(kind="image", mean=mean, std=std, value_range=(0.0, 255.0 / scale), vocab=vocab)


def normalisation(
    transforms: Sequence[Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Mean and std per channel that the pipeline's `Normalize` transforms subtract and divide by, in raw units.

    None where there is no such transform, or one that does not work per channel.
    """
    mean, std = torch.zeros(channels, dtype=torch.double), torch.ones(channels, dtype=torch.double)
    found = [f for f in transforms if isinstance(f, Normalize) and isinstance(f.mean, Tensor)]
    for f in found:
        m, s = (v.detach().as_subclass(Tensor).cpu().double().reshape(-1) for v in (f.mean, f.std))
        if m.numel() not in (1, channels) or s.numel() not in (1, channels):
            return None, None
        mean, std = mean + std * m, std * s
    return (tuple(mean.tolist()), tuple(std.tolist())) if found else (None, None)


def class_names(dls: Any, number: int | None = None) -> tuple[Any, ...] | None:
    """The entries of the data's vocabulary, in the order of the model's outputs; None where there is none.

    A segmentation's are the codes of its masks, those of key points "point 0 x", "point 0 y", and so on.

    Args:
        dls: the Learner's DataLoaders.
        number: whose vocabulary it is, where the data have several targets; None: not known.
    """
    lists = getattr(getattr(valid(dls), "dataset", None), "tls", None)
    targets = lists[n_inputs(dls) :] if lists is not None else []
    if number is not None and len(targets) > 1:
        vocab = getattr(targets[number], "vocab", None) if -len(targets) <= number < len(targets) else None
        return tuple(vocab) if isinstance(vocab, (CategoryMap, list, L)) else None
    if has_target(dls, TensorMask):
        transforms = getattr(getattr(valid(dls), "after_item", None), "fs", [])
        codes = next((f.codes for f in transforms if isinstance(f, AddMaskCodes)), None)
        return tuple(codes) if codes is not None else None
    if has_target(dls, TensorPoint):
        count = get_c(dls)
        return tuple(f"point {i // 2} {'xy'[i % 2]}" for i in range(count)) if isinstance(count, int) else None
    vocab = getattr(dls, "vocab", None)
    if vocab is None or isinstance(vocab, (str, bytes)) or callable(vocab):
        return None
    maps = [vocab] if isinstance(vocab, CategoryMap) else [v for v in vocab if isinstance(v, CategoryMap)]
    if maps:
        return tuple(maps[0]) if len(maps) == 1 else None  # two targets: which of them is asked for is not known
    return tuple(vocab) if not any(isinstance(v, (list, tuple)) for v in vocab) else None


def activation_of(loss: Any) -> Callable[[Tensor], Any] | None:
    """Outputs to probabilities, by the loss function; None leaves it to the core (softmax over the classes).

    A regression's outputs are no probabilities: for those a function that gives none.
    """
    loss = getattr(getattr(loss, "__self__", None), "old_lf", None) or loss  # MixUp hides it while it trains
    own = getattr(loss, "activation", None)
    if callable(own) and getattr(own, "__func__", own) is not BaseLoss.activation:
        return own
    plain = getattr(loss, "func", loss)
    if _is(plain, _SIGMOID):
        return torch.sigmoid
    if _is(plain, _IDENTITY):
        return _as_it_is
    if _is(plain, _LOG):
        return torch.exp
    if _is(plain, _REGRESSION):
        return _no_probability
    return None


def threshold_of(loss: Any) -> float | None:
    """The probability from which a label is predicted, for losses of labels that do not exclude each other."""
    loss = getattr(getattr(loss, "__self__", None), "old_lf", None) or loss
    if _is(getattr(loss, "func", loss), (*_SIGMOID, *_IDENTITY)):
        return float(getattr(loss, "thresh", 0.5))
    return None


def _is(loss: Any, kinds: tuple[Any, ...]) -> bool:
    return any(loss is kind or (isinstance(kind, type) and isinstance(loss, kind)) for kind in kinds)


def _no_probability(output: Tensor) -> None:
    return None


def _as_it_is(output: Tensor) -> Tensor:
    return output


def body_of(model: nn.Module) -> nn.Module | None:
    """The body of a model as `vision_learner` (a Sequential of body and head) or `unet_learner` makes it."""
    inner = getattr(model, "_orig_mod", model)  # compiled
    if isinstance(inner, DynamicUnet):
        return inner.layers[0]
    return inner[0] if isinstance(inner, nn.Sequential) and len(inner) == 2 else None

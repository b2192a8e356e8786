"""The objectives: what of a network a picture is to excite, each one number per row, bigger is better.

`a` is the layer's tensor laid out as (C, *space). A layer is a dotted name, a module, or a `Layer`.

References:
    Olah, Mordvintsev, Schubert 2017, doi:10.23915/distill.00007 (channel, neuron, direction, deepdream, diversity);
    Carter et al. 2019, Activation atlas, doi:10.23915/distill.00015 (angled, whitened directions); Yin et al. 2020,
    DeepInversion, arXiv:1912.08795 (bn_statistics); Goh et al. 2021, Multimodal neurons, doi:10.23915/distill.00030
    (facet).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.layers import Layer
from interp_plugins.core.target import Target
from interp_plugins.core.tensors import describe
from interp_plugins.optim.objective import Objective, weighted
from interp_plugins.optim.objective_kinds import (
    Alignment,
    AlongDirection,
    AlongTensor,
    Between,
    ChannelMean,
    Custom,
    Diversity,
    Facet,
    LayerMean,
    MatchTensor,
    NormStatistics,
    OfPicture,
    OneNeuron,
    OutputScore,
    blurred,
    total_variation,
)

__all__ = [
    "alignment", "angled", "blur", "bn_statistics", "channel", "custom", "deepdream", "direction", "diversity", "dot",
    "facet", "interpolate", "l1", "l2", "layer", "logit", "match", "neuron", "tv", "weighted",
]  # fmt: skip


def channel(layer: Any, index: int, token: int | str | None = None) -> Objective:
    """The mean of a channel over space (Captum's branch: ChannelActivation).

    Args:
        layer: where.
        index: of the channel, or of the feature of a layer without space.
        token: "cls", or the number of a raw token, for layers of tokens; None: the mean over those of the picture.

    Example:
        from interp_plugins.optim import objectives

        objectives.channel("0", 2)  # -> channel(0, 2)...
    """
    return ChannelMean(layer, int(index), 0 if token == "cls" else token)  # type: ignore[arg-type]


def neuron(layer: Any, index: int, *place: int) -> Objective:
    """A channel at one place: row and column, or the number of a token; none: the centre (NeuronActivation)."""
    return OneNeuron(layer, int(index), tuple(int(p) for p in place))


def layer(layer: Any) -> Objective:
    """The mean of a whole layer (LayerActivation)."""
    return LayerMean(layer)


def deepdream(layer: Any) -> Objective:
    """The mean square of a whole layer (DeepDream)."""
    return LayerMean(layer, True)


def _vector(vector: Any) -> Tensor:
    return torch.as_tensor(vector).detach()


def direction(layer: Any, vector: Any, power: float = 0.0, at: Sequence[int] | None = None) -> Objective:
    """Mean over space of <a, v> max(0.1, cos(a, v))^power (Direction; NeuronDirection with `at`).

    Args:
        layer: where.
        vector: one number per channel, (D,).
        power: above 0 what points elsewhere counts less; at 0 long vectors may win that point elsewhere.
        at: row and column; (): the centre; None: everywhere.
    """
    return AlongDirection(layer, _vector(vector), float(power), None if at is None else tuple(at))


def angled(
    layer: Any, vector: Any, whiten: Tensor | None = None, power: float = 4.0, at: Sequence[int] | None = None
) -> Objective:
    """`direction` with a power of 4 and W v in the place of v (AngledNeuronDirection); W (D, D) whitens the layer."""
    v = _vector(vector)
    return direction(layer, v if whiten is None else whiten.to(v) @ v, power, at)


def dot(layer: Any, tensor: Tensor, power: float = 0.0) -> Objective:
    """<a, A> max(0.1, cos(a, A))^power for a tensor A of the layer's own shape (TensorDirection)."""
    return AlongTensor(layer, _vector(tensor), float(power))


def match(layer: Any, tensor: Tensor) -> Objective:
    """-|a - A|^2 / |A|^2: at most 0, where the picture gives the layer the activations A."""
    return MatchTensor(layer, _vector(tensor))


def logit(target: Any, text: str = "") -> Objective:
    """The model's output for a class (an index), or what a `Target` or a function of the output selects.

    It is the output as the model gives it. After a softmax there is no gradient where the model is sure, so give the
    model without its last softmax.
    """
    if not (isinstance(target, (int, tuple, Target)) or callable(target)):
        raise InputTypeError(f"logit takes an index, a Target or a function of the output; got {describe(target)}.")
    return OutputScore(target, text)


def diversity(layer: Any) -> Objective:
    """How much the n pictures of a unit differ: minus the mean cosine of their channels' Gram matrices (Diversity)."""
    return Diversity(layer)


def interpolate(first: Objective, second: Objective) -> Objective:
    """From one objective to another over the n rows of a unit (ActivationInterpolation)."""
    return Between(first, second)


def alignment(layer: Any, decay: float = 2.0) -> Objective:
    """Neighbouring rows of a unit alike at a layer (Alignment)."""
    return Alignment(layer, float(decay))


def tv() -> Objective:
    """Total variation of the picture: the mean absolute difference of neighbours, whatever the size."""
    return OfPicture("tv", total_variation)


def l1(centre: float = 0.0) -> Objective:
    """Mean absolute distance of the picture's values from a number."""
    return OfPicture("l1", lambda x: (x - centre).abs().flatten(1).mean(1))


def l2(centre: float = 0.0) -> Objective:
    """Mean squared distance of the picture's values from a number."""
    return OfPicture("l2", lambda x: (x - centre).square().flatten(1).mean(1))


def blur() -> Objective:
    """Minus the mean squared distance of the picture from itself blurred over three pixels: smooth is better."""
    return OfPicture("blur", lambda x: -(x - blurred(x)).square().flatten(1).mean(1))


def facet(layer: Any, probe: Any, of: Objective) -> Objective:
    """One facet of a unit: <a * relu(gradient of the unit at the layer), probe> (Goh et al. 2021).

    Args:
        layer: below the unit.
        probe: weights of a linear probe on the layer's channels, (D,).
        of: the unit.
    """
    return Facet(layer, _vector(probe), of)


def bn_statistics(model: nn.Module) -> Objective:
    """Minus the distance of the picture's statistics from those of all batch normalisations (DeepInversion).

    Raises:
        InputError: a model without batch normalisations that kept statistics.
    """
    kept = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = tuple(Layer(m, "input") for m in kept if m.running_mean is not None)
    if not norms:
        raise InputError("bn_statistics needs batch normalisations with running statistics; the model has none.")
    return NormStatistics(norms)


def custom(layers: Sequence[Any], function: Callable[[dict[Any, Tensor], Tensor], Tensor]) -> Objective:
    """Any function ({layer: tensor}, picture) -> (R,) of layers' tensors and the pictures in raw units.

    Example:
        from interp_plugins.optim import objectives

        objectives.custom(["0"], lambda seen, picture: seen["0"].flatten(1).amax(1))
    """
    return Custom(tuple(layers), function)

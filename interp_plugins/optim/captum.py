"""Names of Captum's branch `optim-wip` (never released), thin: `InputOptimization`, `NaturalImage`, losses.

    obj = InputOptimization(model, ChannelActivation(model.layer4, 3), NaturalImage((224, 224)))
    history = obj.optimize(n_steps(512))
    obj.input_param()

What differs from the branch stands in docs/optim.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import describe
from interp_plugins.optim import objectives as o
from interp_plugins.optim.objective import Objective
from interp_plugins.optim.visualization import Visualization
from interp_plugins.optim.visualize import visualize

LayerActivation, DeepDream, Diversity, TensorDirection = o.layer, o.deepdream, o.diversity, o.dot
ActivationInterpolation, Alignment = o.interpolate, o.alignment
TotalVariation, L1, L2 = o.tv, o.l1, o.l2


def ChannelActivation(target: Any, channel_index: int) -> Objective:
    """The mean of a channel, `objectives.channel`.

    Args:
        target: the layer.
        channel_index: of the channel.
    """
    return o.channel(target, channel_index)


def NeuronActivation(target: Any, channel_index: int, x: int | None = None, y: int | None = None) -> Objective:
    """A channel at one place, `objectives.neuron`; x is the column and y the row, the centre where they are None.

    Args:
        target: the layer.
        channel_index: of the channel.
        x: column.
        y: row.
    """
    if (x is None) != (y is None):
        raise InputError("NeuronActivation takes both x (column) and y (row), or neither: the centre.")
    return o.neuron(target, channel_index) if x is None or y is None else o.neuron(target, channel_index, y, x)


def Direction(target: Any, vec: Tensor, cossim_pow: float = 0.0) -> Objective:
    """A direction in a layer's channels, `objectives.direction`.

    Args:
        target: the layer.
        vec: one number per channel.
        cossim_pow: power of the cosine.
    """
    return o.direction(target, vec, cossim_pow)


@dataclass(frozen=True)
class NaturalImage:
    """The picture to be optimised: spectrum and decorrelated colours; called, it gives the pictures.

    Args:
        size: height and width.
        channels: of the picture.
        batch: pictures.
        init: a picture (1, C, H, W) to begin from, or None.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    batch: int = 1
    init: Tensor | None = None


def n_steps(n: int) -> int:
    """Captum's stop criterion: so many steps."""
    return n


class InputOptimization:
    """Optimise a picture for an objective; `visualize` under the branch's name.

    Args:
        model: the model.
        loss_function: an objective, bigger is better.
        input_param: the picture; None: 224 x 224.
        transform: as for `visualize`; None: "robust".
        input_spec: normalisation of the model's input, which is applied last.

    Example:
        from interp_plugins.optim.captum import ChannelActivation, InputOptimization, NaturalImage, n_steps

        obj = InputOptimization(model, ChannelActivation("0", 1), NaturalImage((24, 24)))
        obj.optimize(n_steps(4)).shape  # -> (4,)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss_function: Objective,
        input_param: NaturalImage | None = None,
        transform: Any = None,
        *,
        input_spec: InputSpec | None = None,
    ):
        if not isinstance(loss_function, Objective):
            raise InputTypeError(f"loss_function must be an objective, such as ChannelActivation; got "
                                 f"{describe(loss_function)}.")  # fmt: skip
        self.model, self.loss_function, self.transform = model, loss_function, transform
        self.image, self.input_spec = input_param or NaturalImage(), input_spec
        self.result: Visualization | None = None

    def optimize(
        self,
        stop_criteria: int | None = None,
        optimizer: Callable[[list[Tensor]], Any] | None = None,
        loss_summarize_fn: Callable[[Tensor], Tensor] | None = None,
        lr: float | None = None,
    ) -> Tensor:
        """Climb, and give the objective at every step, (steps,) of one picture, else (batch, steps).

        Args:
            stop_criteria: steps, as `n_steps` gives them; None: 512.
            optimizer: leaves -> optimiser, as for `visualize`; None: Adam.
            loss_summarize_fn: refused: rows are not averaged here.
            lr: size of a step.

        Raises:
            InputError: a `loss_summarize_fn`, or a stop criterion that is no number of steps.
        """
        if loss_summarize_fn is not None:
            raise InputError("loss_summarize_fn has no place: each picture climbs its own objective, none is averaged.")
        if stop_criteria is not None and (isinstance(stop_criteria, bool) or not isinstance(stop_criteria, int)):
            raise InputError("stop_criteria must be a number of steps: n_steps(512). visualize(tol=) ends earlier.")
        image = self.image
        like = torch.zeros(1, image.channels, *image.size)
        self.result = visualize(
            self.model, objective=self.loss_function, n=image.batch, init=image.init, transform=self.transform,
            steps=stop_criteria or 512, tol=None, lr=lr, optimizer=optimizer, like=like, input_spec=self.input_spec,
            progress=False,
        )  # fmt: skip
        return self.result.history[0] if image.batch == 1 else self.result.history

    def input_param(self) -> Tensor:
        """The pictures (batch, C, H, W) in raw units.

        Raises:
            InputError: before `optimize`.
        """
        if self.result is None:
            raise InputError("There is no picture yet: call optimize first.")
        return self.result.images

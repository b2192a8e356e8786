"""What a layer keeps of a picture, and what a unit sees in it: inversion, caricature, accentuation.

References:
    Mahendran, Vedaldi 2015, Understanding deep image representations by inverting them, arXiv:1412.0035 (invert); Olah
    et al. 2018, The building blocks of interpretability, doi:10.23915/distill.00010 (caricature: the picture whose
    activations point where those of the picture point, further); Hamblin et al. 2024, Feature accentuation,
    arXiv:2402.10039 (accentuate).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import as_tuple
from interp_plugins.optim import objectives as o
from interp_plugins.optim.evidence import Data, pictures_of
from interp_plugins.optim.making import LIKE, Making, ModelCall, Recipe
from interp_plugins.optim.objective import Objective
from interp_plugins.optim.params import as_param
from interp_plugins.optim.units import AskedUnits, FeatureUnit, name_of_layer
from interp_plugins.optim.visualization import Visualization

LOSSES = ("l2", "dot")


def invert(
    model: Callable[..., Any],
    image: Any,
    layer: Any,
    *,
    loss: str = "l2",
    smooth: float = 0.0,
    input_spec: InputSpec | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Visualization:
    """Climb from noise to a picture that gives a layer the activations of this one: what the layer keeps of it.

    Args:
        model: an `nn.Module` or any callable around one.
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name or `Layer`.
        loss: "l2", minus the relative squared distance of the activations; or "dot", their product.
        smooth: how much the total variation of the picture costs.
        input_spec: kind of data and normalisation; guessed from the picture if None.
        progress: None: a bar for long work.
        **options: of how pictures are made, as for `visualize`: `param`, `size`, `steps`, `transform`, `seed`, ...;
            the transform is "none" unless another is named.

    Returns:
        `Visualization` of one row; its activation is the loss, 0 at best for "l2".

    Raises:
        InputError: another loss; a batch of several pictures.

    Example:
        from interp_plugins.optim import invert

        invert(model, x[:1], "0", steps=8).images.shape  # -> (1, 3, 24, 24)
    """
    with concise():
        if loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")

        def objective(a: Tensor) -> Objective:
            found = o.match(layer, a) if loss == "l2" else o.dot(layer, a)
            return found - smooth * o.tv() if smooth else found

        recipe = _recipe({"transform": "none", **options})
        return _of_image(model, image, layer, "inverted", objective, recipe, input_spec, progress)


def caricature(
    model: Callable[..., Any],
    image: Any,
    layer: Any,
    *,
    power: float = 1.0,
    input_spec: InputSpec | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Visualization:
    """Climb to a picture whose activations point where those of this one point, as far as can be.

    Args:
        model: an `nn.Module` or any callable around one.
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name or `Layer`.
        power: of the cosine with the picture's activations; the higher, the more the direction counts over length.
        input_spec: kind of data and normalisation; guessed from the picture if None.
        progress: None: a bar for long work.
        **options: of how pictures are made, as for `visualize`.

    Returns:
        `Visualization` of one row.

    Raises:
        InputError: a batch of several pictures.

    Example:
        from interp_plugins.optim import caricature

        caricature(model, x[:1], "0", steps=8).names[0]  # -> 'caricature at 0'
    """
    with concise():
        recipe = _recipe(options)
        return _of_image(
            model, image, layer, "caricature", lambda a: o.dot(layer, a, power), recipe, input_spec, progress
        )


def accentuate(
    model: Callable[..., Any],
    image: Any,
    layer: Any = None,
    *,
    channel: Any = None,
    neuron: Any = None,
    direction: Any = None,
    target: Any = None,
    objective: Any = None,
    penalty: float = 1.0,
    input_spec: InputSpec | None = None,
    output: Any = None,
    progress: bool | None = None,
    **options: Any,
) -> Visualization:
    """Climb from a picture itself, and stay near it: what a unit sees in this picture, made stronger.

    Args:
        model: an `nn.Module` or any callable around one.
        image: (1, C, H, W) as the model takes it, or a tuple of all its inputs.
        layer: module, dotted name or `Layer`, for `channel`, `neuron` and `direction`.
        channel: an int, several, a slice, or "all": the channel's mean over space.
        neuron: (channel, row, column), (channel, token) or (channel,), the centre; or a list of these.
        direction: a vector (D,) or several (K, D) in the layer's channels.
        target: a class that the picture is moved towards, by index or name, or several in a list; a `Target`; a
            function of the output.
        objective: an `Objective` of `optim.objectives`, or a list; exactly one of these five is given.
        penalty: how dear distance is. At 1 the squared distance costs so much that, going by the gradient at the
            picture, a mean change of a tenth of the range would be best; at 10 of a hundredth. 0: free.
        input_spec: kind of data, normalisation, class names; guessed from the picture if None.
        output: which part of the model's output is meant.
        progress: None: a bar for long work.
        **options: of how pictures are made, as for `visualize`.

    Returns:
        `Visualization`, a row per unit.

    Raises:
        InputError: a negative penalty; none or several units.

    Example:
        from interp_plugins.optim import accentuate

        accentuate(model, x[:1], target=3, steps=8).images.shape  # -> (1, 3, 24, 24)
    """
    with concise():
        if not penalty >= 0:
            raise InputError(f"penalty must be a number from 0, got {penalty!r}.")
        given = {"channel": channel, "neuron": neuron, "direction": direction, "target": target, "objective": objective}
        asked = AskedUnits.of(layer, **given)
        recipe = replace(_recipe(options), init=LIKE, penalty=float(penalty))
        call = ModelCall(model, _one(image), input_spec, output)
        return pictures_of(call, asked, recipe, Data(), progress)


def _recipe(options: dict[str, Any]) -> Recipe:
    known = {k: v for k, v in options.items() if k != "batch_size"}
    known["param"] = as_param(known.get("param", "fft"))
    known["seed"] = check_seed(known.get("seed", 0))
    unknown = sorted(set(known) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise InputError(f"Unknown options {unknown}; how pictures are made is said as for `visualize`.")
    return Recipe(**known, chunk=options.get("batch_size"))


def _one(image: Any) -> tuple[Tensor, ...]:
    found = tuple(as_tuple(image))
    if not found or not isinstance(found[0], Tensor) or len(found[0]) != 1:
        raise InputError("One picture is asked about: give a tensor (1, C, H, W) as the model takes it.")
    return found


def _of_image(
    model: Any,
    image: Any,
    layer: Any,
    what: str,
    objective: Callable[[Tensor], Objective],
    recipe: Recipe,
    spec: InputSpec | None,
    progress: bool | None,
) -> Visualization:
    """The picture of an objective that is made from the image's activations at a layer."""

    def units(making: Making) -> list[FeatureUnit]:
        with torch.no_grad(), making.capture.running() as run:
            rows = making.subject.row
            run(rows, torch.zeros(1, dtype=torch.long, device=rows[0].device))
            a = run.seen()[layer].laid_out().detach().clone()
        return [FeatureUnit(f"{what} at {name_of_layer(model, layer)}", objective(a))]

    call = ModelCall(model, _one(image), spec)
    return pictures_of(call, AskedUnits("channel", 0, layer), recipe, Data(), progress, units)

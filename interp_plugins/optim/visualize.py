"""`visualize`: pictures that a unit of a network is most active for, with what the data say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from interp_plugins.core.batching import check_chunk
from interp_plugins.core.errors import InputError, concise
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim.evidence import Data, pictures_of
from interp_plugins.optim.making import ModelCall, Recipe
from interp_plugins.optim.params import as_param
from interp_plugins.optim.units import AskedUnits
from interp_plugins.optim.visualization import Visualization


def visualize(
    model: Callable[..., Any],
    layer: Any = None,
    *,
    channel: Any = None,
    neuron: Any = None,
    direction: Any = None,
    target: Any = None,
    objective: Any = None,
    token: Any = None,
    n: int = 1,
    diversity: float = 0.0,
    param: Any = "fft",
    magnitude: Any = "natural",
    colour: Any = "natural",
    squash: Any = "auto",
    size: Any = None,
    init: Any = None,
    transform: Any = None,
    steps: int = 512,
    min_steps: int = 128,
    tol: float | None = 0.005,
    lr: float | None = None,
    optimizer: Callable[[list[Tensor]], Any] | None = None,
    minimise: bool = False,
    like: Any = None,
    data: Any = None,
    examples: int = 9,
    max_items: int = 2000,
    input_spec: InputSpec | None = None,
    output: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    additional_forward_args: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    snapshots: Sequence[int] = (),
    progress: bool | None = None,
) -> Visualization:
    """Climb from noise to the pictures that units are most active for (feature visualisation).

    A picture alone misleads: people tell from natural examples better what a unit does (Borowski et al. 2021,
    arXiv:2010.12606), and pictures can be far from anything in the data (Geirhos et al. 2023, arXiv:2306.04719). So
    with `data` every unit comes with the examples that it is most active for, its values over the data, and scores of
    how near the picture is to them; without, the figure says so. Rows never meet: the picture of a unit is the same
    alone, beside others, and however many go through at a time. The model is left as it was. Ctrl-C ends the climb and
    gives what there is.

    Args:
        model: an `nn.Module` or any callable around one.
        layer: module, dotted name or `Layer`, for `channel`, `neuron` and `direction`.
        channel: an int, several, a slice, or "all": a picture each for the channel's mean over space.
        neuron: (channel, row, column), (channel, token) or (channel,), the centre; or a list of these.
        direction: a vector (D,) or several (K, D) in the layer's channels.
        target: a class, by index or name, or several in a list; a `Target`; a function of the output. It is the output
            as it is, the logit: after a softmax there is no gradient where the model is sure.
        objective: an `Objective` of `optim.objectives`, or a list; exactly one of these five is given.
        token: "cls" or a raw token's number, for `channel` of layers of tokens.
        n: pictures per unit, from different beginnings.
        diversity: how much the n pictures of a unit repel each other (times the cosine of their Gram matrices).
        param: "fft", "pixel" or "maco", or a `Param`.
        magnitude: of "maco": "natural" (1 / frequency), "data" (measured on 512 items), or a tensor (C, H, W//2+1).
        colour: "natural": channels of RGB move as in photographs; "data": as in `data`; None; or a matrix (C, C).
        squash: "sigmoid", "clamp" or None: how values are kept in their range; "auto": "sigmoid" where it is known.
        size: of the picture, an int or (H, W); None: the model's input size. The model sees it resampled.
        init: a picture in raw units to begin from, or "grey"; None: noise.
        transform: "robust" (turned, scaled, shifted), "none", "crops", a `Transform`, or a function (views,
            generators) -> views; None: "crops" for "maco", "robust" for others.
        steps: at most.
        min_steps: before a picture may be called done.
        tol: done is a picture whose score (its running mean) rose in 64 steps by less than this share of all it rose;
            None: after all steps.
        lr: size of a step; None: the parametrisation's own.
        optimizer: leaves -> `torch.optim` optimiser, instead of Adam; it has to work number by number.
        minimise: what the unit dislikes most.
        like: an example of the model's inputs, (1, C, H, W) or a tuple: size, channels, and further inputs.
        data: a DataLoader, data set, tensor or batches: examples, range and colours.
        examples: of the data, for each unit.
        max_items: of the data that are looked at.
        input_spec: kind of data, normalisation, class names; guessed from the example if None.
        output: which part of the model's output is meant, as for `explain`.
        forward_kwargs: keyword arguments of the model.
        additional_forward_args: further positional arguments of the model.
        batch_size: pictures per pass; None: automatic.
        seed: of the beginnings and views: row j of each unit has the same ones.
        snapshots: steps after which pictures are kept (`.films`).
        progress: None: a bar for long work.

    Returns:
        `Visualization`: pictures, scores, states, examples; `.show()`, `.plot()`, `.to_html(path)`, `.save(path)`.

    Raises:
        InputError: none or several of the five; a channel that the layer does not have; wrong sizes.
        InputTypeError: a model of ids: `dataset_examples` is for those.
        LayerError: no such layer, or one that does not run.

    Example:
        from interp_plugins import visualize

        found = visualize(model, "0", channel=[1, 2], like=x, steps=8)
        found.images.shape  # -> (2, 3, 24, 24)
    """
    with concise():
        asked = AskedUnits.of(
            layer, token, channel=channel, neuron=neuron, direction=direction, target=target, objective=objective
        )
        recipe = Recipe(
            param=as_param(param), magnitude=magnitude, colour=colour, squash=squash, size=size, init=init,
            transform=transform, steps=_positive("steps", steps), min_steps=min_steps, tol=tol, lr=lr,
            optimizer=optimizer, sign=-1.0 if minimise else 1.0, n=_positive("n", n), diversity=diversity,
            snapshots=tuple(sorted(snapshots)), seed=check_seed(seed), chunk=check_chunk("batch_size", batch_size),
        )  # fmt: skip
        call = ModelCall(model, like, input_spec, output, additional_forward_args, forward_kwargs)
        return pictures_of(call, asked, recipe, Data(data, _positive("examples", examples), max_items), progress)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a positive int, got {value!r}.")
    return value

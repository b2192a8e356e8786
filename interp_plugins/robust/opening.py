"""How every question about changed inputs begins: the model frozen and in raw units, asked once as it is."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from interp_plugins.api.prediction import predict
from interp_plugins.core.draws import drawn_so_far, tell_if_drawing
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.guard import frozen
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.random import check_seed
from interp_plugins.core.spec import InputSpec, as_spec
from interp_plugins.core.tensors import check_inputs, is_float
from interp_plugins.robust.bounds import Bounds, check_masks
from interp_plugins.robust.norms import check_size
from interp_plugins.robust.raw import HALVES, OfRawInputs
from interp_plugins.robust.room import Room

_DRAWN = "Whether a change turns a sample depends on the draws, so another pass may say otherwise."
_PICTURES = ("image", "volume", "clip")  # kinds whose spec says between which values they lie


@dataclass(frozen=True)
class Asking:
    """How a model is called, and what is known of its inputs; the arguments that all questions share.

    Attributes:
        input_spec: kind of data, normalisation and class names; None: guessed.
        bounds: (smallest, largest) raw value, "auto" or None.
        mask: 1 where an element may change, 0 where not; None: everywhere.
        activation: as for `explain`.
        output: as for `explain`.
        additional_forward_args: further positional arguments.
        forward_kwargs: keyword arguments.
        batch_size: rows per pass; None: automatic.
        seed: of everything that is drawn.
    """

    input_spec: InputSpec | None = None
    bounds: Any = "auto"
    mask: Any = None
    activation: Callable[[Tensor], Tensor | None] | None = None
    output: Any = None
    additional_forward_args: Any = None
    forward_kwargs: Mapping[str, Any] | None = None
    batch_size: int | None = None
    seed: int = 0

    def for_explain(self) -> dict[str, Any]:
        """The arguments that `explain` takes by these names."""
        names = ("activation", "output", "additional_forward_args", "forward_kwargs", "batch_size")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Opened:
    """A frozen model with samples in raw units.

    Attributes:
        model: as it was given.
        given: the inputs as they were given.
        xs: the inputs, in the model's units.
        raw: the same in raw units.
        spec: what is known of them.
        func: the model as a function of raw inputs.
        bounds: smallest and largest raw values.
        free: which elements may change, (N, D) per input.
        forward: raw rows in, outputs out.
        prediction: what the model says of the samples as they are.
        asking: how it is called.
    """

    model: Callable[..., Any]
    given: Any
    xs: tuple[Tensor, ...]
    raw: list[Tensor]
    spec: InputSpec
    func: OfRawInputs
    bounds: Bounds
    free: list[Tensor]
    forward: Forward
    prediction: Prediction
    asking: Asking = field(default_factory=Asking)

    def __len__(self) -> int:
        return len(self.xs[0])

    def room(self) -> Room:
        """Where changes of the samples may lie."""
        return Room(self.raw, self.free, self.bounds)


@contextlib.contextmanager
def opened(model: Callable[..., Any], inputs: Any, asking: Asking, ids: bool = False) -> Iterator[Opened]:
    """The model frozen for the length of a `with` block, asked once about the samples as they are.

    Args:
        model: a module or any callable.
        inputs: the samples, in its units.
        asking: how it is called.
        ids: whether inputs of whole numbers are taken.

    Raises:
        InputError: values outside of the bounds, a mask that is none.
        InputTypeError: inputs that are no floats.
    """
    with frozen(model, seed=check_seed(asking.seed)):
        xs = check_inputs(inputs)
        if not ids:
            _refuse_ids(xs)
        spec = as_spec(asking.input_spec, xs[0])
        func = OfRawInputs(model, [spec.of_input(k, x) for k, x in enumerate(xs)], [x.dtype for x in xs])
        _tell_halves(xs)
        raw = func.raw(xs)
        box = as_bounds(asking.bounds, spec)
        box.check([x for x in raw if is_float(x)])
        raw = [box(x) if is_float(x) else x for x in raw]
        call = Call(func, asking.forward_kwargs, asking.output)
        forward = Forward.of(call, len(xs[0]), None, asking.additional_forward_args)
        forward.samples = tuple(raw)
        before = drawn_so_far(raw[0])
        prediction = predict(forward, raw, asking.activation, names=spec.vocab)
        if drawn_so_far(raw[0]) != before:
            tell_if_drawing(forward, raw, _DRAWN)
        free = check_masks(asking.mask, raw)
        yield Opened(model, inputs, xs, raw, spec, func, box, free, forward, prediction, asking)


def _refuse_ids(xs: Sequence[Tensor]) -> None:
    for i, x in enumerate(xs):
        if not is_float(x):
            raise InputTypeError(
                f"inputs[{i}] is {str(x.dtype).removeprefix('torch.')}: ids of words or categories do not change by a "
                "little. Which words turn the prediction: smallest_flip(model, ids, baselines=id of a mask); which "
                "columns of a table: counterfactual(model, rows, data=...). For quantities: x.float()."
            )


def _tell_halves(xs: Sequence[Tensor]) -> None:
    """Changes are float32 whatever the model takes; its own rounding stays."""
    named = sorted({str(x.dtype).removeprefix("torch.") for x in xs if x.dtype in HALVES})
    if named:
        warnings.warn(
            f"The inputs are {', '.join(named)}: changes are searched in float32 and rounded on the way into the "
            "model, which is blind to those below its resolution. A copy of the model in float32 says more.",
            InterpWarning,
            stacklevel=6,
        )


def as_size(eps: Any, otherwise: float, name: str = "eps") -> float:
    """A size as a number; "8/255" is a fraction.

    Raises:
        InputError: no number from 0.
    """
    if eps is None:
        return otherwise
    if isinstance(eps, str):
        try:
            return check_size(name, float(Fraction(eps.replace(" ", ""))))
        except (ValueError, ZeroDivisionError):
            raise InputError(f"{name} must be a number from 0 or a fraction as text ('8/255'), got {eps!r}.") from None
    return check_size(name, eps)


def as_bounds(bounds: Any, spec: InputSpec) -> Bounds:
    """(smallest, largest) raw value; "auto": of pictures the spec's range; None: none.

    Raises:
        InputError: anything else.
    """
    if isinstance(bounds, str) and bounds == "auto":
        bounds = spec.value_range if spec.kind in _PICTURES else None
    if bounds is None:
        return Bounds(-float("inf"), float("inf"))
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise InputError(f"bounds must be (smallest, largest), 'auto' or None, got {bounds!r}.")
    return Bounds(*bounds)

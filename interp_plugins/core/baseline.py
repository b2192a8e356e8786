"""Baselines: the reference input that attributions are measured against.

Named baselines know the data's normalisation (`InputSpec`), so that "black" is black pixels and not the mean colour.
Background: Sturmfels, Lundberg, Lee, "Visualizing the Impact of Feature Attribution Baselines", Distill 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.global_random import user_call
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.tensors import all_finite, as_tuple, check_readable, describe, is_float, own, own_tree

Maker = Callable[[Tensor, InputSpec, torch.Generator | None], Tensor]

NO_ID = -1  # in a baseline of ids, for methods at look-ups: no row of the table, but zeros


@dataclass(frozen=True)
class Sample:
    """Rows of data as a reference, such as some of the training data.

    Methods with one baseline per sample start at its mean: of floats the mean; of ids the mean of the rows of the
    table they are looked up in, or, for methods that replace ids, each position's most frequent id. Methods that draw
    baselines draw its rows.

    Args:
        rows: (B, ...), of the input's shape behind the batch; row i of all inputs belongs together.
    """

    rows: Tensor


@dataclass(frozen=True)
class IdBaseline:
    """A reference for ids that differs by the kind of method.

    Args:
        swap: ids that methods which replace ids put in: a number, or a tensor of ids.
        start: where methods at look-ups start: a number or tensor of ids, `NO_ID` for zeros.
    """

    swap: int | Tensor
    start: int | Tensor = NO_ID


def _everywhere(x: Tensor, value: Any) -> Tensor:
    """A number for every element of x, held once for all samples."""
    return torch.full_like(x[:1], value).expand_as(x)


def _zero(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """Zeros in the model's own units; with per-channel normalisation that is the data set's mean colour."""
    return _everywhere(x, 0)


def _black(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """The smallest raw value (black pixels), normalised like the input."""
    return spec.normalise(torch.full_like(x[:1], spec.value_range[0])).expand_as(x)


def _mean(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """Each sample's own mean, per channel."""
    if x.ndim < 3:
        return x.mean(0, keepdim=True).expand_as(x).clone()
    axes = spec.places(x.ndim) or tuple(range(2, x.ndim))
    return x.mean(axes, keepdim=True).expand_as(x).clone()


def _blur(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """The picture blurred by a Gaussian of a tenth of its shorter side (Fong and Vedaldi, ICCV 2017)."""
    if x.ndim != 4:
        raise InputError(f"The baseline 'blur' needs images (N, C, H, W), got shape {tuple(x.shape)}; use 'mean'.")
    sigma = max(1.0, 0.1 * min(x.shape[2:]))
    radius = int(min(3 * sigma, min(x.shape[2:]) - 1))
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (t / sigma) ** 2)
    kernel = kernel / kernel.sum()
    c = x.shape[1]
    y = F.pad(x, (radius, radius, radius, radius), mode="reflect")
    y = F.conv2d(y, kernel.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)
    return F.conv2d(y, kernel.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)


def _raw_range(x: Tensor, spec: InputSpec) -> tuple[float, float]:
    if spec.normalised or spec.kind == "image":
        return spec.value_range
    return float(x.min()), float(x.max())


def _uniform(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """Independent uniform noise over the valid raw range, normalised like the input."""
    low, high = _raw_range(x, spec)
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=_device(generator, x)).to(x.device)
    return spec.normalise(low + (high - low) * noise)


def _gaussian(x: Tensor, spec: InputSpec, generator: torch.Generator | None) -> Tensor:
    """The input plus Gaussian noise of half the raw range, clipped to the raw range."""
    low, high = _raw_range(x, spec)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=_device(generator, x)).to(x.device)
    return spec.normalise((spec.denormalise(x) + 0.5 * (high - low) * noise).clamp(low, high))


def _device(generator: torch.Generator | None, x: Tensor) -> torch.device:
    return generator.device if generator is not None else x.device


BASELINES: dict[str, Maker] = {
    "zero": _zero,
    "black": _black,
    "mean": _mean,
    "blur": _blur,
    "uniform": _uniform,
    "gaussian": _gaussian,
}


def named_baseline(name: str, x: Tensor, spec: InputSpec, generator: torch.Generator | None = None) -> Tensor:
    """The baseline of that name for a batch x. Raises UnknownNameError with the nearest name."""
    maker = BASELINES.get(name.lower())
    if maker is None:
        raise unknown("baseline", name, BASELINES, "A number, a tensor or a function of the inputs works as well.")
    return maker(x, spec, generator)


def _one(
    value: Any, x: Tensor, spec: InputSpec, generator: torch.Generator | None, i: int, vectors: bool = False
) -> Tensor:
    """The baseline of one input, of its shape."""
    at_lookups = vectors and not is_float(x)
    if isinstance(value, Sample):
        value = _typical(value, x, i, at_lookups)
    elif isinstance(value, IdBaseline):
        value = value.start if at_lookups else value.swap
    if isinstance(value, str) and not is_float(x):
        _refuse_name(value, i)
        value = None
    if value is None:
        return _everywhere(x, NO_ID if at_lookups else 0)
    if isinstance(value, str):
        return named_baseline(value, x, spec, generator)
    if isinstance(value, (bool, int, float)):
        if is_float(x):
            return _everywhere(x, value)
        return _held(torch.tensor(value), x, i, at_lookups).repeat(x[:1].shape).expand_as(x)
    if not isinstance(value, Tensor):
        raise InputTypeError(
            f"baselines[{i}] must be None, a number, a tensor, a name ({', '.join(BASELINES)}) or a function; got "
            f"{describe(value)}."
        )
    return _given(value, x, i, at_lookups)


def _typical(value: Sample, x: Tensor, i: int, at_lookups: bool) -> Any:
    """The mean of a sample's rows, or their most frequent value where they are no quantities."""
    if value.rows.shape[1:] != x.shape[1:] or not len(value.rows):
        raise InputError(
            f"The Sample for baselines[{i}] has rows of shape {tuple(value.rows.shape)}; expected "
            f"(n, {', '.join(map(str, x.shape[1:]))})."
        )
    rows = own(value.rows)
    return rows.mean(0, keepdim=True) if is_float(x) else NO_ID if at_lookups else rows.mode(0, keepdim=True)[0]


def _refuse_name(name: str, i: int) -> None:
    """Names mean nothing for integers, but for "zero", which is as if none had been given."""
    if name.lower() != "zero":
        raise InputError(
            f"The baseline {name!r} means nothing for integers (baselines[{i}]). Give ids, 'zero', a "
            "core.baseline.Sample of rows, or None; for several inputs a tuple with one per input."
        )


def _given(value: Tensor, x: Tensor, i: int, at_lookups: bool) -> Tensor:
    """A tensor in the dtype and the shape of its input."""
    check_readable(value, f"baselines[{i}]")
    b = own(value).to(device=x.device)
    if b.is_complex() and not x.is_complex():
        raise InputTypeError(f"baselines[{i}] is {describe(value)} for a real input; give its real part.")
    if b.dtype != x.dtype:
        b = b.to(x.dtype) if is_float(x) else _held(b, x, i, at_lookups)
    try:
        return (b.repeat(x[:1].shape) if b.ndim == 0 else b).expand_as(x)
    except RuntimeError as error:
        raise InputError(
            f"Baseline can be provided as a tensor for just one input and broadcasted to the batch: baselines[{i}] has "
            f"shape {tuple(b.shape)}, the input {tuple(x.shape)}; expected {tuple(x.shape)}, {(1, *x.shape[1:])} or "
            "what broadcasts to it."
        ) from error


def _held(b: Tensor, x: Tensor, i: int, at_lookups: bool) -> Tensor:
    """Baseline values for an integer or bool input: of its dtype, or of a wider one where that does not hold them."""
    for dtype in (x.dtype, torch.promote_types(x.dtype, b.dtype), torch.get_default_dtype(), torch.float64):
        if torch.equal(b.to(dtype).to(torch.float64).nan_to_num(), b.to(torch.float64).nan_to_num()):
            break
        if at_lookups:
            raise InputError(
                f"baselines[{i}] is no id: it holds values that {str(x.dtype).removeprefix('torch.')} does not, and "
                "ids are explained at the rows that they are looked up as. Give ids, None (rows of zeros) or a "
                "core.baseline.Sample of rows."
            )
    return b.to(device=x.device, dtype=dtype)


def widened(
    inputs: Sequence[Tensor], baselines: Sequence[Tensor], scores: Callable[[tuple[Tensor, ...]], Any]
) -> tuple[Tensor, ...]:
    """The inputs in the dtypes of their baselines, where integers meet a baseline that is none.

    A model that adds and multiplies takes floats as it takes integers; one that looks ids up, or counts, does not, and
    is asked before anything is perturbed.

    Args:
        inputs: the samples.
        baselines: one of the input's shape per input, as `as_baselines` gives them.
        scores: what the model gives for inputs: a tensor, or several.

    Raises:
        InputError: the model cannot take the inputs as floats, or gives something else for them.
    """
    if all(b.dtype == x.dtype for b, x in zip(baselines, inputs, strict=True)):
        return tuple(inputs)
    wide = tuple(x.to(b.dtype) for b, x in zip(baselines, inputs, strict=True))
    which, b, x = next((i, b, x) for i, (b, x) in enumerate(zip(baselines, inputs, strict=True)) if b.dtype != x.dtype)
    came = f"baselines[{which}] holds values that the input of dtype {str(x.dtype).removeprefix('torch.')} cannot hold"
    advice = (
        "Give whole numbers in its range as baselines (for ids: other ids), or, for quantities, inputs and a model "
        "that take floats: x.float()."
    )
    before = as_tuple(scores(tuple(inputs)))
    try:
        after = as_tuple(scores(wide))
    except Exception as error:
        raise InputError(
            f"{came}, and the model does not take the input as {str(b.dtype).removeprefix('torch.')} "
            f"({type(error).__name__}: {str(error)[:200]}). {advice}"
        ) from error
    exact = all(torch.equal(w.to(v.dtype), v) for w, v in zip(wide, inputs, strict=True))
    if not exact or not all(_agree(p, q) for p, q in zip(before, after, strict=True)):
        raise InputError(
            f"{came}, and for the input as {str(b.dtype).removeprefix('torch.')} the model gives something else than "
            f"for the input as it came. {advice}"
        )
    return wide


def _agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are equal but for their dtypes' rounding."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6)


def whole(b: Tensor, x: Tensor, i: int) -> Tensor:
    """Rows of ids to draw from, in the dtype of the ids x. Raises InputError for what is no id."""
    return _held(own(b).to(x.device), x, i, True)


def as_baselines(
    baselines: Any,
    inputs: Sequence[Tensor],
    spec: InputSpec | None = None,
    generator: torch.Generator | None = None,
    template: Any = None,
    vectors: bool = False,
) -> tuple[Tensor, ...]:
    """One baseline tensor of the input's shape per input.

    It has the input's dtype, but a wider one where integers cannot hold it: the inputs follow by `widened`.

    Args:
        baselines: None (zeros), a number, a name from `BASELINES` (the first input; zeros for the others), a tensor of
            the input's shape or with batch size 1, a tuple of these (one per input), or a function: `f(inputs)` (in the
            caller's layout) or `f()`, returning one of these.
        inputs: the inputs, batch first.
        spec: what is known of the first input, for named baselines.
        generator: for random baselines.
        template: the caller's `inputs`, to hand to a function in the caller's layout.
        vectors: whether integer inputs are explained at their look-ups; then `NO_ID` stands for None and a `Sample`.
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, tuple(inputs) if isinstance(template, tuple) else inputs[0])
        if baselines is None:
            raise InputTypeError("The baseline function returned None; expected a tensor or number per input.")
    if isinstance(baselines, tuple) and len(baselines) != len(inputs):
        raise InputError(f"`baselines` has {len(baselines)} entries for {len(inputs)} inputs; give one per input.")
    if not isinstance(baselines, tuple) and baselines is not None and len(inputs) > 1:
        if not isinstance(baselines, (str, int, float)):
            raise InputError(
                f"`baselines` is one {describe(baselines)} for {len(inputs)} inputs; give a tuple with one per input."
            )
        baselines = (baselines,) * len(inputs)
    many = as_tuple(baselines) if baselines is not None else (None,) * len(inputs)
    known = spec or InputSpec.guess(inputs[0])
    return tuple(
        _one(b, x, known.of_input(i, x), generator, i, vectors)
        for i, (b, x) in enumerate(zip(many, inputs, strict=True))
    )


def as_starts(baselines: Any, inputs: Sequence[Tensor], template: Any = None) -> tuple[Tensor, ...]:
    """The baselines of a method that goes from them to the input, as `as_baselines` makes them.

    Methods that replace features may put NaN there, for a model that takes it as "missing". But no point lies between a
    number and NaN, and no difference is a number.

    Raises:
        InputError: NaN or infinity.
    """
    made = as_baselines(baselines, inputs, template=template)
    check_finite(made)
    return made


def check_finite(baselines: Sequence[Tensor]) -> None:
    """Raise InputError for baselines with NaN or infinity; see `as_starts`."""
    for i, b in enumerate(baselines):
        if not all_finite(b):
            raise InputError(
                f"baselines[{i}] of shape {tuple(b.shape)} contains NaN or infinity: no path leads from there to the "
                "input. Give numbers, or take a method that replaces features (feature_ablation) if the model reads "
                "NaN as missing."
            )


def call_baseline(function: Callable[..., Any], inputs: Any) -> Any:
    """Call a user's baseline function, with copies of the inputs or without any, as Captum does."""
    import inspect

    try:
        takes = len(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        takes = 1
    return user_call(lambda: function(own_tree(inputs)) if takes else function())

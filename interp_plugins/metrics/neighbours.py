"""The neighbours of samples and their maps: one set of them serves every number about robustness.

A neighbour is the sample plus noise, uniform in a box whose half side is a share of the sample's own spread. All
numbers below are of the same neighbours and maps, so seven metrics cost what one does: P + 1 maps and forward rows a
sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import InputError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import select_output
from interp_plugins.core.layers import Layer, resolve_layer
from interp_plugins.core.tensors import as_tuple, is_float
from interp_plugins.metrics.again import Again, asking_again
from interp_plugins.metrics.noise import keys, uniform
from interp_plugins.metrics.representation import last_representation
from interp_plugins.metrics.rows import as_rows, row_norm, row_sum
from interp_plugins.metrics.undefined import NOT_FINITE, defined

NO_NEIGHBOUR = "every neighbour has another class"
NO_SPREAD = "the sample has no spread, so no neighbours"
ZERO_MAP = "the map is zero everywhere"
EPS = 1e-6
OPTIONS = (
    "explain",
    "target",
    "additional_forward_args",
    "baselines",
    "n_neighbours",
    "radius",
    "same_class",
    "neighbours",
    "batch_size",
    "seed",
    "ids",
)  # what the engine takes beside the formula's own parameters


@dataclass(frozen=True)
class Neighbourhood:
    """Samples, P neighbours of each, and how far apart their maps are; see `explained_neighbours`.

    Attributes:
        kept: bool (N, P), the neighbours that count: of the sample's class, and moved at all.
        moved: bool (N, P), whether the neighbour differs from the sample.
        finite: bool (N,), whether the sample's map, and the maps of the neighbours that count, hold numbers alone.
        size: float64 (N,), norm of the sample's map.
        change: float64 (N, P), norm of map(x') - map(x).
        change_l1: the same, sum of absolute values.
        relative_change: norm of (map(x') - map(x)) / map(x), element by element.
        step: norm of x' - x.
        relative_step: norm of (x' - x) / x, element by element.
        output_step: norm of the change of the model's output.
        layer_step: norm of the relative change of a layer's values; None where no layer was found.
    """

    kept: Tensor
    moved: Tensor
    finite: Tensor
    size: Tensor
    change: Tensor
    change_l1: Tensor
    relative_change: Tensor
    step: Tensor
    relative_step: Tensor
    output_step: Tensor
    layer_step: Tensor | None

    @property
    def left_out(self) -> Tensor:
        """(N,) int64: neighbours that are of another class, and do not count."""
        return (self.moved & ~self.kept).sum(1)

    @property
    def sensitivity_max(self) -> Tensor:
        """(N,) largest relative change of the map."""
        return self._largest(self.change / self.size[:, None], {ZERO_MAP: self.size == 0})

    @property
    def sensitivity_avg(self) -> Tensor:
        """(N,) mean relative change of the map."""
        ratio = torch.where(self.kept, self.change / self.size[:, None], 0.0)
        return self._said(row_sum(ratio) / self.kept.sum(1), {ZERO_MAP: self.size == 0})

    @property
    def local_lipschitz(self) -> Tensor:
        """(N,) largest change of the map per change of the input."""
        return self._largest(self.change / self.step)

    @property
    def continuity(self) -> Tensor:
        """(N,) largest change of the map, summed over its elements, per change of the input."""
        return self._largest(self.change_l1 / self.step)

    @property
    def relative_input_stability(self) -> Tensor:
        """(N,) largest relative change of the map per relative change of the input."""
        return self._largest(self.relative_change / self.relative_step.clamp_min(EPS), {ZERO_MAP: self.size == 0})

    @property
    def relative_output_stability(self) -> Tensor:
        """(N,) largest relative change of the map per change of the output."""
        return self._largest(self.relative_change / self.output_step.clamp_min(EPS), {ZERO_MAP: self.size == 0})

    @property
    def relative_representation_stability(self) -> Tensor:
        """(N,) largest relative change of the map per relative change of a layer.

        Raises:
            InputError: no layer was named, and none found.
        """
        if self.layer_step is None:
            raise InputError("The model shows no layer to compare neighbours in: give representation=.")
        return self._largest(self.relative_change / self.layer_step.clamp_min(EPS), {ZERO_MAP: self.size == 0})

    def _largest(self, values: Tensor, reasons: dict[str, Tensor] | None = None) -> Tensor:
        return self._said(torch.where(self.kept, values, -torch.inf).amax(1), reasons)

    def _said(self, values: Tensor, reasons: dict[str, Tensor] | None) -> Tensor:
        why = {
            NOT_FINITE: ~self.finite,
            NO_SPREAD: ~self.moved.any(1),
            NO_NEIGHBOUR: ~self.kept.any(1),
            **(reasons or {}),
        }
        return defined(values, None, why)


def explained_neighbours(
    forward_func: Callable[..., Any],
    inputs: Any,
    attributions: Any = None,
    *,
    explain: Any = None,
    target: Any = None,
    additional_forward_args: Any = None,
    baselines: Any = None,
    n_neighbours: int = 10,
    radius: float = 0.05,
    same_class: bool = True,
    neighbours: Any = None,
    representation: Any = None,
    only: Sequence[str] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Neighbourhood:
    """Explain samples and neighbours of them; the model is frozen meanwhile and left as it was.

    Cost: n_neighbours + 1 maps and as many forward rows per sample.

    Args:
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, batch first; or an `Explanation`, which knows its method and classes.
        attributions: the samples' maps, for a check; None: those of the `Explanation`, or no check. Methods that draw
            are not checked.
        explain: how maps are made (`metrics.Explainer`): a name, (name, parameters), a method object, or a function
            (model, inputs, target) -> maps; None: the method of the `Explanation`, with its parameters.
        target: as for a method's `attribute`; None: the classes of the `Explanation`, or the model's only output. A
            neighbour is explained at the sample's class.
        additional_forward_args: further arguments of the model; tensors with N rows follow the batch.
        baselines: for the method, as for `explain`.
        n_neighbours: neighbours per sample.
        radius: half side of the box, a share of the sample's largest value less its smallest. Integer inputs stay.
        same_class: leave out neighbours that the model takes for another class; outputs (N, C) have classes.
        neighbours: the neighbours themselves, (N, P, ...) per input, in place of drawn ones.
        representation: the layer of `relative_representation_stability`; None: what the last module with weights gets,
            found by one more pass; False: none, and that number is not had.
        only: the distances to compute ("change", "relative_step", ...: fields of `Neighbourhood`); the others are NaN.
            None: all.
        batch_size: rows per pass; None = automatic.
        seed: of the noise, and of methods and models that draw.
        ids: int64 (N,), numbers of the samples for their noise; None: all samples get the same, scaled by their spread.

    Raises:
        InputError: nothing says how maps are made; maps given that are not the method's; inputs without neighbours.

    Example:
        near = explained_neighbours(model, exp, n_neighbours=4)
        near.sensitivity_max, near.local_lipschitz, near.left_out
    """
    _check(n_neighbours, radius)
    exp = inputs if isinstance(inputs, Explanation) else None
    if attributions is None and exp is not None and explain is None:
        attributions = exp.attributions
    with asking_again(
        explain,
        forward_func,
        inputs,
        target=target,
        additional_forward_args=additional_forward_args,
        baselines=baselines,
        batch_size=batch_size,
        seed=seed,
    ) as again:
        draw = _given(neighbours, again.xs) if neighbours is not None else _drawn(again.xs, radius, seed, ids)
        count = n_neighbours if neighbours is None else as_tuple(neighbours)[0].shape[1]
        layer = _layer(again, representation)
        clean = _Seen.of(again, again.xs, torch.arange(again.n), layer)
        check_given(attributions, clean.maps, again)
        rows = torch.arange(again.n).repeat(count)  # neighbours one after the other, each of all samples
        numbers = torch.arange(count).repeat_interleave(again.n)

        def work(start: int, stop: int) -> list[Tensor]:
            some = rows[start:stop]
            moved = draw(some, numbers[start:stop])
            return _compared(_Seen.of(again, moved, some, layer), clean, again.xs, moved, some, same_class, only)

        parts = [found for _, _, found in chunks(len(rows), again.per_pass, work)]
        columns = [torch.cat(list(c)).reshape(count, again.n).T.contiguous() for c in zip(*parts, strict=True)]
    return _neighbourhood(columns, clean, layer is not None)


def _check(n_neighbours: Any, radius: Any) -> None:
    if isinstance(n_neighbours, bool) or not isinstance(n_neighbours, int) or n_neighbours < 1:
        raise InputError(f"n_neighbours must be a positive int, got {n_neighbours!r}.")
    if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not 0 < radius < float("inf"):
        raise InputError(f"radius must be a positive number, got {radius!r}.")


@dataclass(frozen=True)
class _Seen:
    """What is known of some rows, on the CPU: maps (R, D), outputs and a layer's values as rows, classes or None."""

    maps: Tensor
    outputs: Tensor
    layer: Tensor | None
    classes: Tensor | None

    @classmethod
    def of(cls, again: Again, xs: tuple[Tensor, ...], rows: Tensor, layer: Layer | None) -> _Seen:
        parts = []
        for at in torch.arange(len(rows)).split(again.per_pass):
            some = tuple(x[at.to(x.device)] for x in xs)
            parts.append(_asked(again, some, rows[at], layer))
        columns = [[p[k] for p in parts] for k in range(4)]
        maps, outputs, values, classes = (None if c[0] is None else torch.cat(c) for c in columns)
        assert maps is not None and outputs is not None
        return cls(maps, outputs, values, classes)


def _asked(again: Again, xs: tuple[Tensor, ...], rows: Tensor, layer: Layer | None) -> list[Any]:
    """One pass and one question: maps, outputs, layer, classes."""
    forward, where = again.forward, rows.to(xs[0].device)
    with torch.no_grad():
        if layer is None:
            output, values = forward.raw(xs, where), None
        else:
            forward.passes["forward"] += len(rows)
            found, read = forward.read(xs, where, [layer])
            output = select_output(found, forward.output)
            values = as_rows(tuple(t.detach() for t in read[0])).cpu().double()
    classes = output.argmax(1).cpu() if output.ndim == 2 and output.shape[1] > 1 and not output.is_complex() else None
    outputs = as_rows(torch.view_as_real(output) if output.is_complex() else output).cpu().double()
    return [as_rows(again.maps(xs, rows)).double(), outputs, values, classes]


def _layer(again: Again, named: Any) -> Layer | None:
    if named is False:
        return None
    if named is None:
        return last_representation(again)
    return named if isinstance(named, Layer) else resolve_layer(again.func, named)


def _drawn(
    xs: tuple[Tensor, ...], radius: float, seed: int, ids: Tensor | None
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Neighbours of rows by their sample and number, drawn by (seed, id, number, element)."""
    if not any(map(is_float, xs)):
        raise InputError(
            "Neighbours are drawn in numbers, and all inputs are ids: give neighbours=, (N, P, ...), such as synonyms."
        )
    if any(x.is_complex() for x in xs):
        raise InputError("Neighbours of complex inputs are not drawn: give neighbours=, (N, P, ...).")
    who = torch.zeros(xs[0].shape[0], dtype=torch.int64) if ids is None else ids
    sides = [_spread(x) * radius if is_float(x) else None for x in xs]

    def draw(rows: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        found = []
        for k, (x, side) in enumerate(zip(xs, sides, strict=True)):
            chosen = x[rows.to(x.device)]
            if side is not None:
                noise = 2 * uniform(keys(seed, who[rows], numbers * len(xs) + k), x[0].numel()) - 1
                noise = (noise * side[rows, None]).reshape(chosen.shape)
                chosen = (chosen.cpu().double() + noise).to(x)
            found.append(chosen)
        return tuple(found)

    return draw


def _spread(x: Tensor) -> Tensor:
    """Largest less smallest value of each sample, float64 (N,) on the CPU."""
    flat = x.reshape(x.shape[0], -1).double().cpu()
    return flat.amax(1) - flat.amin(1)


def _given(neighbours: Any, xs: tuple[Tensor, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Neighbours that the user gave."""
    many = as_tuple(neighbours)
    shapes = [tuple(getattr(one, "shape", ())) for one in many]
    fits = len(many) == len(xs) and all(
        len(s) == x.ndim + 1 and (s[0], *s[2:]) == tuple(x.shape) and s[1] == shapes[0][1] > 0
        for s, x in zip(shapes, xs)
    )
    if not fits:
        raise InputError(
            f"neighbours of shapes {shapes} do not fit inputs of shapes {[tuple(x.shape) for x in xs]}: give (N, P, "
            "...) per input, P neighbours of each sample."
        )
    return lambda rows, numbers: tuple(
        one.detach()[rows.to(one.device), numbers.to(one.device)].to(x) for one, x in zip(many, xs, strict=True)
    )


def _compared(
    near: _Seen,
    clean: _Seen,
    xs: tuple[Tensor, ...],
    moved: tuple[Tensor, ...],
    rows: Tensor,
    same_class: bool,
    only: Sequence[str] | None,
) -> list[Tensor]:
    """The columns of `_neighbourhood` for some rows: one number each."""
    before = as_rows(tuple(x[rows.to(x.device)] for x in xs)).cpu().double()
    step = as_rows(moved).cpu().double() - before
    maps = clean.maps[rows]
    change = near.maps - maps
    alike = torch.ones(len(rows), dtype=torch.bool)
    if same_class and near.classes is not None and clean.classes is not None:
        alike = near.classes == clean.classes[rows]
    asked: dict[str, Callable[[], Tensor]] = {
        "change": lambda: row_norm(change),
        "change_l1": lambda: row_sum(change.abs()),
        "relative_change": lambda: row_norm(change / _floored(maps)),
        "step": lambda: row_norm(step),
        "relative_step": lambda: row_norm(step / _floored(before)),
        "output_step": lambda: row_norm(near.outputs - clean.outputs[rows]),
    }
    if near.layer is not None and clean.layer is not None:
        values, there = clean.layer[rows], near.layer
        asked["layer_step"] = lambda: row_norm((there - values) / _floored(values))
    none = torch.full((len(rows),), torch.nan, dtype=torch.float64)
    found = [make() if only is None or name in (*only, "step") else none for name, make in asked.items()]
    return [alike.double(), near.maps.isfinite().all(1).double(), *found]


def _floored(rows: Tensor) -> Tensor:
    """Values to divide by: what is smaller than a millionth of the row's largest size counts as that."""
    least = EPS * rows.abs().amax(1, keepdim=True)
    small = rows.abs() <= least
    return torch.where(small, least.clamp_min(torch.finfo(rows.dtype).tiny), rows)


def _neighbourhood(columns: Sequence[Tensor], clean: _Seen, with_layer: bool) -> Neighbourhood:
    alike, finite, change, change_l1, relative, step, relative_step, output_step = columns[:8]
    moved = step > 0
    kept = moved & (alike > 0)
    whole = clean.maps.isfinite().all(1) & ((finite > 0) | ~kept).all(1)
    return Neighbourhood(
        kept,
        moved,
        whole,
        row_norm(clean.maps),
        change,
        change_l1,
        relative,
        step,
        relative_step,
        output_step,
        columns[8] if with_layer else None,
    )


def check_given(given: Any, found: Tensor, again: Again) -> None:
    """Refuse maps that are not what the method gives for these samples; methods that draw are not checked.

    Args:
        given: the maps that came, or None.
        found: what the method gives, as rows (N, D).
        again: the method.

    Raises:
        InputError: maps of another shape, or that differ by more than a hundredth of their norm.
    """
    if given is None:
        return
    rows = as_rows(given).cpu().double()
    if rows.shape != found.shape:
        raise InputError(
            f"The maps given have {tuple(rows.shape)} numbers, and {again.explainer.name} gives {tuple(found.shape)} "
            "for these samples: give maps as the method returns them, or none."
        )
    if again.alone:
        return
    error = row_norm((rows - found).nan_to_num(0, 0, 0)) / row_norm(rows.nan_to_num(0, 0, 0))
    worst = int(error.nan_to_num(0).argmax())
    if error[worst] > 0.01:
        raise InputError(
            f"{again.explainer.name}, asked again, gives other maps than those given: they differ by "
            f"{error[worst]:.2g} of their norm in sample {worst}. What an Explanation does not keep (feature_mask, "
            "arguments of the model, a wrapper around it) has to be said again: explain=Explainer(...), "
            "additional_forward_args=."
        )

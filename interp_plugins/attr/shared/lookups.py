"""Gradient methods for integer inputs: the plain method, run on the rows that the ids are looked up as.

`joint` wraps the `attribute` of every gradient method (`GradientAttribution.__init_subclass__`). Where an input holds
integers, it re-parametrises the model (`core.lookups.AtLookups`), turns baselines, noise and arguments into what they
are there, runs the method on slots and float inputs together, and folds the maps: one number per id. Cost: that of the
method, and one forward pass more (two with ids as a baseline).
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.baseline import NO_ID, Sample, as_baselines, call_baseline, whole
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.forward import Call
from interp_plugins.core.guard import frozen
from interp_plugins.core.lookups import AtLookups
from interp_plugins.core.registry import contract_of, traits_of
from interp_plugins.core.tensors import as_tuple, check_inputs, describe, integer_advice, is_float, like, own_tree

_CHUNKS = ("internal_batch_size", "batch_size")


def has_ids(inputs: Any) -> bool:
    """Whether any of the inputs is a tensor of integers."""
    return any(isinstance(x, Tensor) and not is_float(x) for x in as_tuple(inputs))


def joint(attribute: Callable[..., Any]) -> Callable[..., Any]:
    """An `attribute` that takes integer inputs as well, explained at their look-ups."""
    signature = inspect.signature(attribute)

    @functools.wraps(attribute)
    def run(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not (has_ids(inputs) and traits_of(self).embeds_ids):
            return attribute(self, inputs, *args, **kwargs)
        given = dict(signature.bind(self, inputs, *args, **kwargs).arguments)
        for name in ("self", "inputs"):
            given.pop(name, None)
        given |= given.pop("kwargs", {}) if "kwargs" in signature.parameters else {}
        with frozen(self.forward_func):
            problem = at_lookups(self, inputs, given)
            return problem.folded(attribute(problem.method, problem.inputs, **problem.kwargs))

    return run


@dataclass(frozen=True)
class AtLookupsProblem:
    """A gradient method at the look-ups: `method.attribute(inputs, **kwargs)`, and `folded` of what it gives."""

    method: Any
    inputs: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    at: AtLookups
    template: Any
    folds: bool

    def folded(self, result: Any) -> Any:
        """One number per id, in the caller's layout; a layer's map stays as it is."""
        if not self.folds:
            return result
        if self.kwargs.get("return_convergence_delta"):
            return like(self.template, self.at.fold(as_tuple(result[0]))), result[1]
        return like(self.template, self.at.fold(as_tuple(result)))


def at_lookups(method: Any, inputs: Any, kwargs: dict[str, Any]) -> AtLookupsProblem:
    """Start a gradient method at the look-ups of its integer inputs.

    Args:
        method: the method object.
        inputs: as the caller gave them, with integers among them.
        kwargs: the arguments of `attribute` by name, in terms of the inputs.

    Raises:
        InputTypeError: an integer input that no look-up was seen of.
        ModelError: look-ups that cannot be credited to single ids.
    """
    xs = check_inputs(inputs)
    for i, x in enumerate(xs):
        if x.dtype == torch.bool:
            raise InputTypeError(integer_advice(i, x))
    func = method.forward_func
    bound = func if isinstance(func, Call) else Call(func)
    at = AtLookups(bound.func, xs)
    args = kwargs.get("additional_forward_args")
    extra = () if args is None else own_tree(as_tuple(args))
    size = next((kwargs[name] for name in _CHUNKS if kwargs.get(name) is not None), None)
    slots = at.encode(xs, extra, bound.kwargs, size)
    floats, ids = at.split(xs)

    def others(values: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        return at.encode_others(xs, values, rows, extra, bound.kwargs, size)

    new = {**kwargs, "additional_forward_args": (*ids, *extra)}
    if "baselines" in kwargs:
        if contract_of(method).baselines == "distribution":
            new["baselines"] = _pool(at, kwargs["baselines"], inputs, xs, others)
        else:
            new["baselines"] = _points(at, kwargs["baselines"], inputs, xs, slots, others)
    if isinstance(kwargs.get("stdevs"), tuple):
        of_floats, of_ids = at.split(_per_input("stdevs", kwargs["stdevs"], xs))
        new["stdevs"] = (*(of_ids[i] for i in at.owner()), *of_floats)
    inner = copy.copy(method)
    inner.forward_func = Call(at, bound.kwargs, bound.output)
    return AtLookupsProblem(inner, (*slots, *floats), new, at, inputs, not contract_of(method).traits.reads_layer)


def _per_input(name: str, values: tuple[Any, ...], xs: Sequence[Tensor]) -> tuple[Any, ...]:
    if len(values) != len(xs):
        raise InputError(f"`{name}` has {len(values)} entries for {len(xs)} inputs; give one per input.")
    return values


def _points(
    at: AtLookups,
    baselines: Any,
    inputs: Any,
    xs: tuple[Tensor, ...],
    slots: Sequence[Tensor],
    others: Callable[[Sequence[Tensor], Tensor], list[Tensor]],
) -> tuple[Tensor, ...]:
    """One baseline per slot and float input: zeros, the rows of other ids, or the mean of a sample's rows."""
    made = as_baselines(baselines, xs, template=inputs, vectors=True)
    floats, ids = at.split(made)
    n = xs[0].shape[0]
    if all(bool((b == NO_ID).all()) for b in ids):
        out = [torch.zeros_like(slot) for slot in slots]
    else:
        out = others(ids, torch.arange(n))
    given = baselines if isinstance(baselines, tuple) else (baselines,) * len(xs)
    samples = at.split([b if isinstance(b, Sample) else None for b in given])[1]
    if any(s is not None for s in samples):
        size = max(len(s.rows) for s in samples if s is not None)
        rows = [_rows(s.rows, x, size) if s is not None else None for s, x in zip(samples, at.split(xs)[1])]
        filled = [torch.full((size, *x.shape[1:]), NO_ID) if r is None else r for r, x in zip(rows, at.split(xs)[1])]
        means = [v.mean(0, keepdim=True) for v in others(filled, _carrier(slots, size))]
        for k, owner in enumerate(at.owner()):
            if samples[owner] is not None:
                out[k] = means[k].expand_as(out[k])
    return (*out, *floats)


def _rows(rows: Tensor, x: Tensor, size: int) -> Tensor:
    """A sample's rows, repeated where another input's sample is larger."""
    rows = whole(rows, x, 0)
    return rows.index_select(0, torch.arange(size, device=rows.device) % len(rows))


def _pool(
    at: AtLookups,
    baselines: Any,
    inputs: Any,
    xs: tuple[Tensor, ...],
    others: Callable[[Sequence[Tensor], Tensor], list[Tensor]],
) -> tuple[Tensor, ...]:
    """The rows to draw baselines from, for slots and float inputs."""
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = call_baseline(baselines, inputs)
    many = [b.rows if isinstance(b, Sample) else b for b in _per_input("baselines", as_tuple(baselines), xs)]
    for i, (b, x) in enumerate(zip(many, xs, strict=True)):
        if not isinstance(b, Tensor):
            raise InputTypeError(f"baselines[{i}] must be rows to draw from, a tensor (n, ...); got {describe(b)}.")
        if b.shape[1:] != x.shape[1:] or not len(b) or len(b) != len(many[0]):
            raise InputError(
                f"baselines[{i}] has shape {tuple(b.shape)}; expected ({len(many[0]) or 'n'}, "
                f"{', '.join(map(str, x.shape[1:]))}), the same number of rows for every input."
            )
    floats, ids = at.split(many)
    rows = [whole(b, x, i) for i, (b, x) in enumerate(zip(ids, at.split(xs)[1]))]
    return (*others(rows, torch.zeros(len(rows[0]), dtype=torch.long)), *floats)


def _carrier(slots: Sequence[Tensor], size: int) -> Tensor:
    """The sample whose structure (lengths, padding) other rows are encoded in: the one with most rows looked up."""
    seen = torch.stack([(slot.reshape(slot.shape[0], slot.shape[1], -1) != 0).any(2).sum(1) for slot in slots]).sum(0)
    return seen.argmax().cpu().expand(size)

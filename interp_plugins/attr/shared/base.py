"""Base classes with Captum's public face, and the one way in: checked private inputs, a frozen model, a Forward."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins.attr.evidence.randomised import tell_if_failing
from interp_plugins.attr.shared.lookups import joint
from interp_plugins.attr.shared.path import check_rows
from interp_plugins.core.baseline import as_baselines, widened
from interp_plugins.core.batching import chunks
from interp_plugins.core.draws import drawn_so_far, tell_if_drawing
from interp_plugins.core.errors import InputError
from interp_plugins.core.forward import Call, Forward, Gradients, gradients, one_per_row
from interp_plugins.core.guard import frozen
from interp_plugins.core.introduced import batch_axis_told
from interp_plugins.core.layer_rows import by_sample
from interp_plugins.core.layers import Layer, Neuron, OfNeuron, resolve_layer
from interp_plugins.core.registry import family, info_of
from interp_plugins.core.report import note
from interp_plugins.core.rows import INDEPENDENT
from interp_plugins.core.target import as_target
from interp_plugins.core.tensors import (
    accumulation_dtype,
    as_tuple,
    check_float,
    check_inputs,
    describe,
    per_sample_sum,
)
from interp_plugins.engine import alone, cached_pass, clean_scores, first_gradients


class Attribution:
    """A method bound to a model.

    Args:
        forward_func: an `nn.Module` or any callable, called as `forward_func(*inputs, *additional_forward_args)`.
    """

    def __init__(self, forward_func: Callable[..., Any]):
        if not callable(forward_func):
            raise InputError(f"forward_func must be an nn.Module or a callable, got {describe(forward_func)}.")
        self.forward_func = forward_func
        info = info_of(type(self))
        tell_if_failing(type(self).__name__, info.name if info is not None else None)

    # The parameters differ from method to method, as in Captum, so the base class names none.
    attribute: Callable[..., Any]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are multiplied by (input - baseline): "global" rather than "local" attribution."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` takes `return_convergence_delta`."""
        attribute = getattr(type(self), "attribute", None)
        return attribute is not None and "return_convergence_delta" in inspect.signature(attribute).parameters

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """sum(attributions) - (F(end_point) - F(start_point)) per example (N,): zero where completeness holds.

        Raises:
            InputError: attributions for another number of examples.
        """
        with prepared(self.forward_func, end_point, target, additional_forward_args) as (ends, forward):
            starts = as_baselines(start_point, ends, template=end_point)
            ends = widened(ends, starts, lambda at: batch_scores(forward, at))
            return convergence_delta(forward, as_tuple(attributions), ends, starts)

    def attribute_future(self, *args: Any, **kwargs: Any) -> torch.futures.Future[Any]:
        """`attribute` for a model that answers later; perturbation methods have it.

        Raises:
            NotImplementedError: not for this method, as in Captum.
        """
        raise NotImplementedError(
            f"attribute_future is not implemented for {type(self).__name__}: it is for methods that only evaluate the "
            "model (FeatureAblation, ShapleyValueSampling, ...). Use attribute."
        )

    @classmethod
    def get_name(cls) -> str:
        """The class name with spaces: "Integrated Gradients"."""
        return "".join(c if c.islower() or i == 0 else f" {c}" for i, c in enumerate(cls.__name__))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_short(self.forward_func)})"


def _short(func: Any) -> str:
    if isinstance(func, Call):
        func = func.func
    return type(func).__name__ if isinstance(func, nn.Module) else getattr(func, "__name__", repr(func))


@family(embeds_ids=True)
class GradientAttribution(Attribution):
    """A method that needs gradients.

    Integer inputs (tokens, categories) are explained at the rows that they are looked up as, jointly with the float
    inputs (`attr/shared/lookups.py`). Baselines of ids: None = rows of zeros, since any id would be arbitrary; numbers
    and tensors are ids, `core.baseline.NO_ID` a row of zeros; a `core.baseline.Sample` is the mean of its rows. The
    maps have the ids' shape: what an id's row got, summed. Masks that the model computes from the ids stay the input's.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "attribute" in vars(cls):
            cls.attribute = joint(cls.attribute)


@family(shares_targets=True, compiles=True)
class PerturbationAttribution(Attribution):
    """A method that only evaluates the model."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Differences of outputs are global attributions."""
        return True

    def attribute_future(self, *args: Any, **kwargs: Any) -> torch.futures.Future[Any]:
        """The future of what `attribute` returns; for a forward function that returns `torch.futures.Future`s.

        Each evaluation is waited for before the next is asked for, so the future that comes back is done. The arguments
        are those of `attribute`, which takes such functions as well.

        Raises:
            NotImplementedError: no inputs; there is nothing to wait for.
        """
        if not args and "inputs" not in kwargs:
            raise NotImplementedError(
                f"{type(self).__name__}.attribute_future() came without inputs; give it the arguments of attribute."
            )
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result(self.attribute(*args, **kwargs))
        return future


class InternalAttribution(Attribution):
    """A method about a layer.

    Args:
        forward_func: as for `Attribution`.
        layer: a module, its dotted name, or a `core.layers.Layer`; a list of these where the method allows it.
        device_ids: accepted for Captum's sake; not needed.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None):
        super().__init__(forward_func)
        self.layer, self.device_ids = layer, device_ids

    def resolved_layers(self, attribute_to_layer_input: bool = False) -> list[Layer]:
        """The layer (or layers), resolved; `attribute_to_layer_input` chooses the side unless a `Layer` says it."""
        io = "input" if attribute_to_layer_input else "output"
        out = []
        for layer in self.layer if isinstance(self.layer, list) else [self.layer]:
            found = resolve_layer(self.forward_func, layer)
            said = isinstance(layer, Layer) and not attribute_to_layer_input
            out.append(found if said else Layer(found.module, io, found.call))
        return out

    def by_sample(
        self, forward: Forward, layers: Sequence[Layer], maps: Sequence[Tensor], counts: Sequence[int]
    ) -> Any:
        """`formatted` maps of layers that were read, a row per sample first (`core.layer_rows`)."""
        return self.formatted(by_sample(forward, layers, counts, maps), counts)

    def formatted(self, tensors: Sequence[Tensor], counts: Sequence[int]) -> Any:
        """Captum's layout: a tensor or tuple per layer, and a list of these for a list of layers."""
        per_layer, start = [], 0
        for count in counts:
            part = tuple(tensors[start : start + count])
            per_layer.append(part if count > 1 else part[0])
            start += count
        return per_layer if isinstance(self.layer, list) else per_layer[0]


class MultipliesByInputs(Attribution):
    """A method that can multiply its gradients by (input - baseline).

    Args:
        forward_func: as for `Attribution`.
        multiply_by_inputs: multiply, "global" attribution (default); False gives the averaged gradient itself.
    """

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True):
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the maps multiply by the inputs, as given to the constructor."""
        return self._multiply_by_inputs


class InternalMultipliesByInputs(InternalAttribution):
    """A method about a layer that can multiply by the difference to the baseline.

    Args:
        forward_func: as for `Attribution`.
        layer: as for `InternalAttribution`.
        device_ids: not needed.
        multiply_by_inputs: as for `MultipliesByInputs`.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ):
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the maps multiply by the inputs, as given to the constructor."""
        return self._multiply_by_inputs


@family(embeds_ids=False, reads_layer=True, compiles=False)  # ids, where its path runs in the input
class LayerAttribution(InternalAttribution):
    """A method whose map is over a layer's tensor."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Resize a layer map (N, C, ...) to spatial size `interpolate_dims` with `torch.nn.functional.interpolate`."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


@family(compiles=False)
class NeuronAttribution(InternalAttribution):
    """A method whose map is over the input, for a neuron inside the model."""

    def neuron_func(self, neuron_selector: Any, attribute_to_neuron_input: bool = False) -> Any:
        """The model with the neuron as its output, for use as a `forward_func`."""
        if isinstance(self.layer, list):
            raise InputError("A neuron lives in one layer; got a list of layers.")
        neuron = Neuron(self.resolved_layers(attribute_to_neuron_input)[0], neuron_selector)
        func, shared = self.forward_func, isinstance(self, GradientAttribution)
        if isinstance(func, Call):
            return Call(OfNeuron(func.func, neuron, shared), func.kwargs)
        return OfNeuron(func, neuron, shared)


@contextlib.contextmanager
def prepared(
    func: Callable[..., Any], inputs: Any, target: Any = None, additional_forward_args: Any = None
) -> Iterator[tuple[tuple[Tensor, ...], Forward]]:
    """Private, checked inputs and a `Forward`, inside `frozen(func)`; reports the passes used."""
    with frozen(func):
        xs = check_inputs(inputs)
        n = xs[0].shape[0]
        forward = Forward.of(func, n, as_target(target, n), additional_forward_args)
        forward.samples = xs
        draws = drawn_so_far(xs[0])
        try:
            with batch_axis_told(xs, flat=False):
                yield xs, forward
            if drawn_so_far(xs[0]) != draws:
                tell_if_drawing(forward, xs)
        finally:
            note(forward_passes=forward.passes["forward"], backward_passes=forward.passes["backward"])
            if forward.facts not in (None, INDEPENDENT):
                note(rows=forward.facts.described)


def batch_gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    *,
    wrt: Sequence[Layer] | None = None,
    chunk: int | None = None,
    compute: Callable[..., Gradients] = gradients,
    known_as: Hashable = None,
) -> Gradients:
    """Scores and gradients (or what `compute` gives in their place) of every sample once, in chunks of samples.

    Methods of one call that ask for the same gradients share them; those of another `compute` if `known_as` names it.
    """
    if wrt is None:
        check_float(inputs)

    if inputs[0].shape[0] > 1:
        forward.row_facts(inputs)  # of one pass the gradient is the sum's: where rows feel each other, this is told
    first = first_gradients(forward, inputs, wrt) if compute is gradients and chunk is None else None
    if first is not None and alone():
        return first

    def found() -> tuple[Any, ...]:
        got = first or _batch_gradients(forward, inputs, wrt, chunk, compute)
        return got.scores, got.grads, got.activations, got.counts

    if compute is not gradients and known_as is None:
        return Gradients(*found())
    what = ("gradients", known_as, id(forward.target), None if wrt is None else tuple(wrt))
    return Gradients(*cached_pass(forward, inputs, what, found))


def _batch_gradients(
    forward: Forward,
    inputs: Sequence[Tensor],
    wrt: Sequence[Layer] | None,
    chunk: int | None,
    compute: Callable[..., Gradients],
) -> Gradients:
    n, device = inputs[0].shape[0], inputs[0].device

    def work(start: int, stop: int) -> Gradients:
        if stop - start == n:
            return compute(forward, inputs, wrt=wrt)
        rows = torch.arange(start, stop, device=device)
        return compute(forward, [x[start:stop] for x in inputs], rows, wrt=wrt)

    size = forward.samples_per_pass(inputs, chunk)
    parts = [part for _, _, part in chunks(n, size, work)]
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        check_rows(part.grads, part.scores.shape[0])

    def joined(columns: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(list(column)) for column in zip(*columns, strict=True))

    return Gradients(
        torch.cat([p.scores for p in parts]),
        joined([p.grads for p in parts]),
        joined([p.activations for p in parts]),
        parts[0].counts,
    )


def batch_scores(forward: Forward, inputs: Sequence[Tensor], chunk: int | None = None) -> Tensor:
    """F(x) of every sample (N,), in chunks of samples."""
    return one_per_row(clean_scores(forward, inputs, chunk), inputs[0].shape[0], forward.target.count)


def convergence_delta(
    forward: Forward,
    attributions: Sequence[Tensor],
    ends: Sequence[Tensor],
    starts: Sequence[Tensor],
    chunk: int | None = None,
) -> Tensor:
    """sum(attributions) - (F(end) - F(start)), per sample (N,); of K targets (N * K,)."""
    n = ends[0].shape[0]
    if any(a.shape[0] != n * forward.target.count for a in attributions):
        raise InputError(
            f"Attributions for {[a.shape[0] for a in attributions]} examples came for {n} inputs; the first dimensions "
            "must be equal."
        )
    end, start = batch_scores(forward, ends, chunk), batch_scores(forward, starts, chunk)
    note(score=end, baseline_score=start)
    return shared_error(forward, completeness_error(attributions, end, start))


def shared_error(forward: Forward, delta: Tensor) -> Tensor:
    """Completeness errors (R,) of a copy of the batch; where rows feel each other, each has its share of their sum.

    There the sum of all scores is explained, and a sample's map has its part in the scores of the others.
    """
    return delta.mean().expand_as(delta).clone() if forward.whole else delta


def completeness_error(maps: Sequence[Tensor], end: Tensor, start: Tensor) -> Tensor:
    """sum(maps) - (end - start) per row, in float32 at least: half precision would round the difference away."""
    wide = accumulation_dtype(end.dtype)
    return per_sample_sum(maps).to(wide) - (end.to(wide) - start.to(wide))

"""`asking_again`: a model and a method of it, opened once for all that a metric asks; passes are counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.api.binding import Bound, bind_methods, draws
from interp_plugins.api.method_run import MethodRun
from interp_plugins.api.prediction import default_layer
from interp_plugins.core.batching import check_chunk, chunks
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.forward import Call, Forward
from interp_plugins.core.global_random import Block, entered, noticing_draws, seeded_now
from interp_plugins.core.guard import frozen, modules_of
from interp_plugins.core.hooks import hooked
from interp_plugins.core.layers import Layer, layer_name, resolve_layer
from interp_plugins.core.random import check_seed
from interp_plugins.core.report import collect, note
from interp_plugins.core.spec import as_spec
from interp_plugins.core.target import Asked, Target, Whole, as_target
from interp_plugins.core.tensors import as_tuple, check_inputs, describe, like, take_rows, tensors_in
from interp_plugins.metrics.asking import known_target
from interp_plugins.metrics.explainer import Explainer, refuse_batch_mean

TITLE = (
    "The Explanation is of {0}, and what it keeps of its method gives {1}: say how it is asked again by explain= (a "
    "method object, or a function)."
)


@dataclass
class Passes:
    """Rows that went through the model.

    Attributes:
        forward: forward.
        backward: backward.
    """

    forward: int = 0
    backward: int = 0

    def add(self, forward: int, backward: int) -> None:
        """Count more of them."""
        self.forward, self.backward = self.forward + forward, self.backward + backward


@dataclass
class Again:
    """A model inside `frozen`, and a method of it that is asked for maps.

    Attributes:
        explainer: how maps are made.
        func: the model or callable.
        given: the samples as they were given, for the layout.
        xs: the samples, checked and private.
        forward: the model with its target; it counts the passes that a metric itself asks for.
        seed: of the method's draws.
        passes: those of the method.
        most: rows per question at most; None: automatic.
        bound: the method on the model; None for a function.
        alone: whether rows are asked about one at a time.
    """

    explainer: Explainer
    func: Callable[..., Any]
    given: Any
    xs: tuple[Tensor, ...]
    forward: Forward
    seed: int
    most: int | None = None
    passes: Passes = field(default_factory=Passes)
    bound: Bound | None = None
    alone: bool = False
    others: dict[int, Bound] = field(default_factory=dict)  # the method on other models, by their ids

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.forward.n

    @property
    def per_pass(self) -> int:
        """Rows that go through together."""
        return self.forward.rows_per_pass(self.xs, self.most)

    def outputs(self, func: Callable[..., Any] | None = None) -> Tensor:
        """The model's outputs for the samples, on the CPU; or those of another model."""
        own = func is None or func is self.func
        forward = self.forward if func is None or own else replace(self.forward, func=func)

        def work(xs: list[Tensor], rows: Tensor) -> Tensor:
            with contextlib.nullcontext() if own else frozen(forward.func, seed=self.seed), torch.no_grad():
                return forward.raw(xs, rows).detach().cpu()

        return self._in_chunks(self.xs, work)

    def scores(self, xs: tuple[Tensor, ...]) -> Tensor:
        """Scores (N,) of samples that were changed, float64 on the CPU."""
        return self._in_chunks(xs, lambda some, rows: self.forward.scores(some, rows).cpu().double())

    def _in_chunks(self, xs: tuple[Tensor, ...], work: Callable[[list[Tensor], Tensor], Tensor]) -> Tensor:
        def some(start: int, stop: int) -> Tensor:
            return work([x[start:stop] for x in xs], torch.arange(start, stop, device=xs[0].device))

        return torch.cat([found for _, _, found in chunks(self.n, self.per_pass, some)])

    def classes(self, rows: Tensor, target: Target | None = None) -> list[Any] | None:
        """The output's index that is explained, per row; None where the target is no single output."""
        found = (self.forward.target if target is None else target).indices_of_rows(self.n)
        return None if found is None else [found[r] for r in rows.tolist()]

    def maps(
        self,
        inputs: tuple[Tensor, ...],
        rows: Tensor,
        *,
        seed: int | None = None,
        target: Target | None = None,
        func: Callable[..., Any] | None = None,
    ) -> tuple[Tensor, ...]:
        """Maps of some rows, on the CPU.

        Args:
            inputs: (R, ...) per input: samples that may have been changed.
            rows: the sample that each belongs to, int64 (R,) on the CPU.
            seed: of the method's draws; None: that of the metric.
            target: for all samples; None: that of the metric.
            func: another model in place of this one.

        Raises:
            InputTypeError, InputError: the method gives something else than a map per row.
        """
        asked = self.forward.target if target is None else target
        seed = self.seed if seed is None else seed
        step = 1 if self.alone else len(rows)
        parts = []
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            xs = tuple(x[some] for x in inputs)
            parts.append(self._of_rows(xs, rows[some], asked, seed, self.func if func is None else func))
        return tuple(torch.cat([part[k] for part in parts]) for k in range(len(parts[0])))

    def all_maps(self, xs: tuple[Tensor, ...] | None = None, **how: Any) -> tuple[Tensor, ...]:
        """Maps of all samples, or of these in their places, double; `how` goes to `maps`."""
        rows = torch.arange(self.n)
        inputs = self.xs if xs is None else xs

        def work(start: int, stop: int) -> tuple[Tensor, ...]:
            return self.maps(tuple(x[start:stop] for x in inputs), rows[start:stop], **how)

        parts = [found for _, _, found in chunks(self.n, self.per_pass, work)]
        return tuple(torch.cat(list(column)).double() for column in zip(*parts, strict=True))

    def channel_axis(self, one: Tensor, k: int) -> int | None:
        """The axis of a map that holds channels; None where none does. `k` is the number of the map."""
        if k < len(self.xs) and one.shape[1:] == self.xs[k].shape[1:]:
            spec = as_spec(self.explainer.spec, self.xs[0]).of_input(k, self.xs[k])
            return one.ndim - 1 if spec.kind == "text" and one.ndim > 2 else spec.channel_axis(one.ndim)
        return 1 if one.ndim > 2 else None  # a layer's

    def places(self, one: Tensor, k: int) -> tuple[int, ...]:
        """The axes of a map along which neighbours are."""
        return tuple(a for a in range(1, one.ndim) if a != self.channel_axis(one, k)) if one.ndim > 2 else ()

    def _of_rows(
        self, xs: tuple[Tensor, ...], rows: Tensor, target: Target, seed: int, func: Callable[..., Any]
    ) -> tuple[Tensor, ...]:
        with collect() as report, self._counted(report, func):
            if self.bound is None:
                found = self._of_function(xs, rows, target, seed, func)
            else:
                found = self._of_method(xs, rows, target, seed, func)
        for one in found:
            if one.ndim == 0 or one.shape[0] != len(rows):
                raise InputError(
                    f"{self.explainer.name} gave maps of shape {tuple(one.shape)} for {len(rows)} rows; expected one "
                    "map per row, the rows first."
                )
        return found

    @contextlib.contextmanager
    def _counted(self, report: dict[str, Any], func: Callable[..., Any]) -> Iterator[None]:
        """Count passes: as the method reports them, else by hooks at the model."""
        seen = Passes()
        if self.bound is not None and not self.bound.works.foreign:
            yield
        else:
            with hooked() as hooks:
                for root in modules_of(func):
                    hooks.before(root, lambda module, args: seen.add(_rows_of(args), 0))
                    hooks.behind(root, lambda module, args, output: _count_backward(output, seen))
                yield
        told = "forward_passes" in report
        self.passes.add(
            report["forward_passes"] if told else seen.forward,
            report.get("backward_passes", 0) if told else seen.backward,
        )

    def _of_method(
        self, xs: tuple[Tensor, ...], rows: Tensor, target: Target, seed: int, func: Callable[..., Any]
    ) -> tuple[Tensor, ...]:
        assert self.bound is not None
        if func is not self.func and id(func) not in self.others:
            self.others[id(func)] = self.bind(func)
        bound = self.bound if func is self.func else self.others[id(func)]
        pooled = bound.works.baselines == "distribution"
        baselines, n = self.explainer.baselines, self.n
        job = MethodRun(
            func=func,
            inputs=like(self.given, xs),
            xs=xs,
            spec=as_spec(self.explainer.spec, self.xs[0]),
            args=take_rows(self.forward.args, rows, n) or None,
            feature_mask=take_rows(self.explainer.feature_mask, rows, n),
            batch_size=self.most,
            seed=seed,
            progress=False,
            baselines=baselines if pooled else take_rows(baselines, rows, n),
            model={},
            delta=False,
        )
        indices = self.classes(rows, target)
        asked = Asked(target.at(rows), None if indices is None else tuple(_plain(i) for i in indices), ())
        return job.maps(bound, asked)

    def _of_function(
        self, xs: tuple[Tensor, ...], rows: Tensor, target: Target, seed: int, func: Callable[..., Any]
    ) -> tuple[Tensor, ...]:
        """Maps of a user's function, which begins each time with the same seed."""

        def ask(xs: tuple[Tensor, ...], rows: Tensor) -> tuple[tuple[Tensor, ...], bool]:
            own = tuple(x.clone() for x in xs)
            with entered(Block(False, seed)):
                seeded_now()
                with noticing_draws() as drew:
                    found = self.explainer.method(func, like(self.given, own), self._told(rows, target))
                return _as_maps(found), drew()

        found, drew = ask(xs, rows)
        if len(rows) == 1 or not drew:
            return found
        self.alone = True  # its draws would change with the rows beside it
        each = [ask(tuple(x[r : r + 1] for x in xs), rows[r : r + 1])[0] for r in range(len(rows))]
        return tuple(torch.cat(list(part)) for part in zip(*each, strict=True))

    def _told(self, rows: Tensor, target: Target) -> Any:
        """The target as a function gets it: classes (R,), None for a model with one output, else a `Target`."""
        indices = self.classes(rows, target)
        if indices is not None and all(len(i) == 1 and isinstance(i[0], int) for i in indices):
            return torch.tensor([i[0] for i in indices], device=self.xs[0].device)
        return None if isinstance(target, Whole) else target.at(rows)

    def bind(self, func: Callable[..., Any]) -> Bound:
        """The method on a model."""
        how, spec = self.explainer, as_spec(self.explainer.spec, self.xs[0])
        methods = {how.method: how.params} if isinstance(how.method, str) else how.method
        shared = {} if isinstance(how.method, str) else how.params
        clean = Forward.of(func, self.n, None, self.forward.args)
        layer = _named_layer(func, self._found_layer() if how.layer is None else how.layer)
        (bound,) = bind_methods(
            methods, func, self.xs, spec, layer, shared, lambda: default_layer(clean, self.xs, None)
        )
        self.passes.add(clean.passes["forward"], clean.passes["backward"])
        if how.title is not None and bound.title != how.title:
            raise InputError(TITLE.format(how.title, bound.title))
        return bound

    def _found_layer(self) -> Any:
        """The layer that was found for this model, by its name, which other models of its make have as well."""
        layer = None if self.bound is None else getattr(self.bound.innermost, "layer", None)
        if isinstance(layer, Layer) and isinstance(layer.module, nn.Module):
            return Layer(layer_name(self.func, layer.module), layer.io, layer.call)
        return None


@contextlib.contextmanager
def asking_again(
    explain: Any,
    forward_func: Callable[..., Any],
    inputs: Any,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    baselines: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Iterator[Again]:
    """A model, frozen, and a method of it, for the length of a `with` block; its passes are reported at the end.

    Args:
        explain: the method, see `Explainer.of`; None: that of the `Explanation`.
        forward_func: an `nn.Module` or any callable.
        inputs: tensor or tuple of tensors, or an `Explanation`.
        target: as for a method's `attribute`; None: the classes of the `Explanation`, or the model's only output.
        additional_forward_args: further arguments of the model.
        baselines: for the method; None: what `explain` says.
        batch_size: rows per question.
        seed: of the method's draws, and of models that draw.

    Raises:
        InputError: an `Explanation` whose target or method is not known.
    """
    check_chunk("batch_size", batch_size)
    check_seed(seed)
    exp = inputs if isinstance(inputs, Explanation) else None
    how = Explainer.of(explain, exp)
    if baselines is not None:
        how = Explainer(how.method, how.params, how.layer, baselines, how.feature_mask, how.spec, how.title)
    given = inputs if exp is None else _on_device_of(forward_func, exp.inputs)
    target = known_target(exp, target)
    with frozen(forward_func, seed=seed):
        xs = check_inputs(given)
        refuse_batch_mean(how.baselines, xs)
        n = xs[0].shape[0]
        forward = Forward.of(forward_func, n, as_target(target, n), additional_forward_args)
        forward.samples = xs
        _refuse_batched_kwargs(forward_func, n)
        found = Again(how, forward_func, given, xs, forward, seed, batch_size)
        if not how.is_function:
            found.bound = found.bind(forward_func)
            found.alone = any(draws([how.method], {"baselines": b}) for b in as_tuple(how.baselines))
        try:
            yield found
        finally:
            mine = forward.passes
            note(
                forward_passes=mine["forward"] + found.passes.forward,
                backward_passes=mine["backward"] + found.passes.backward,
            )


def _on_device_of(func: Any, inputs: Any) -> Any:
    """An explanation's inputs, which lie on the CPU, where the model is."""
    for root in modules_of(func):
        for p in root.parameters():
            return like(inputs, [x.to(p.device) for x in as_tuple(inputs)])
    return inputs


def _refuse_batched_kwargs(func: Any, n: int) -> None:
    """Refuse keyword arguments with a row per sample: a method is bound to all of them, and asked about some."""
    if isinstance(func, Call) and any(t.ndim and t.shape[0] == n for t in tensors_in(dict(func.kwargs))):
        raise InputError(
            "The model has keyword arguments with a row per sample, which cannot follow neighbours: wrap the model so "
            "that they come as additional_forward_args."
        )


def _named_layer(func: Any, layer: Any) -> Any:
    """The layer; of an explanation, which names a layer's input "name (input)", that place."""
    if not isinstance(layer, str):
        return layer
    name, _, side = layer.partition(" (")
    if "," in name:
        raise InputError(f"The Explanation is of several layers ({layer}), which cannot be asked again by name.")
    return Layer(resolve_layer(func, name).module, "input") if side else name


def _plain(index: Any) -> Any:
    return index[0] if isinstance(index, tuple) and len(index) == 1 else index


def _as_maps(found: Any) -> tuple[Tensor, ...]:
    many = tuple(found) if isinstance(found, list) else as_tuple(found)
    if not many or any(not isinstance(one, Tensor) for one in many):
        raise InputTypeError(
            f"The function that explains returned a {describe(found)}; expected a tensor of maps, or a tuple of them."
        )
    return tuple(one.detach().as_subclass(Tensor).cpu() for one in many)


def _rows_of(args: Any) -> int:
    first = next((t for t in tensors_in(args) if t.ndim), None)
    return 0 if first is None else first.shape[0]


def _count_backward(output: Any, seen: Passes) -> None:
    """Count the rows of an output once a gradient goes back through it."""
    for t in tensors_in(output)[:1]:
        if t.requires_grad:
            t.register_hook(lambda grad: seen.add(0, grad.shape[0] if grad.ndim else 1))

"""The gradient of every sample's loss, of one pass forward and one backward for all of them.

    with sample_gradients(model) as gradients:
        factors = gradients.of((x,), y, lambda output, y: cross_entropy(output, y, reduction="none"))

Calls that use a weight are written down on the way forward (`core.taps`), and one backward pass of the summed values
gives the gradient at each of their outputs; of both, a sample's gradient is a small product (`core.factors`). That is
checked on the first batch, and whenever shapes change: the first and the last sample's gradients against plain ones,
and their sum. A parameter that fails (an LSTM's, one that is used in another way) is differentiated sample by sample:
by `torch.func.vmap`, or one after the other where that cannot be. What fell back stands in `fallbacks`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.batching import is_out_of_memory
from interp_plugins.core.errors import InputError, ModelError, unknown
from interp_plugins.core.factors import Factors, Formed, Part
from interp_plugins.core.global_random import model_call
from interp_plugins.core.guard import frozen
from interp_plugins.core.kept import closed_twice
from interp_plugins.core.other_weights import held_by
from interp_plugins.core.report import note
from interp_plugins.core.taps import SampleAxis, Tap, Taps
from interp_plugins.core.tensors import describe, take_rows
from interp_plugins.core.wrapper import called_with

Measure = Callable[[Any, Any], Tensor]
_PIECE = 2**24  # elements of gradients that are made at once where samples are differentiated one by one
_ALONE = {torch.float64: 1e-6, torch.float32: 1e-4}  # how far a sample alone may be from itself among others, relative
_ONE_BY_ONE = "one after the other"
_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}


def parameters_of(func: Any, layers: Sequence[str] | None = None, modules: Any = None) -> dict[str, nn.Parameter]:
    """Weights by name; tied ones once.

    Args:
        func: an `nn.Module` or a callable around one.
        layers: names of modules or of weights; None: all weights that require a gradient, all where none does.
        modules: modules beside `layers`, whose weights count as well.

    Raises:
        UnknownNameError: a layer that the model does not have.
        InputError: a layer without weights.
    """
    held = [p for p in held_by(func) if not p.buffer and p.tensor.is_floating_point()]
    chosen = held
    if layers is not None:
        chosen = []
        for layer in layers:
            found = [p for p in held if p.path == layer or p.path.startswith(f"{layer}.") or layer == ""]
            if not found:
                known = dict.fromkeys(p.path.rpartition(".")[0] for p in held)
                raise unknown("layer with weights", layer, known)
            chosen += found
    elif modules is not None:
        own = {id(p) for m in modules for p in m.parameters()}
        chosen = [p for p in held if id(p.tensor) in own]
    elif any(p.tensor.requires_grad for p in held):
        chosen = [p for p in held if p.tensor.requires_grad]
    if not chosen:
        raise InputError("The model has no weights (or none in these layers), so no sample can have influenced them.")
    first = {id(p.tensor): p for p in reversed(chosen)}
    return {p.path: p.tensor for p in chosen if first[id(p.tensor)] is p}  # type: ignore[misc]


@contextlib.contextmanager
def sample_gradients(
    func: Any, layers: Sequence[str] | None = None, *, modules: Any = None
) -> Iterator[SampleGradients]:
    """Gradients of samples, for the length of a `with` block; the model is frozen meanwhile (`core.guard`).

    Args:
        func: an `nn.Module` or any callable around one; called with the samples' tensors.
        layers: names of modules or of weights; None: all weights that require a gradient.
        modules: modules beside `layers`, whose weights count as well.
    """
    names = list(parameters_of(func, layers, modules))
    with frozen(func):
        now = {p.path: p.tensor for p in held_by(func) if not p.buffer}
        params = {name: now[name] for name in names}
        before = [(p, p.requires_grad) for p in params.values()]

        def put_back() -> None:
            for p, flag in before:
                p.requires_grad_(flag)

        with closed_twice(put_back):
            for p in params.values():
                p.requires_grad_(True)
            yield SampleGradients(func, params)


@dataclass
class Checks:
    """What comparisons with plain gradients have shown; it holds for the same model with other weights.

    Attributes:
        kinds: the kinds of batches that were compared.
        second: weights whose samples lie in the second axis where both are as long.
    """

    kinds: set[Any] = field(default_factory=set)
    second: set[str] = field(default_factory=set)


class SampleGradients:
    """Made by `sample_gradients`.

    Attributes:
        func: the model.
        params: the weights by name.
        fallbacks: per weight that is differentiated sample by sample, how.
        checks: what is known of batches; another checkpoint of the same model may go on with it.
    """

    def __init__(self, func: Any, params: dict[str, Tensor]):
        self.func, self.params = func, params
        self.shapes = {name: p.shape for name, p in params.items()}
        self.fallbacks: dict[str, str] = {}
        self.checks = Checks()

    def of(self, inputs: tuple[Any, ...], labels: Any, measure: Measure, kwargs: Any = None) -> Factors:
        """Gradients of one batch.

        Args:
            inputs: what the model is called with; tensors with the samples first.
            labels: handed to `measure`; tensors with the samples first, or None.
            measure: (output, labels) -> a number per sample (B,), each of its own row of the output.
            kwargs: further arguments of the model, by name.

        Raises:
            ModelError: not one value per sample, values that no weight changes, or rows that feel each other.
        """
        taps = Taps({id(p): name for name, p in self.params.items() if name not in self.fallbacks})
        args = (tuple(inputs), dict(kwargs or {}))
        with taps:
            output = self._call(args)
        values = self._values(measure(output, labels))
        n = len(values)
        note(forward_passes=n, backward_passes=n)
        parts = self._parts(taps.taps, values, args, labels, measure)
        if self.fallbacks:
            for name, g in self._one_by_one(args, labels, measure, n).items():
                parts[name] = [Formed(g)]
        clean = pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, output)
        return Factors(parts, self.shapes, n, values.detach(), clean)

    def called(self, inputs: tuple[Any, ...], kwargs: Any = None) -> Any:
        """What the model says, without gradients."""
        with torch.no_grad():
            return self._call((tuple(inputs), dict(kwargs or {})))

    def graph(self, inputs: tuple[Any, ...], kwargs: Any = None) -> Any:
        """What the model says, in a graph that may be differentiated twice."""
        return self._call((tuple(inputs), dict(kwargs or {})))

    def _call(self, args: Any) -> Any:
        positional, by_name = args
        return model_call(lambda: called_with(self.func, positional, by_name))

    def _values(self, values: Any) -> Tensor:
        if not isinstance(values, Tensor) or values.ndim != 1:
            raise ModelError(
                f"One value per sample was expected of the loss, a tensor (B,), and it gave a {describe(values)}. Give "
                'a loss with reduction="none" (or "sum", "mean"), or a function (output, labels) -> (B,).'
            )
        if not values.requires_grad:
            raise ModelError("The loss does not depend on the model's weights: is a part of the model detached?")
        return values

    def _parts(
        self, taps: list[Tap], values: Tensor, args: Any, labels: Any, measure: Measure
    ) -> dict[str, list[Part]]:
        n = len(values)
        key = (n, tuple((t.shape, t.names) for t in taps))
        check = key not in self.checks.kinds
        left = [p for name, p in self.params.items() if name not in self.fallbacks]
        sources: list[Any] = [tap.edge for tap in taps]
        plain: list[Sequence[Tensor | None]] = []
        if check and left:
            rows = sorted({0, n - 1})
            plain = [torch.autograd.grad(values[r], left, retain_graph=True, allow_unused=True) for r in rows]
        ask = sources + (left if check else [])
        found = list(torch.autograd.grad(values.sum(), ask, allow_unused=True)) if ask else []
        grads = found[: len(sources)]
        parts, bad = self._collected(taps, grads, n)
        if check and left:
            plain.append(found[len(sources) :])
            bad |= self._wrong(parts, plain, n)
            if bad - self.checks.second:  # as many samples as positions: the other axis may be the samples'
                self.checks.second |= bad
                parts, bad = self._collected(taps, grads, n)
                bad |= self._wrong(parts, plain, n)
            self._check_alone(args, labels, measure, values)
        for name in bad:
            self.fallbacks.setdefault(name, "sample by sample")
            parts[name] = []
        self.checks.kinds.add(key)
        return parts

    def _collected(
        self, taps: list[Tap], grads: Sequence[Tensor | None], n: int
    ) -> tuple[dict[str, list[Part]], set[str]]:
        parts: dict[str, list[Part]] = {name: [] for name in self.params}
        bad: set[str] = set()
        for tap, d in zip(taps, grads, strict=True):
            if d is None:
                continue
            try:
                axis = SampleAxis(n, not self.checks.second.isdisjoint(tap.names))
                made = tap.parts(d, axis) if tap.unchanged() else {}
            except (ValueError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                made = {}
            if not made:
                bad |= set(tap.names)
            for name, part in made.items():
                parts[name].append(part)
        return parts, bad

    def _wrong(self, parts: dict[str, list[Part]], plain: list[Sequence[Tensor | None]], n: int) -> set[str]:
        """Parameters whose gradients of the first and last sample, or their sum, are not the plain ones."""
        wrong = set()
        names = [name for name in self.params if name not in self.fallbacks]
        rows = sorted({0, n - 1})
        for i, name in enumerate(names):
            shape = self.shapes[name]
            for kind, grads in zip([*rows, None], plain, strict=True):
                g = grads[i]
                expected = torch.zeros(shape, device=self.params[name].device) if g is None else g
                made = parts[name]
                if kind is None:
                    got = sum((part.summed() for part in made), start=torch.zeros_like(expected))
                else:
                    got = sum((p.rows(kind, kind + 1).formed()[0] for p in made), start=torch.zeros_like(expected))
                if got.shape != expected.shape or not _close(got, expected, n if kind is None else 1):
                    wrong.add(name)
                    break
        return wrong

    def _check_alone(self, args: Any, labels: Any, measure: Measure, values: Tensor) -> None:
        """Rows that feel each other have no gradients of their own."""
        n = len(values)
        if n < 2:
            return
        index = torch.tensor([n - 1])
        with torch.no_grad():
            own = take_rows(args, index, n)
            alone = float(measure(self._call(own), take_rows(labels, index, n)).reshape(-1)[0])
        among, scale = float(values.detach()[-1]), max(1.0, float(values.detach().abs().max()))
        if abs(alone - among) > _ALONE.get(values.dtype, 1e-2) * scale:
            raise ModelError(
                f"A sample alone has the loss {alone:.6g}, and {among:.6g} among "
                f"{n}: rows of this model or loss feel each other, so no sample has a gradient of its own. Give "
                "batch_size=1, or a loss that is a sum over samples."
            )

    # -- sample by sample ----------------------------------------------------------------------------------------

    def _one_by_one(self, args: Any, labels: Any, measure: Measure, n: int) -> dict[str, Tensor]:
        names = list(self.fallbacks)
        if not any(how.startswith(_ONE_BY_ONE) for how in self.fallbacks.values()):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what vmap says of its own speed
                    found = self._by_vmap(names, args, labels, measure, n)
                self.fallbacks.update(dict.fromkeys(names, "torch.func.vmap"))
                return found
            except Exception as error:  # whatever vmap cannot do, and it says so in many ways
                if is_out_of_memory(error):
                    raise
                said = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self.fallbacks.update(dict.fromkeys(names, f"{_ONE_BY_ONE} (torch.func.vmap: {said[:160]})"))
        beside = [name for name in names if not self.fallbacks[name].startswith(_ONE_BY_ONE)]
        self.fallbacks.update(dict.fromkeys(beside, _ONE_BY_ONE))
        params = [self.params[name] for name in names]
        rows = []
        for i in range(n):
            index = torch.tensor([i])
            own = take_rows(args, index, n)
            value = measure(self._call(own), take_rows(labels, index, n))
            rows.append(torch.autograd.grad(value.sum(), params, allow_unused=True))
        return {
            name: torch.stack([torch.zeros_like(p) if row[k] is None else row[k] for row in rows])
            for k, (name, p) in enumerate(zip(names, params))
        }

    def _by_vmap(self, names: list[str], args: Any, labels: Any, measure: Measure, n: int) -> dict[str, Tensor]:
        if not isinstance(self.func, nn.Module):
            raise TypeError("it takes an nn.Module")
        params = {name: self.params[name].detach() for name in names}
        leaves, tree = pytree.tree_flatten((args, labels))
        batched = [isinstance(v, Tensor) and v.ndim > 0 and len(v) == n for v in leaves]

        def value(weights: dict[str, Tensor], *row: Any) -> Tensor:
            whole = [v[None] if one else v for v, one in zip(row, batched)]
            (own, by_name), label = pytree.tree_unflatten(whole, tree)
            return measure(torch.func.functional_call(self.func, weights, own, by_name), label).sum()

        each = torch.func.vmap(
            torch.func.grad(value),
            in_dims=(None, *(0 if one else None for one in batched)),
            chunk_size=max(1, _PIECE // max(1, sum(p.numel() for p in params.values()))),
        )
        found: dict[str, Tensor] = each(params, *leaves)
        return {name: g.detach() for name, g in found.items()}


def _close(got: Tensor, expected: Tensor, n: int) -> bool:
    tolerance = _CLOSE.get(expected.dtype, 2e-2)
    size = float(expected.abs().max()) if expected.numel() else 0.0
    tiny = 1e-12 if expected.dtype == torch.float64 else 1e-6
    return bool((got - expected).abs().max() <= tolerance * size + tiny * n) if expected.numel() else True

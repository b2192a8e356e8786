"""The layer that is explained where none is named: the last grid of places that the score depends on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from interp_plugins.core.differentiate import WrittenOverError, gradient
from interp_plugins.core.errors import LayerError
from interp_plugins.core.forward import Forward
from interp_plugins.core.grid import Grid, ModuleOutput, find_grid, has_conv1d, trace_shapes
from interp_plugins.core.guard import modules_of
from interp_plugins.core.layers import Layer, refuse_script
from interp_plugins.engine import alone, cached_pass, first_pass

_MANY = 8


def shapes_of_modules(forward: Forward, inputs: Sequence[Tensor]) -> list[ModuleOutput]:
    """What `trace_shapes` lists, without the tensors: one pass for all methods of a call."""

    def traced() -> list[ModuleOutput]:
        first = first_pass(forward, inputs, make=False)
        return _shapes(trace_shapes(forward, inputs)[1] if first is None or first.few else first.modules)

    return traced() if alone() else cached_pass(forward, inputs, "shapes seen", traced)


def _shapes(seen: Sequence[ModuleOutput]) -> list[ModuleOutput]:
    return [ModuleOutput(one.module, one.shape) for one in seen]


def last_grid_layer(forward: Forward, inputs: Sequence[Tensor], body: nn.Module | None = None) -> Layer:
    """The last layer whose output is a grid of more than one place per axis that the model's output depends on.

    Behind the last attention of a transformer with a class token the places no longer count: there the gradient at
    them is zero, and an earlier layer is chosen.

    Args:
        forward: the model call; its first sample is run.
        inputs: checked inputs.
        body: a part of the model; its last such layer goes before those of the rest.

    Raises:
        LayerError: the model has none.
    """
    if alone():
        return _last_grid_layer(forward, inputs, body)
    return cached_pass(forward, inputs, ("last grid layer", body), lambda: _last_grid_layer(forward, inputs, body))


def _last_grid_layer(forward: Forward, inputs: Sequence[Tensor], body: nn.Module | None) -> Layer:
    # Of many samples one more without the others costs less than the graph of them all.
    first = first_pass(forward, inputs, make=len(inputs[0]) < _MANY)
    output, seen = trace_shapes(forward, inputs) if first is None or first.few else (first.output, first.modules)
    if not alone():
        cached_pass(forward, inputs, "shapes seen", lambda: _shapes(seen))  # in case it is asked for
    series = all(x.ndim < 4 for x in inputs) and has_conv1d(seen)
    found: list[tuple[ModuleOutput, Grid]] = []
    known: dict[tuple[type, tuple[int, ...]], Grid | None] = {}  # a grid is told from the kind of module and the shape
    for one in seen:
        if not one.shape or one.shape[0] != output.shape[0]:  # windows folded into the batch
            continue
        kind = (type(one.module), one.shape)
        if kind not in known:
            known[kind] = _grid_of(one, inputs, seen)
        grid = known[kind]
        if grid is not None and grid.size and min(grid.size) > 1 and _has_places(grid, series):
            found.append((one, grid))
    if not found:
        for module in modules_of(forward.func):
            refuse_script(module)
        raise LayerError(
            "This method needs a layer, and the model has none with a spatial output (N, C, H, W), and no"
            " convolution along time (N, C, T), to choose by itself. "
            "Give layer=: a module or its dotted name."
        )
    # Of a transformer the residual stream counts, which is what norms give: not hidden units, queries, keys or values.
    stream = {one.shape[2] for one, g in found if g.kind == "tokens" and "norm" in type(one.module).__name__.lower()}
    found = [
        (one, g)
        for one, g in found
        if g.kind != "tokens" or not stream or (one.shape[2] in stream and not isinstance(one.module, nn.Linear))
    ]
    chosen = _last_used(output, found, body)
    calls = [one for one in seen if one.module is chosen.module]
    call = next(k for k, one in enumerate(calls) if one is chosen)
    tokens = next(g.kind for one, g in found if one is chosen) == "tokens"
    what = "last tokens" if tokens else "last convolution"
    return Layer(chosen.module, call=call if len(calls) > 1 else None, found=what)


def _has_places(grid: Grid, series: bool) -> bool:
    """Whether a grid is one of places: of two axes or tokens, or of a convolution along time."""
    return len(grid.size) > 1 or grid.kind == "tokens" or (series and grid.kind == "first")


def _grid_of(one: ModuleOutput, inputs: Sequence[Tensor], seen: Sequence[ModuleOutput]) -> Grid | None:
    """The grid of a module's tensor; None where it cannot be told."""
    try:
        return find_grid(one.module, one.shape, inputs, seen)
    except LayerError:
        return None


def _last_used(output: Tensor, found: Sequence[tuple[ModuleOutput, Grid]], body: nn.Module | None) -> ModuleOutput:
    """The last of the tensors at whose places the output has a gradient, in the body if it has any there.

    Where no gradient can be had, all count. The last one is asked for first: mostly it is the one, and the way back to
    it is short.
    """
    within = {id(m) for m in body.modules()} if body is not None else set()
    inside = [pair for pair in found if id(pair[0].module) in within]
    for some in (inside[-1:], inside[:-1], found[-1:], found[:-1]):
        used = _used(output, some)
        if used:
            return used[-1]
    return (inside or found)[-1][0]


def _used(output: Tensor, found: Sequence[tuple[ModuleOutput, Grid]]) -> list[ModuleOutput]:
    """The tensors at whose places the output of the first sample has a gradient."""
    sources = [(one, grid, one.tensor) for one, grid in found if one.tensor is not None and one.tensor.requires_grad]
    if not sources or not output.requires_grad:
        return []
    # Weights of both signs: probabilities add up to one, and their plain sum has no gradient.
    first = output[:1].reshape(-1)
    weights = torch.cos(torch.arange(len(first), dtype=first.dtype, device=first.device))
    tensors = [tensor for *_, tensor in sources]
    try:
        grads = gradient(first * weights, tensors, retain_graph=True)
    except WrittenOverError:
        return []
    return [one for (one, grid, _), g in zip(sources, grads) if g is not None and bool(grid.lay_out(g).any())]

"""Grids: where a layer's tensor holds space, told from the shapes that one forward pass shows.

Convolutional nets give (N, C, H, W). Transformers for pictures give tokens (N, T, C), with class and register tokens in
front, or channels last (N, H, W, C). `find_grid` tells which, by these rules, and refuses where they do not decide:

- axes of space keep the input's proportions; the channels' axis does not (or only by accident, which is refused where
  the model uses both layouts);
- tokens belong to a grid that a convolution of the same pass gave (the patch embedding), with at most 16 further tokens
  in front; or they are a grid of the input's proportions themselves, without further tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from interp_plugins.core.errors import InputError, LayerError
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import is_script, modules_below, modules_of
from interp_plugins.core.hooks import hooked
from interp_plugins.core.tensors import describe, is_float

_MOST_PREFIX = 16
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


@dataclass(frozen=True)
class Grid:
    """How to lay a layer's tensor out as (N, C, *size).

    Attributes:
        kind: "first" (N, C, ...), "last" (N, ..., C), "tokens" (N, T, C), "none" (no axis of space), or "function".
        size: lengths of the axes of space.
        prefix: tokens in front that belong to no place (class, register, distillation tokens).
        function: for kind "function": the user's own tensor -> (N, C, ...).
    """

    kind: str
    size: tuple[int, ...] = ()
    prefix: int = 0
    function: Callable[[Tensor], Tensor] | None = None

    def lay_out(self, t: Tensor) -> Tensor:
        """The tensor as (N, C, *size), class and register tokens left out; a 2-D tensor stays as it is."""
        if self.function is not None:
            out = self.function(t)
            if not isinstance(out, Tensor) or out.ndim < 3 or out.shape[0] != t.shape[0]:
                raise InputError(
                    f"layout(tensor) gave {describe(out)} for a tensor of shape {tuple(t.shape)}; expected a tensor "
                    f"({t.shape[0]}, channels, height, width)."
                )
            return out
        if self.kind == "last":
            return t.movedim(-1, 1)
        if self.kind == "tokens":
            return t[:, self.prefix :].transpose(1, 2).reshape(t.shape[0], t.shape[2], *self.size)
        return t


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """A tensor that a module gave in a forward pass, or its shape alone.

    Attributes:
        module: the module.
        shape: the tensor's.
        tensor: the tensor itself, in the graph where the inputs are floating point; None where only shapes are kept.
        version: the tensor's when it was given: a later operation in place counts it up. None: a hook of the user's
            stands at the module, or the tensor came in a container.
    """

    module: nn.Module
    shape: tuple[int, ...]
    tensor: Tensor | None = None
    version: int | None = None

    def unchanged(self) -> Tensor | None:
        """The tensor as the module gave it, or None if it is not that any more."""
        return self.tensor if self.tensor is not None and self.tensor._version == self.version else None


def trace_modules(
    forward: Forward,
    inputs: Sequence[Tensor],
    rows: Tensor | None = None,
    begin: frozenset[nn.Module] | None = None,
    few: bool = False,
) -> tuple[list[Tensor], Tensor, list[ModuleOutput]]:
    """Run the inputs and list what every module gives, in the order of execution.

    Args:
        forward: the model call; its target is not used.
        inputs: rows of every input.
        rows: the sample each row belongs to; None when the rows are the batch itself.
        begin: modules whose tensors alone are kept, and where the graph begins: what runs before them leaves nothing
            in memory. None: all tensors, in a graph that begins at the inputs.
        few: list what the modules in `begin` give, if any, and nothing of the others.

    Returns:
        The inputs, as leaves that require gradients where the graph begins there and they are floating point, the
        output, and what was seen.
    """
    seen: list[ModuleOutput] = []

    def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Tensor | None:
        alone = isinstance(out, Tensor) and len(module._forward_hooks) == 1
        out = out[0] if isinstance(out, (tuple, list)) and len(out) == 1 else out
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return None
        if begin is not None and module not in begin:
            seen.append(ModuleOutput(module, tuple(out.shape)))
            return None
        starts = begin is not None and alone and not out.requires_grad and torch.is_grad_enabled()
        if starts and any(out is v for v in pytree.tree_leaves((args, kwargs))):
            starts = alone = False  # what else was made of it has a part in its gradient, and is not in the graph
        out = out.detach().requires_grad_() if starts else out
        seen.append(ModuleOutput(module, tuple(out.shape), out, out._version if alone else None))
        return out.clone() if starts else None  # a leaf cannot be changed in place, its copy can

    leaves = [x.detach().requires_grad_(begin is None and is_float(x)) for x in inputs]
    with hooked() as hooks:
        for m in filterfalse(is_script, (begin or ()) if few else modules_below(modules_of(forward.func))):
            hooks.behind(m, hook, with_kwargs=True)
        output = forward.raw(leaves, rows, again=seen.clear)
    return leaves, output, seen


def trace_shapes(forward: Forward, inputs: Sequence[Tensor]) -> tuple[Tensor, list[ModuleOutput]]:
    """The output for the first sample, and what `trace_modules` lists."""
    if forward.whole:  # one sample alone is not what the model takes
        _, output, seen = trace_modules(forward, [x.clone() for x in inputs])
        return output, seen
    zero = torch.zeros(1, dtype=torch.long, device=inputs[0].device)
    _, output, seen = trace_modules(forward, [x[:1].clone() for x in inputs], zero)
    return output, seen


def as_grid(layout: Any, tensor: Tensor) -> Grid | None:
    """The grid that the user names: "first", "last", a size (h, w) of tokens, or a function; None for "auto".

    Raises:
        InputError: anything else, or a size that does not fit the tensor.
    """
    if callable(layout):
        return Grid("function", function=layout)
    if layout == "auto":
        return None
    if layout in ("first", "last"):
        return Grid(layout, tuple(tensor.shape[2:] if layout == "first" else tensor.shape[1:-1]))
    if isinstance(layout, tuple) and layout and all(isinstance(v, int) and v > 0 for v in layout):
        prefix = tensor.shape[1] - math.prod(layout) if tensor.ndim == 3 else -1
        if prefix < 0:
            raise InputError(
                f"layout={layout} does not fit the layer's tensor of shape {tuple(tensor.shape)}: expected tokens "
                f"(N, T, C) with T of at least {math.prod(layout)}."
            )
        return Grid("tokens", layout, prefix)
    raise InputError(
        "layout must be 'auto', 'first' (N, C, ...), 'last' (N, ..., C), the size (h, w) of a grid of tokens, or a "
        f"function tensor -> (N, C, h, w); got {layout!r}."
    )


def find_grid(module: nn.Module, shape: Sequence[int], inputs: Sequence[Tensor], seen: Sequence[ModuleOutput]) -> Grid:
    """The grid of a tensor of that shape, from the inputs' shapes and what else the forward pass gave.

    Args:
        module: the layer.
        shape: of its tensor, batch first.
        inputs: the model's inputs; the largest one with axes of space counts.
        seen: what `trace_shapes` saw.

    Raises:
        LayerError: it cannot be told; the text says what would.
    """
    space, shape = _space(inputs), tuple(shape)
    alone = grid_of_shape(shape, inputs)
    if alone is not None:
        return alone
    if len(space) >= 2 and len(shape) == len(space) + 2:
        return _picture(module, shape, space, seen)
    if len(space) >= 2 and len(shape) == 3:
        return _tokens(shape, space, seen)
    if len(space) < 2 and len(shape) == 3:
        return _sequence(module, shape, inputs, seen)
    if any(isinstance(s.module, nn.modules.conv._ConvNd) for s in seen):
        return Grid("first", shape[2:])
    raise LayerError(_cannot_tell(shape, inputs[0].shape, "its dimensions are not those of the input"))


def grid_of_shape(shape: Sequence[int], inputs: Sequence[Tensor]) -> Grid | None:
    """The grid of a tensor where its shape says it; None: what else the forward pass gave has to be seen."""
    space, shape = _space(inputs), tuple(shape)
    if len(shape) < 3:
        return Grid("none")
    if len(space) < 2 or len(shape) != len(space) + 2:
        return None
    first, last = _sides(shape, space)
    if first == last:
        return None
    return Grid("first", shape[2:]) if first else Grid("last", shape[1:-1])


def _space(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """The axes of space of the largest input."""
    return max((tuple(x.shape[2:]) for x in inputs), key=lambda s: (len(s), math.prod(s)))


def _fits(grid: Sequence[int], space: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the input's axes of space, up to rounding."""
    return all(abs(g * space[0] / s - grid[0]) < max(1.0, space[0] / s) for g, s in zip(grid, space, strict=True))


def _sides(shape: tuple[int, ...], space: tuple[int, ...]) -> tuple[bool, bool]:
    return _fits(shape[2:], space), _fits(shape[1:-1], space)


def _picture(module: nn.Module, shape: tuple[int, ...], space: tuple[int, ...], seen: Sequence[ModuleOutput]) -> Grid:
    """Of a tensor that may lie both ways, or neither."""
    if _sides(shape, space) == (False, False) and any(len(s.shape) == 3 for s in seen):
        raise LayerError(_cannot_tell(shape, (1, 0, *space), "no two of its axes have the input's proportions"))
    known = {_sides(s.shape, space) for s in seen if len(s.shape) == len(shape)} - {(True, True), (False, False)}
    if len(known) > 1 and not isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)):
        raise LayerError(
            _cannot_tell(shape, (1, 0, *space), "channels may stand first or last, and the model uses both")
        )
    first = known != {(False, True)} or len(known) > 1
    return Grid("first", shape[2:]) if first else Grid("last", shape[1:-1])


def _tokens(shape: tuple[int, ...], space: tuple[int, ...], seen: Sequence[ModuleOutput]) -> Grid:
    tokens = shape[1]
    grids = {s.shape[2:] for s in seen if len(s.shape) == len(space) + 2 and _fits(s.shape[2:], space)}
    near = sorted({(tokens - math.prod(g), g) for g in grids if 0 <= tokens - math.prod(g) <= _MOST_PREFIX})
    near = [(prefix, grid) for prefix, grid in near if math.prod(grid) > 1]
    if len(near) == 1 or (near and near[0][0] == 0):
        return Grid("tokens", near[0][1], near[0][0])
    if not near:
        side = (tokens / math.prod(space)) ** (1 / len(space))
        own = tuple(round(s * side) for s in space)
        if math.prod(own) == tokens and tokens > 1 and all(s * own[0] == space[0] * g for s, g in zip(space, own)):
            return Grid("tokens", own)
    why = f"{tokens} tokens belong to no grid of this forward pass"
    if near:
        why = f"{tokens} tokens may belong to the grids " + " and ".join(str(g) for _, g in near)
    raise LayerError(_cannot_tell(shape, (1, 0, *space), why))


def _sequence(
    module: nn.Module, shape: tuple[int, ...], inputs: Sequence[Tensor], seen: Sequence[ModuleOutput]
) -> Grid:
    lengths = {x.shape[1] if x.ndim == 2 else x.shape[2] for x in inputs if x.ndim in (2, 3)}
    lengths |= {x.shape[1] for x in inputs if x.ndim == 3 and not has_conv1d(seen)}
    if isinstance(module, _CHANNELS_LAST) or (shape[1] in lengths) > (shape[2] in lengths):
        return Grid("last", shape[1:-1])
    if isinstance(module, nn.modules.conv._ConvNd) or (shape[2] in lengths) > (shape[1] in lengths):
        return Grid("first", shape[2:])
    if has_conv1d(seen):
        return Grid("first", shape[2:])
    raise LayerError(_cannot_tell(shape, inputs[0].shape, "neither axis has the length of the input"))


def has_conv1d(seen: Iterable[ModuleOutput]) -> bool:
    """Whether a convolution along time was seen."""
    return any(isinstance(s.module, nn.Conv1d) for s in seen)


def _cannot_tell(shape: Sequence[int], inputs: Sequence[int], why: str) -> str:
    space = " x ".join(str(v) for v in inputs[2:])
    return (
        f"It cannot be told how the layer's tensor of shape {tuple(shape)} lies on the input"
        + (f" of {space}" if space else "")
        + f": {why}. Say so with layout='first' (N, C, H, W), layout='last' (N, H, W, C), layout=(h, w) for tokens, or "
        "a function tensor -> (N, C, h, w)."
    )

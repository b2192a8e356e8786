"""Gradients of a model's own graph: values that the model writes over are kept, and what autograd refuses is told.

All differentiation through a model goes through `gradient`, so that its errors are ours. A model that writes into a
tensor which its backward pass needs (`y[..., 0:2] = ...` behind a sigmoid, as heads of detectors do) runs once more
with such tensors copied before they change; `keeping_values` marks the functions that do a forward and a backward pass.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import Node, allow_mutation_on_saved_tensors

from interp_plugins.core.batching import is_out_of_memory
from interp_plugins.core.caches import call_cache
from interp_plugins.core.errors import InterpError, InterpWarning, ModelError

P = ParamSpec("P")
T = TypeVar("T")
_KEY = ("values are written over",)
_keeping: ContextVar[bool] = ContextVar("interp_plugins_keeping_values", default=False)
_one_at_a_time = threading.RLock()  # torch keeps saved values for one graph at a time
_INSTEAD = "Use a perturbation method (occlusion, feature_ablation)"


class WrittenOverError(ModelError):
    """The model writes into a tensor that its gradient needs."""


class UnconnectedError(ModelError):
    """No graph leads from what is explained to the score."""


def keeping_values(compute: Callable[P, T]) -> Callable[P, T]:
    """For a function with a forward and a backward pass: run it again where the model writes over what it needs.

    The second time, and from then on while the model is frozen, torch copies a saved tensor before it is written to.
    """

    @functools.wraps(compute)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if _keeping.get():
            return compute(*args, **kwargs)
        if _KEY not in call_cache():
            try:
                return compute(*args, **kwargs)
            except WrittenOverError:
                keep_values_from_now_on()
        token = _keeping.set(True)
        try:
            with _one_at_a_time, allow_mutation_on_saved_tensors():
                return compute(*args, **kwargs)
        finally:
            _keeping.reset(token)

    return run


def keep_values_from_now_on() -> None:
    """Say that the model, while it is frozen, writes over values that its gradient needs."""
    call_cache()[_KEY] = True


def gradient(output: Tensor, sources: Sequence[Tensor], **how: Any) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad` of a sum through the model, None where it does not depend on a source.

    Raises:
        WrittenOverError: see `keeping_values`.
        ModelError: autograd refuses; the text says what to do.
    """
    try:
        return torch.autograd.grad(output.sum(), sources, allow_unused=True, **how)
    except InterpError:
        raise
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise _told(error) from error


def _told(error: RuntimeError) -> ModelError:
    said = " ".join(str(error).split())
    if "modified by an inplace operation" in said:
        return WrittenOverError(
            f"The model writes into a tensor that its own gradient needs ({said[:240]}). Make a copy first (y = "
            f"y.clone()) or build the result with torch.cat. {_INSTEAD} where the model cannot be changed."
        )
    if "checkpoint" in said.lower():
        advice = "Switch the model's own checkpointing off (torch.utils.checkpoint is switched off by itself)"
    else:
        advice = "Look for operations without a derivative or custom autograd functions in the model"
    return ModelError(f"The model's backward pass fails: {said[:400]} {advice}. {_INSTEAD} where it cannot be changed.")


def nodes_behind(outputs: Sequence[Tensor]) -> Iterator[Node]:
    """All nodes of the graph that some tensors come from."""
    seen: set[Node] = set()
    waiting = [t.grad_fn for t in outputs if t.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += [n for n, _ in node.next_functions if n is not None]


def without_gradient(outputs: Sequence[Tensor]) -> bool:
    """Whether an operation in the graph has no gradient at all (packed int8 layers, operators from elsewhere)."""
    return any(n.name().endswith("NotImplemented") for n in nodes_behind(outputs))


def differentiate(scores: Tensor, sources: Sequence[Tensor], what: str, retain: bool = False) -> tuple[Tensor, ...]:
    """Gradients of the scores' sum; zeros, with a warning, for sources that do not matter.

    Args:
        scores: what is differentiated.
        sources: tensors of its graph.
        what: what they are, "input" or "layer", for the texts.
        retain: keep the graph for a next time.

    Raises:
        UnconnectedError: nothing connects the sources to the scores.
    """
    usable = [s for s in sources if s.requires_grad]
    if not scores.requires_grad or not usable:
        raise UnconnectedError(
            f"The score does not depend on the {what} through differentiable operations: somewhere the model detaches, "
            "rounds, casts to integers (.long()), runs under torch.no_grad(), or has layers without a gradient (int8). "
            f"{_INSTEAD}, or explain a layer behind that step."
        )
    found = gradient(scores, usable, retain_graph=retain)
    if all(g is None for g in found):
        if without_gradient([scores]):
            raise ModelError(no_gradient_text(what))
        raise UnconnectedError(
            f"The score does not depend on any {what}: One of the differentiated Tensors appears to not have been used "
            "in the graph. Check which output and target are explained."
        )
    by_id = {id(s): g for s, g in zip(usable, found, strict=True)}
    out = []
    for i, source in enumerate(sources):
        grad = by_id.get(id(source))
        if grad is None:
            if source.numel():
                warnings.warn(
                    f"{what}[{i}] does not influence the score; its attributions are zero.",
                    InterpWarning,
                    stacklevel=4,
                )
            grad = torch.zeros_like(source)
        out.append(grad.detach())
    return tuple(out)


def no_gradient_text(what: str) -> str:
    """What to do where an operation between some tensors and the score has no gradient."""
    return (
        f"Between the {what} and the score stands an operation that has no gradient: a layer of a quantized model "
        "(int8 weights are packed), or an operator that was registered without one. Use a perturbation method "
        "(occlusion, feature_ablation), which only evaluates the model, or explain the model as it was before."
    )

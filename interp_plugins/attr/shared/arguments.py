"""What `attribute` takes and gives, said once: types that know the delta, `Args:` filled from the plain method.

Both are decorators of `attribute` that leave the function as it is, so that its signature is the one that is written.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from torch import Tensor

from interp_plugins.core.tensors import InputsT, LayerMaps

P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])


class _Maps(Protocol[P]):
    """`attribute` of an object: maps in the inputs' layout, and the delta beside them where it is asked for."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the last one takes the flag as well, for all other arguments
        self, inputs: InputsT, *args: Any, return_convergence_delta: Literal[True], **kwargs: Any
    ) -> tuple[InputsT, Tensor]: ...
    @overload
    def __call__(
        self, inputs: InputsT, *args: Any, return_convergence_delta: Literal[False], **kwargs: Any
    ) -> InputsT: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: InputsT, *args: Any, return_convergence_delta: bool, **kwargs: Any
    ) -> InputsT | tuple[InputsT, Tensor]: ...
    @overload
    def __call__(self, inputs: InputsT, *args: P.args, **kwargs: P.kwargs) -> InputsT: ...


class _LayerMaps(Protocol[P]):
    """`attribute` of an object that explains a layer, whose maps have the layer's layout."""

    @overload
    def __call__(
        self, inputs: Any, *args: Any, return_convergence_delta: Literal[True], **kwargs: Any
    ) -> tuple[LayerMaps, Tensor]: ...
    @overload
    def __call__(
        self, inputs: Any, *args: Any, return_convergence_delta: Literal[False], **kwargs: Any
    ) -> LayerMaps: ...
    @overload
    def __call__(
        self, inputs: Any, *args: Any, return_convergence_delta: bool, **kwargs: Any
    ) -> LayerMaps | tuple[LayerMaps, Tensor]: ...
    @overload
    def __call__(self, inputs: Any, *args: P.args, **kwargs: P.kwargs) -> LayerMaps: ...


class _Method(Protocol[P]):
    @overload
    def __get__(self, owner: None, of: Any = None) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: object, of: Any = None) -> _Maps[P]: ...


class _LayerMethod(Protocol[P]):
    @overload
    def __get__(self, owner: None, of: Any = None) -> Callable[..., Any]: ...
    @overload
    def __get__(self, owner: object, of: Any = None) -> _LayerMaps[P]: ...


def with_delta(attribute: Callable[Concatenate[Any, Any, P], Any]) -> _Method[P]:
    """For type checkers: maps without, (maps, delta) with `return_convergence_delta=True`, in the inputs' layout."""
    return cast("_Method[P]", attribute)


def layer_with_delta(attribute: Callable[Concatenate[Any, Any, P], Any]) -> _LayerMethod[P]:
    """`with_delta` for a method whose maps have the layout of a layer."""
    return cast("_LayerMethod[P]", attribute)


# What an argument means in every method that does not say otherwise.
_EVERYWHERE = {
    "inputs": "tensor or tuple of tensors, batch first.",
    "target": "see `core.target.as_target`.",
    "additional_forward_args": "further positional arguments of the model; batched tensors follow the batch.",
    "feature_mask": """integers, broadcastable to the input (tuple for several inputs); elements with the same
        number, also across inputs, are one feature. None: every element is one.""",
    "neuron_selector": """index after the batch dimension (int or tuple; slices are summed), or a function of the
        layer's tensor -> (N,).""",
    "attribute_to_layer_input": "explain the layer's input instead of its output.",
    "attribute_to_neuron_input": "the neuron is in the layer's input.",
    "grad_kwargs": "accepted for Captum's sake; unused tensors give zeros with a warning here.",
    "internal_batch_size": "rows per pass; None = automatic, halved when memory runs out.",
    "batch_size": "samples per pass; None = automatic.",
    "generator": "draw from this generator instead (it is advanced).",
    "show_progress": "always show a progress bar.",
    "progress": "None = a bar for long work, True, False.",
}

_ENTRY = re.compile(r"^    (?P<name>\*{0,2}\w+): ", re.M)
_SECTION = re.compile(r"^(Args|Returns|Raises|Example|Examples):$", re.M)


def described(doc: str | None) -> dict[str, str]:
    """The entries of a docstring's `Args:`, by parameter."""
    doc = inspect.cleandoc(doc or "")
    start = re.search(r"^Args:\n", doc, re.M)
    if start is None:
        return {}
    stop = _SECTION.search(doc, start.end())
    body = doc[start.end() : stop.start() if stop else len(doc)].rstrip()
    marks = [*_ENTRY.finditer(body)]
    ends = [*(m.start() for m in marks[1:]), len(body)]
    return {m["name"].lstrip("*"): body[m.start() : end].rstrip() for m, end in zip(marks, ends)}


def args_from(*plain: Callable[..., Any]) -> Callable[[Function], Function]:
    """Complete the `Args:` of a method's docstring, in the order of its parameters.

    What the docstring does not describe reads as in the first of the plain methods that does, or else as everywhere
    (`inputs`, `target`, ...). An argument that means something else is described anew.

    Args:
        plain: methods whose docstrings are complete.
    """

    def completed(function: Function) -> Function:
        if function.__doc__:  # none under `python -OO`
            function.__doc__ = _completed(function, plain)
        return function

    return completed


def _completed(function: Any, plain: Iterable[Any]) -> str:
    doc, code = inspect.cleandoc(function.__doc__), function.__code__
    entries = described(doc)
    for source in plain:
        entries = {**described(source.__doc__), **entries}
    entries = {**{name: f"    {name}: {text}" for name, text in _EVERYWHERE.items()}, **entries}
    order = [*code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount], *described(doc)]
    arguments = "\n".join(entries[name] for name in dict.fromkeys(order) if name in entries)
    text = re.sub(r"^Args:\n(?:(?: .*)?(?:\n|\Z))*", "", doc, flags=re.M)
    more = _SECTION.search(text)
    before, after = (text[: more.start()], text[more.start() :]) if more else (text, "")
    return f"{before.rstrip()}\n\nArgs:\n{arguments}\n" + (f"\n{after}\n" if after else "")

"""`torch.compile` for the loops of whole data sets: the private view, compiled once per model and shape of a chunk.

    with compilation("inductor"):
        forward = through_compiler(forward)

Every call makes a view of its own, and the compiler's guards find that code made for an earlier view of the same model
fits it (weights are inputs of the code, not part of it); what the user changed in between, they find as well. Chunks
that are smaller than the first one are filled up to its size, so that there is one shape to compile for.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from interp_plugins.core.batching import is_out_of_memory, most_rows
from interp_plugins.core.caches import ByIdentity
from interp_plugins.core.errors import InputError, InputTypeError, ModelError, unknown
from interp_plugins.core.forward import Forward
from interp_plugins.core.guard import modules_of
from interp_plugins.core.hooks import hook_numbers
from interp_plugins.core.report import note
from interp_plugins.core.tensors import is_float, own_tree, tensors_in
from interp_plugins.core.wrapper import Wrapper
from interp_plugins.engine.meter import used
from interp_plugins.engine.plan.mixture import mixture_gradients
from interp_plugins.engine.plan.view import AGREE, NoView, View, layers_in

DEFAULT = "inductor"
MOST_SHAPES = 32  # of one model, with and without gradients: more would mean compiling more than running
NO_LAYERS = "compile=: a layer inside the model cannot be read or set in compiled code. Leave compile= out."
_AGREE_HALF = 0.05

_asked: ContextVar[str | None] = ContextVar("interp_plugins_compilation", default=None)
_made: ByIdentity[dict[str, Compiler]] = ByIdentity()


def as_backend(compile: bool | str | None) -> str | None:
    """The backend that `compile=` names: None for False, Inductor for True.

    Raises:
        InputTypeError: neither a bool nor a name.
        UnknownNameError: a backend that this torch does not have, with the nearest name.
    """
    if compile is None or compile is False:
        return None
    if compile is True:
        return DEFAULT
    if not isinstance(compile, str):
        raise InputTypeError(f"compile= takes True, False or the name of a backend, got {compile!r}.")
    known = torch.compiler.list_backends(exclude_tags=())
    if compile not in known:
        raise unknown("backend of torch.compile", compile, known)
    return compile


@contextlib.contextmanager
def compilation(backend: str | None) -> Iterator[None]:
    """Run the loops' passes through `torch.compile` with this backend for the length of a `with` block."""
    token = _asked.set(backend)
    try:
        yield
    finally:
        _asked.reset(token)


def compiling() -> bool:
    """Whether passes are to be compiled here."""
    return _asked.get() is not None


def through_compiler(forward: Forward, func: Callable[..., Any] | None = None) -> Forward:
    """A model call that goes through compiled code.

    Args:
        forward: a model call inside `frozen`.
        func: the planned callable to compile; None: a private view of the model as it is.

    Raises:
        InputError: the model is asked at a layer: compiled code has none.
        ModelError: there can be no private view of the model.
    """
    backend = _asked.get()
    assert backend is not None
    if layers_in(forward.func):
        raise InputError(NO_LAYERS)
    try:
        mine = func if func is not None else View().of(forward.func)
    except NoView as why:
        raise ModelError(
            f"compile=: no private view of this model can be made, and the model itself is never compiled: {why}. Give "
            "the nn.Module itself instead of a function around it, or leave compile= out."
        ) from why
    codes = _made.get(modules_of(forward.func)[0], {})
    if backend not in codes:
        codes[backend] = Compiler(backend)
    batched = pytree.tree_map(
        lambda v: isinstance(v, Tensor) and v.ndim > 0 and v.shape[0] == forward.n,
        (tuple(forward.args), dict(forward.kwargs)),
    )
    hooks = hook_numbers(m for root in modules_of(mine) for m in root.modules())  # the compiler's guards leave them out
    used("compiled", f"backend {backend!r}")
    return replace(forward, func=Compiled(mine, codes[backend].of(hooks), *batched))


class Compiler:
    """Compiled code of one model under one backend.

    Attributes:
        graphs: how many were compiled so far.
    """

    def __init__(self, backend: str):
        from torch._dynamo import lookup_backend

        self.backend, self.graphs = backend, 0
        self._compile: Callable[..., Any] = lookup_backend(backend)
        self._runs: dict[Any, Callable[..., Any]] = {}

    def of(self, state: Any) -> Callable[[Callable[..., Any], Any, Any], Any]:
        """The function (func, args, kwargs) -> output of a model in this state."""
        return functools.partial(self._call, state)

    def _call(self, state: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """func(*args, **kwargs); checked against the plain call whenever something was compiled for it."""
        run, before = self._run_for(state, args, kwargs), self.graphs
        try:
            with torch.compiler.set_stance("default"), warnings.catch_warnings():  # `frozen` lets nothing else compile
                warnings.filterwarnings("ignore", r"The \.grad attribute")  # the compiler looks at every input's
                output = run(func, args, kwargs)
        except Exception as error:
            if is_out_of_memory(error) or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise ModelError(self._failed(error)) from error
        if self.graphs > before:
            with torch.no_grad():
                own_args, own_kwargs = own_tree((args, kwargs))  # the model may work in place
                check(output, func(*own_args, **own_kwargs), self.backend)
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_in((args, kwargs))):
                found, expected = (self._gradients(f, func, args, kwargs) for f in (run, _plain))
                check(found, expected, self.backend, "gradients", _AGREE_HALF)
        return output

    def _gradients(self, run: Callable[..., Any], func: Callable[..., Any], args: Any, kwargs: Any) -> list[Tensor]:
        """Gradients at the inputs, from a pass of its own: compiled code goes backward once."""

        def leaf(value: Any) -> Any:
            return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

        leaves, kwargs = pytree.tree_map(leaf, (args, kwargs))
        clones = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) and v.requires_grad else v, leaves)
        with torch.compiler.set_stance("default"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The \.grad attribute")
            usable = [t for t in tensors_in(leaves) if t.requires_grad]
            found = mixture_gradients(run(func, clones, kwargs), usable)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(usable, found, strict=True)]

    def _run_for(self, state: Any, args: Any, kwargs: Any) -> Callable[..., Any]:
        """The code for these shapes, with or without gradients."""
        tensors = tuple((t.shape, t.dtype, t.device, t.requires_grad) for t in tensors_in((args, kwargs)))
        key = (torch.is_grad_enabled(), tensors, state)
        if key not in self._runs:
            if len(self._runs) == MOST_SHAPES:
                raise ModelError(
                    f"compile=: code for {MOST_SHAPES} shapes was made for this model already, and now "
                    f"{[tuple(shape) for shape, *_ in tensors]} came. Bring the inputs to one size, give one "
                    "batch_size, or leave compile= out."
                )
            # A code object of its own, because the compiler keeps what it made, and limits it, by code object.
            own = types.FunctionType(_plain.__code__.replace(), _plain.__globals__)
            self._runs[key] = torch.compile(own, backend=self._counted, fullgraph=True, dynamic=False)
        return self._runs[key]

    def _counted(self, graph: Any, examples: Any) -> Any:
        self.graphs += 1
        return self._compile(graph, examples)

    def _failed(self, error: BaseException) -> str:
        why: BaseException | None = error
        while why is not None and "fullgraph" in str(why).split("\n")[0]:
            why = why.__cause__ or why.__context__
        reason = inspect.cleandoc(str(why or error)).split("\n\n")[0].strip()
        if "recompile_limit" in f"{error}{why}":
            advice = "The model is another one at each call (an attribute that counts, for example)"
        elif "compiler" in reason.lower() and self.backend == DEFAULT:
            advice = (
                "Inductor builds C++ code on a CPU: install a compiler (g++ or clang++, or name it in CXX), or choose "
                "another backend, compile='aot_eager'"
            )
        else:
            advice = "The model has to be one graph without breaks"
        return f"torch.compile (backend {self.backend!r}) failed: {reason}\n{advice}, or leave compile= out."


def _plain(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


class Compiled(Wrapper):
    """A callable that runs compiled code, a whole chunk of rows at a time."""

    def __init__(self, func: Callable[..., Any], run: Callable[..., Any], batched_args: Any, batched_kwargs: Any):
        self.func, self._run = func, run
        self._args, self._kwargs = batched_args, batched_kwargs
        self._size = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the rows given; smaller chunks than the first are filled up to its size."""
        if _get_current_dispatch_mode() is not None:  # a call that is watched for draws: no code can be made under it
            return self.func(*args, **kwargs)
        rows = len(args[0])
        note(compiled_rows=rows)
        self._size = max(rows, min(self._size, most_rows() or self._size))
        if rows == self._size:
            return self._run(self.func, args, kwargs)
        inputs = len(args) - len(self._args)
        flags = ((True,) * inputs + tuple(self._args), dict(self._kwargs))
        more = self._size - rows
        filled_args, filled_kwargs = pytree.tree_map(
            lambda v, is_row: _filled(v, more) if is_row else v, (args, kwargs), flags
        )
        output = self._run(self.func, filled_args, filled_kwargs)
        if not all(t.ndim and t.shape[0] == self._size for t in tensors_in(output)):  # one value for all rows
            return self._run(self.func, args, kwargs)
        return pytree.tree_map(lambda t: t[:rows] if isinstance(t, Tensor) else t, output)


def _filled(value: Any, more: int) -> Any:
    """Fill a batch up by repeating its last row."""
    return (
        torch.cat([value, value[-1:].detach().expand(more, *value.shape[1:])]) if isinstance(value, Tensor) else value
    )


def check(found: Any, expected: Any, backend: str, what: str = "outputs", tolerance: float | None = None) -> None:
    """Refuse code that computes something else than the model.

    Args:
        found: what the code gave.
        expected: what the model gave.
        backend: the backend, for the text.
        what: what is compared.
        tolerance: of the largest value; None: as the type allows.

    Raises:
        ModelError: with the largest difference.
    """
    for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
        if not is_float(a) or not a.numel():
            continue
        difference, scale = float((a.detach() - b).abs().max()), float(b.abs().max())
        allowed = AGREE.get(a.dtype, _AGREE_HALF) if tolerance is None else tolerance
        if not difference <= allowed * scale and scale == scale:
            raise ModelError(
                f"torch.compile (backend {backend!r}) computes something else than the model: {what} of up to "
                f"{scale:.3g} differ by up to {difference:.3g}. Leave compile= out, or choose another backend."
            )


def check_methods(methods: Sequence[tuple[str, bool]]) -> None:
    """Refuse methods whose passes cannot be compiled.

    Args:
        methods: names, and whether the method's passes can be (`core.registry.Traits.compiles`).

    Raises:
        InputError: with the first of them, and the reason.
    """
    for name, compiles in methods:
        if not compiles:
            raise InputError(
                f"compile=: {name} is not compiled: it reads or sets layers, changes the rules of single functions, or "
                "makes too few or too different passes to pay for compiling. Path methods, perturbation methods and "
                "those of coalitions, at the input, are (docs/dev/performance.md). Leave compile= out, or call twice."
            )

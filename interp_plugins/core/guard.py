"""`frozen`: the one place where a model is made safe to explain, and put back exactly as it was.

Inside the scope: every submodule in eval mode, parameters without grad, gradients possible even when called from
`no_grad` or `inference_mode`, compiled modules run eagerly (so that hooks fire), no fast path of encoders and no
gradient checkpointing (`core.plain_run`), cuDNN off for recurrent nets on CUDA (it refuses a backward in eval mode),
private RNG streams. On leaving, also after an exception, everything is
restored: training flags one by one, `requires_grad`, buffers and tensors in plain attributes that the forward set (a
recurrent net's state), hooks are the business of `core.layers`, and the state of the random, NumPy, torch, CUDA and MPS
generators.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import operator
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree as pytree

from interp_plugins.core.caches import cache_scope, call_cache
from interp_plugins.core.plain_run import plain_run

_LARGE_BUFFER = 64 * 2**20  # bytes; larger buffers are packed weights, not running statistics
_MANY = 64  # containers longer than this are data, not ensembles
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module, by number


def hook_numbers(modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """The numbers of all hooks of some modules: none is ever used twice, so equal numbers are equal hooks."""
    return tuple(key for m in modules for name in HOOKS for key in getattr(m, name, ()))


def modules_of(func: Any) -> list[nn.Module]:
    """The root modules behind a callable: itself, or those in a bound method, partial, wrapper or closure."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(obj: Any, depth: int) -> None:
        if id(obj) in seen or depth > 4:
            return
        seen.add(id(obj))
        if isinstance(obj, nn.Module):
            found.append(obj)
        elif isinstance(obj, functools.partial):
            for part in (obj.func, *obj.args, *obj.keywords.values()):
                visit(part, depth + 1)
        elif inspect.ismethod(obj):
            visit(obj.__self__, depth + 1)
            visit(obj.__func__, depth + 1)
        elif inspect.isfunction(obj):
            cells = [c.cell_contents for c in obj.__closure__ or () if _filled(c)]
            names = [obj.__globals__.get(n) for n in _global_names(obj.__code__)]
            for part in (*cells, *names, *(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values()):
                visit(part, depth + 1)
        elif isinstance(obj, (list, tuple, set)) and len(obj) <= _MANY:
            for part in obj:  # an ensemble
                visit(part, depth + 1)
        elif isinstance(obj, dict) and len(obj) <= _MANY:
            for part in obj.values():
                visit(part, depth + 1)
        elif hasattr(obj, "wrapped_callables") and not inspect.isclass(obj):
            for part in obj.wrapped_callables():
                visit(part, depth + 1)
        elif hasattr(obj, "__dict__") and not inspect.isclass(obj) and not inspect.ismodule(obj):
            for part in vars(obj).values():  # a wrapper object, callable or not
                ensemble = isinstance(part, (list, tuple)) and any(isinstance(e, nn.Module) for e in part)
                if isinstance(part, (nn.Module, functools.partial)) or inspect.isroutine(part) or ensemble:
                    visit(part, depth + 1)

    visit(func, 0)
    return found


def _global_names(code: Any) -> set[str]:
    """Global names that a function uses, those of the functions inside it included."""
    inner = (_global_names(c) for c in code.co_consts if inspect.iscode(c))
    return set(code.co_names).union(*inner)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises ValueError while the variable is unset
    except ValueError:
        return False
    return True


def _numpy_bits() -> bytes | None:
    """The bits of NumPy's global Mersenne twister (624 words and a position); None where it is another generator."""
    bits = np.random.get_bit_generator()  # type: ignore[attr-defined] # NumPy's stub leaves it out
    return ctypes.string_at(bits.ctypes.state_address, 2500) if isinstance(bits, np.random.MT19937) else None


_last: tuple[bytes | None, Any] = (None, None)


def _numpy_state() -> tuple[bytes | None, Any]:
    """The state of NumPy's global generator, and its bits where they tell whether it was drawn from.

    They do unless a normal number lies ready (each second call takes the one that the first has left over). Asking for
    the state takes as long as a small network's forward pass: where the bits are those of last time, so is the state.
    """
    global _last
    bits = _numpy_bits()
    if bits is None or bits != _last[0]:
        state: Any = np.random.get_state()
        _last = (None if state[3] else bits, state)
    return _last


def rng_state() -> tuple[Any, ...]:
    """What the global generators will draw next, for comparing: equal where nothing was drawn in between."""
    bits, numpy = _numpy_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    torches = [g.numpy().tobytes() for g in (torch.get_rng_state(), *cuda)]
    return random.getstate(), bits or (numpy[1].tobytes(), numpy[2:]), torches


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave the global generators (random, NumPy, torch, CUDA, MPS) as they were."""
    states = (random.getstate(), _numpy_state(), torch.get_rng_state())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        if states[1][0] is None or _numpy_bits() != states[1][0]:
            np.random.set_state(states[1][1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_torch(seed: int) -> None:
    """`torch.manual_seed`, to be used under `preserved_rng`.

    Where CUDA is not in use, `torch.manual_seed` would only note the seed that CUDA will begin with, at each call anew,
    and that note cannot be taken back: it is left alone.
    """
    if torch.cuda.is_initialized() or torch.backends.mps.is_available() or torch.xpu.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def is_script(module: nn.Module) -> bool:
    """Whether a module is TorchScript: it runs outside of Python, where no hook and no rule reaches it."""
    return isinstance(module, torch.jit.ScriptModule)


def modules_below(roots: Iterable[nn.Module]) -> list[nn.Module]:
    """Some modules with all their submodules, each once: what `nn.Module.modules` gives, without making names."""
    found: dict[int, nn.Module] = {}
    waiting = list(roots)[::-1]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting += [m for m in reversed(list(module._modules.values())) if m is not None]
    return list(found.values())


def _is_large(buffer: Tensor) -> bool:
    """Whether a buffer is too large for a private copy; sparse ones have no size of their own, and are copied."""
    return buffer.layout is torch.strided and buffer.nbytes > _LARGE_BUFFER


class _PrivateCopies:
    """Private copies of buffers; a `frozen` inside another takes the other's, while nothing was written into them."""

    def __init__(self) -> None:
        # By the copy's id: the copy, its version when it was made, and what it is a copy of.
        self.known: dict[int, tuple[Tensor, int, Tensor]] = call_cache().setdefault(("private buffers",), {})
        self.lent: dict[int, tuple[Tensor, int, Tensor]] = {}

    def of(self, buffer: Tensor) -> Tensor:
        """A copy to work with, or the buffer itself where it is such a copy, still as it was made."""
        known = self.known.get(id(buffer))
        if known is None:
            return self._made(buffer)
        if buffer._version != known[1]:
            return buffer.clone()
        self.lent[id(buffer)] = known
        return buffer

    def put_right(self, held: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """The buffers that were there before, with new copies in the place of what was lent and then written into."""
        lent = {name: self.lent[id(b)] for name, b in held.items() if id(b) in self.lent}
        changed = {name: original for name, (b, version, original) in lent.items() if b._version != version}
        return {**held, **{name: self._made(original) for name, original in changed.items()}}

    def _made(self, original: Tensor) -> Tensor:
        copy = original.clone()
        self.known[id(copy)] = (copy, copy._version, original)
        return copy


@contextlib.contextmanager
def _quiet_modules(modules: list[nn.Module]) -> Iterator[None]:
    """Eval mode, parameters without grad, buffers and plain attributes as they were: restored one by one."""
    # A frozen script has no such flag.
    modes = [(m, mode) for m in modules if (mode := getattr(m, "training", None)) is not None]
    named = [(m, name, p) for m in modules for name, p in m._parameters.items() if p is not None]
    params = {id(p): p for _, _, p in named}.values()
    trainable = [p for p in params if p.requires_grad and p.is_leaf and not p.is_inference()]
    # Weights made in inference mode cannot take part in a graph: ordinary copies (shared where they are) stand in.
    inference = [(m, name, p) for m, name, p in named if p.is_inference()]
    stand_ins = {id(p): nn.Parameter(p.clone(), requires_grad=False) for _, _, p in inference}
    # Scripted modules keep their buffers where they cannot be exchanged.
    buffers = [(m, dict(m._buffers)) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    copies = _PrivateCopies()
    # A recurrent net may keep its state between calls in plain attributes. Lazy modules become others: left alone.
    plain = [(m, dict(vars(m))) for m in modules if not isinstance(m, LazyModuleMixin)]
    try:
        for m, training in modes:
            if training:
                m.training = False
        for m, held in buffers:
            for name, buffer in held.items():
                if buffer is not None and (buffer.is_inference() or not _is_large(buffer)):
                    # A private copy: no in-place change reaches the user's buffer, no inference tensor our graph.
                    m._buffers[name] = copies.of(buffer)
        for m, name, p in inference:
            setattr(m, name, stand_ins[id(p)])
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for m, name, p in inference:
            setattr(m, name, p)
        for m, attributes in plain:
            _put_back(m, attributes)
        for m, held in buffers:  # also those that the forward filled in or added
            if held or m._buffers:
                m._buffers.clear()
                m._buffers.update(copies.put_right(held))
        for m, training in modes:
            if m.training is not training:
                m.training = training


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    """Undo what a forward pass set on a module, if that held tensors (a state); a mere counter goes on counting.

    By `setattr`, since recurrent modules keep a list of their weights beside the attributes.
    """
    now = vars(module)
    if len(now) == len(attributes) and all(map(operator.is_, now.values(), attributes.values())):
        return
    added = [name for name in now if name not in attributes]
    changed = [name for name, value in attributes.items() if now.get(name, None) is not value]
    if not any(isinstance(t, Tensor) for name in (*added, *changed) for t in pytree.tree_leaves(now.get(name))):
        return
    for name in added:
        del now[name]
    for name in changed:
        setattr(module, name, attributes[name])


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run compiled modules without their compiled code: hooks added after compilation would not fire.

    Asking for this loads the compiler, which takes seconds; while it is not loaded, nothing can be compiled.
    """
    set_stance = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    with set_stance("force_eager") if set_stance is not None else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def frozen(func: Callable[..., Any], *, seed: int | None = None) -> Iterator[None]:
    """Make a model (or a callable around one) safe to explain for the length of a `with` block.

    Args:
        func: an `nn.Module` or any callable; modules are found through methods, partials and closures.
        seed: seed the global generators inside the block (for models that draw random numbers); outside they
            are as before either way.
    """
    roots = modules_of(func)
    modules = modules_below(roots)
    on_cuda = any(isinstance(m, nn.RNNBase) and any(p.is_cuda for p in m.parameters()) for m in modules)
    cudnn = torch.backends.cudnn.flags(enabled=False) if on_cuda else contextlib.nullcontext()
    with (
        preserved_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _eager(),
        plain_run(),
        cache_scope(roots[0] if roots else None),
        _quiet_modules(modules),
        cudnn,
    ):
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            seed_torch(seed)
        yield

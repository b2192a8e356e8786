"""`frozen`: the one place where a model is made safe to explain, and put back exactly as it was.

Inside the scope: every submodule in eval mode, parameters without grad, gradients possible even when called from
`no_grad` or `inference_mode`, compiled modules run eagerly (so that hooks fire), no fast path of encoders and no
gradient checkpointing (`core.plain_run`), cuDNN off for recurrent nets on CUDA (it refuses a backward in eval mode),
private RNG streams. On leaving, also after an exception, everything is
restored (`core.kept`): training flags one by one, `requires_grad`, buffers and tensors in plain attributes that the
forward set (a recurrent net's state), and the random generators that the model drew from (`core.global_random`). Other
threads wait for the model (`core.locks`); Ctrl-C waits while it is changed or put back (`core.interrupts`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from interp_plugins.core.caches import cache_scope, model_cache
from interp_plugins.core.global_random import Block, entered
from interp_plugins.core.interrupts import interruptible
from interp_plugins.core.kept import Kept, closed_twice
from interp_plugins.core.locks import Claim, ProcessSwitch
from interp_plugins.core.plain_run import plain_run

_MANY = 64  # containers longer than this are data, not ensembles


def modules_of(func: Any) -> list[nn.Module]:
    """The root modules behind a callable: itself, or those in a bound method, partial, wrapper or closure."""
    found: list[nn.Module] = []
    _visit(func, 0, found, set())
    return found


def _visit(obj: Any, depth: int, found: list[nn.Module], seen: set[int]) -> None:
    """Look for modules in an object; a function of the module, since one inside `modules_of` would hold the model."""
    if id(obj) in seen or depth > 4:
        return
    seen.add(id(obj))
    if isinstance(obj, nn.Module):
        found.append(obj)
        return
    for part in _parts_of(obj):
        _visit(part, depth + 1, found, seen)


def _parts_of(obj: Any) -> Iterable[Any]:
    """Where in an object modules may be."""
    if isinstance(obj, functools.partial):
        return (obj.func, *obj.args, *obj.keywords.values())
    if inspect.ismethod(obj):
        return (obj.__self__, obj.__func__)
    if inspect.isfunction(obj):
        cells = [c.cell_contents for c in obj.__closure__ or () if _filled(c)]
        names = [obj.__globals__.get(n) for n in _global_names(obj.__code__)]
        return (*cells, *names, *(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values())
    if isinstance(obj, (list, tuple, set)):
        return obj if len(obj) <= _MANY else ()  # an ensemble
    if isinstance(obj, dict):
        return obj.values() if len(obj) <= _MANY else ()
    if inspect.isclass(obj) or inspect.ismodule(obj):
        return ()
    if hasattr(obj, "wrapped_callables"):
        found: Iterable[Any] = obj.wrapped_callables()
        return found
    return [part for part in _attributes_of(obj) if _may_lead_on(part)]  # a wrapper object, callable or not


def _attributes_of(obj: Any) -> list[Any]:
    """What an object holds in its dictionary and its slots."""
    slots = [name for cls in type(obj).__mro__ for name in _names_of_slots(cls)]
    own = getattr(obj, "__dict__", None)
    return [*(own.values() if isinstance(own, dict) else ()), *(getattr(obj, name, None) for name in slots)]


def _names_of_slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _may_lead_on(part: Any) -> bool:
    ensemble = isinstance(part, (list, tuple)) and any(isinstance(e, nn.Module) for e in part)
    return isinstance(part, (nn.Module, functools.partial)) or inspect.isroutine(part) or ensemble


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
            if below := module._modules:  # most have none
                waiting += [m for m in reversed(list(below.values())) if m is not None]
    return list(found.values())


def named_below(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """What `nn.Module.named_modules` gives, in its order, in a tenth of the time."""
    found: dict[int, tuple[str, nn.Module]] = {}
    waiting: list[tuple[str, nn.Module]] = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = (name, module)
            if below := module._modules:
                start = f"{name}." if name else ""
                waiting += [(f"{start}{k}", m) for k, m in reversed(list(below.items())) if m is not None]
    return list(found.values())


def _eager_from_now() -> Callable[[], object]:
    """Run compiled modules without their compiled code; gives what ends that."""
    switch = torch.compiler.set_stance("force_eager")
    switch.__enter__()
    return lambda: switch.__exit__(None, None, None)


_eager = ProcessSwitch(_eager_from_now)


def _no_cudnn_from_now() -> Callable[[], object]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    return lambda: setattr(torch.backends.cudnn, "enabled", before)


_no_cudnn = ProcessSwitch(_no_cudnn_from_now)


@contextlib.contextmanager
def _switched(modules: list[nn.Module]) -> Iterator[None]:
    """Settings of the process that these modules need.

    Compiled modules run eagerly, since hooks added after compilation would not fire. Asking for this loads the
    compiler, which takes seconds; while it is not loaded, nothing can be compiled.
    """
    compiler = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    recurrent = any(isinstance(m, nn.RNNBase) and any(p.is_cuda for p in m.parameters()) for m in modules)
    with _eager.on() if compiler else _NOTHING, _no_cudnn.on() if recurrent else _NOTHING:
        yield


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def exclusive(func: Any, beside: Iterable[Any] = ()) -> Iterator[Claim]:
    """Keep other threads from a model (or a callable around one) for the length of a `with` block.

    All that explains waits for its turn here; a thread may enter again what it holds. What shares modules or weights
    with the model is kept from others as well.

    Args:
        func: an `nn.Module` or any callable.
        beside: further objects with a state that is changed meanwhile.
    """
    claim = _claim_of(func, modules_below(modules_of(func)), beside)
    with interruptible(), closed_twice(claim.release):
        claim.take()
        yield claim


def _claim_of(func: Any, modules: list[nn.Module], beside: Iterable[Any] = ()) -> Claim:
    if not modules:  # nothing is changed, but a callable may keep a state of its own
        return Claim([getattr(func, "__self__", func), *beside])
    return Claim([*modules, *(p for m in modules for p in m._parameters.values() if p is not None), *beside])


@contextlib.contextmanager
def frozen(func: Callable[..., Any], *, seed: int | None = None) -> Iterator[None]:
    """Make a model (or a callable around one) safe to explain for the length of a `with` block.

    Other threads that explain it, or what shares modules or weights with it, wait; so does an interruption (Ctrl-C)
    that would fall into the beginning or the end.

    Args:
        func: an `nn.Module` or any callable; modules are found through methods, partials and closures.
        seed: of the global generators inside the block, for models that draw random numbers: set when the first call
            is seen to draw. Outside they are as before either way.
    """
    roots = modules_of(func)
    modules = modules_below(roots)
    claim = _claim_of(func, modules)
    with (
        interruptible(),
        closed_twice(claim.release),
        torch.inference_mode(False),
        torch.enable_grad(),
        plain_run(),
        _switched(modules),
        cache_scope(roots[0] if roots else None),
    ):
        claim.take()
        kept = Kept(modules, first=claim.first)
        known: set[str] = model_cache().setdefault("draws", set())
        with entered(Block(True, seed, known, kept.rewind)), closed_twice(kept.put_back):
            kept.change()
            yield

"""What a run was made of, as JSON values that can be compared: parameters, model, data.

Two runs are the same run if these values are equal, so they hold contents and no addresses: tensors are hashed byte by
byte, functions by their code and what they enclose. `Explanation.meta["fingerprint"]` is a sum per tensor, made anew in
every call, and its last bits depend on the number of threads; this one is made once a run and does not.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.api.binding import canonical_name
from interp_plugins.core.guard import modules_of

_DEEPEST = 5


def digest(*parts: bytes) -> str:
    """A short hash of bytes."""
    made = hashlib.blake2b(digest_size=12)
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.hexdigest()


def tensor_digest(x: Tensor) -> str:
    """A hash of a tensor's type, shape and bytes, wherever it lives."""
    plain = x.detach().as_subclass(Tensor).resolve_conj().resolve_neg().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return digest(f"{plain.dtype}{tuple(plain.shape)}".encode(), raw)


def described(value: Any, depth: int = 0) -> Any:
    """A JSON value that is equal for equal things, in this process and in the next."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers, and nan is not equal to itself
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, np.generic, np.ndarray, nn.Module, type)):
        return _data(value)
    if depth > _DEEPEST:
        return _name(type(value))
    if isinstance(value, Mapping):
        return {str(k): described(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [described(v, depth + 1) for v in value]
    if isinstance(value, functools.partial):
        return {
            "partial": described(value.func, depth + 1),
            "args": described([*value.args, value.keywords], depth + 1),
        }
    if inspect.ismethod(value):
        return {"method": described(value.__func__, depth + 1), "of": described(value.__self__, depth + 1)}
    if inspect.isfunction(value):
        return _function(value, depth)
    if callable(getattr(value, "tobytes", None)):  # pictures
        return f"{_name(type(value))} {digest(value.tobytes())}"
    return _object(value, depth)


def _data(value: Tensor | np.generic | np.ndarray | nn.Module | type) -> Any:
    """Numbers by their bytes, a model by its weights, a class by its name."""
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)} {tensor_digest(value)}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        kind = f"{value.dtype}{value.shape}".encode()
        return f"array{value.shape} {digest(kind, np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, nn.Module):
        return f"{_name(type(value))} {_weights([value])}"
    return _name(value)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _object(value: Any, depth: int) -> Any:
    """Class and attributes; a model inside is named only, since it has its own fingerprint."""
    try:
        attributes = dict(vars(value))
    except TypeError:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:200]
    parts = {k: _name(type(v)) if isinstance(v, nn.Module) else described(v, depth + 1) for k, v in attributes.items()}
    return {"class": _name(type(value)), **parts} if parts else _name(type(value))


def _function(value: Callable[..., Any], depth: int) -> Any:
    enclosed = [c.cell_contents for c in value.__closure__ or ()]
    bound = [v for v in (*enclosed, *(value.__defaults__ or ())) if v is not value]
    name = f"{value.__module__}.{value.__qualname__} {_code(value.__code__)}"
    return {"function": name, "with": described(bound, depth + 1)} if bound else name


def _code(code: Any) -> str:
    constants = [_code(c) if inspect.iscode(c) else repr(c) for c in code.co_consts]
    return digest(code.co_code, repr(constants).encode(), repr(code.co_names).encode())


def model_facts(model: Any) -> dict[str, Any]:
    """Class, weights and structure of a model or of the modules behind a callable."""
    roots = [getattr(root, "_orig_mod", root) for root in modules_of(model)]  # compiled or not is the same model
    plain = getattr(model, "_orig_mod", model)
    lines = [
        f"{name} {_name(type(m))} {re.sub(r'0x[0-9a-f]+', '', m.extra_repr())}"
        for root in roots
        for name, m in root.named_modules()
    ]
    return {
        "class": _name(type(plain)) if isinstance(plain, nn.Module) else described(plain),
        "weights": _weights(roots),
        "structure": digest("\n".join(lines).encode()),
    }


def _weights(roots: Sequence[nn.Module]) -> str:
    named = [(n, t) for root in roots for n, t in (*root.named_parameters(), *root.named_buffers())]
    return digest(*(f"{n} {tensor_digest(t)}".encode() for n, t in named))


def method_facts(methods: Any) -> Any:
    """The methods asked for, under their registered names, with the parameters that were given to each."""
    if isinstance(methods, Mapping):
        return [{"method": _method(k), **({"params": described(v)} if v else {})} for k, v in methods.items()]
    many = [methods] if isinstance(methods, str) or hasattr(methods, "attribute") else list(methods)
    return [{"method": _method(m)} for m in many]


def _method(method: Any) -> Any:
    return canonical_name(method, default=method) if isinstance(method, str) else described(method)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON values under dotted keys."""
    inner: dict[str, Any] = {}
    if isinstance(value, Mapping):
        inner = {f"{prefix}.{key}" if prefix else str(key): part for key, part in value.items()}
    elif isinstance(value, list):
        inner = {f"{prefix}[{i}]": part for i, part in enumerate(value)}
    if inner:
        return {k: v for name, part in inner.items() for k, v in flat(part, name).items()}
    return {prefix: value}

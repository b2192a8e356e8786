"""Which model it was that explained: its class, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.core.guard import modules_of, named_below


def model_facts(model: Any) -> dict[str, Any]:
    """Class name and a fingerprint of the weights (names, shapes, sums of their bits), to tell two models apart."""
    digest = hashlib.blake2b(digest_size=8)
    for root in modules_of(model):
        for name, t in _tensors(root):
            digest.update(f"{name}{tuple(t.shape)}{t.dtype}{_bit_sum(t)}".encode())
    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", type(model).__name__)
    return {"model": name, "fingerprint": digest.hexdigest()}


def _tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`named_parameters`, then `named_buffers`, of one walk."""
    cls = type(root)
    if cls.named_parameters is not nn.Module.named_parameters or cls.named_buffers is not nn.Module.named_buffers:
        yield from (*root.named_parameters(), *root.named_buffers())
        return
    modules = named_below(root)
    for held in ("_parameters", "_buffers"):
        seen: dict[int, Tensor] = {}  # holds them, so that no identity comes twice
        for start, module in modules:
            for name, t in getattr(module, held).items():
                if t is not None and id(t) not in seen:
                    seen[id(t)] = t
                    yield f"{start}.{name}" if start else name, t


def _bit_sum(t: Tensor) -> int:
    """The sum of a tensor's bits read as integers: the same in any order of adding, so with any number of threads."""
    t = t.detach()
    if t.dtype in _OF_NUMPY and t.is_cpu and t.layout is torch.strided and t.nbytes % 8 == 0 and t.is_contiguous():
        return int(np.add.reduce(t.numpy().reshape(-1).view(np.int64)))  # the same sum, in half the time
    if t.layout is not torch.strided:
        t = t.to_dense()
    t = t.int_repr() if t.is_quantized else t
    flat = t.resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0:  # mostly so, and read as it lies
        return int(flat.view(torch.int64).sum())
    flat = flat.view(torch.uint8)
    flat = flat.clone() if flat.storage_offset() % 8 else flat  # as eight bytes at a time they can be read from there
    whole = len(flat) // 8 * 8
    return int(flat[:whole].view(torch.int64).sum()) + int(flat[whole:].sum())


_OF_NUMPY = frozenset((torch.float32, torch.float64, torch.float16, torch.int64, torch.int32))

"""Which model it was that explained: its class, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.core.guard import modules_of


def model_facts(model: Any) -> dict[str, Any]:
    """Class name and a fingerprint of the weights (names, shapes, sums of their bits), to tell two models apart."""
    digest = hashlib.blake2b(digest_size=8)
    for root in modules_of(model):
        for name, t in (*root.named_parameters(), *root.named_buffers()):
            digest.update(f"{name}{tuple(t.shape)}{t.dtype}{_bit_sum(t)}".encode())
    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", type(model).__name__)
    return {"model": name, "fingerprint": digest.hexdigest()}


def _bit_sum(t: Tensor) -> int:
    """The sum of a tensor's bits read as integers: the same in any order of adding, so with any number of threads."""
    t = t.detach()
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

"""What a metric cannot say of a sample: NaN, with the reason beside it, never a zero or a hit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import torch
from torch import Tensor

from interp_plugins.core.tensors import all_finite

_listening: ContextVar[dict[int, str] | None] = ContextVar("interp_plugins_undefined", default=None)

NOT_FINITE = "the map holds NaN or infinity"


@contextlib.contextmanager
def collect_reasons() -> Iterator[dict[int, str]]:
    """Collect the reasons that metrics called inside give, by the sample's number in the batch; the first counts."""
    reasons: dict[int, str] = {}
    token = _listening.set(reasons)
    try:
        yield reasons
    finally:
        _listening.reset(token)


def defined(values: Tensor, rows: Tensor | None, reasons: Mapping[str, Tensor] | None = None) -> Tensor:
    """Values (N,) as float64 on the CPU, NaN where the sample has a reason to have none.

    Args:
        values: one number per sample.
        rows: the maps as rows (N, D): what is not finite there has no value; None: whatever they hold.
        reasons: text -> bool (N,), where it holds.
    """
    found = values.detach().cpu().double()
    why = dict(reasons or {})
    if rows is not None and not all_finite(rows):
        why = {NOT_FINITE: ~rows.isfinite().all(1), **why}
    reported = _listening.get()
    for text, where in why.items():
        where = where.cpu()
        if not bool(where.any()):
            continue
        found = torch.where(where, torch.nan, found)
        if reported is not None:
            for i in where.nonzero().flatten().tolist():
                reported.setdefault(i, text)
    return found

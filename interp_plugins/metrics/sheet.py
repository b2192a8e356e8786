"""What the model was asked already: the scope in which metrics and methods share rows, and its sheets of scores.

Many rows do not follow the map: random subsets, single removals, perturbations, the sample itself and the baseline
alone. Inside `shared_rows` each goes through the model once, for whoever asks first; the others get the same number, so
that methods are compared on the same draws. A row is known by what it holds: rows that follow a map are shared as well
where they agree, as those of `srg` and `pixel_flipping` of one map do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from interp_plugins.core.target import Target, Whole

MOST = 2**27  # bytes of draws that a sheet keeps, so that the next method need not make them again


@dataclass
class Sheet:
    """Scores of one batch, one model, one target.

    Attributes:
        scores: what a row holds -> its score.
        kept: draws that were made for these samples.
        held: what the sheet's key names by identity, kept alive.
    """

    scores: dict[Hashable, float] = field(default_factory=dict)
    kept: dict[Hashable, Tensor] = field(default_factory=dict)
    held: Any = None

    def drawn(self, key: Hashable, size: int, make: Callable[[], Tensor]) -> Tensor | None:
        """A tensor of draws of `size` bytes, made once; None where it is too large to be kept."""
        if key not in self.kept:
            if sum(t.nbytes for t in self.kept.values()) + size > MOST:
                return None
            self.kept[key] = make()
        return self.kept[key]


class SharedRows:
    """What is shared inside one `shared_rows`.

    Attributes:
        dry_run: no row is asked, and all that is only counted; values mean nothing.
        rows: rows asked so far, or that would have been.
    """

    def __init__(self, dry_run: bool = False):
        self.dry_run, self.rows = dry_run, 0
        self._sheets: dict[Hashable, Sheet] = {}

    def sheet(self, key: Hashable, held: Any) -> Sheet:
        """The sheet of a problem; a new one where nobody asked before."""
        return self._sheets.setdefault(key, Sheet(held=held))


_scope: ContextVar[SharedRows | None] = ContextVar("interp_plugins_shared_rows", default=None)


def scope() -> SharedRows | None:
    """The scope that is open, if one is."""
    return _scope.get()


@contextlib.contextmanager
def shared_rows(*, dry_run: bool = False) -> Iterator[SharedRows]:
    """Let all metrics called inside ask the model once for each row.

    A scope keeps a number per row and some draws, so open one per batch. One inside another is part of it.

    Args:
        dry_run: count rows and ask nothing; the values that metrics return mean nothing then. Metrics that explain
            anew are not part of this.

    Example:
        with shared_rows() as shared:
            first = faithfulness_correlation(model, exp, n_subsets=20)
            again = faithfulness_correlation(model, exp, n_subsets=20)  # asks nothing
        shared.rows  # -> 42
    """
    outer = _scope.get()
    if outer is not None:
        yield outer
        return
    found = SharedRows(dry_run)
    token = _scope.set(found)
    try:
        yield found
    finally:
        _scope.reset(token)


def problem_key(func: Any, tensors: Any, target: Target, given: Any, arguments: Any, seed: int) -> Hashable:
    """What makes two problems one: the model, the samples, baselines, target and arguments, by what they hold.

    Args:
        func: the model, by identity.
        tensors: samples and baselines.
        target: what of the output is the score.
        given: the target as the caller gave it, by identity where it is no index.
        arguments: what else the model takes.
        seed: of models that draw random numbers.
    """
    n = tensors[0].shape[0]
    indices = target.indices_of_rows(n)
    what: Hashable = repr(indices) if indices is not None else "whole" if type(target) is Whole else id(given)
    return (id(func), digest((tensors, arguments)), what, seed)


def digest(tree: Any) -> str:
    """A text that two nested containers share where their tensors hold the same, and all else is the same object."""
    found = hashlib.blake2b(digest_size=16)
    leaves, layout = pytree.tree_flatten(tree)
    found.update(repr(layout).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            found.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            if leaf.numel():
                found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            plain = isinstance(leaf, (bool, int, float, complex, str, bytes, type(None)))
            found.update(repr(leaf).encode() if plain else str(id(leaf)).encode())
    return found.hexdigest()

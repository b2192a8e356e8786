"""Cutting long work into chunks: an automatic size, halved when memory runs out, with a progress bar for long work."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from interp_plugins.core.caches import call_cache, model_cache
from interp_plugins.core.cancel import check_cancelled
from interp_plugins.core.errors import InputError, InterpError, InterpWarning, OutOfMemoryError
from interp_plugins.core.guard import modules_of
from interp_plugins.core.progress import progress_bar as progress_bar

T = TypeVar("T")

_CPU_ELEMENTS = 7 * 3 * 224 * 224  # some ImageNet pictures: larger chunks are memory-bound on CPUs
_CPU_TOKENS = 2  # times as many where a picture becomes tokens: products of matrices gain from rows, maps do not
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
_LAYERS = 8  # of a network of any size, one of which may be a convolution
_CPU_WHOLE = 8 * 3 * 224 * 224  # of samples that are not cut
_MAX_ROWS = 1024
_GPU_ELEMENTS = 512 * 3 * 224 * 224
_GPU_MAX_ROWS = 2**15
_GPU_SHARE = 0.2  # of the device's memory, for a chunk
_HELD = 100  # values that a network keeps for a backward pass, for each value of its input (resnet34: 100)
_OF_MODELS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError)  # what models say of a wrong size
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory")


class AutoSize(int):
    """A chunk size chosen here, and what it was chosen for, so that a size that did not fit is not tried again.

    Attributes:
        shapes: of a row, with types and device.
        own: the batch's own number of rows.
        limited: whether larger ones did not run before.
    """

    shapes: tuple[Any, ...]
    own: int
    limited: bool

    def at_least(self, least: int) -> AutoSize:
        """A size of so many rows where this is smaller, unless more did not run before."""
        if self >= least or self.limited:
            return self
        more = AutoSize(least)
        more.shapes, more.own, more.limited = self.shapes, self.own, False
        return more


class _Automatic(int):
    """One, where nobody said one."""

    def __reduce__(self) -> str:
        return "AUTOMATIC"  # a copy is the same object


AUTOMATIC = _Automatic(1)
"""The default of `perturbations_per_eval`: Captum's 1, told by `is` from a 1 that the user says."""


def auto_chunk(row: list[Tensor], func: Any = None) -> AutoSize:
    """Rows per forward pass, from the elements of one row of the inputs, the device and the model called, if given.

    On a GPU the device's whole memory counts, not what is free of it now, so that results can be repeated. A size that
    ran out of memory before, for the same model and shapes, stays small.
    """
    elements, device = max(1, sum(t.numel() // t.shape[0] for t in row)), row[0].device
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        fits = int(_GPU_SHARE * total) // (_HELD * sum(t.nbytes // t.shape[0] for t in row) or 1)
        rows = min(_GPU_MAX_ROWS, _GPU_ELEMENTS // elements, fits)
    else:
        most = _CPU_TOKENS * _CPU_ELEMENTS if makes_tokens(func, row) else _CPU_ELEMENTS
        rows = min(_MAX_ROWS, most // max(elements, sum(map(_as_of_colours, row))))
    shapes = tuple((t.shape[1:], t.dtype, device.type) for t in row)
    known: int | None = model_cache().get(("fits", shapes))
    size = AutoSize(max(1, rows if known is None else min(rows, known)))
    size.shapes, size.own, size.limited = shapes, row[0].shape[0], known is not None
    return size


def _as_of_colours(t: Tensor) -> int:
    """Elements of a row; a picture of one channel counts as one of three, as networks make as much of it."""
    elements = max(1, t.numel() // t.shape[0])
    return elements * 3 // t.shape[1] if t.ndim == 4 and 0 < t.shape[1] < 3 else elements


def makes_tokens(func: Any, row: Sequence[Tensor]) -> bool:
    """Whether a model makes tokens of a picture, as transformers do: nearly all of its layers are linear ones."""
    if func is None or row[0].ndim != 4:
        return False
    kinds = [isinstance(m, nn.Linear) for root in modules_of(func) for m in root.modules() if isinstance(m, _WEIGHTED)]
    return len(kinds) >= _LAYERS and kinds.count(False) <= len(kinds) // _LAYERS


def samples_chunk(inputs: Sequence[Tensor]) -> int:
    """Rows per pass on the samples themselves: as `auto_chunk` says, but batches of up to 64 are not cut.

    On CPUs they are where 64 hold more than eight pictures of 224 x 224 do: such passes wait for the memory, and take
    much of it.
    """
    n = inputs[0].shape[0]
    return 1 if n == 1 else max(auto_chunk(list(inputs)), uncut(inputs))


def uncut(inputs: Sequence[Tensor]) -> int:
    """How many of the samples a pass takes at least, if memory allows."""
    n = inputs[0].shape[0]
    if inputs[0].device.type != "cpu":
        return min(n, 64)
    return min(n, 64, max(8, _CPU_WHOLE * n // max(1, sum(t.numel() for t in inputs))))


def check_chunk(name: str, size: Any) -> int | None:
    """A chunk size given by the user: None or a positive int."""
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{name} must be a positive int or None (automatic), got {size!r}.")
    return size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in _CPU_MESSAGES)


def chunks(
    total: int, size: int, work: Callable[[int, int], T], *, step: int = 1, bar: Any = None
) -> Iterator[tuple[int, int, T]]:
    """Yield (start, stop, work(start, stop)) over range(total); the size is halved when memory runs out.

    Where the model raises another error for a size that was chosen here, the batch's own number of rows is tried, then
    one row; what works is remembered for the model, and a warning says so. If nothing does, the first error is raised.

    Args:
        total: number of rows.
        size: rows per call at the start.
        work: does the rows [start, stop) and returns their result. Called again with fewer rows after running out of
            memory, so it must have no effect before it returns.
        step: chunks are multiples of this many rows where possible (whole batches).
        bar: progress bar with `update(n)`.

    Raises:
        OutOfMemoryError: not even a single row fits.
    """
    fewer = _Fewer(size)
    size = max(1, min(size, total))
    start = 0
    while start < total:
        if size > step:
            size -= size % step
        stop = min(total, start + size)
        check_cancelled()
        try:
            result = work(start, stop)
        except Exception as error:
            size = fewer.after(error, stop - start)
            if is_out_of_memory(error):
                error.__traceback__ = None  # the failed frames hold the tensors that have to go
                del error
                _make_room()
            continue
        fewer.worked(size)
        yield start, stop, result
        if bar is not None:
            bar.update(stop - start)
        start = stop


def _make_room() -> None:
    """Free what only the collector finds. It walks every object of the process: for want of memory only."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _Fewer:
    """How many rows are tried after an error.

    Args:
        size: rows per call at the start; one that was chosen here knows the batch's own number.
    """

    def __init__(self, size: int):
        self._shapes, self._own = getattr(size, "shapes", None), getattr(size, "own", None)
        self._first: Exception | None = None

    def after(self, error: Exception, rows: int) -> int:
        """Rows to try next, after an error with so many; raises what is to be raised where none are left."""
        if is_out_of_memory(error):
            if rows == 1:
                raise OutOfMemoryError(
                    f"Out of memory with a single example per forward pass ({error}). Use a smaller input, a "
                    "device with more memory, or a method without gradients (occlusion)."
                ) from error
            size = max(1, rows // 2)
            call_cache()["most", "rows"] = size
            self._remember(size)
            return size
        if self._own is None or rows == 1 or not isinstance(error, _OF_MODELS) or isinstance(error, InterpError):
            raise self._first or error
        self._first = self._first or error
        return self._own if rows > self._own else 1

    def worked(self, size: int) -> None:
        """Say, after an error, that so many rows work, and remember it."""
        if self._first is None:
            return
        said = f"{type(self._first).__name__}: {self._first}".split("\n")[0][:100]
        self._remember(size)
        self._first = None
        more, now = ("one", "one row goes") if size == 1 else (f"the batch has ({size})", f"{size} rows go")
        warnings.warn(
            f"The model raised an error for more rows than {more} in a pass ({said}): {now} through per pass. "
            "batch_size= chooses otherwise.",
            InterpWarning,
            stacklevel=4,
        )

    def _remember(self, size: int) -> None:
        if self._shapes is not None:
            model_cache()["fits", self._shapes] = size


def most_rows() -> int | None:
    """The rows per call that were left when memory ran out, while the model is frozen; None if it never did."""
    return call_cache().get(("most", "rows"))

"""The states of the global generators (random, NumPy, torch, CUDA, MPS): read fast, compared, put back."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import torch

_WORDS = 625 * 4  # bytes: 624 words and a position


def _bits_of_python() -> int | None:
    """Where the words of Python's own Mersenne twister lie, if they lie where they did in every CPython so far."""
    one: Any = random.Random(0)
    shift = object.__basicsize__
    if type(one).__basicsize__ < shift + _WORDS:
        return None
    words = np.frombuffer(ctypes.string_at(id(one) + shift, _WORDS), np.uint32).tolist()
    return shift if (*words[1:], words[0]) == one.getstate()[1] else None


_SHIFT = _bits_of_python()
_PYTHON: Any = getattr(random, "_inst", None)


def _python_state() -> Any:
    """Python's state in a form that compares fast: asking for the state takes as long as a small network's layer."""
    if _SHIFT is None or _PYTHON is None:
        return random.getstate()
    return ctypes.string_at(id(_PYTHON) + _SHIFT, _WORDS), _PYTHON.gauss_next


def _put_python_back(state: Any) -> None:
    if isinstance(state[0], bytes):
        words = np.frombuffer(state[0], np.uint32).tolist()
        state = (random.Random.VERSION, (*words[1:], words[0]), state[1])
    random.setstate(state)


def _numpy_bits() -> bytes | None:
    """The bits of NumPy's global Mersenne twister (624 words and a position); None where it is another generator."""
    bits = np.random.get_bit_generator()  # type: ignore[attr-defined] # NumPy's stub leaves it out
    return ctypes.string_at(bits.ctypes.state_address, _WORDS) if isinstance(bits, np.random.MT19937) else None


_last: tuple[bytes | None, Any] = (None, None)


def _numpy_state() -> tuple[bytes | None, Any]:
    """The state of NumPy's global generator, and its bits where they tell whether it was drawn from.

    They do unless a normal number lies ready (each second call takes the one that the first has left over). Asking for
    the state takes as long as a small network's forward pass: where the bits are those of last time, so is the state.
    """
    global _last
    bits, last = _numpy_bits(), _last
    if bits is not None and bits == last[0]:
        return last
    state: Any = np.random.get_state()
    sure = bits is not None and bits == _numpy_bits() and not state[3]  # another thread may have drawn in between
    last = (bits if sure else None, state)
    _last = last
    return last


class States:
    """What the global generators will draw next."""

    __slots__ = ("_cuda", "_mps", "_numpy", "_python", "_torch", "_torch_bits")

    def __init__(self) -> None:
        self._python, self._numpy = _python_state(), _numpy_state()
        self._torch = torch.get_rng_state()
        self._torch_bits = self._torch.numpy().tobytes()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def moved(self) -> set[str]:
        """The generators that would now draw something else."""
        found = set()
        if self._python != _python_state():
            found.add("random")
        if self._numpy[0] is None or self._numpy[0] != _numpy_bits():
            now = _numpy_state()
            if self._numpy[0] is not None or not _same_state(self._numpy[1], now[1]):
                found.add("numpy")
        if self._torch_bits != torch.get_rng_state().numpy().tobytes():
            found.add("torch")
        if self._cuda is not None:
            now_cuda = torch.cuda.get_rng_state_all()
            if any(not torch.equal(a, b) for a, b in zip(self._cuda, now_cuda, strict=True)):
                found.add("cuda")
        if self._mps is not None and not torch.equal(self._mps, torch.mps.get_rng_state()):
            found.add("mps")
        return found

    def put_back(self, names: set[str]) -> None:
        """Let some generators draw again what they would have drawn."""
        if "random" in names:
            _put_python_back(self._python)
        if "numpy" in names:
            np.random.set_state(self._numpy[1])
        if "torch" in names:
            torch.set_rng_state(self._torch)
        if "cuda" in names and self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if "mps" in names and self._mps is not None:
            torch.mps.set_rng_state(self._mps)

    def facts(self) -> tuple[Any, ...]:
        """The states of all generators, in a form that can be compared."""
        numpy = self._numpy[0] or repr(self._numpy[1])
        cuda = tuple(t.numpy().tobytes() for t in self._cuda or ())
        return self._python, numpy, self._torch_bits, cuda


def _same_state(a: Any, b: Any) -> bool:
    return isinstance(a, tuple) and isinstance(b, tuple) and a[2:] == b[2:] and bool(np.array_equal(a[1], b[1]))


def rng_state() -> tuple[Any, ...]:
    """What the global generators will draw next, for comparing: equal where nothing was drawn in between."""
    return States().facts()

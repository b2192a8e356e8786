"""Bad calls are refused by an error of ours that says what came, and never answered: doors x arguments x bad values."""

from __future__ import annotations

from collections import Counter

import pytest

from interp_plugins.core.errors import InterpError
from tests.reliability.bad_calls import BadCall, answer, table
from tests.thorough import THOROUGH

TABLE = table()
SAMPLE = (
    TABLE if THOROUGH else [bad for i, bad in enumerate(TABLE) if bad.door in ("explain", "Explanation") or i % 3 == 0]
)


@pytest.mark.parametrize("door", list(dict.fromkeys(bad.door for bad in TABLE)))
def test_bad_calls_are_refused(door: str) -> None:
    wrong: list[str] = []
    for bad in SAMPLE:
        if bad.door == door:
            kind, said = answer(bad)
            if kind != "ours" or len(said) < 20:
                wrong.append(f"{kind}: {bad.name}: {said}")
    assert not wrong, "\n".join(wrong)


def test_the_table_is_large_and_covers_the_doors() -> None:
    counts = Counter(bad.door for bad in TABLE)
    assert len(TABLE) >= 800 and counts["explain"] >= 150 and len(counts) >= 30


def test_an_answer_is_told_apart() -> None:
    def ours() -> None:
        raise InterpError("what came, and what was expected")

    calls = {"ours": ours, "foreign": lambda: 1 / 0, "silent": lambda: None}
    assert {kind: answer(BadCall("", "", None, call))[0] for kind, call in calls.items()} == {k: k for k in calls}

"""A unit is written while the next is explained: in order, one at a time, and finished whatever happens."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins.store import ExplanationStore, explain_dataset, table_parts
from interp_plugins.store.behind import Behind


def test_what_is_handed_over_is_done_in_order_one_at_a_time_in_a_thread() -> None:
    seen: list[int] = []
    told: list[tuple[int, int]] = []
    at_once = []

    def work(one: int) -> int:
        at_once.append(one)
        time.sleep(0.002)
        seen.append(one)
        assert len(at_once) == len(seen) and threading.current_thread() is not threading.main_thread()
        return one * one

    with Behind(work, lambda one, made: told.append((one, made))) as writer:
        for one in range(5):
            writer.hand(one)
            assert len(seen) >= one  # all before the last one
    assert seen == list(range(5)) and told == [(one, one * one) for one in range(5)]
    assert not [t for t in threading.enumerate() if t.name.startswith("interp-plugins-behind")]


@pytest.mark.parametrize("where", ["look", "hand", "end"])
def test_what_goes_wrong_behind_is_raised_and_nothing_is_done_after_it(where: str) -> None:
    seen: list[int] = []

    def work(one: int) -> None:
        seen.append(one)
        raise OSError("no room")

    def fails() -> None:
        with Behind(work, lambda *_: None) as writer:
            writer.hand(0)
            last = time.monotonic() + 20
            while where == "look" and time.monotonic() < last:
                writer.look()
            if where == "hand":
                writer.hand(1)

    with pytest.raises(OSError, match="no room"):
        fails()
    assert seen == [0]


def data(before: Any) -> Any:
    class Rows(torch.utils.data.Dataset[Any]):
        x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))

        def __len__(self) -> int:
            return 12

        def __getitem__(self, i: int) -> Any:
            before(i)
            return self.x[i], i % 3

    return Rows()


def go(path: Path, before: Any = lambda i: None) -> ExplanationStore:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return explain_dataset(net, data(before), path, "saliency", target="label", unit_size=4, progress=False)


def slowed(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> list[int]:
    """Commits wait for an event; the units that were committed."""
    real, units = table_parts.commit, list[int]()

    def commit(path: Path, unit: int, *rest: Any) -> bool:
        assert until.wait(20)
        units.append(unit)
        return real(path, unit, *rest)

    monkeypatch.setattr(table_parts, "commit", commit)
    return units


def test_a_unit_is_read_while_the_one_before_is_written(run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    units = slowed(monkeypatch, written)

    def before(i: int) -> None:
        if i == 7 and (run_path / "arrays").exists():
            assert units == []  # unit 0 is not done yet, and unit 1 is read
            written.set()

    store = go(run_path, before)
    assert written.is_set() and units == [0, 1, 2] and store.complete


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_loses_nothing_that_was_handed_over(
    run_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    written = threading.Event()
    units = slowed(monkeypatch, written)

    def before(i: int) -> None:
        if i == 5 and (run_path / "arrays").exists():
            threading.Timer(0.05, written.set).start()
            raise error

    with pytest.raises(error):
        go(run_path, before)
    assert units == [0] and ExplanationStore(run_path).missing == [1, 2]
    monkeypatch.undo()
    store = go(run_path)
    assert store.complete and not [name for name in os.listdir(run_path) if name.startswith(".")]

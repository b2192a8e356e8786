"""A session for code to run in: its own directory, one thread, and nothing left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.words.prepared import AREAS, run


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """`session(area, *pieces)` runs pieces of code, one after the other, on the names of an area (`prepared.AREAS`)."""
    import matplotlib.pyplot as plt

    from interp_plugins.insights import server

    running = []

    class Watched(server.Server):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            running.append(self)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "Server", Watched)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def play(area: str, *pieces: str, **more: Any) -> dict[str, Any]:
        names = {**AREAS[area](tmp_path), **more}
        for number, code in enumerate(pieces):
            run(code, names, f"{area}, piece {number}")
        return names

    yield play
    for one in running:
        one.stop()
    plt.close("all")
    torch.set_num_threads(threads)

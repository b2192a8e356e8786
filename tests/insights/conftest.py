"""Sessions, and messages to them; the browser to look at them with is in `tests/conftest.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Session
from tests.insights.nets import CLASSES, Squares, squares


@pytest.fixture
def new_session() -> Iterator[Callable[..., Session]]:
    made = []

    def build(n: int = 6, model: Any = None, **kwargs: Any) -> Session:
        known: dict[str, Any] = {
            "labels": [i % 3 if i != 1 else 0 for i in range(n)],
            "names": [f"picture {i}" for i in range(n)],
            "input_spec": InputSpec(kind="image", vocab=CLASSES),
        }
        made.append(Session(model or Squares(), squares(n), **{**known, **kwargs}))
        return made[-1]

    yield build
    for session in made:
        session.close()


@pytest.fixture
def talk() -> Callable[..., list[dict[str, Any]]]:
    """Send one message and wait for its last answer; all answers in order."""

    def exchange(session: Session, **message: Any) -> list[dict[str, Any]]:
        import queue

        box: queue.Queue[dict[str, Any]] = queue.Queue()
        session.receive({"id": 1, **message}, box.put)
        answers = [box.get(timeout=60)]
        while answers[-1]["type"] == "progress":
            answers.append(box.get(timeout=60))
        return answers

    return exchange

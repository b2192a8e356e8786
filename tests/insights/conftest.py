"""Sessions, and a browser to look at them with."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; `make test` installs it."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "No Chromium found. Install it (apt-get install chromium), or run the tests through `make test`."
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*quiet, "--disable-component-update"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A new page; anything that it reports as an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda err: errors.append(str(err)))
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    yield opened
    context.close()
    assert not errors, errors

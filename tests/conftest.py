"""What every test runs under: two threads, no screen, no network, one seed, plans for tiny nets; and the one browser.

With INTERP_PLUGINS_KERNELS=off in the environment the kernels that stand on private operators of torch are refused, as
they are where a build of torch has not these operators.
"""

import gc
import logging
import os
import shutil
import threading

os.environ["MPLBACKEND"] = "Agg"
# A model that is asked for by name must come from a package, never from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from interp_plugins.engine.kernels.guest import GUESTS
from interp_plugins.engine.plan import planned

# What is tested of accelerations is that they are exact: tiny nets show it as well as those that gain.
planned.MIN_ELEMENTS = 0
if os.environ.get("INTERP_PLUGINS_KERNELS") == "off":
    for guest in GUESTS:
        guest.refuse("refused by the tests")

# Small tensors: more threads than this only fight over the cores.
torch.set_num_threads(2)

# `torch.manual_seed` notes for CUDA, XPU and MTIA what they are to begin with, each time with the stack of calls as
# text: a millisecond and more, tens of thousands of times. Where none of them can ever begin, nothing is noted.
absent: list[Any] = [] if torch.accelerator.is_available() else [torch.cuda, torch.xpu, torch.mtia]
for devices in absent:
    devices.manual_seed_all = lambda seed: None

# pytest's own capture of logs, which no test asks for, would go to every logger of every library six times a test: it
# is off (pyproject.toml). As with it, what is logged does not go to stderr.
logging.getLogger().addHandler(logging.NullHandler())

# What is imported for the tests stays, so nothing of it is looked through while it comes.
gc.disable()


def pytest_collection_finish() -> None:
    """Tests and modules are no garbage: the collector, which tests of leaks call, passes them by."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """What is frozen when Python ends is told as leaked by libraries that count."""
    gc.unfreeze()


def _encodable(found: Any) -> Any:
    """The same with lone surrogates written as escapes."""
    if isinstance(found, str):
        return found.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(found, dict):
        return {key: _encodable(value) for key, value in found.items()}
    return type(found)(map(_encodable, found)) if type(found) in (list, tuple) else found


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[Any]:
    """A test of broken text fails with broken text; pytest-xdist cannot send it, and would end without saying why."""
    return _encodable((yield))


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """A net made without a seed of its own is the same in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture
def another_thread() -> Iterator[None]:
    """A thread that lives beside the test, as every notebook has some: generators are then put back with more care."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    yield
    ended.set()
    thread.join()


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


# Controls are folded away where nobody asks for them; the tests ask for all.
OPEN_FOLDS = """
const open = (fold) => { fold.open = true; fold.dataset.asked = ""; };
const look = () => document.querySelectorAll("details.fold:not([data-asked])").forEach(open);
new MutationObserver(look).observe(document, { childList: true, subtree: true });
"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A new page; anything that it reports as an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    opened = context.new_page()
    opened.add_init_script(OPEN_FOLDS)
    errors: list[str] = []
    opened.on("pageerror", lambda err: errors.append(str(err)))
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    yield opened
    context.close()
    assert not errors, errors

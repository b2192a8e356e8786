"""What every test runs under: two threads, no screen, no network, one seed, plans for tiny nets; and the one browser.

With INTERP_PLUGINS_KERNELS=off in the environment the kernels that stand on private operators of torch are refused, as
they are where a build of torch has not these operators.
"""

import os
import shutil

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


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """A net made without a seed of its own is the same in whatever order the tests run."""
    torch.manual_seed(0)


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

"""The widget in JupyterLab, in Chromium: a cell shows the viewer, a click is answered by the kernel's model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

CELL = """
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Session, widget
from tests.insights.nets import CLASSES, Squares, squares

widget(Session(Squares(), squares(3), labels=[0, 1, 0], input_spec=InputSpec(kind="image", vocab=CLASSES)))
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab over a folder with one notebook."""
    import nbformat

    cell = nbformat.v4.new_code_cell(CELL)
    spec = {"name": "here", "display_name": "here", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": spec})
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "look.ipynb")
    kernel = tmp_path / "data" / "kernels" / "here"  # a kernel of this interpreter, whatever is installed elsewhere
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, **spec}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, root = secrets.token_hex(8), str(Path(__file__).resolve().parents[2])
    folders = {"JUPYTER_DATA_DIR": "data", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "run", "HOME": "home"}
    env = {**os.environ, "PYTHONPATH": root, **{name: str(tmp_path / part) for name, part in folders.items()}}
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    quiet = ["--no-browser", "--allow-root", "--LabApp.news_url=None", "--ServerApp.log_level=ERROR"]
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", *options, *quiet]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(command, cwd=tmp_path / "work", env=env, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, tmp_path / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/look.ipynb?token={token}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer:\n{log.read_text()}")


def _run_first_cell(page: Any) -> None:
    """Run it as soon as JupyterLab listens: what is typed before that is lost without a word."""
    cell = page.locator(".jp-Notebook .jp-Cell").first
    for _ in range(20):
        cell.click()
        page.keyboard.press("Shift+Enter")
        with contextlib.suppress(AssertionError):
            expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[(\*|\d+)\]"), timeout=3_000)
            return
    pytest.fail("JupyterLab did not run the cell.")


@pytest.mark.slow
def test_a_cell_shows_the_viewer_and_the_kernel_answers(lab: str, browser) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(60_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda err: errors.append(str(err)))
    page.goto(lab)
    _run_first_cell(page)
    viewer = page.locator(".jp-OutputArea .insights")
    expect(viewer.locator(".card")).to_have_count(3, timeout=90_000)
    viewer.get_by_label("Method", exact=True).select_option("saliency")
    viewer.get_by_text("Explain this page").click()
    expect(viewer.locator("canvas")).to_have_count(3)
    assert viewer.locator("canvas").first.evaluate("el => el.getContext('2d').getImageData(5, 5, 1, 1).data[3]") == 255
    viewer.get_by_role("button", name=re.compile("^green")).nth(1).click()
    expect(viewer.locator("canvas")).to_have_count(4)
    context.close()
    assert not [err for err in errors if "insights" in err.lower()], errors

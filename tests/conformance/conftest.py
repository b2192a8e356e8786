"""Tiny nets run on one thread; most have no ReLU, which guided backpropagation and deconvolution say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.threads import one_thread  # noqa: F401 - a fixture that uses itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.* met no rectifier"))

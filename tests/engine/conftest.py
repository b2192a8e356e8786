"""Tiny nets run on one thread, and rows are counted without those of the row probe."""

from collections.abc import Iterator

import pytest

from interp_plugins import row_probe
from tests.conformance.threads import one_thread  # noqa: F401 - a fixture that uses itself


@pytest.fixture(autouse=True)
def _unprobed() -> Iterator[None]:
    with row_probe(False):
        yield

"""How often a repeated trial runs, and what runs in `make test-all` alone: a sample of its kind is in `make test`."""

import os

import pytest

THOROUGH = os.environ.get("INTERP_PLUGINS_THOROUGH", "") not in ("", "0")
thorough = pytest.mark.skipif(not THOROUGH, reason="takes long, and others of its kind run here: make test-all runs it")


def times(small: int, full: int) -> int:
    """The number of repetitions: `small` in the suite, `full` where INTERP_PLUGINS_THOROUGH is set."""
    return full if THOROUGH else small

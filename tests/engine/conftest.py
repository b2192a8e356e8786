"""Tiny nets run on one thread."""

from tests.conformance.threads import one_thread  # noqa: F401 - a fixture that uses itself

"""The viewer's sessions are those of `tests/insights`."""

from tests.insights.conftest import new_session

__all__ = ["new_session"]

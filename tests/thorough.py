"""How often a repeated trial runs: a sample of it in `make test`, the size it was found with in `make test-all`."""

import os

THOROUGH = os.environ.get("INTERP_PLUGINS_THOROUGH", "") not in ("", "0")


def times(small: int, full: int) -> int:
    """The number of repetitions: `small` in the suite, `full` where INTERP_PLUGINS_THOROUGH is set."""
    return full if THOROUGH else small

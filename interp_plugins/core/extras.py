"""Packages that come with an extra: asked for at a room's door, so that what is missing is said with how to get it."""

from __future__ import annotations

import importlib.util


def require(what: str, extra: str, *packages: str) -> None:
    """Refuse a door whose packages are not installed.

    Args:
        what: the door, "interp_plugins.fastai" say.
        extra: the extra of this package that brings them.
        *packages: names to import, without dots.

    Raises:
        ImportError: one is missing, with the line that installs it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed: pip install 'interp-plugins[{extra}]'.",
            name=missing[0],
        )

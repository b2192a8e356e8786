"""What commands have in common: lines for the terminal, tables, how they end where refused or stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from interp_plugins.core.errors import InterpError
from interp_plugins.core.text import legible


def say(text: str, err: bool = False) -> None:
    """A line for the terminal, which takes nothing but Unicode."""
    typer.echo(legible(text), err=err)


def print_table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table for the terminal, 140 characters wide where it goes elsewhere."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)


class Work:
    """What a command has written so far, so that it can be said where somebody stops it.

    Args:
        kept: what stays of work that is not finished, in a sentence; "" where nothing does.
    """

    def __init__(self, kept: str = ""):
        self.files: list[str] = []
        self.kept = kept

    def wrote(self, path: Any) -> None:
        """Say that a file is written, whole."""
        self.files.append(str(path))
        say(str(path))

    def stopped(self) -> str:
        """What is there when Ctrl-C comes."""
        done = f"Written so far: {', '.join(self.files)}." if self.files else "Nothing of it was finished."
        return " ".join(filter(None, ("Stopped by Ctrl-C.", self.kept or done)))


@contextlib.contextmanager
def refusing(extra: str | None = None, *also: type[Exception], kept: str = "") -> Iterator[Work]:
    """End the program with status 2 and one line where a call cannot be answered, with 130 and one where it is stopped.

    Args:
        extra: the extra of this package that brings what cannot be imported; None: the error says it itself.
        *also: further errors that say what is wrong with the call.
        kept: what stays of work that is not finished, in a sentence; "" where nothing does.

    Yields:
        What the command has written: `work.wrote(path)` says it, and keeps it for the line about Ctrl-C.
    """
    refused: tuple[type[Exception], ...] = (InterpError, ImportError, *also)
    work = Work(kept)
    try:
        yield work
    except refused as err:
        text = str(err)
        if extra is not None and isinstance(err, ImportError):
            text = f"This command needs {err.name}: pip install 'interp-plugins[{extra}]'."
        say(text, err=True)
        raise typer.Exit(2) from err
    except KeyboardInterrupt as err:
        say(work.stopped(), err=True)
        raise typer.Exit(130) from err

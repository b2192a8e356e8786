"""What commands have in common: lines for the terminal, tables, and an end with status 2 where a call is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

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


@contextlib.contextmanager
def refusing(extra: str | None = None, *also: type[Exception]) -> Iterator[None]:
    """End the program with status 2 and one line where a call cannot be answered.

    Args:
        extra: the extra of this package that brings what cannot be imported; None: the error says it itself.
        *also: further errors that say what is wrong with the call.
    """
    refused: tuple[type[Exception], ...] = (InterpError, ImportError, *also)
    try:
        yield
    except refused as err:
        text = str(err)
        if extra is not None and isinstance(err, ImportError):
            text = f"This command needs {err.name}: pip install 'interp-plugins[{extra}]'."
        say(text, err=True)
        raise typer.Exit(2) from err

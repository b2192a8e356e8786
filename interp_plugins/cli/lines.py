"""What commands have in common: lines for the terminal, tables, how they end where refused or stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
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


_FLAGS: ContextVar[dict[str, str]] = ContextVar("flags")  # of the command that runs: argument -> option


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose refusals speak of its own options where the core speaks of its arguments (`as_options`)."""
    hints = typing.get_type_hints(function, include_extras=True)
    told = {name: one for name, hint in hints.items() for one in getattr(hint, "__metadata__", ())}
    options = {name: one.param_decls for name, one in told.items() if isinstance(one, typer.models.OptionInfo)}
    flags = {name: (names or (f"--{name.replace('_', '-')}",))[0] for name, names in options.items()}

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        _FLAGS.set(flags)
        function(*args, **kwargs)

    return run


def as_options(text: str, flags: dict[str, str]) -> str:
    """A sentence of the core for the command line: `model=` is `--model` there.

    Args:
        text: the sentence.
        flags: the options by the names of the arguments; a list of methods, say, is an option that is repeated.

    Example:
        from interp_plugins.cli.lines import as_options

        as_options("Give n=3 or metrics=.", {"n": "--n", "metric": "--metric"})  # -> 'Give --n 3 or --metric.'
    """
    for name, flag in flags.items():
        argument = rf"(?<![\w.]){re.escape(name.removesuffix('s'))}s?="
        text = re.sub(argument, flag, re.sub(rf"{argument}(?=[\w'\"(\[])", f"{flag} ", text))
    return text


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
        say(as_options(text, _FLAGS.get({})), err=True)
        raise typer.Exit(2) from err
    except KeyboardInterrupt as err:
        say(work.stopped(), err=True)
        raise typer.Exit(130) from err

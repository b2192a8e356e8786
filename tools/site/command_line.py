"""The reference of the command line, read from the command itself: what `--help` says, as Markdown."""

from __future__ import annotations

from typing import Any

PLACE = "<!-- the site has every option here -->"


def command() -> Any:
    """The command `interp-plugins` with its subcommands."""
    import typer

    from interp_plugins.cli import app

    return typer.main.get_command(app)


def every(group: Any, before: str) -> list[tuple[str, Any]]:
    """Names and commands below a group, those of groups within it after it."""
    found = []
    for name, one in group.commands.items():
        found += [(f"{before} {name}", one), *(every(one, f"{before} {name}") if hasattr(one, "commands") else [])]
    return found


def rows(one: Any) -> list[str]:
    """A row of a table for every argument and option: its name, what it is, what counts where it is left out."""
    found = []
    for p in one.params:
        if p.name == "help":
            continue
        name = p.name.upper() + (" ..." if p.nargs == -1 else "")
        if p.param_type_name == "option":
            name = ", ".join([*p.opts, *p.secondary_opts])
        told = not (p.default is None or isinstance(p.default, bool) or p.default == () or callable(p.default))
        left_out = "required" if p.required else f"`{p.default}`" if told else ""
        found.append(f"| `{name}` | {(p.help or '').replace('|', chr(92) + '|')} | {left_out} |")
    return found


def reference() -> str:
    """A section for every command: what it does, its arguments and options."""
    found = []
    for name, one in every(command(), "interp-plugins"):
        if hasattr(one, "commands"):
            continue
        found += [f"### `{name}`", "", one.help or "", ""]
        if table := rows(one):
            found += ["| Argument or option | What it is | If left out |", "|---|---|---|", *table, ""]
    return "\n".join(found)


def with_reference(page: str) -> str:
    """The page with the reference in its place."""
    if PLACE not in page:
        raise ValueError(f"docs/command-line.md needs the line {PLACE}")
    return page.replace(PLACE, reference())

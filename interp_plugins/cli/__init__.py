"""The command line, `interp-plugins` (typer): a file for what learners, runs and everything else are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as err:
    raise ImportError("The command needs typer: pip install 'interp-plugins[cli]'.", name=err.name) from err

from interp_plugins import __version__
from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.api.methods import MethodCard
from interp_plugins.cli import benchmarks, learners, runs
from interp_plugins.cli.lines import command, print_table, refusing, say

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        say(f"interp-plugins {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Explain PyTorch models, and look at what was explained."""


@app.command()
@command
def demo(out: Annotated[Path, typer.Option(help="Folder for pictures and the page.")] = Path("demo_out")) -> None:
    """Explain photographs with a network trained on ImageNet, through fastai and through Lightning."""
    rows: list[tuple[str, ...]] = []
    with refusing("demo"):
        from interp_plugins.demo.run import COLUMNS, run, table_rows

        for framework, explanations in run(out, say):
            rows += table_rows(framework, explanations)
    print_table("Explanations", COLUMNS, rows)


@app.command()
@command
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, by any of its names: all that is known of it.")] = None,
    needs: Annotated[str | None, typer.Option(help="gradient, perturbation or forward")] = None,
    site: Annotated[str | None, typer.Option(help="input, layer or neuron")] = None,
) -> None:
    """List the methods: name, aliases, what they need, what they explain, source; or show what is known of one."""
    with refusing():
        if name is not None:
            say(str(MethodCard.of(name)))
            return
        names = list_methods(needs=needs, site=site)
    infos = [method_info(name) for name in names]
    rows = [(i.name, ", ".join(i.aliases), i.needs, i.site, i.reference) for i in infos]
    print_table("Methods", ("name", "aliases", "needs", "explains", "source"), rows)


for _command in (*learners.COMMANDS, *runs.COMMANDS):
    app.command()(command(_command))
app.add_typer(benchmarks.app, name="benchmark")

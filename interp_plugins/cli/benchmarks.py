"""`interp-plugins benchmark list | run | report | compare | meta | mine`: the benchmark on the command line (typer)."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from interp_plugins import benchmark
from interp_plugins.benchmark.leaderboard import as_csv, rounded
from interp_plugins.cli.lines import command, refusing, say
from interp_plugins.core import files
from interp_plugins.core.errors import InputError, did_you_mean
from interp_plugins.core.registry import Budget
from interp_plugins.metrics import compare_methods

app = typer.Typer(no_args_is_help=True, help="Tasks whose truth is known, and which method finds it.")
Directory = Annotated[Path, typer.Argument(help="A run directory.")]
Modules = Annotated[list[str] | None, typer.Option("--import", help="A module with tasks or methods of one's own.")]
# As the other commands say it; the plural is what pages that were written before show.
METHOD, METRIC = ("--method", "--methods"), ("--metric", "--metrics")


def _loaded(modules: list[str] | None) -> None:
    for name in modules or ():
        imported(name)


@app.command("list")
@command
def list_(family: Annotated[str | None, typer.Argument()] = None, modules: Modules = None) -> None:
    """List the tasks: name, what is known of them, what they are."""
    with refusing():
        _loaded(modules)
        for name in benchmark.list_tasks(family):
            info = benchmark.task_info(name)
            lacks = f" (needs {', '.join(info.missing)})" if info.missing else ""
            say(f"{name:28} {info.truth_kind:8} {info.says}{lacks}")


def seeds_of(text: str) -> tuple[int, ...]:
    """Seeds as people write them: "0", "0-4", "0,2,5".

    Raises:
        InputError: something else.

    Example:
        from interp_plugins.cli.benchmarks import seeds_of

        seeds_of("0-2,5")  # -> (0, 1, 2, 5)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"Seeds are written 0-4 or 0,2,5; got {text!r}.")
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)


@app.command()
@command
def run(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks or families; all if none is named.")] = None,
    out: Annotated[Path, typer.Option(help="The run directory.")] = Path("benchmark_run"),
    methods: Annotated[
        list[str] | None, typer.Option(*METHOD, help="A method, as ig or ig:n_steps=10; may be repeated.")
    ] = None,
    metrics: Annotated[list[str] | None, typer.Option(*METRIC, help="A metric or column; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Of the nets: 0-4 or 0,2; none: as many as the size asks.")] = None,
    size: Annotated[str, typer.Option(help="tiny, small or full")] = "small",
    knobs: Annotated[bool, typer.Option(help="Methods at several budgets too, where values are known.")] = False,
    modules: Modules = None,
) -> None:
    """Do the work, or go on with it; any number of processes may (torchrun's RANK and WORLD_SIZE are read)."""
    with refusing(kept=f"Units that are done are kept in {out}: the same command goes on with the others."):
        _loaded(modules)
        plan = benchmark.Benchmark(
            tuple(tasks) if tasks else None,
            tuple(methods) if methods else None,
            tuple(metrics) if metrics else None,
            None if seeds is None else seeds_of(seeds),
            size,
            knobs,
        )
        say(str(benchmark.run(plan, out)))


@app.command()
@command
def report(directory: Directory, modules: Modules = None) -> None:
    """Write leaderboard.json, leaderboard.csv and index.html into the run directory's folder `report`."""
    with refusing() as work:
        from interp_plugins.benchmark.page import to_html

        _loaded(modules)
        done = benchmark.read(directory)
        found = benchmark.leaderboard(done)
        folder = directory / "report"
        text = json.dumps(rounded(found), separators=(",", ":"))
        work.wrote(files.write(folder / "leaderboard.json", text + "\n"))
        work.wrote(files.write(folder / "leaderboard.csv", as_csv(found)))
        work.wrote(files.write(folder / "index.html", to_html(done, found)))


@app.command()
@command
def compare(
    before: Annotated[Path, typer.Argument(help="The first run.")],
    after: Annotated[Path, typer.Argument(help="The second run.")],
    modules: Modules = None,
) -> None:
    """Say what changed beyond chance; ends with status 1 where something got worse."""
    with refusing():
        _loaded(modules)
        found = benchmark.compare(benchmark.read(before), benchmark.read(after))
    for one in found:
        say(str(one))
    say(f"{sum(c.worse for c in found)} worse, {sum(not c.worse for c in found)} better.")
    if any(c.worse for c in found):
        raise typer.Exit(1)


@app.command()
@command
def meta(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks whose truth is known; some of each kind.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("meta.json"),
    metrics: Annotated[list[str] | None, typer.Option(*METRIC, help="A metric; may be repeated.")] = None,
    size: Annotated[str, typer.Option(help="tiny, small or full")] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Of nets and draws.")] = 0,
) -> None:
    """Judge the metrics: what each notices, and whether it finds the order of methods that is true."""
    with refusing() as work:
        from interp_plugins.benchmark.meta import TASKS, meta_evaluation

        found = meta_evaluation(tuple(tasks or TASKS), metrics or None, size=size, seed=seed)
        work.wrote(files.write(out, json.dumps(found, indent=1, sort_keys=True) + "\n"))


@app.command()
@command
def mine(
    model: Annotated[str, typer.Argument(help="module:name of the model, or of a function that makes it.")],
    loader: Annotated[str, typer.Argument(help="module:name of batches (inputs, labels), or of what makes them.")],
    methods: Annotated[list[str] | None, typer.Option(*METHOD, help="A method; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples at most.")] = 64,
    budget: Annotated[str, typer.Option(help="fast, normal or thorough")] = "fast",
) -> None:
    """Say which method to use for a model of one's own, where nothing is known to be true (`compare_methods`)."""
    with refusing():
        names = tuple(methods) if methods else None
        found = compare_methods(named(model), named(loader), names, n=samples, budget=cast(Budget, budget))
        say(str(found.why()))


def look_here() -> None:
    """Let modules of the folder in which the command is typed be imported, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def imported(module: str) -> Any:
    """A module that is installed or lies where the command is typed.

    Raises:
        InputError: there is none of this name.
    """
    look_here()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name is None or not f"{module}.".startswith(f"{err.name}."):
            raise  # it is there, and lacks something itself
        raise InputError(f"There is no module {module!r}, neither in {Path.cwd()} nor installed.") from err


def named(text: str) -> Any:
    """What `module:name` names; a function (no model) is called.

    Raises:
        InputError: it is not written so, or there is no such module or name.

    Example:
        from interp_plugins.cli.benchmarks import named

        named("torch:pi") > 3  # -> True
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise InputError(f"Write module:name, got {text!r}.")
    there = imported(module)
    if not hasattr(there, name):
        own = [n for n in vars(there) if not n.startswith("_")]
        raise InputError(f"{module} has no {name!r}.{did_you_mean(name, own)}")
    found = getattr(there, name)
    made = callable(found) and not hasattr(found, "parameters") and not hasattr(found, "__iter__")
    return found() if made else found

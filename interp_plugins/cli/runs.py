"""What is asked of runs on the disk: pages, the viewer, whether they are as written, scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from interp_plugins.cli.benchmarks import named
from interp_plugins.cli.lines import refusing, say
from interp_plugins.core import files
from interp_plugins.core.errors import InputError, InterpWarning

Source = Annotated[Path, typer.Argument(help="A run directory of explain_dataset, or a file of explanations.")]
Samples = Annotated[int, typer.Option(min=1, help="Samples at most, from the first.")]
Wrong = Annotated[bool, typer.Option("--wrong", help="Only samples that the model gets wrong.")]
Order = Annotated[str, typer.Option(help="index (as in the data), name, confident, unsure, loss or error.")]
Beside = Annotated[
    list[Path] | None,
    typer.Option("--record", help="A saved result shown in a tab beside: suspects, influence, ...; may be repeated."),
]
Title = Annotated[str | None, typer.Option(help="Heading of the page; the name of STORE if left out.")]


def saved(store: Path, samples: int, wrong: bool, order: str) -> Any:
    """The subject behind a path; what is wrong with it ends the program."""
    with refusing("store,insights"):
        from interp_plugins.insights.stored import read_subject
    with refusing():
        subject = read_subject(store, samples, wrong, order)
    if subject.total > subject.n:
        say(f"The first {subject.n} of {subject.total} samples are shown; --samples takes more.")
    return subject


def beside(files_: list[Path] | None) -> list[Any]:
    """The records of saved results; what is wrong with one ends the program."""
    if not files_:
        return []
    with refusing():
        from interp_plugins.insights.records import load_record

        return [load_record(path) for path in files_]


def report(
    store: Source,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = Path("report.html"),
    samples: Samples = 200,
    title: Title = None,
    wrong: Wrong = False,
    order: Order = "index",
    record: Beside = None,
) -> None:
    """Write saved explanations into one HTML file, which shows them without a network or a model."""
    subject, records = saved(store, samples, wrong, order), beside(record)
    from interp_plugins.insights import Session

    with refusing():
        files.write(out, Session.over(subject, title=title or store.stem, records=records).to_html())
    say(f"{out}: {subject.n} samples, {out.stat().st_size / 2**20:.1f} MiB")


def verify(run: Annotated[Path, typer.Argument(help="A run directory of explain_dataset.")]) -> None:
    """Compare a run on the disk with what was written there; what is damaged is listed and ends with status 1."""
    with refusing():
        from interp_plugins.store import ExplanationStore

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # the same is listed below
            store = ExplanationStore(run)
            damaged = store.verify()
    for unit, why in damaged.items():
        say(f"unit {unit}: {why}")
    never = len(store.missing) - len(damaged)
    facts = [f"{store.manifest.units} units: {store.manifest.units - len(store.missing)} as written"]
    facts += [f"{len(damaged)} damaged"] * bool(damaged) + [f"{never} not done yet"] * bool(never)
    facts += [f"{len(store.unchecked)} written before runs held digests"] * bool(store.unchecked)
    say(", ".join(facts) + ".")
    if damaged:
        say("explain_dataset with the same arguments does the damaged units again.")
        raise typer.Exit(1)


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory of explain_dataset.")],
    metric: Annotated[list[str] | None, typer.Option(help="A metric; may be repeated.")] = None,
    model: Annotated[
        str | None, typer.Option(help="module:name of the model that was explained, or of a function that makes it.")
    ] = None,
    control: Annotated[list[str] | None, typer.Option(help="A map that ignores the model, as control.random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for the scores: .html, .csv or .json.")] = None,
) -> None:
    """Judge stored maps by metrics, or go on with it; scores are kept in the run directory."""
    with refusing(kept=f"What is judged is kept in {run}: the same command goes on with the rest."):
        from interp_plugins.store import ExplanationStore

        writer = {".html": "to_html", ".csv": "to_csv", ".json": "save"}.get(out.suffix) if out is not None else None
        if out is not None and writer is None:
            raise InputError(f"Scores are written as .html, .csv or .json; got {out.name!r}.")
        scores = ExplanationStore(run).evaluate(
            metric or None,
            model=None if model is None else named(model),
            controls=tuple(control or ()),
            seed=seed,
        )
        say(repr(scores))
        if out is not None and writer is not None:
            say(str(getattr(scores, writer)(out)))


def insights(
    store: Source,
    samples: Samples = 100_000,
    title: Title = None,
    wrong: Wrong = False,
    order: Order = "index",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    record: Beside = None,
) -> None:
    """Show saved explanations on a page of this machine, until Ctrl-C."""
    subject, records = saved(store, samples, wrong, order), beside(record)
    from interp_plugins.insights import Session, serve
    from interp_plugins.insights.report import catalogue

    heading = title or store.stem
    about = catalogue(subject, title=heading)
    with refusing():
        server = serve(
            lambda: Session.over(subject, about, records=records), port=port, open_browser=browser, title=heading
        )
    say(f"{server.url}\nCtrl-C ends it.")
    server.wait()


COMMANDS: tuple[Callable[..., None], ...] = (report, verify, evaluate, insights)

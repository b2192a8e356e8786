"""The command line, `interp-plugins` (typer): demo, methods, explain, report, verify, evaluate, insights, ..."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError as err:
    raise ImportError("The command needs typer: pip install 'interp-plugins[cli]'.", name=err.name) from err

from interp_plugins import __version__
from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.api.methods import MethodCard
from interp_plugins.benchmark import command as benchmark_command
from interp_plugins.core import files
from interp_plugins.core.errors import InputError, InterpError, InterpWarning
from interp_plugins.core.text import legible

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(benchmark_command.app, name="benchmark")


def _say(text: str, err: bool = False) -> None:
    """A line for the terminal, which takes nothing but Unicode."""
    typer.echo(legible(text), err=err)


def _print_table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for pictures and the page.")] = Path("demo_out")) -> None:
    """Explain photographs with a network trained on ImageNet, through fastai and through Lightning."""
    rows: list[tuple[str, ...]] = []
    try:
        from interp_plugins.demo.run import COLUMNS, run, table_rows

        for framework, explanations in run(out, _say):
            rows += table_rows(framework, explanations)
    except ImportError as err:
        _say(f"The demo needs {err.name}: pip install 'interp-plugins[demo]'.", err=True)
        raise typer.Exit(2) from err
    _print_table("Explanations", COLUMNS, rows)


def _print_version(asked: bool) -> None:
    if asked:
        _say(f"interp-plugins {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Explain PyTorch models, and look at what was explained."""


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, by any of its names: all that is known of it.")] = None,
    needs: Annotated[str | None, typer.Option(help="gradient, perturbation or forward")] = None,
    site: Annotated[str | None, typer.Option(help="input, layer or neuron")] = None,
) -> None:
    """List the methods: name, aliases, what they need, what they explain, source; or show what is known of one."""
    try:
        if name is not None:
            _say(str(MethodCard.of(name)))
            return
        names = list_methods(needs=needs, site=site)
    except InterpError as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    infos = [method_info(name) for name in names]
    rows = [(i.name, ", ".join(i.aliases), i.needs, i.site, i.reference) for i in infos]
    _print_table("Methods", ("name", "aliases", "needs", "explains", "source"), rows)


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A Learner exported with learn.export(). Loading runs its code.")],
    images: Annotated[list[Path], typer.Argument(help="Picture files.")],
    method: Annotated[list[str] | None, typer.Option(help="Method name; may be repeated.")] = None,
    target: Annotated[str | None, typer.Option(help="Class name; the predicted class if left out.")] = None,
    against: Annotated[str | None, typer.Option(help="Why the target rather than this class.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures and the page.")] = Path("explanations"),
    compile: Annotated[str | None, typer.Option(help="Backend of torch.compile (inductor); for many pictures.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of loops: float32, bfloat16, float16, auto.")] = None,
) -> None:
    """Explain pictures with an exported fastai Learner; writes pictures and explanations.html."""
    try:
        from fastai.learner import load_learner

        import interp_plugins.fastai  # noqa: F401 - gives every Learner `explain`
    except ImportError as err:
        _say(f"This command needs {err.name}: pip install 'interp-plugins[fastai]'.", err=True)
        raise typer.Exit(2) from err
    if not model.is_file():
        _say(f"No exported Learner at {model}. Write one with learn.export().", err=True)
        raise typer.Exit(2)
    options: dict[str, Any] = {"methods": tuple(method)} if method else {}
    options |= {name: v for name, v in {"compile": compile, "precision": precision}.items() if v is not None}
    try:
        found = load_learner(model).explain(list(images), target=target, against=against, **options)
    except InterpError as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    from interp_plugins.demo.run import COLUMNS, table_rows, write_pictures

    for path in write_pictures(found, out):
        _say(str(path))
    found.to_html(out / "explanations.html")
    _say(str(out / "explanations.html"))
    _print_table("Explanations", COLUMNS, table_rows("fastai", found))


@app.command()
def suspects(
    model: Annotated[Path, typer.Argument(help="A Learner exported with learn.export(). Loading runs its code.")],
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them, labelled as its data were.")],
    out: Annotated[Path, typer.Option(help="The page; beside it a table of the same name as .csv.")] = Path(
        "suspects.html"
    ),
    n: Annotated[int, typer.Option(min=1, help="Suspects on the page.")] = 100,
    k: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
) -> None:
    """Rank labelled pictures by how likely their label is wrong; a page on which they are tagged, and a table."""
    try:
        from fastai.data.transforms import get_image_files
        from fastai.learner import load_learner

        import interp_plugins.fastai  # noqa: F401 - gives every Learner `suspects`
    except ImportError as err:
        _say(f"This command needs {err.name}: pip install 'interp-plugins[fastai]'.", err=True)
        raise typer.Exit(2) from err
    try:
        if not model.is_file():
            raise InputError(f"No exported Learner at {model}. Write one with learn.export().")
        files_of = [[one] if one.is_file() else sorted(get_image_files(one)) for one in images]
        items = [file for many in files_of for file in many]
        if not items:
            raise InputError(f"No picture in {', '.join(map(str, images))}.")
        learn = load_learner(model)
        found = learn.suspects(dl=learn.dls.test_dl(items, with_labels=True, num_workers=0), k=k, seed=seed)
        _say(repr(found))
        _say(str(found.to_html(out, n=n).path))
        _say(str(found.to_csv(out.with_suffix(".csv"))))
    except InterpError as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err


@app.command()
def neurons(
    model: Annotated[Path, typer.Argument(help="A Learner exported with learn.export(). Loading runs its code.")],
    layer: Annotated[str, typer.Argument(help="Dotted name of a layer; its end is enough.")],
    data: Annotated[list[Path], typer.Option(help="Picture files, or folders of them; may be repeated.")],
    channel: Annotated[str, typer.Option(help="Numbers and ranges (0-15,20), or all.")] = "0-15",
    out: Annotated[Path, typer.Option(help="The page; beside it the results as .safetensors.")] = Path("neurons.html"),
    steps: Annotated[int, typer.Option(min=1, help="Of each climb.")] = 256,
    examples: Annotated[bool, typer.Option("--examples", help="Only the examples of the data, no pictures.")] = False,
    param: Annotated[str, typer.Option(help="fft, maco or pixel.")] = "fft",
    seed: Annotated[int, typer.Option(min=0, help="Of the beginnings.")] = 0,
) -> None:
    """Show what channels of a layer look for: pictures beside the data's most active items, on a page."""
    try:
        from fastai.data.transforms import get_image_files
        from fastai.learner import load_learner

        import interp_plugins.fastai  # noqa: F401 - gives every Learner `visualize`
    except ImportError as err:
        _say(f"This command needs {err.name}: pip install 'interp-plugins[fastai]'.", err=True)
        raise typer.Exit(2) from err
    try:
        if not model.is_file():
            raise InputError(f"No exported Learner at {model}. Write one with learn.export().")
        items = [file for one in data for file in ([one] if one.is_file() else sorted(get_image_files(one)))]
        if not items:
            raise InputError(f"No picture in {', '.join(map(str, data))}.")
        learn = load_learner(model)
        asked: dict[str, Any] = {"channel": _channels(channel), "dl": learn.dls.test_dl(items, num_workers=0)}
        if examples:
            found = learn.dataset_examples(layer, **asked)
        else:
            found = learn.visualize(layer, **asked, steps=steps, param=param, seed=seed)
        _say(repr(found))
        _say(str(found.to_html(out).path))
        _say(str(found.save(out.with_suffix(".safetensors"))))
    except InterpError as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err


def _channels(text: str) -> Any:
    """Numbers of channels from "0-15,20" or "all"."""
    if text.strip() == "all":
        return "all"
    try:
        ends = [[int(v) for v in part.split("-")] for part in text.split(",")]
        return [c for one in ends for c in range(one[0], one[-1] + 1)]
    except ValueError:
        raise InputError(f"--channel takes numbers and ranges (0-15,20) or all, got {text!r}.") from None


Source = Annotated[Path, typer.Argument(help="A run directory of explain_dataset, or a file of explanations.")]
Samples = Annotated[int, typer.Option(min=1, help="Samples at most, from the first.")]
Wrong = Annotated[bool, typer.Option("--wrong", help="Only samples that the model gets wrong.")]
Order = Annotated[str, typer.Option(help="index (as in the data), name, confident, unsure, loss or error.")]
Title = Annotated[str | None, typer.Option(help="Heading of the page; the name of STORE if left out.")]


def _saved(store: Path, samples: int, wrong: bool, order: str) -> Any:
    """The subject behind a path; what is wrong with it ends the program."""
    try:
        from interp_plugins.insights.stored import read_subject
    except ImportError as err:
        _say(f"This command needs {err.name}: pip install 'interp-plugins[store,insights]'.", err=True)
        raise typer.Exit(2) from err
    try:
        subject = read_subject(store, samples, wrong, order)
    except (InterpError, ImportError) as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    if subject.total > subject.n:
        _say(f"The first {subject.n} of {subject.total} samples are shown; --samples takes more.")
    return subject


@app.command()
def report(
    store: Source,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = Path("report.html"),
    samples: Samples = 200,
    title: Title = None,
    wrong: Wrong = False,
    order: Order = "index",
) -> None:
    """Write saved explanations into one HTML file, which shows them without a network or a model."""
    subject = _saved(store, samples, wrong, order)
    from interp_plugins.insights import Session

    try:
        files.write(out, Session.over(subject, title=title or store.stem).to_html())
    except InterpError as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    _say(f"{out}: {subject.n} samples, {out.stat().st_size / 2**20:.1f} MiB")


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="A run directory of explain_dataset.")]) -> None:
    """Compare a run on the disk with what was written there; what is damaged is listed and ends with status 1."""
    try:
        from interp_plugins.store import ExplanationStore

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpWarning)  # the same is listed below
            store = ExplanationStore(run)
            damaged = store.verify()
    except (InterpError, ImportError) as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    for unit, why in damaged.items():
        _say(f"unit {unit}: {why}")
    never = len(store.missing) - len(damaged)
    facts = [f"{store.manifest.units} units: {store.manifest.units - len(store.missing)} as written"]
    facts += [f"{len(damaged)} damaged"] * bool(damaged) + [f"{never} not done yet"] * bool(never)
    facts += [f"{len(store.unchecked)} written before runs held digests"] * bool(store.unchecked)
    _say(", ".join(facts) + ".")
    if damaged:
        _say("explain_dataset with the same arguments does the damaged units again.")
        raise typer.Exit(1)


@app.command()
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
    try:
        from interp_plugins.store import ExplanationStore

        writer = {".html": "to_html", ".csv": "to_csv", ".json": "save"}.get(out.suffix) if out is not None else None
        if out is not None and writer is None:
            raise InputError(f"Scores are written as .html, .csv or .json; got {out.name!r}.")
        scores = ExplanationStore(run).evaluate(
            metric or None,
            model=None if model is None else benchmark_command.named(model),
            controls=tuple(control or ()),
            seed=seed,
        )
        _say(repr(scores))
        if out is not None and writer is not None:
            _say(str(getattr(scores, writer)(out)))
    except (InterpError, ImportError, AttributeError) as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err


@app.command()
def insights(
    store: Source,
    samples: Samples = 100_000,
    title: Title = None,
    wrong: Wrong = False,
    order: Order = "index",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Show saved explanations on a page of this machine, until Ctrl-C."""
    subject = _saved(store, samples, wrong, order)
    from interp_plugins.insights import Session, serve
    from interp_plugins.insights.report import catalogue

    heading = title or store.stem
    about = catalogue(subject, title=heading)
    try:
        server = serve(lambda: Session.over(subject, about), port=port, open_browser=browser, title=heading)
    except (InterpError, ImportError) as err:
        _say(str(err), err=True)
        raise typer.Exit(2) from err
    _say(f"{server.url}\nCtrl-C ends it.")
    server.wait()


if __name__ == "__main__":
    app()

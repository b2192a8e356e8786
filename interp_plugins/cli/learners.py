"""What exported fastai Learners are asked: explanations, suspects, influence, concepts, robustness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from interp_plugins.api.binding import method_info
from interp_plugins.cli.benchmarks import look_here
from interp_plugins.cli.lines import print_table, refusing, say
from interp_plugins.core import files
from interp_plugins.core.errors import InputError

Model = Annotated[Path, typer.Argument(help="A Learner exported with learn.export(). Loading runs its code.")]
Labelled = Annotated[list[Path], typer.Argument(help="Picture files, or folders of them, labelled as its data were.")]


def exported(model: Path) -> Any:
    """The Learner in a file, with all that a Learner can be asked.

    Raises:
        ImportError: fastai is not installed.
        InputError: there is no such file, or it holds no Learner that can be loaded here.
    """
    from fastai.learner import load_learner

    import interp_plugins.fastai  # noqa: F401 - gives every Learner its verbs

    if not model.is_file():
        raise InputError(f"No exported Learner at {model}. Write one with learn.export().")
    look_here()  # where the modules of a Learner's own classes lie
    try:
        return load_learner(model)
    except UnboundLocalError:  # load_learner goes on where an import failed
        raise InputError(f"{model} needs a module that is neither in {Path.cwd()} nor installed.") from None
    except Exception as err:  # a pickle runs code: whatever lies on a disk may fail in any way
        why = f"{type(err).__name__}: {' '.join(str(err).split())}"
        raise InputError(
            f"{model} cannot be loaded as a Learner ({why[:160]}). Give a whole file that learn.export() has written; "
            "classes of one's own have to lie in a module, not in the notebook that exported it."
        ) from err


def pictures(paths: list[Path]) -> list[Path]:
    """Files as they are, and the pictures in folders, in the order of their names.

    Raises:
        InputError: there is none.
    """
    from fastai.data.transforms import get_image_files

    found = [file for one in paths for file in ([one] if one.is_file() else sorted(get_image_files(one)))]
    if not found:
        raise InputError(f"No picture in {', '.join(map(str, paths))}.")
    return found


def labelled(learn: Any, paths: list[Path]) -> Any:
    """A loader of pictures with the labels that the Learner's data would give them."""
    return learn.dls.test_dl(pictures(paths), with_labels=True, num_workers=0)


def explain(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Picture files.")],
    method: Annotated[list[str] | None, typer.Option(help="Method name; may be repeated.")] = None,
    target: Annotated[str | None, typer.Option(help="Class name; the predicted class if left out.")] = None,
    against: Annotated[str | None, typer.Option(help="Why the target rather than this class.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures and the page.")] = Path("explanations"),
    compile: Annotated[str | None, typer.Option(help="Backend of torch.compile (inductor); for many pictures.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of loops: float32, bfloat16, float16, auto.")] = None,
) -> None:
    """Explain pictures with an exported fastai Learner; writes pictures and explanations.html."""
    options: dict[str, Any] = {"methods": tuple(method)} if method else {}
    options |= {name: v for name, v in {"compile": compile, "precision": precision}.items() if v is not None}
    with refusing("fastai") as work:
        found = exported(model).explain(list(images), target=target, against=against, **options)
        from interp_plugins.demo.run import COLUMNS, table_rows, write_pictures

        for path in write_pictures(found, out):
            work.wrote(path)
        work.wrote(found.to_html(out / "explanations.html").path)
    print_table("Explanations", COLUMNS, table_rows("fastai", found))


def suspects(
    model: Model,
    images: Labelled,
    out: Annotated[Path, typer.Option(help="The page; beside it a table of the same name as .csv.")] = Path(
        "suspects.html"
    ),
    n: Annotated[int, typer.Option(min=1, help="Suspects on the page.")] = 100,
    k: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
) -> None:
    """Rank labelled pictures by how likely their label is wrong; a page on which they are tagged, and a table."""
    with refusing("fastai") as work:
        learn = exported(model)
        found = learn.suspects(dl=labelled(learn, images), k=k, seed=seed)
        say(repr(found))
        work.wrote(found.to_html(out, n=n).path)
        work.wrote(found.to_csv(out.with_suffix(".csv")))


def neurons(
    model: Model,
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
    with refusing("fastai") as work:
        learn = exported(model)
        beside = learn.dls.test_dl(pictures(data), num_workers=0)
        asked: dict[str, Any] = {"channel": _channels(channel), "dl": beside}
        if examples:
            found = learn.dataset_examples(layer, **asked)
        else:
            found = learn.visualize(layer, **asked, steps=steps, param=param, seed=seed)
        say(repr(found))
        work.wrote(found.to_html(out).path)
        work.wrote(found.save(out.with_suffix(".safetensors")))


def _channels(text: str) -> Any:
    """Numbers of channels from "0-15,20" or "all"."""
    if text.strip() == "all":
        return "all"
    try:
        ends = [[int(v) for v in part.split("-")] for part in text.split(",")]
        found = [c for one in ends for c in range(one[0], one[-1] + 1)]
    except ValueError:
        found = []
    if found:
        return found
    raise InputError(f"--channel takes numbers and ranges (0-15,20) or all, got {text!r}.")


def influence(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures that are asked about.")],
    train: Annotated[list[Path], typer.Option(help="Training pictures, or a folder of them; may be repeated.")],
    target: Annotated[str | None, typer.Option(help="Class name; the predicted class if left out.")] = None,
    method: Annotated[str, typer.Option(help="tracin, ekfac, similarity, ...; auto chooses.")] = "auto",
    checkpoints: Annotated[
        Path | None, typer.Option(help="A folder of weights from while it trained; the model's own if left out.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Training pictures of each kind.")] = 8,
    index: Annotated[
        Path | None, typer.Option(help="A file of the training pictures' gradients, made where there is none.")
    ] = None,
    maps: Annotated[str | None, typer.Option(help="A method whose maps are laid over the pictures.")] = None,
    out: Annotated[Path, typer.Option(help="The page; beside it a table of the same name as .csv.")] = Path(
        "influence.html"
    ),
) -> None:
    """Find the training pictures that made the model say so, and those that spoke against it."""
    with refusing("fastai") as work:
        learn = exported(model)
        found = learn.influence(
            pictures(images),
            k=k,
            method=method,
            target="predicted" if target is None else target,
            checkpoints="last" if checkpoints is None else checkpoints,
            train=labelled(learn, train),
            index=index,
        )
        say(repr(found))
        drawn = None if maps is None else found.explain(learn.model, maps)
        work.wrote(found.to_html(out, maps=drawn).path)
        work.wrote(files.write(out.with_suffix(".csv"), found.to_df().to_csv(index=False)))


def concepts(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them, to look through.")],
    target: Annotated[str | None, typer.Option(help="Class name; each picture's predicted class if left out.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Concepts.")] = 10,
    layer: Annotated[str | None, typer.Option(help="Dotted name; the last layer with places if left out.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also pictures of which the model says another class.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what judges.")] = 0,
    out: Annotated[Path, typer.Option(help="The page; beside it a table of the same name as .csv.")] = Path(
        "concepts.html"
    ),
) -> None:
    """Find the concepts that the model goes by for a class, without labels of them."""
    with refusing("fastai") as work:
        learn = exported(model)
        found = learn.concepts(target, n, layer=layer, items="all" if every else None, item=pictures(images), seed=seed)
        say(repr(found))
        work.wrote(found.to_html(out).path)
        work.wrote(files.write(out.with_suffix(".csv"), found.to_df().to_csv(index=False)))


def robust(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    eps: Annotated[str, typer.Option(help="Largest change of a pixel from 0 to 1, a number or 2/255.")] = "8/255",
    method: Annotated[list[str] | None, typer.Option(help="A method; may be repeated.")] = None,
    n_random: Annotated[int, typer.Option(min=1, help="Random changes of each picture.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the attacks.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    out: Annotated[Path, typer.Option(help="The page of the maps; beside it a page of the predictions.")] = Path(
        "robust.html"
    ),
) -> None:
    """Change pictures a little: does the model still say so, and does it still say why?"""
    with refusing("fastai") as work:
        methods = tuple(method_info(name).name for name in method or ("grad_cam",))  # before any work
        learn = exported(model)
        files_ = pictures(images)
        turned = learn.attack(files_, eps=eps, steps=steps)
        say(repr(turned))
        work.wrote(turned.to_html(out.with_name(f"{out.stem}-predictions.html")).path)
        maps = learn.explanation_robustness(files_, methods, eps=eps, n_random=n_random, steps=steps, seed=seed)
        say(repr(maps))
        work.wrote(maps.to_html(out).path)


COMMANDS: tuple[Callable[..., None], ...] = (
    explain,
    suspects,
    neurons,
    influence,
    concepts,
    robust,
)

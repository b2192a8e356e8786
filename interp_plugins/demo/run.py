"""The main job from end to end: photographs, a trained network, fastai and Lightning, pictures and a page."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from interp_plugins.api.explain import DEFAULT_METHODS
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.files import write
from interp_plugins.demo.learner import imagenet_learner
from interp_plugins.demo.network import MEAN, STD, imagenet_classes
from interp_plugins.demo.photographs import save_photographs
from interp_plugins.viz.figure import png_of_figure
from interp_plugins.viz.titles import completeness_text

PICTURES = ("chelsea", "coffee", "camera")
METHODS: Any = DEFAULT_METHODS
FIRST = "gradcam"  # one pass forward and one backward: the first picture


def run(out: str | Path, say: Callable[[str], Any] = print) -> Iterator[tuple[str, Explanations]]:
    """Explain the photographs through both frameworks; write pictures and one HTML page into `out` after each step.

    Yields:
        ("fastai", Explanations) per photograph and ("Lightning", Explanations), as soon as each is done.
    """
    out = Path(out)
    photographs = save_photographs(out / "photographs", PICTURES)
    page, begin, shown = out / "explanations.html", time.perf_counter(), Explanations()

    def written(found: Explanations, folder: Path) -> None:
        nonlocal shown
        for path in write_pictures(found, folder):
            say(f"  {path}")
        shown = Explanations([*shown, *found])
        shown.to_html(page)
        say(f"  {page}, after {time.perf_counter() - begin:.0f} s")

    with quiet():
        learn = learner(photographs)
        say(f"fastai: learn.explain({photographs[0].name!r}, {FIRST!r}) ...")
        written(learn.explain(photographs[0], FIRST), out / "fastai" / FIRST)
        for photograph in photographs:
            say(f"fastai: learn.explain({photograph.name!r}) ...")
            found = learn.explain(photograph, methods=METHODS)
            written(found, out / "fastai")
            yield "fastai", found
        say("Lightning: trainer.validate with AttributionCallback ...")
        through_lightning = explain_with_lightning(photographs[:1], out / "lightning")
    for path in sorted((out / "lightning").rglob("*.png")):
        say(f"  {path}")
    say(f"  after {time.perf_counter() - begin:.0f} s")
    yield "Lightning", through_lightning


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings of other packages about themselves, which say nothing to who looks at a demo."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # one photograph needs none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")  # of itself
        warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")  # timm's, as it is imported
        yield


def learner(files: list[Path]) -> Any:
    """A Learner around the trained network."""
    import interp_plugins.fastai  # noqa: F401 - gives every Learner `explain`

    return imagenet_learner(files)


def explain_with_lightning(files: list[Path], folder: Path) -> Explanations:
    """The three maps in a validation epoch, written to TensorBoard and to files."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import TensorBoardLogger

    from interp_plugins.demo.module import ImageNetModule, photograph_loader
    from interp_plugins.lightning import AttributionCallback

    callback = AttributionCallback(
        methods=METHODS if isinstance(METHODS, dict) else list(METHODS),
        n_samples=len(files),
        class_names=imagenet_classes(),
        mean=list(MEAN),
        std=list(STD),
        loggers="both",
        dirpath=str(folder),
        on_error="raise",
        method_kwargs={"budget": "fast"},
    )
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder / "tensorboard"),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(ImageNetModule(), photograph_loader(files), verbose=False)
    found: Explanations = callback.last
    return found


def write_pictures(explanations: Explanations, folder: Path) -> Iterator[Path]:
    """One picture per photograph, the input and a column per method; yields each when it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(explanations[0])):
        figure, _ = Explanations([e[i] for e in explanations]).plot()
        name = explanations[0].names[i] if explanations[0].names else str(i)
        path = folder / f"{Path(name).stem}.png"
        yield write(path, png_of_figure(figure))


def table_rows(framework: str, explanations: Explanations) -> Iterator[tuple[str, ...]]:
    """Cells of the table that `make demo` prints: one row per picture and method."""
    for i in range(len(explanations[0])):
        for exp in explanations:
            yield _row(framework, exp[i], exp)


def _row(framework: str, one: Explanation, batch: Explanation) -> tuple[str, ...]:
    probability = one.probability
    return (
        framework,
        one.names[0] if one.names else "",
        str(one.target_label[0]) if one.target_label else "",
        f"{float(probability[0]):.2f}" if probability is not None else "",
        one.title,
        f"{float(one.score[0]):.2f}" if one.score is not None else "",
        completeness_text(one) or "-",
        f"{(batch.seconds or 0) / len(batch):.1f}",
    )


COLUMNS = ("through", "picture", "prediction", "p", "method", "score", "completeness error", "seconds")

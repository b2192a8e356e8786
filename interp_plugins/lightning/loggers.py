"""Figures and numbers into loggers, by what a logger can do: there are two Lightning packages and many loggers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_figure(logger: Any, name: str, figure: Figure, step: int, file_name: str) -> bool:
    """Hand a figure to a logger; returns whether it has a place for pictures.

    Args:
        logger: a Lightning logger: Weights & Biases (`log_image`), TensorBoard (`experiment.add_figure`), MLflow or
            Comet (`experiment.log_figure`). Others take no pictures.
        name: the picture's name, the same for all steps.
        figure: a figure made without pyplot.
        step: the Trainer's global step.
        file_name: a name of its own for this step, for loggers that keep files.
    """
    if _is_dummy(logger):
        return False
    log_image = getattr(logger, "log_image", None)
    if callable(log_image) and _takes(log_image, "images"):
        log_image(key=name, images=[figure], step=step)
        return True
    experiment = getattr(logger, "experiment", None)
    add_figure = getattr(experiment, "add_figure", None)
    if callable(add_figure):
        add_figure(name, figure, global_step=step, close=False)
        return True
    log = getattr(experiment, "log_figure", None)
    if not callable(log):
        return False
    run_id = getattr(logger, "run_id", None)
    if run_id is not None and _takes(log, "artifact_file"):
        log(run_id, figure, artifact_file=f"{name}/{file_name}")
        return True
    if _takes(log, "figure_name"):
        log(figure_name=name, figure=figure, step=step)
        return True
    return False


def log_numbers(logger: Any, numbers: dict[str, float], step: int) -> bool:
    """Hand numbers to a logger, as the Trainer does; returns whether there is one.

    `LightningModule.log` is no way for one process alone: it may wait for the others.

    Args:
        logger: a Lightning logger; each takes numbers.
        numbers: name -> value.
        step: the step of the Trainer's own metrics.
    """
    if _is_dummy(logger):
        return False
    logger.log_metrics(metrics=dict(numbers), step=step)
    logger.save()
    return True


def _is_dummy(logger: Any) -> bool:
    """Whether this is the logger of `fast_dev_run`, which answers to every name and does nothing."""
    return type(logger).__name__ == "DummyLogger"


def _takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of this name, as far as can be seen."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or not any(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())

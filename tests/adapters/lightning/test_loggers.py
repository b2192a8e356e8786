"""Pictures reach loggers and files, read back from where they went."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from interp_plugins.lightning.loggers import log_figure
from interp_plugins.lightning.sinks import drawn

NAMES = [f"attribution-validate-run000{run + 1}-epoch{run}-step{run + 1}-saliency.png" for run in (0, 1)]
TAG = "attribution/validate/saliency"


def pngs(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*.png"))


@pytest.fixture
def run(make_net, make_loader, make_trainer, make_callback):
    """Two epochs with a logger; the callback's options follow."""

    def start(logger: Any, **options: Any) -> Any:
        callback = make_callback(**{"n_samples": 1, "loggers": "auto", **options})
        trainer = make_trainer(callback, logger=logger, max_epochs=2, num_sanity_val_steps=0)
        trainer.fit(make_net(), make_loader(4), make_loader(4))
        assert callback.n_runs == 2
        return callback

    return start


def test_L17_tensorboard_events_read_back(run, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "tb")
    run(logger, methods=["saliency", "ig"])
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == [TAG, "attribution/validate/integrated_gradients"]  # a tag per method
    images = events.Images(TAG)
    assert [image.step for image in images] == [1, 2]
    picture = imread(io.BytesIO(images[-1].encoded_image_string))
    assert picture.shape[0] > 50 and picture.shape[1] > 200 and float(np.std(picture)) > 0
    assert pngs(tmp_path) == []


def test_L17_both_writes_files_as_well(run, tmp_path) -> None:
    logger = TensorBoardLogger(tmp_path / "tb")
    run(logger, loggers="both")
    assert pngs(Path(logger.log_dir) / "attributions") == NAMES


def test_L17_dirpath_asks_for_files(run, tmp_path) -> None:
    run(TensorBoardLogger(tmp_path / "tb"), dirpath=str(tmp_path / "here"))
    assert pngs(tmp_path / "here") == NAMES


def test_L17_csv_logger_gets_files_in_its_directory(run, tmp_path) -> None:
    logger = CSVLogger(tmp_path / "csv")
    run(logger)
    assert pngs(Path(logger.log_dir) / "attributions") == NAMES
    assert imread(next(Path(logger.log_dir).rglob("*.png"))).shape[2] == 4


def test_L17_no_logger_gets_files_in_the_root(run, tmp_path) -> None:
    run(False)
    assert pngs(tmp_path / "attributions") == NAMES
    run(False)
    assert len(pngs(tmp_path / "attributions")) == 4  # nothing is replaced


@pytest.mark.parametrize(("option", "files"), [("none", []), ("files", NAMES)])
def test_L17_the_logger_can_be_left_out(option, files, run, tmp_path) -> None:
    logger = Wandb(tmp_path)
    run(logger, loggers=option)
    assert logger.calls == [] and pngs(tmp_path) == files


class Base(Logger):
    """What every logger has."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, []
        super().__init__()

    name = "mock"
    version = "1"

    @property
    def save_dir(self):
        return str(self.folder)

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        pass


class Unknown(Base):
    """A logger that takes no pictures."""


class Wandb(Base):
    """The call of `WandbLogger`."""

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        assert isinstance(images, list) and all(isinstance(image, Figure) for image in images)
        self.calls.append((key, step))


class Mlflow(Base):
    """The calls of `MLFlowLogger` and `MlflowClient`."""

    run_id = "0123"

    @property
    def experiment(self):
        return self.Client(self.calls)

    class Client:
        def __init__(self, calls):
            self.calls = calls

        def log_image(self, run_id, image, artifact_file=None, key=None, step=None):
            raise AssertionError("log_figure is the call for figures")

        def log_figure(self, run_id: str, figure: Any, artifact_file: str, *, save_kwargs: dict | None = None) -> None:
            assert run_id == "0123" and isinstance(figure, Figure)
            self.calls.append(artifact_file)


class Comet(Base):
    """The calls of `CometLogger` and of Comet's experiment."""

    @property
    def experiment(self):
        return self.Experiment(self.calls)

    class Experiment:
        def __init__(self, calls):
            self.calls = calls

        def log_figure(self, figure_name=None, figure=None, overwrite=False, step=None):
            assert isinstance(figure, Figure)
            self.calls.append((figure_name, step))


@pytest.mark.parametrize(
    ("logger", "calls"),
    [
        (Wandb, [(TAG, 1), (TAG, 2)]),
        (Mlflow, [f"{TAG}/{name}" for name in NAMES]),
        (Comet, [(TAG, 1), (TAG, 2)]),
    ],
)
def test_L17_loggers_with_a_place_for_pictures(logger, calls, run, tmp_path) -> None:
    logger = logger(tmp_path)
    run(logger)
    assert logger.calls == calls and pngs(tmp_path) == []


def test_L17_a_picture_says_the_truth_of_at_most_four_samples(
    make_net, make_loader, make_trainer, make_callback
) -> None:
    callback = make_callback(["saliency", "ig"], n_samples=6, target=[0, 1], class_names=["a", "b", "c"])
    loader = make_loader(4)
    make_trainer(callback).fit(make_net(), loader, make_loader(8))
    found = dict(drawn(callback.last))
    assert list(found) == [f"{m}/{page}" for m in ("saliency", "integrated_gradients") for page in (1, 2)]
    assert [len(figure.axes) for figure in found.values()] == [4 * 3, 2 * 3] * 2  # the input and a map per target
    assert found["saliency/2"]._suptitle.get_text() == "samples 5 to 6 of 6"
    labels = callback.last[0].meta["per_sample"]["label"]
    right = [str(t) == str(p) for t, p in zip(labels, callback.last[0].prediction_label)]
    captions = [ax.xaxis.label for f in list(found.values())[:2] for ax in f.axes if "actual" in ax.get_xlabel()]
    assert len({*labels}) > 1 and [c.get_text().split("actual: ")[1][0] for c in captions] == labels
    assert {True, False} == {*right} and [c.get_color() for c in captions] == [("red", "green")[r] for r in right]


def test_L17_where_pictures_are_is_said_once(run, tmp_path, capsys) -> None:
    run(TensorBoardLogger(tmp_path / "tb"), loggers="both", report="html")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "AttributionCallback" in line]
    assert f'TensorBoardLogger under "attribution/validate" (to look: tensorboard --logdir {tmp_path}' in line
    assert "PNG files in " in line and line.endswith("attribution-validate.html.")


def test_L17_an_unknown_logger_gets_files(run, tmp_path) -> None:
    run(Unknown(tmp_path))
    assert pngs(tmp_path / "attributions") == NAMES


def test_L17_several_loggers_each_get_the_picture(run, tmp_path) -> None:
    loggers = [Unknown(tmp_path), Wandb(tmp_path), Comet(tmp_path)]
    run(loggers, tag="why/this")
    assert [len(one.calls) for one in loggers] == [0, 2, 2] and loggers[2].calls[0][0] == "why/this/validate/saliency"
    assert pngs(tmp_path) == []


def test_L17_a_logger_that_fails_does_not_stop_training(
    make_net, make_loader, make_trainer, make_callback, warned, tmp_path
) -> None:
    class Broken(Wandb):
        def log_image(self, key, images, step=None):
            raise ConnectionError("the server is away")

    callback = make_callback(loggers="auto", n_samples=1, on_error="warn")
    trainer = make_trainer(callback, logger=Broken(tmp_path))
    with warned("ConnectionError: the server is away"):
        trainer.fit(make_net(), make_loader(4), make_loader(4))
    assert callback.n_runs == 1 and trainer.global_step == 1


def test_L17_a_dummy_logger_takes_nothing() -> None:
    from pytorch_lightning.loggers.logger import DummyLogger

    assert not log_figure(DummyLogger(), "name", Figure(), 0, "name.png")


def test_L22_the_users_figures_are_left_alone(run, tmp_path) -> None:
    figure = plt.figure()
    before = plt.get_fignums()
    run([TensorBoardLogger(tmp_path / "tb")], loggers="both")
    assert plt.get_fignums() == before and plt.gcf() is figure
    plt.close(figure)

"""The loggers' own clients, without a network: what was logged is read back from what they wrote."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from matplotlib.image import imread

NAME = "attribution/validate/saliency"
COSINE = f"{NAME}/cosine_to_previous"
GINI = f"{NAME}/sparseness"

# Their own deprecations and sockets; what we provoke stays an error, because our frames are none of these modules.
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.filterwarnings(f"ignore:::{package}\\.")
        for package in ("wandb", "mlflow", "comet_ml", "sqlalchemy")
    ),
]


@pytest.fixture
def run(make_net, make_loader, make_trainer, make_callback):
    """Two epochs of two steps; pictures stand at global steps 2 and 4, metrics at steps 1 and 3."""

    def start(logger: Any) -> Any:
        net = make_net()
        step = net.step
        net.validation_step = lambda batch, batch_idx: net.log("val_loss", step(batch))
        callback = make_callback(n_samples=1, loggers="auto")
        make_trainer(callback, logger=logger, max_epochs=2).fit(net, make_loader(8), make_loader(4))
        return callback

    return start


def assert_drawn(png: Any) -> None:
    picture = imread(png)
    assert picture.shape[0] > 50 and picture.shape[1] > 100 and float(picture.std()) > 0


def test_L17_weights_and_biases_offline(run, tmp_path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb")
    from pytorch_lightning.loggers import WandbLogger

    for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # what an earlier run in this process has set up
    callback = run(WandbLogger(save_dir=tmp_path, offline=True, project="p"))
    wandb.finish()
    pictures = sorted(tmp_path.rglob("media/images/attribution/validate/saliency_*.png"))
    assert len(pictures) == 2
    assert_drawn(pictures[0])
    rows = wandb_history(next(tmp_path.rglob("run-*.wandb")))
    kind = f"{NAME}/_type"
    assert [(row["trainer/global_step"], row[kind]) for row in rows if kind in row] == [
        (2, "images/separated"),
        (4, "images/separated"),
    ]
    assert [row["trainer/global_step"] for row in rows if GINI in row] == [1, 3]
    assert [row["trainer/global_step"] for row in rows if "val_loss" in row] == [1, 3]
    assert [row[COSINE] for row in rows if COSINE in row] == [callback.history[1]["cosine_to_previous"]]


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """The rows in a run's file: a header of 7 bytes, then records cut at blocks of 32 KiB, each a protobuf message."""
    from wandb.proto import wandb_internal_pb2

    data, at, message, rows = path.read_bytes(), 7, b"", []
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (2, 3):  # the message goes on in the next block
            continue
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        message = b""
        if record.WhichOneof("record_type") == "history":
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    return rows


def test_L17_mlflow_in_a_local_store(run, tmp_path) -> None:
    pytest.importorskip("mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger("e", tracking_uri=f"sqlite:///{tmp_path}/store.db", artifact_location=str(tmp_path / "files"))
    callback = run(logger)
    client, run_id = logger.experiment, logger.run_id
    names = [file.path for file in client.list_artifacts(run_id, NAME)]
    expected = [f"attribution-validate-run000{i + 1}-epoch{i}-step{2 * i + 2}-saliency.png" for i in (0, 1)]
    assert names == [f"{NAME}/{name}" for name in expected]
    assert_drawn(client.download_artifacts(run_id, names[1], str(tmp_path)))
    steps = {key: [m.step for m in client.get_metric_history(run_id, key)] for key in (GINI, COSINE, "val_loss")}
    assert steps == {GINI: [1, 3], COSINE: [3], "val_loss": [1, 3]}
    drift = client.get_metric_history(run_id, COSINE)[0].value
    assert drift == pytest.approx(callback.history[1]["cosine_to_previous"])


def test_L17_comet_offline(run, tmp_path) -> None:
    comet_ml = pytest.importorskip("comet_ml")
    from pytorch_lightning.loggers import CometLogger

    quiet = ("log_code", "log_env_details", "log_git_metadata", "log_git_patch", "parse_args", "auto_output_logging")
    experiment = comet_ml.OfflineExperiment(
        offline_directory=str(tmp_path), project_name="p", display_summary_level=0, **dict.fromkeys(quiet, False)
    )
    # The logger's own online=False gives an experiment that is switched off; this is the real client, writing a file.
    with mock.patch.object(comet_ml, "start", autospec=True, return_value=experiment):
        logger = CometLogger(project="p")
    callback = run(logger)
    experiment.end()
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as archive:
        sent = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
        uploads = [m["payload"] for m in sent if m["type"] == "file_upload"]
        figures = [m for m in uploads if m["additional_params"].get("figName") == NAME]
        assert [m["additional_params"]["step"] for m in figures] == [2, 4]
        assert b"<svg" in archive.read(figures[0]["file_path"]) and len(archive.read(figures[1]["file_path"])) > 5000
    numbers = [m["payload"]["metric"] for m in sent if m["type"] == "metric_msg"]
    steps = {key: [m["step"] for m in numbers if m["metricName"] == key] for key in (GINI, COSINE, "val_loss")}
    assert steps == {GINI: [1, 3], COSINE: [3], "val_loss": [1, 3]}
    drift = next(m["metricValue"] for m in numbers if m["metricName"] == COSINE)
    assert drift == pytest.approx(callback.history[1]["cosine_to_previous"])

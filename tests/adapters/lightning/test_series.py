"""The numbers beside the pictures: what they are, when they are left out, and at which step they stand."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from interp_plugins.lightning import AttributionCallback
from interp_plugins.metrics import cosine_similarity, gini_index, spearman_correlation
from interp_plugins.metrics.series import MEASURES

DRIFT = ("cosine_to_previous", "rank_correlation_to_previous", "target_changed")


@pytest.fixture
def logging_net(net_class):
    """A net that logs as users do, once in each kind of epoch."""

    class Logging(net_class):
        def training_step(self, batch, batch_idx):
            loss = self.step(batch)
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", self.step(batch))

    return Logging


class Keeping(AttributionCallback):
    """Keeps the explanations of every run."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"loggers": "none", "on_error": "raise", "n_samples": 3, **kwargs})
        self.kept: list[Any] = []

    def _publish(self, exps: Any, *args: Any) -> None:
        self.kept.append(exps)
        super()._publish(exps, *args)


def read_csv(logger: CSVLogger) -> list[dict[str, str]]:
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_numbers_are_those_of_the_maps(make_net, make_loader, make_trainer) -> None:
    callback = Keeping({"ig": {"n_steps": 5}, "occlusion": {}})
    make_trainer(callback, max_epochs=3).fit(make_net(), make_loader(8), make_loader(4))
    assert len(callback.kept) == 3 and len(callback.history) == 6
    for run in range(3):
        for k, method in enumerate(("integrated_gradients", "occlusion")):
            row, exp = callback.history[2 * run + k], callback.kept[run][k]
            assert (row["run"], row["epoch"], row["stage"], row["method"]) == (run + 1, run, "validate", method)
            assert row["sparseness"] == pytest.approx(gini_index(exp.attribution).mean().item())
            assert row["seconds"] == exp.seconds and row["forward_passes"] == exp.meta["forward_passes"]
            if exp.relative_delta is not None:
                assert row["completeness_error"] == pytest.approx(exp.relative_delta.double().median().item())
            assert ("completeness_error" in row) == (method == "integrated_gradients")
            if run == 0:
                assert not set(DRIFT) & set(row)
                continue
            a, b = exp.attribution, callback.kept[run - 1][k].attribution
            assert row["cosine_to_previous"] == pytest.approx(cosine_similarity(a, b).mean().item())
            assert row["rank_correlation_to_previous"] == pytest.approx(spearman_correlation(a, b).mean().item())
            changed = [x != y for x, y in zip(exp.target, callback.kept[run - 1][k].target)]
            assert row["target_changed"] == sum(changed) / 3


def test_a_model_that_learns_nothing_has_settled(net_class, make_net, make_loader, make_trainer, make_callback) -> None:
    class Resting(net_class):
        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), 0.0)

    net = make_net(Resting)
    net.body[1].eval()
    net.on_train_epoch_start = lambda: net.body[1].eval()  # its statistics would move
    callback = make_callback(["ig", "noise_tunnel"])
    make_trainer(callback, max_epochs=2).fit(net, make_loader(4), make_loader(4))
    for row in callback.history[2:]:
        assert row["cosine_to_previous"] == pytest.approx(1.0) and row["target_changed"] == 0.0
        assert row["rank_correlation_to_previous"] == pytest.approx(1.0)


def test_only_maps_of_the_same_samples_are_compared(make_net, make_loader, make_trainer, make_callback) -> None:
    torch.manual_seed(0)
    callback = make_callback(fixed_samples=False)
    make_trainer(callback, max_epochs=3).fit(make_net(), make_loader(4), make_loader(16, shuffle=True))
    assert len(callback.history) == 3 and not any(set(DRIFT) & set(row) for row in callback.history)
    callback, net = make_callback(), make_net()
    trainer = make_trainer(callback)
    trainer.fit(net, make_loader(4), make_loader(4))
    trainer.validate(net, make_loader(4, seed=3), verbose=False)
    assert len(callback.history) == 2 and not set(DRIFT) & set(callback.history[1])


def test_what_is_not_defined_is_left_out(net_class, make_net, make_loader, make_trainer, make_callback) -> None:
    class Constant(net_class):
        def forward(self, x):
            return 0.0 * super().forward(x)

    callback = make_callback("ig")
    make_trainer(callback, max_epochs=2).fit(make_net(Constant), make_loader(4), make_loader(4))
    last = callback.history[-1]
    assert not {"sparseness", "cosine_to_previous", "rank_correlation_to_previous"} & set(last)
    assert all(math.isfinite(last[name]) for name in MEASURES if name in last)


def test_several_targets_of_a_method_are_numbered(make_net, make_loader, make_trainer, make_callback, tmp_path) -> None:
    logger = CSVLogger(tmp_path)
    callback = make_callback(["saliency", "ig"], target=[0, 2], loggers="auto", tag="why")
    make_trainer(callback, logger=logger).fit(make_net(), make_loader(4), make_loader(4))
    names = {name for row in read_csv(logger) for name in row if name.endswith("sparseness")}
    methods = ("integrated_gradients.0", "integrated_gradients.1", "saliency.0", "saliency.1")
    assert sorted(names) == [f"why/validate/{name}/sparseness" for name in methods]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 4, "val_check_interval": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", ["validate", "train"])
def test_the_step_is_that_of_the_trainers_own_metrics(
    stage, options, logging_net, make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    logger = CSVLogger(tmp_path)
    callback = make_callback(loggers="auto", stages=(stage,), dirpath=str(tmp_path / "p"))
    trainer = make_trainer(callback, logger=logger, max_epochs=2, log_every_n_steps=1, **options)
    trainer.fit(make_net(logging_net), make_loader(16), make_loader(4))
    rows, own = read_csv(logger), {"validate": "val_loss", "train": "loss"}[stage]
    theirs = [(row["epoch"], row["step"]) for row in rows if row[own]]
    ours = [(row["epoch"], row["step"]) for row in rows if row[f"attribution/{stage}/saliency/sparseness"]]
    assert ours == theirs and len(ours) == callback.n_runs
    assert [(str(row["epoch"]), str(row["step"])) for row in callback.history] == ours


def test_two_optimizers_do_not_move_the_numbers_away(
    logging_net, make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    class Two(logging_net):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.step(batch))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.body, self.head)]

    logger = CSVLogger(tmp_path)
    callback = make_callback(loggers="auto", dirpath=str(tmp_path / "p"))
    trainer = make_trainer(callback, logger=logger, max_epochs=2)
    trainer.fit(make_net(Two), make_loader(16), make_loader(4))
    rows = read_csv(logger)
    ours = [row["step"] for row in rows if row["attribution/validate/saliency/sparseness"]]
    assert ours == [row["step"] for row in rows if row["val_loss"]] == ["3", "7"]
    assert trainer.global_step == 16


def test_L17_numbers_and_picture_in_tensorboard(
    logging_net, make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    callback = make_callback("ig", loggers="auto")
    make_trainer(callback, logger=logger, max_epochs=3).fit(make_net(logging_net), make_loader(8), make_loader(4))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    ours = [tag for tag in events.Tags()["scalars"] if tag.startswith("attribution/validate/integrated_gradients/")]
    assert {tag.rpartition("/")[2] for tag in ours} == set(MEASURES)
    steps = [e.step for e in events.Scalars("val_loss")]
    drift = events.Scalars("attribution/validate/integrated_gradients/cosine_to_previous")
    assert [e.step for e in drift] == steps[1:] == [3, 5]
    expected = [row["cosine_to_previous"] for row in callback.history[1:]]
    assert [e.value for e in drift] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loggers", ["files", "none"])
def test_L17_numbers_stay_away_from_loggers_that_were_left_out(
    loggers, logging_net, make_net, make_loader, make_trainer, make_callback, tmp_path
) -> None:
    logger = CSVLogger(tmp_path)
    callback = make_callback(loggers=loggers, dirpath=str(tmp_path / "p"))
    make_trainer(callback, logger=logger).fit(make_net(logging_net), make_loader(4), make_loader(4))
    assert not any("attribution" in name for row in read_csv(logger) for name in row)
    assert len(callback.history) == 1

"""`AttributionCallback(metrics=...)`: series of metrics, training as it was, within a limit of rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import evaluate
from interp_plugins import metrics as im
from interp_plugins.core.errors import InputError, InterpWarning, UnknownNameError
from interp_plugins.core.spec import InputSpec
from interp_plugins.lightning import AttributionCallback

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 1, 8, 8, generator=G), torch.arange(12) % 3


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, *callbacks: Any) -> tuple[dict[str, torch.Tensor], CSVLogger]:
    pl.seed_everything(1, verbose=False)
    model, loader = Module(), DataLoader(TensorDataset(X, Y), 4)
    logger = CSVLogger(str(folder))
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=logger, callbacks=list(callbacks), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    return model.state_dict(), logger


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*tensorboard.*")


def test_metrics_are_logged_as_series_and_the_training_is_as_it_was(tmp_path: Path) -> None:
    watch = AttributionCallback(
        "saliency",
        n_samples=3,
        metrics=("srg", "entropy"),
        loggers="auto",
        dirpath=str(tmp_path / "maps"),
        on_error="raise",
    )
    weights, logger = fit(tmp_path / "a", watch)
    plain, _ = fit(tmp_path / "b")
    assert all(torch.equal(weights[k], plain[k]) for k in plain)
    assert [row["entropy"] for row in watch.history] and len(watch.history) == 2
    row = watch.history[-1]
    assert row["srg_ci_low"] <= row["srg"] <= row["srg_ci_high"]
    table = watch.numbers()
    assert list(table["epoch"]) == [0, 1] and table["srg"].iloc[-1] == row["srg"]
    assert AttributionCallback("saliency").numbers().empty
    expected = im.metric("entropy").of(watch.last[0]).mean
    assert row["entropy"] == pytest.approx(expected)
    logged = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert "attribution/validate/saliency/srg" in logged and "srg_ci_low" not in logged


def test_a_budget_of_rows_is_kept_and_said(tmp_path: Path) -> None:
    watch = AttributionCallback(
        "saliency", n_samples=4, metrics=("srg", "entropy"), metric_budget=90, loggers="none", on_error="raise"
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(tmp_path, watch)
    [said] = [
        str(w.message) for w in seen if issubclass(w.category, InterpWarning) and "metric_budget" in str(w.message)
    ]
    assert "ask 160 rows for 4 samples, and metric_budget=90" in said and "judge 2 of them" in said
    assert "srg" in watch.history[0] and "entropy" in watch.history[0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"metrics": "srgg"}, UnknownNameError, "Did you mean 'srg'"),
        ({"metrics": "relevance_mass"}, InputError, "needs masks"),
        ({"metrics": "parameter_randomisation"}, InputError, "asks the method again"),
        ({"metrics": "srg", "metric_budget": -1}, InputError, "metric_budget"),
    ],
)
def test_what_is_refused_at_construction(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        AttributionCallback("saliency", **options)


def explained(module: Any, batch: Any, stage: str = "validate", **options: Any) -> AttributionCallback:
    """A callback after one epoch of `trainer.validate` on one batch."""
    watch = AttributionCallback(stages=(stage,), loggers="none", on_error="raise", **options)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, callbacks=[watch], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.validate(module, DataLoader([0], collate_fn=lambda _: batch), verbose=False)
    return watch


def test_the_numbers_are_those_of_evaluate_on_one_baseline_for_all_methods() -> None:
    """A method with a baseline of its own and one without are judged on the same: black, of normalised pictures."""
    pl.seed_everything(1, verbose=False)
    module, metrics = Module(), (("srg", {"steps": 4}), "gini_index")
    methods, known = {"saliency": {}, "integrated_gradients": {"n_steps": 4}}, {"mean": [0.4], "std": [0.3]}
    watch = explained(module, (X[:4], Y[:4]), methods=methods, n_samples=4, metrics=metrics, target="label", **known)
    spec = InputSpec("image", mean=(0.4,), std=(0.3,))
    found = evaluate(module, X[:4], methods, metrics, target=Y[:4], input_spec=spec)
    for row in watch.history:
        for name in found.metrics:
            assert row[name] == pytest.approx(found[row["series"], name].mean, abs=1e-5)


def test_maps_stay_where_a_metric_fails(tmp_path: Path) -> None:
    wrong = ("faithfulness_correlation", {"subset_size": 10**9})
    watch = AttributionCallback("saliency", n_samples=3, metrics=(wrong, "entropy"), loggers="none")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(tmp_path, watch)
    assert sum("training goes on" in str(w.message) for w in seen) == 2
    assert len(watch.last) == 1 and len(watch.history) == 2 and "sparseness" in watch.history[0]


def test_several_targets_are_several_series() -> None:
    watch = explained(Module(), (X[:4], Y[:4]), methods="saliency", n_samples=4, metrics="srg", target=[0, 2])
    assert [row["series"] for row in watch.history] == ["saliency.0", "saliency.1"]
    assert watch.history[0]["srg"] != watch.history[1]["srg"]


class Detector(pl.LightningModule):
    """Takes a list of pictures of any size, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, pictures: list[torch.Tensor]) -> Any:
        return torch.stack([self.conv(p).square().sum((1, 2)) for p in pictures])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_pictures_of_different_sizes_are_judged_each_in_its_own() -> None:
    pictures, labels = [torch.rand(1, 8, 8), torch.rand(1, 6, 10), torch.rand(1, 4, 4)], torch.tensor([0, 1, 2])
    torch.manual_seed(0)
    module = Detector()
    watch = explained(module, (pictures, list(labels)), methods="saliency", n_samples=3, metrics="srg", target=1)
    options = {"methods": "saliency", "metrics": "srg", "target": 1}
    alone = [evaluate(lambda x: module(list(x)), p[None], ids=[i], **options) for i, p in enumerate(pictures)]
    mean = sum(one["saliency", "srg"].mean for one in alone) / 3
    assert watch.history[0]["srg"] == pytest.approx(mean, rel=1e-3)

"""`precision=` arrives in the engine by every road: fastai, Lightning, stores, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins import explain
from interp_plugins.core.errors import UnknownNameError

STEPS = 400  # of 32 x 32 pixels: loops of fewer elements than a million run as they are
pytest.importorskip("fastai")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 2)
    return nn.Sequential(*layers).eval()


def pixels(n: int = 1) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def check(found: Any, exact: Any) -> None:
    """It ran in bfloat16, and states an error that holds."""
    said = found.meta["precision"]
    assert said["ran"] == "bfloat16" and "precision" not in exact.meta
    away = float((found.attribution - exact.attribution).norm() / exact.attribution.norm())
    assert 0 < away <= said["map_error"] < 0.05


def test_lower_precision_in_a_learner_and_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.learner import Learner
    from fastai.vision.data import ImageBlock
    from PIL import Image
    from typer.testing import CliRunner

    import interp_plugins.fastai  # noqa: F401 - it adds `explain`
    from interp_plugins.cli import app, learners

    files = []
    for k, name in enumerate(("a", "b", "c", "d")):
        files.append(tmp_path / f"{name}.png")
        Image.fromarray((255 * pixels(4)[k]).byte().permute(1, 2, 0).numpy()).save(files[-1])
    block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda f: f.stem in "ab")
    loaders = block.dataloaders(files, bs=2, num_workers=0, device=torch.device("cpu"))
    learn = Learner(loaders, network(), loss_func=nn.CrossEntropyLoss())
    found, exact = (
        learn.explain(files[0], "ig", n_steps=STEPS, progress=False, **more) for more in ({"precision": "bfloat16"}, {})
    )
    check(found[0], exact[0])
    with pytest.raises(UnknownNameError, match="bfloat"):
        learn.explain(files[0], "ig", precision="bfloat61")

    asked: list[Any] = []

    class Exported:
        def explain(self, images: Any, **options: Any) -> Any:
            asked.append(options["precision"])
            return learn.explain(images, **options)

    monkeypatch.setattr(learners, "exported", lambda _: Exported())
    how = ["explain", "model.pkl", str(files[0]), "--method", "saliency", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*how, "--precision", "bfloat16"]).exit_code == 0
    assert asked == ["bfloat16"]


def test_lower_precision_in_lightning_and_in_a_store(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    from interp_plugins.lightning import explain as explain_module
    from interp_plugins.store import explain_dataset

    net, x, how = network(), pixels(2), {"target": 0, "n_steps": STEPS, "progress": False}
    exact = explain(net, x, "ig", **how)
    check(explain_module(net, x, "ig", precision="bfloat16", **how)[0], exact[0])
    loader = DataLoader(TensorDataset(x), batch_size=2)
    stores = [
        explain_dataset(net, loader, tmp_path / name, "ig", precision=name, **how) for name in ("bfloat16", "float32")
    ]
    check(stores[0][0][0], stores[1][0][0])

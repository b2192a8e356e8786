"""A model that normalises its input in place, through every door: maps of the copying model, and nobody's data changed.

The methods themselves are in test_in_place_inputs.py.
"""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import explain
from interp_plugins.core.spec import InputSpec
from interp_plugins.insights import Session
from interp_plugins.store import explain_dataset

METHODS = {"saliency": {}, "integrated_gradients": {"n_steps": 4}, "occlusion": {}, "grad_cam": {}}
SPEC = InputSpec("image", vocab=("a", "b", "c"))
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


class Normalising(nn.Module):
    """Subtracts and divides in its argument, or in a copy of it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.4).div_(0.3) if self.in_place else (x - 0.4) / 0.3)


def right() -> dict[str, Tensor]:
    """The maps of the model that copies, for the labels."""
    return {e.method: e.attribution for e in explain(Normalising(False), X, METHODS, target=Y)}


def alike(found: Any, expected: Tensor) -> bool:
    return torch.allclose(torch.as_tensor(found).float(), expected, atol=1e-6)


def test_a_data_set(tmp_path: Path) -> None:
    data = TensorDataset(X.clone(), Y)
    run = explain_dataset(
        Normalising(True), data, tmp_path / "run", METHODS, target="label", input_spec=SPEC, progress=False
    )
    expected = right()
    for i in range(len(X)):
        for exp in run[i]:
            assert alike(exp.attribution[0], expected[exp.method][i]), exp.method
            assert torch.allclose(exp.input[0], X[i])
    assert torch.equal(data.tensors[0], X)


def test_the_viewer() -> None:
    given, expected = X.clone(), right()
    session = Session(Normalising(True), given, labels=Y.tolist(), input_spec=SPEC, target="label")
    for method, params in METHODS.items():
        box: queue.Queue[dict[str, Any]] = queue.Queue()
        session.receive({"id": 1, "type": "explain", "samples": [1], "method": method, "params": params}, box.put)
        while (got := box.get(timeout=60))["type"] == "progress":
            pass
        assert got["type"] == "result", got
    for exp in session.explanations():
        assert alike(exp.attribution[0], expected[exp.method][1]), exp.method
    assert torch.equal(given, X)


def test_lightning(tmp_path: Path) -> None:
    pl: Any = pytest.importorskip("pytorch_lightning")
    from interp_plugins.lightning import AttributionCallback, top_losses

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Normalising(True)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.model(batch[0])

    for method, params in METHODS.items():
        watch = AttributionCallback({method: params}, n_samples=4, target="label", loggers="none")
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, callbacks=[watch], default_root_dir=tmp_path,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.validate(Module(), DataLoader(TensorDataset(X.clone(), Y), batch_size=4), verbose=False)
        assert alike(watch.last[0].attribution, right()[method]), method

    batches = [(X.clone(), Y)]
    top = top_losses(Module(), batches, 4, loss_fn=nn.functional.cross_entropy, methods="saliency")
    order = nn.functional.cross_entropy(Normalising(False)(X), Y, reduction="none").argsort(descending=True)
    assert torch.equal(batches[0][0], X)
    assert alike(top[0].input, X[order])


def test_fastai(tmp_path: Path) -> None:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as Loader
    from fastai.learner import Learner

    import interp_plugins.fastai  # noqa: F401 - Learner.explain

    data = [(x.clone(), int(y)) for x, y in zip(X, Y, strict=True)]
    dls = DataLoaders(Loader(data, bs=4, num_workers=0), Loader(data, bs=4, num_workers=0), device="cpu")
    learn = Learner(dls, Normalising(True), loss_func=nn.CrossEntropyLoss(), path=tmp_path)
    expected = right()
    for method, params in METHODS.items():
        found = learn.explain(xb=X, methods={method: params}, target=Y, budget="normal")
        assert alike(found[0].attribution, expected[method]), method

"""Small nets, data made here, and a quiet Trainer on the CPU."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pl: Any = pytest.importorskip("pytorch_lightning")

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(pl.LightningModule):
    """A net with everything that has a mode: batch norm and dropout."""

    def __init__(self, body: nn.Module | None = None):
        super().__init__()
        self.body = body or nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]).float(), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.step(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def dataset(n: int = 16, seed: int = 0) -> TensorDataset:
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 1, 8, 8, generator=g), torch.randint(3, (n,), generator=g))


def loader(n: int = 16, batch_size: int = 4, seed: int = 0, **kwargs: Any) -> DataLoader:
    return DataLoader(dataset(n, seed), batch_size=batch_size, **kwargs)


@pytest.fixture
def net_class() -> type[Net]:
    return Net


@pytest.fixture
def make_net() -> Callable[..., Net]:
    """The same weights each time."""

    def make(cls: type[Net] = Net, **kwargs: Any) -> Net:
        torch.manual_seed(0)
        return cls(**kwargs)

    return make


@pytest.fixture
def make_loader() -> Callable[..., DataLoader]:
    return loader


@pytest.fixture
def make_trainer(tmp_path: Any) -> Callable[..., Any]:
    def make(*callbacks: Any, **kwargs: Any) -> Any:
        return pl.Trainer(callbacks=list(callbacks), **{**QUIET, "default_root_dir": tmp_path, **kwargs})

    return make


@pytest.fixture
def make_callback() -> Callable[..., Any]:
    """A callback that raises, computes something cheap and writes nothing, unless it is told otherwise."""
    from interp_plugins.lightning import AttributionCallback

    def make(methods: Any = "saliency", **kwargs: Any) -> AttributionCallback:
        return AttributionCallback(methods, **{"n_samples": 2, "loggers": "none", "on_error": "raise", **kwargs})

    return make


@pytest.fixture
def warned() -> Callable[[str], Any]:
    """Our own warnings inside, and no other text than this; what Lightning says of itself does not count."""

    from interp_plugins.core.errors import InterpWarning

    @contextlib.contextmanager
    def expect(pattern: str) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield
        ours = [str(w.message) for w in seen if issubclass(w.category, InterpWarning)]
        assert ours
        assert [text for text in ours if not re.search(pattern, text)] == []

    return expect

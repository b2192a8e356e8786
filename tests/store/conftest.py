"""A small net, 11 samples, and a finished run of three methods over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from interp_plugins.core.spec import InputSpec
from interp_plugins.store import ExplanationStore, explain_dataset

METHODS = {
    "ig": {"n_steps": 5},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 3},
    "occlusion": {"sliding_window_shapes": (1, 3, 3), "strides": (1, 2, 2)},
}
SIZE = 11


class Pictures(Dataset[Any]):
    """Pictures (1, 8, 8) and their classes, which can fail to be read."""

    def __init__(self, unreadable: tuple[int, ...] = (), noise: float = 0.0):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(SIZE, 1, 8, 8, generator=generator)
        self.y = [i % 3 for i in range(SIZE)]
        self.unreadable, self.noise = unreadable, noise

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        if i in self.unreadable:
            raise OSError(f"cannot identify image file 'picture{i}.png'")
        return self.x[i] + self.noise * torch.rand(1, 8, 8), self.y[i]


def make_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, 3)
        )


@pytest.fixture
def net() -> nn.Module:
    return make_net()


@pytest.fixture(scope="session")
def pictures() -> type[Pictures]:
    return Pictures


@pytest.fixture(scope="session")
def new_net() -> Callable[..., nn.Module]:
    return make_net


@pytest.fixture(scope="session")
def methods() -> dict[str, Any]:
    return METHODS


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    return InputSpec(kind="image", mean=(0.5,), std=(0.5,), vocab=("cat", "dog", "fox"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, spec: InputSpec) -> ExplanationStore:
    """The run that nothing interrupted: 11 samples in units of 4, explained for their labels."""
    path = tmp_path_factory.mktemp("store") / "run"
    return explain_dataset(
        make_net(), Pictures(), path, METHODS, target="label", unit_size=4, input_spec=spec, progress=False
    )


@pytest.fixture(scope="session")
def contents() -> Callable[[ExplanationStore], tuple[dict[str, bytes], dict[str, list[Any]]]]:
    """All arrays as bytes, and the table without its times."""

    def read(store: ExplanationStore) -> tuple[dict[str, bytes], dict[str, list[Any]]]:
        arrays = {name: store.array(name)[:].tobytes() for name in (*store.methods, "inputs")}
        table = store.table()
        columns = {n: table[n].to_pylist() for n in table.column_names if n.rpartition(".")[2] != "seconds"}
        return arrays, columns

    return read


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return tmp_path / "run"

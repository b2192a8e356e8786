"""What only a CUDA device can show. Without one every test here is skipped; with one: `pytest tests/gpu -n 0`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from interp_plugins.core.errors import InterpWarning, RandomisationWarning

DEVICE = "cuda"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here; what others say about themselves is no error, what we warn of is."""
    missing = pytest.mark.skip(reason=f"needs a CUDA device, and torch {torch.__version__} finds none")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            for action, kind in (("error", InterpWarning), ("ignore", RandomisationWarning)):
                item.add_marker(pytest.mark.filterwarnings(f"{action}::{kind.__module__}.{kind.__name__}"))
            if not torch.cuda.is_available():
                item.add_marker(missing)


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No TF32 and always the same kernels, so that results can be compared."""
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = False
    backends.cudnn.deterministic = True
    yield
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.deterministic = before


@pytest.fixture
def to_device(device: torch.device) -> Callable[[Any], Any]:
    """All tensors and modules in nested containers, moved."""

    def move(tree: Any) -> Any:
        return pytree.tree_map(lambda v: v.to(device) if isinstance(v, (torch.Tensor, torch.nn.Module)) else v, tree)

    return move

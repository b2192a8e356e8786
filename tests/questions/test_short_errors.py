"""What is wrong with a call is said in two frames: the caller's line and the public function."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import interp_plugins as ip
from interp_plugins.core.errors import InputTypeError, InterpError, ModelError

NET = nn.Linear(4, 3)
X = torch.randn(2, 4)


def lightning(**wrong: Any) -> Any:
    pytest.importorskip("pytorch_lightning")
    from interp_plugins.lightning import explain

    return lambda: explain(NET, X, **{"methods": "ig", **wrong})


def store(**wrong: Any) -> Any:
    pytest.importorskip("zarr")
    from interp_plugins.store import explain_dataset

    return lambda: explain_dataset(NET, TensorDataset(X), "never", **{"methods": "ig", "progress": False, **wrong})


def learner(**wrong: Any) -> Any:
    pytest.importorskip("fastai")
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    import interp_plugins.fastai  # noqa: F401

    loader = torch.utils.data.DataLoader(TensorDataset(X, torch.zeros(2, dtype=torch.long)), batch_size=2)
    learn = Learner(DataLoaders(loader, loader), NET, loss_func=nn.CrossEntropyLoss())
    return lambda: learn.explain(**{"xb": X, "methods": "ig", **wrong})


def core(**wrong: Any) -> Any:
    return lambda: ip.explain(NET, X, **{"methods": "ig", **wrong})


WRONG = {
    "method": {"methods": "igg"},
    "parameter": {"n_stepz": 3},
    "target": {"target": 7},
    "against": {"target": 1, "against": [2]},
    "layer": {"methods": "gradcam", "layer": "nowhere"},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", [core, lightning, learner, store])
def test_two_frames(door: Callable[..., Any], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = door(**WRONG[wrong])
    with pytest.raises(InterpError) as caught:
        call()
    frames = traceback.extract_tb(caught.value.__traceback__)[1:]  # without pytest's line
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert len(frames) == 2 and frames[1].name.startswith("explain"), [f.name for f in frames]


def test_the_model_keeps_its_own_traceback() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("weights")

    with pytest.raises(ModelError) as caught:
        ip.explain(broken, X, "ig", target=0)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "broken" in [f.name for f in traceback.extract_tb(caught.value.__cause__.__traceback__)]


def test_method_is_a_slip_for_methods() -> None:
    with pytest.raises(InputTypeError, match=r"you mean methods='ig'"):
        ip.explain(NET, X, method="ig")

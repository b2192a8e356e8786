"""The verbs around `explain` say what is wrong with a call in two frames as well: the caller's line and the verb."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins.core.errors import InterpError
from interp_plugins.insights import Session

NET, X, Y = nn.Linear(4, 3), torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
LOADER = DataLoader(TensorDataset(X, Y), batch_size=2)

METHOD, PARAMETER, TARGET = {"methods": "igg"}, {"methods": "ig", "n_stepz": 3}, {"methods": "ig", "target": 7}
LAYER, AGAINST = {"methods": "gradcam", "layer": "nowhere"}, {"methods": "ig", "target": 1, "against": [2]}
ASKING = (METHOD, PARAMETER, TARGET, LAYER)
JUDGING = (METHOD, {"methods": "ig", "n": 0}, {"methods": "ig", "features": "nothing"})


@pytest.fixture(scope="module")
def learn() -> Any:
    pytest.importorskip("fastai")
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    import interp_plugins.fastai  # noqa: F401

    return Learner(DataLoaders(LOADER, LOADER), NET, loss_func=nn.CrossEntropyLoss())


def in_two_frames(call: Callable[[], Any], verb: str) -> None:
    with pytest.raises(InterpError) as caught:
        call()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)[1:]]  # without pytest's line
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert frames == [verb], f"{frames}: {caught.value}"


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [
        *(("show_explanations", {"ds_idx": 1, **w}) for w in ASKING),
        ("show_explanations", {"ds_idx": 1, "idxs": [99]}),
        *(("attribution_importance", w) for w in (*ASKING, AGAINST, {"agg": "mode"})),
        *(("insights", {"ds_idx": 1, "show": "file", "path": "never.html", **w}) for w in (*ASKING[:3], AGAINST)),
        ("insights", {"ds_idx": 1, "show": "nowhere"}),
        ("insights", {"ds_idx": 1, "show": "file", "path": "never.html", "seed": -1}),
        *(("evaluate_explanations", {"ds_idx": 1, **w}) for w in (*JUDGING, {"metrics": "good"}, AGAINST)),
        *(("compare_methods", {"ds_idx": 1, **w}) for w in (METHOD, AGAINST, JUDGING[2])),
    ],
)
def test_of_a_learner(
    learn: Any, verb: str, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_two_frames(partial(getattr(learn, verb), **wrong), verb)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [*ASKING, {"k": 0}, {"k": 2, "autocast": True}, {"input_key": "pixels"}])
def test_of_top_losses_in_lightning(wrong: dict[str, Any]) -> None:
    pytest.importorskip("pytorch_lightning")
    from interp_plugins.lightning import top_losses

    ask = {"k": 2, "loss_fn": nn.functional.cross_entropy, **wrong}
    in_two_frames(partial(top_losses, NET, LOADER, **ask), "top_losses")


@pytest.mark.parametrize("wrong", [*ASKING, {"k": [99]}])
def test_of_top_losses_in_fastai(learn: Any, wrong: dict[str, Any]) -> None:
    from fastai.interpret import Interpretation

    found = Interpretation(learn, learn.dls.valid, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    in_two_frames(partial(found.plot_top_losses_explained, **{"k": 2, **wrong}), "plot_top_losses_explained")


@pytest.mark.parametrize("wrong", [*JUDGING, AGAINST])
@pytest.mark.parametrize("verb", [ip.evaluate, ip.compare_methods])
def test_of_judging(verb: Callable[..., Any], wrong: dict[str, Any]) -> None:
    in_two_frames(partial(verb, NET, LOADER, **wrong), verb.__name__)


@pytest.mark.parametrize("wrong", [{"labels": [0]}, {"target": 1, "against": [2]}, {"seed": -1}])
def test_of_a_session(wrong: dict[str, Any]) -> None:
    in_two_frames(partial(Session, NET, X, **wrong), "__init__")

"""`learn.attack`: in the picture's own units, on items and rows, with the Learner as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastai.data.block import MultiCategoryBlock
from fastai.data.transforms import parent_label
from fastai.layers import AdaptiveConcatPool2d
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
from fastai.vision.data import ImageBlock
from torch import nn

from interp_plugins.core.errors import InterpError
from interp_plugins.robust import PGD


def net(classes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), AdaptiveConcatPool2d(1), nn.Flatten(), nn.Linear(8, classes))


@pytest.fixture(scope="module")
def learn(dls: Any) -> Learner:
    return Learner(dls, net(), loss_func=CrossEntropyLossFlat())


def test_pictures_are_attacked_in_their_own_units(learn: Learner, folder: Any, unchanged: Any) -> None:
    items = sorted(folder.rglob("*.png"))[:3]
    with unchanged(learn):
        found = learn.attack(items, eps="6/255", steps=4, stop_early=False)
    assert len(found) == 3 and float(found.norms["Linf"].max()) <= 6 / 255 + 1e-6
    assert set(found.prediction) <= {"cat", "dog"} and found.spec.normalised
    spec = found.spec
    raw = spec.denormalise(found.inputs)
    assert torch.allclose(spec.denormalise(found.perturbed), raw + found.delta, atol=1e-5)
    said = learn.model.eval()(found.inputs).argmax(1)
    own = PGD(lambda r: learn.model(spec.normalise(r)), lower_bound=0.0, upper_bound=1.0)
    last = spec.normalise(own.perturb(raw.clamp(0, 1), 6 / 255, 2.5 * 6 / 255 / 4, 4, said))
    away = lambda x: learn.model(x).detach().gather(1, said[:, None]) * 2 - learn.model(x).detach().sum(1, True)  # noqa: E731
    assert torch.allclose(away(found.perturbed)[:, 0], found.margin_after, atol=1e-4)
    assert bool((found.margin_after <= away(last)[:, 0] + 1e-4).all())  # the best of all steps
    assert found.params["eps"] == pytest.approx(6 / 255)


def test_items_are_certified_in_their_own_units(learn: Learner, folder: Any, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.certify(sigma=0.1, n=60, n0=20, n_items=3)
    assert len(found) == 3 and found.norm == "L2" and bool((found.radius >= 0).all())
    one = learn.certify(ds_idx=1, idxs=0, sigma=0.1, n=60, n0=20)
    assert torch.allclose(one.radius[0], found.radius[0]) and found.params["sigma"] == 0.1


def test_rows_are_attacked_by_name_and_wrong_ones_need_no_attack(learn: Learner) -> None:
    found = learn.attack(ds_idx=1, idxs=[0, 2, 4], target="label", eps=0.5, steps=10)
    truth = [learn.dls.vocab[int(learn.dls.valid.dataset[i][1])] for i in (0, 2, 4)]
    assert list(found.target_label) == truth
    wrong = [p != t for p, t in zip(found.prediction, truth, strict=True)]
    assert [s == "already" for s in found.state] == wrong
    goal = learn.attack(ds_idx=1, idxs=0, goal="dog" if found.prediction[0] == "cat" else "cat", eps=1.0)
    assert goal.goal_label != goal.prediction and goal.show().axes.shape == (1, 3)
    assert len(learn.attack(n=2, eps=0.01, steps=1)) == 2


def test_several_batches_are_one_result(learn: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn.attack(n=5, eps=0.1, steps=2)
    monkeypatch.setattr("interp_plugins.fastai.sample_stream.PIECE", 2)
    cut = learn.attack(n=5, eps=0.1, steps=2)
    assert torch.allclose(whole.delta, cut.delta, atol=1e-6) and whole.state == cut.state and len(cut) == 5


def test_labels_that_do_not_exclude_each_other_and_ids_are_refused(block_dls: Callable[..., Any]) -> None:
    import pandas as pd

    several = block_dls((ImageBlock, MultiCategoryBlock), get_y=lambda p: [parent_label(p)])
    with pytest.raises(InterpError, match="do not exclude each other"):
        Learner(several, net(), loss_func=BCEWithLogitsLossFlat()).attack(n=2)
    lowered = Learner(several, net(), loss_func=BCEWithLogitsLossFlat())
    found = lowered.attack(n=2, eps=0.1, target="cat", goal=("change", -0.001))
    assert found.state == ("turned", "turned") and found.target_label == ("cat", "cat")
    rows = pd.DataFrame({"a": ["x", "y"] * 8, "b": range(16), "c": ["no", "yes"] * 8})
    tables = TabularDataLoaders.from_df(
        rows, procs=[Categorify], cat_names=["a"], cont_names=["b"], y_names="c", bs=4, valid_idx=[0, 1, 2]
    )
    with pytest.raises(InterpError, match="categories, words or other ids"):
        tabular_learner(tables, layers=[4]).attack(n=2)

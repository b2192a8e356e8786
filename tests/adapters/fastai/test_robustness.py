"""`learn.robustness` and its kin: in the pictures' own units and the table's words; the callback changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
from fastai.tabular.all import Normalize as NormalizeColumns
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop
from fastai.vision.core import imagenet_stats

from interp_plugins.core.errors import InterpError
from interp_plugins.fastai import RobustnessCallback
from interp_plugins.robust import Corruption


def test_accuracy_is_that_of_the_labels_and_falls_with_the_size(learn: Learner, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.robustness(eps=("2/255", 0.5), n=6, steps=4, check=False, methods="saliency")
    truth = [int(learn.dls.valid.dataset[i][1]) for i in range(6)]
    said = [int(learn.dls.vocab.o2i[p]) for p in learn.attack(n=6, eps=0, steps=1).prediction]
    assert found.labelled and found.right[0].tolist() == [a == b for a, b in zip(truth, said, strict=True)]
    assert found.accuracy.tolist() == sorted(found.accuracy.tolist(), reverse=True)
    assert found.spec.normalised and found.keys == tuple(range(6)) and "saliency" in found.agreement


def test_corruptions_are_of_the_pictures_before_they_are_normalised(learn: Learner, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.corruptions(names="contrast", severities=(5,), n=3)
    raw = found.spec.denormalise(learn.attack(n=3, eps=0, steps=1).inputs)
    expected = found.spec.normalise(Corruption("contrast", 5).perturb(raw.clamp(0, 1)))
    assert torch.allclose(found.pictures["contrast 5"], expected[:1], atol=1e-5)


def test_maps_are_attacked_and_pictures_get_counterfactuals(learn: Learner, picture: Any, unchanged: Any) -> None:
    with unchanged(learn):
        maps = learn.explanation_robustness(picture, "gradcam", eps="8/255", n_random=2, steps=2, keep=1.0)
        seen = learn.counterfactual(picture, steps=10)
        gone = learn.counterfactual(picture, kind="regions")
    assert bool((maps.attacked <= maps.random_worst).all()) and maps.spec.normalised and len(maps) == 1
    assert maps.before[0].target_label is not None and maps.before[0].target_label[0] in ("cat", "dog")
    assert seen.params["attack"] == "visible" and gone.params["attack"] == "regions"
    with pytest.raises(InterpError, match="immutable= is of kind='row'"):
        learn.counterfactual(picture, immutable=["age"])


@pytest.fixture(scope="module")
def table() -> Learner:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({
        "job": rng.choice(["clerk", "smith", "none"], 200), "age": rng.integers(18, 80, 200),
        "rate": rng.random(200),
    })  # fmt: skip
    rows["rich"] = np.where((rows["age"] > 40) & (rows["job"] != "none"), "yes", "no")
    dls = TabularDataLoaders.from_df(
        rows, procs=[Categorify, NormalizeColumns], cat_names=["job"], cont_names=["age", "rate"], y_names="rich",
        bs=50, valid_idx=list(range(20)), device=torch.device("cpu"),
    )  # fmt: skip
    set_seed(0)
    learn = tabular_learner(dls, layers=[16], metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        learn.fit(12, 0.03)
    return learn


def test_rows_change_in_words_of_the_table(table: Learner, unchanged: Any) -> None:
    with unchanged(table):
        found = table.counterfactual(n=8, immutable=["rate"])
    assert found.changes is not None and found.success.tolist() == [True] * 8
    for one, state in zip(found.changes, found.state, strict=True):
        assert state == "turned" and 1 <= len(one) <= 2
        for name, before, after in one:
            assert before != after and name != "rate"
            assert (after in ("clerk", "smith", "none")) if name == "job" else isinstance(after, int)
    assert "job" in found.to_df()["changes"].sum() or "age" in found.to_df()["changes"].sum()
    several = table.counterfactual(n=1, many=2)
    assert 1 <= len(several) <= 2


def test_F4_training_is_bit_identical_with_the_callback(
    make_learner: Callable[..., Learner], make_dls: Callable[..., Any]
) -> None:
    def trained(cbs: list[Any]) -> Learner:
        set_seed(3)
        normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
        data = make_dls(item_tfms=RandomResizedCrop(20, min_scale=0.5), batch_tfms=[normalize], bs=7)
        learn = make_learner(data, metrics=accuracy)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2, 0.01, cbs=cbs)
        return learn

    watch = RobustnessCallback(n_samples=3, eps=("2/255", "8/255"), steps=2, explanations="saliency", on_error="raise")
    plain, watched = trained([]), trained([watch])
    want, got = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert np.array_equal(plain.recorder.values, watched.recorder.values)
    assert list(watch.to_df()["epoch"]) == [0, 1]
    names = {"epoch", "robust_acc@0", "robust_acc@2/255", "robust_acc@8/255", "median_l2"}
    assert names <= set(watch.history[-1])
    assert watch.history[-1]["robust_acc@0"] >= watch.history[-1]["robust_acc@8/255"]


def test_what_cannot_be_is_refused(table: Learner, learn: Learner) -> None:
    with pytest.raises(InterpError, match="categories, words or other ids"):
        table.robustness(n=2)
    with pytest.raises(InterpError, match="eps are several sizes"):
        learn.robustness(eps=0.1)
    with pytest.raises(InterpError, match="n_samples"):
        RobustnessCallback(n_samples=0)

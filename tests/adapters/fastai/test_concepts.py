"""`learn.concepts` and `learn.concept_test`: on folders, names and items, with the Learner as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from interp_plugins.concept import concepts
from interp_plugins.core.errors import InputError


@pytest.fixture(scope="module")
def learn(dls: Any) -> Learner:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat())


def test_concepts_of_a_class_by_name_and_an_item_by_path(learn: Learner, folder: Path, unchanged: Any) -> None:
    item = sorted(folder.rglob("*.png"))[0]
    with unchanged(learn):
        bank = learn.concepts(target="cat", n_concepts=2, items="all", ds_idx=0)
        taken = bank.explain(item)
    assert bank.target == "cat" and bank.facts["items"] == len(learn.dls.train_ds) and bank.spec.normalised
    x = learn.dls.test_dl([item]).one_batch()[0]
    score = learn.model.eval()(x).detach()[0, learn.dls.vocab.o2i["cat"]].item()
    assert taken.score == pytest.approx(score, abs=1e-5)
    assert taken.base + float(taken.shares.sum()) + taken.residual == pytest.approx(score, abs=1e-4)
    assert bank.explain(item, "saliency", concept=0)[0].attribution.shape == x.shape
    plain = concepts(learn.model, learn.dls.valid, target=0, n_concepts=2, items="all")
    assert torch.allclose(
        plain.importance, learn.concepts(target="cat", n_concepts=2, items="all").importance, atol=1e-5
    )


def test_folders_are_concepts(learn: Learner, folder: Path, tmp_path: Path, unchanged: Any) -> None:
    with unchanged(learn):
        found = learn.concept_test(folder / "dog", random=folder / "cat", target="dog", items="all", permutations=99)
    assert found.target == "dog" and found[0].concept == "dog" and found[0].examples == (10, 10)
    files = sorted((folder / "dog").glob("*.png"))
    both = learn.concept_test({"a": files[:5], "b": files[5:]}, folder / "cat", "dog", items="all", permutations=99)
    assert [row.concept for row in both] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        learn.concept_test(tmp_path / "empty", folder / "cat", "dog")
    with pytest.raises(InputError, match="is no folder"):
        learn.concept_test(str(tmp_path / "nowhere"), folder / "cat", "dog")


def test_rows_of_a_table_have_concepts(tmp_path: Path) -> None:
    import pandas as pd
    from fastai.tabular.all import Normalize, TabularDataLoaders, tabular_learner

    draw = torch.Generator().manual_seed(0)
    df = pd.DataFrame(torch.rand(40, 3, generator=draw).numpy(), columns=["a", "b", "c"])
    df["y"] = ["no", "yes"] * 20
    dls = TabularDataLoaders.from_df(
        df, path=tmp_path, procs=[Normalize], cont_names=["a", "b", "c"], y_names="y", valid_idx=range(20), bs=8
    )
    table = tabular_learner(dls, layers=[8])
    bank = table.concepts(target="yes", n_concepts=2, items="all", layer="layers.0.1")
    row = bank.explain(df.iloc[0])
    assert row.base + float(row.shares.sum()) + row.residual == pytest.approx(row.score, abs=1e-4)

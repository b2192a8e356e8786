"""`learn.evaluate_explanations` and `learn.compare_methods`: pictures, tables, texts, regions, several labels."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import ColReader, RandomSplitter
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.tabular.all import Categorify, Normalize, TabularDataLoaders, tabular_learner
from fastai.text.all import AWD_LSTM, BaseTokenizer, TextDataLoaders, awd_lstm_clas_config, text_classifier_learner
from fastai.torch_core import set_seed
from fastai.vision.all import ImageBlock, MaskBlock
from torch import nn

import interp_plugins.fastai  # noqa: F401 - the verbs on Learner
from interp_plugins.metrics import Scores
from tests.adapters.fastai.scenes import CODES, conv_net, draw, mask_of

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return draw(tmp_path_factory.mktemp("scenes"), 24)


def loaders(rows: pd.DataFrame, block: Any, column: Any) -> Any:
    data = DataBlock((ImageBlock, block), get_x=ColReader("file"), get_y=column, splitter=RandomSplitter(0.5, seed=1))
    return data.dataloaders(rows, bs=8, num_workers=0, device=torch.device("cpu"))


def fitted(dls: Any, net: nn.Module, loss: Any, epochs: int) -> Learner:
    set_seed(0)
    learn = Learner(dls, net, loss_func=loss)
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, 1e-2)
    return learn


@pytest.fixture(scope="module")
def pictures(rows: pd.DataFrame) -> Learner:
    two = rows[~rows["labels"].str.contains(" ")]
    return fitted(loaders(two, CategoryBlock, ColReader("kind")), conv_net(2), CrossEntropyLossFlat(), 8)


def test_pictures_are_judged_as_they_are_explained(pictures: Learner, unchanged: Any) -> None:
    items = pictures.dls.valid.dataset.items
    masks = [mask_of(row, row["kind"]) for _, row in items.iterrows()]
    with unchanged(pictures):
        found = pictures.evaluate_explanations(
            methods=("saliency", "ig"), target="label", masks=masks, controls=["control.random"], n_steps=10
        )
        same = pictures.evaluate_explanations(items, ("saliency", "ig"), target="label", masks=masks, n_steps=10)
    assert isinstance(found, Scores) and found.methods[:2] == ["saliency", "integrated_gradients"]
    assert found["saliency", "srg"].ids == tuple(range(len(items))) and "mask_auc" in found.metrics
    gap = found["integrated_gradients", "srg"].values - same["integrated_gradients", "srg"].values
    assert gap.abs().max() < 1e-5
    assert found["integrated_gradients", "srg"].mean > 3 * abs(found["control.random", "srg"].mean)
    planned = pictures.evaluate_explanations(methods="saliency", target="label", n=3, dry_run=True)
    assert planned.n == 3 and planned.rows["srg"] == (3 * 40, 0)


def test_the_method_for_this_model_is_named(pictures: Learner, unchanged: Any) -> None:
    with unchanged(pictures):
        found = pictures.compare_methods(methods=("saliency", "input_x_gradient"), n=6)
    assert set(found.checks) == {"saliency", "input_x_gradient"} and any(c.name == "is right" for c in found.model)
    assert "6 samples" in found.why() or "None of 2 methods" in found.why()


def test_a_table_loses_columns_and_a_category_stays_one() -> None:
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"age": rng.normal(size=160), "noise": rng.normal(size=160), "job": rng.choice(list("abc"), 160)})
    df["sold"] = np.where((df["job"] == "a") | (df["age"] > 0.8), "yes", "no")
    set_seed(1)
    dls = TabularDataLoaders.from_df(
        df, procs=[Categorify, Normalize], cat_names=["job"], cont_names=["age", "noise"], y_names="sold",
        valid_idx=list(range(16)), bs=32, device="cpu",
    )  # fmt: skip
    learn = tabular_learner(dls, layers=[16])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(12, 3e-2)
    found = learn.evaluate_explanations(
        methods=("feature_ablation", "ig"), masks=[["job", "age"]] * 16, controls=["control.random"], n=16
    )
    ablation = found["feature_ablation", "srg"]
    assert ablation.passes <= 16 * 6 and ablation.mean > found["control.random", "srg"].mean  # three columns
    assert found["feature_ablation", "relevance_mass"].mean > 0.8


def test_texts_are_judged_alone_without_padding() -> None:
    rng = np.random.default_rng(0)
    rest = re.findall(r"\w+", "the film was a story with actors and music in this old town")
    made = []
    for i in range(60):
        words = list(rng.choice(rest, rng.integers(3, 12)))
        words.insert(int(rng.integers(len(words))), "great" if i % 2 else "awful")
        made.append({"text": " ".join(words), "label": "pos" if i % 2 else "neg"})
    dls = TextDataLoaders.from_df(
        pd.DataFrame(made), text_col="text", bs=16, seed=1, seq_len=8, tok_tfm=BaseTokenizer(), device="cpu"
    )
    set_seed(0)
    config = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 12, "n_layers": 1}
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False)
    together = learn.evaluate_explanations(["great film", "the old town was awful and old"], "feature_ablation", "srg")
    alone = learn.evaluate_explanations(["great film"], "feature_ablation", "srg")
    assert torch.allclose(together["feature_ablation", "srg"].values[:1], alone["feature_ablation", "srg"].values)
    tokens = [len(e.tokens[0]) for e in learn.explain(["great film"], "feature_ablation")]
    assert alone["feature_ablation", "srg"].passes == 2 * tokens[0]
    spans = [[(1, 2)], [(4, 5)]]
    judged = learn.evaluate_explanations(
        ["great film", "the old town was awful"], "feature_ablation", "relevance_mass", masks=spans
    )
    assert judged["feature_ablation", "relevance_mass"].n == 2


def test_regions_and_several_labels(rows: pd.DataFrame) -> None:
    segmenter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    learn = fitted(loaders(rows, MaskBlock(codes=CODES), ColReader("mask")), segmenter, CrossEntropyLossFlat(axis=1), 3)
    found = learn.evaluate_explanations(methods="saliency", metrics=("srg", "relevance_mass"), n=3)
    assert found["saliency", "relevance_mass"].n == 3 and not found["saliency", "srg"].values.isnan().any()
    several = loaders(rows, MultiCategoryBlock, ColReader("labels", label_delim=" "))
    learn = fitted(several, conv_net(2), BCEWithLogitsLossFlat(), 2)
    whole = learn.evaluate_explanations(methods="saliency", metrics="srg", n=4)["saliency", "srg"]
    each = learn.evaluate_explanations(methods="saliency", metrics="srg", idxs=[2])["saliency", "srg"]
    assert whole.values[2].item() == pytest.approx(each.values[0].item(), abs=1e-5)

"""Rows of tables: real fits, one value per column, and everything that `predict` takes."""

import warnings
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.collab import CollabDataLoaders, collab_learner
from fastai.learner import load_learner
from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders, tabular_learner
from fastai.torch_core import set_seed

import interp_plugins.fastai  # noqa: F401 - Learner.explain
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, TargetError

CATEGORIES = ["workclass", "education", "relationship", "sex"]
NUMBERS = ["age", "education-num", "hours-per-week"]
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")


def rows_of_adult(n: int) -> pd.DataFrame:
    """Real people of the 1994 census, some of whose working hours are left out."""
    path = resources.files("shapiq") / "datasets" / "data" / "adult_census.csv"
    df = pd.read_csv(str(path)).iloc[:n].copy()
    df.loc[df.index[::7], "hours-per-week"] = np.nan
    return df


def fitted(df, categories=CATEGORIES, numbers=NUMBERS, y="class", epochs=2, **kwargs):
    set_seed(3)
    procs = [Categorify, FillMissing, Normalize]
    dls = TabularDataLoaders.from_df(
        df, procs=procs, cat_names=list(categories), cont_names=list(numbers), y_names=y, bs=128, device="cpu"
    )
    learn = tabular_learner(dls, layers=[24, 12], **kwargs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2)
    return learn


@pytest.fixture(scope="module")
def adult():
    return rows_of_adult(3000)


@pytest.fixture(scope="module")
def learn(adult):
    return fitted(adult)


def test_F18_one_value_per_column_jointly_complete(learn, adult, unchanged):
    with unchanged(learn):
        exp = learn.explain(adult.iloc[:12], "ig", target=">50K", tol=0.01, max_steps=2048)[0]
    assert exp.feature_names == (*CATEGORIES, "hours-per-week_na", *NUMBERS)
    assert exp.attributions.shape == exp.inputs.shape == exp.baselines.shape == (12, 8)
    assert exp.target_label == (">50K",) * 12 and exp.params["baselines"] == "mean"
    assert float(exp.relative_delta.median()) < 0.01
    assert float((exp.convergence_delta.abs() / exp.attributions.abs().sum(1)).max()) < 0.02
    change = (exp.score - exp.baseline_score).abs().sum()
    assert float(exp.convergence_delta.abs().sum() / change) < 0.01
    again = learn.explain(adult.iloc[:12], "ig", target=">50K", n_steps=1000)[0]
    assert float(again.relative_delta.median()) < 0.001


def test_F18_the_map_is_of_what_people_read(learn, adult):
    exp = learn.explain(adult.iloc[8], "ig", n_steps=10)[0]
    raw = dict(zip(exp.feature_names, exp.values[0]))
    assert {k: raw[k] for k in CATEGORIES} == adult.iloc[8][CATEGORIES].to_dict()
    assert raw["age"] == adult.iloc[8]["age"] and raw["hours-per-week_na"] is False
    row = exp.to_df().iloc[0]
    assert row["sample"] == "8" and row["age"] == float(exp.attributions[0, 5])
    assert exp[0].values == exp.values and "age" in learn.explain(adult.iloc[8], "ig", n_steps=2).to_html()


def test_F18_rows_as_predict_takes_them(learn, adult):
    row = adult.iloc[4]
    want = learn.explain(adult.iloc[[4]], "ig", n_steps=8)[0]
    for item in (row, row.to_dict(), row.drop("class"), [row], [row.to_dict()], adult.iloc[4:7], [row, adult.iloc[5]]):
        got = learn.explain(item, "ig", n_steps=8)[0]
        torch.testing.assert_close(got.attributions[:1], want.attributions, atol=1e-5, rtol=0)
        assert got.values[0] == want.values[0]
    predicted, probabilities = learn_predict(learn, row)
    assert want.prediction_label == (predicted,) and torch.allclose(want.probability[0], probabilities.max())
    encoded = learn.dls.test_dl(adult.iloc[[4]]).one_batch()
    assert torch.allclose(learn.explain(xb=encoded[:2], methods="ig", n_steps=8)[0].attributions, want.attributions)


def learn_predict(learn, row):
    with learn.no_bar():
        _, code, probabilities = learn.predict(row)
    return learn.dls.vocab[int(code)], probabilities


def test_F18_rows_of_the_data_and_their_truth(learn):
    valid = learn.dls.valid_ds.items
    exp = learn.explain(ds_idx=1, idxs=[5, 0, 9], methods="saliency", target="label")[0]
    assert exp.names == tuple(str(valid.index[i]) for i in (5, 0, 9))
    assert exp.target == tuple(int(valid["class"].iloc[i]) for i in (5, 0, 9))
    train = learn.explain(ds_idx=0, idxs=[2], methods="saliency", target="label")[0]
    assert train.names == (str(learn.dls.train_ds.items.index[2]),)
    assert learn.explain(dl=learn.dls.valid, idxs=[5], methods="saliency", target="label")[0].target == exp.target[:1]
    with pytest.raises(TargetError, match="ground truth"):
        learn.explain(rows_of_adult(1).drop(columns="class"), "saliency", target="label")


def test_F18_references(learn, adult):
    row, methods = adult.iloc[4], ("ig", "gradient_shap", "feature_ablation")
    default, mean = (learn.explain(row, methods, n_steps=8, **kw) for kw in ({}, {"baselines": "mean"}))
    assert all(torch.equal(a.attributions, b.attributions) for a, b in zip(default, mean))
    found = {
        b: learn.explain(row, methods, baselines=v, n_steps=8)
        for b, v in {
            "zero": "zero",
            "row": adult.iloc[7],
            "sample": adult.iloc[:40],
            "dict": adult.iloc[7].to_dict(),
        }.items()
    }
    for exps in found.values():
        assert all(
            e.attributions.shape == (1, 8) and not torch.equal(e.attributions, d.attributions)
            for e, d in zip(exps, default)
        )
    assert torch.equal(found["row"][0].attributions, found["dict"][0].attributions)
    same = learn.explain(row, "ig", baselines=row)[0]
    assert float(same.attributions.abs().max()) == 0
    want = learn.explain(adult.iloc[7], "ig", n_steps=8, target=default[0].target[0])[0].score
    torch.testing.assert_close(found["row"][0].baseline_score, want)


def test_F18_categories_or_numbers_alone(adult, unchanged):
    for categories, numbers in ((CATEGORIES[:2], []), ([], NUMBERS[:2])):
        learn = fitted(adult[:600], categories, numbers, epochs=1)
        with warnings.catch_warnings(), unchanged(learn):
            warnings.simplefilter("error", InterpWarning)
            exps = learn.explain(adult.iloc[3], ("ig", "occlusion", "noise_tunnel"), n_steps=100)
        assert all(e.attributions.shape == (1, 2) for e in exps)
        assert exps[0].feature_names == (*categories, *numbers)
        assert float(exps[0].convergence_delta.abs() / exps[0].attributions.abs().sum()) < 0.02


def test_F21_regression_of_a_table(adult):
    learn = fitted(adult[:600], ["sex", "education"], ["hours-per-week"], y="age", epochs=1, y_range=(15, 80))
    exp = learn.explain(adult.iloc[:3], "ig", n_steps=40)[0]
    assert exp.attributions.shape == (3, 4) and exp.target_label == ("output",) * 3 and exp.probability is None
    assert float(exp.relative_delta.max()) < 0.02


def test_bad_rows_are_refused_with_a_text_that_helps(learn, adult):
    row = adult.iloc[4].to_dict()
    with pytest.raises(InputError, match=r"no column 'age'.*Did you mean 'agee'"):
        learn.explain({("agee" if k == "age" else k): v for k, v in row.items()}, "ig")
    with pytest.raises(InputError, match=r"missing value.*`age`.*Fill it in"):
        learn.explain({**row, "age": None}, "ig")
    with pytest.raises(InputError, match="'age' is a number"):
        learn.explain({**row, "age": "old"}, "ig")
    with pytest.raises(InputTypeError, match=r"pandas Series, a dict, or a DataFrame.*got int 5"):
        learn.explain(5, "ig")
    with pytest.warns(InterpWarning, match="education='Kindergarten' is none of the 16 values"):
        learn.explain({**row, "education": "Kindergarten"}, "saliency")
    with pytest.raises(InputError, match="no rows"):
        learn.explain(adult.iloc[:0], "ig")


@pytest.mark.filterwarnings("ignore:load_learner:UserWarning")
def test_an_exported_learner_says_what_its_reference_is(learn, adult, tmp_path):
    learn.export(tmp_path / "learn.pkl")
    loaded = load_learner(tmp_path / "learn.pkl")
    with pytest.warns(InterpWarning, match="keeps no training rows"):
        exp = loaded.explain(adult.iloc[4], "ig")[0]
    assert exp.attributions.shape == (1, 8)
    row = {"baselines": adult.iloc[7], "n_steps": 8}
    got, want = (one.explain(adult.iloc[4], "ig", **row)[0].attributions for one in (loaded, learn))
    torch.testing.assert_close(got, want)
    with pytest.raises(InputError, match="holds no data"):
        loaded.explain(ds_idx=1)


@pytest.mark.parametrize("more", [{}, {"use_nn": True, "layers": [16]}], ids=["dot", "nn"])
def test_F21_collaborative_filtering(more, unchanged):
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame({"user": rng.integers(5, 15, 500), "title": rng.choice(list("abcdef"), 500)})
    ratings["rating"] = 1 + ratings.user % 3 + 2 * (ratings.title > "c") + 0.1 * rng.random(500)
    set_seed(1)
    dls = CollabDataLoaders.from_df(ratings, bs=64, seed=1, device=torch.device("cpu"))
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5), **more)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 5e-2)
    with unchanged(learn):
        exp = learn.explain(ratings.iloc[:6], "ig", tol=0.01, max_steps=2048)[0]
    assert exp.feature_names == ("user", "title") and exp.attributions.shape == (6, 2)
    assert exp.values == tuple(zip(ratings.user[:6], ratings.title[:6]))
    assert float(exp.relative_delta.median()) < 0.01 and exp.target_label == ("output",) * 6
    one = learn.explain({"user": 6, "title": "b"}, ("ig", "occlusion"), tol=0.01)
    torch.testing.assert_close(
        learn.explain(pd.Series({"user": 6, "title": "b"}), "ig", tol=0.01, max_steps=2048)[0].score, one[0].score
    )
    best, worst = (
        learn.explain({"user": 8, "title": t}, "ig", tol=0.01, max_steps=2048)[0].attributions[0, 1] for t in "fa"
    )
    assert best > 0 > worst  # titles behind "c" are liked

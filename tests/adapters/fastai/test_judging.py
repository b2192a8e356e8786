"""`AttributionCallback(metrics=...)` in real trainings: columns of the recorder, the same training, a limit of rows."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import fit_one_cycle, lr_find  # noqa: F401 - Learner's methods
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import DataBlock, MultiCategoryBlock
from fastai.data.transforms import ColReader, Normalize, RandomSplitter
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.tabular.all import Categorify, TabularDataLoaders, tabular_learner
from fastai.tabular.all import Normalize as NormalizeColumns
from fastai.text.all import AWD_LSTM, BaseTokenizer, TextDataLoaders, awd_lstm_clas_config, text_classifier_learner
from fastai.torch_core import set_seed
from fastai.vision.all import ImageBlock, MaskBlock, RandomResizedCrop, imagenet_stats
from matplotlib import pyplot as plt
from torch import nn

from interp_plugins.core.errors import InputError, InterpWarning, UnknownNameError
from interp_plugins.fastai import AttributionCallback
from tests.adapters.fastai.scenes import CODES, conv_net, draw

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
SRG = ("srg", {"steps": 4})
ASKED = {"methods": "saliency", "n": 3, "log": "none", "on_error": "raise"}
COLUMN = "attribution/saliency/srg"


class CpuHalf(MixedPrecision):
    """fastai's mixed precision, whose autocast is for CUDA alone, on the CPU: bfloat16 from batch to loss."""

    def before_fit(self) -> None:
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.scales: list[float] = []


def fit(learn: Learner, epochs: int, *callbacks: Any) -> Learner:
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2, cbs=list(callbacks))
    return learn


def generators() -> list[Any]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002


def means(scores: Any, name: str) -> dict[str, float]:
    return {method: scores[method, name].mean for method in scores.methods}


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [(), (CpuHalf,)], ids=["plain", "bfloat16"])
def test_the_training_is_as_it_was_and_the_recorder_has_columns(
    make_learner: Callable[..., Learner], make_dls: Callable[..., Any], others: tuple[Any, ...]
) -> None:
    def trained(*callbacks: Any) -> tuple[Learner, list[Any]]:
        set_seed(3)  # a loader's own generator is drawn when it is made
        normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
        dls = make_dls(item_tfms=RandomResizedCrop(20, min_scale=0.5), batch_tfms=[normalize], bs=7)
        learn = fit(make_learner(dls, metrics=accuracy), 2, *(one() for one in others), *callbacks)
        return learn, generators()

    watch = AttributionCallback(**{**ASKED, "methods": ["saliency", "ig"]}, metrics=(SRG, "entropy"), target="label")
    (plain, drawn), (watched, drawn_beside) = trained(), trained(watch)
    want, got = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(want[k], got[k]) for k in want) and drawn == drawn_beside
    columns = [f"attribution/{m}/{k}" for m in ("saliency", "integrated_gradients") for k in ("srg", "entropy")]
    assert list(watched.recorder.metric_names) == [*list(plain.recorder.metric_names)[:-1], *columns, "time"]
    assert [list(row)[:3] for row in watched.recorder.values] == [list(row) for row in plain.recorder.values]
    assert watched.recorder.losses == plain.recorder.losses
    for row, snapshot in zip(watched.recorder.values, watch.history, strict=True):
        told = [one[name] for one in snapshot.numbers for name in ("srg", "entropy")]
        assert list(row)[3:] == pytest.approx(told)


def test_the_numbers_are_those_of_evaluate_explanations(make_learner: Callable[..., Learner]) -> None:
    """On the same draws and the same black baseline, for methods with and without a baseline of their own."""
    metrics = (SRG, "gini_index", ("faithfulness_correlation", {"n_subsets": 8}))
    methods = {"saliency": {}, "integrated_gradients": {"n_steps": 4}, "grad_cam": {}}
    watch = AttributionCallback(**{**ASKED, "methods": methods}, metrics=metrics, target="label", metric_budget=5000)
    learn = fit(make_learner(), 1, watch)
    found = learn.evaluate_explanations(methods=methods, metrics=metrics, ds_idx=1, idxs=[0, 2, 4], target="label")
    table = watch.numbers().set_index("series")
    for name in found.metrics:
        assert table[name].to_dict() == pytest.approx(means(found, name), abs=1e-6), name
        low, high = found["saliency", name].ci()
        assert (table.loc["saliency", f"{name}_ci_low"], table.loc["saliency", f"{name}_ci_high"]) == (low, high)
    assert table["sparseness"].tolist() == pytest.approx(table["gini_index"].tolist(), abs=1e-6)


def test_fastais_own_callbacks_find_them(make_learner: Callable[..., Learner], tmp_path: Any) -> None:
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardCallback(log_dir=tmp_path / "tb", trace_model=False, log_preds=False)
    watch = AttributionCallback(**{**ASKED, "log": "auto"}, metrics=SRG, every_n_epochs=2)
    learn = make_learner()
    learn.add_cbs([watch, board, SaveModelCallback(monitor=COLUMN), CSVLogger()])
    with learn.no_bar(), learn.no_logging():
        learn.fit(4)
    srg = [row[-1] for row in learn.recorder.values]
    assert [math.isnan(v) for v in srg] == [False, True, False, False]
    assert learn.save_model.best == max(v for v in srg if not math.isnan(v))
    assert pd.read_csv(learn.path / "history.csv")[COLUMN].tolist() == pytest.approx(srg, nan_ok=True)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    logged = events.Scalars(COLUMN)
    assert [e.step for e in logged] == [3, 6, 9, 12] and [e.value for e in logged] == pytest.approx(srg, nan_ok=True)
    assert [e.step for e in events.Scalars("attribution/saliency/cosine_to_previous")] == [9, 12]
    assert len(events.Scalars("attribution/saliency/sparseness")) == 3
    assert learn.get_preds()[0].shape[0] == 6  # a tracker looks for its column wherever a loop begins


def test_it_stays_out_of_everything_but_trainings(make_learner: Callable[..., Learner], tmp_path: Any) -> None:
    watch = AttributionCallback(**ASKED, metrics=SRG)
    learn, plain = make_learner(cbs=watch), make_learner()
    with learn.no_bar(), learn.no_logging(), plain.no_bar(), plain.no_logging():
        found = [one.lr_find(num_it=3, show_plot=False) for one in (learn, plain)]
        assert found[0] == found[1]
        assert list(learn.validate()) == list(plain.validate()) and watch.history == []
        learn.fit(1)
        assert len(learn.recorder.values[0]) == 3
        learn.show_results(max_n=2)
        plt.close("all")
    assert len(watch.history) == 1
    learn.export(tmp_path / "exported.pkl")
    loaded = load_learner(tmp_path / "exported.pkl")
    assert loaded.attribution.history == [] and loaded.attribution.numbers().empty
    assert loaded.predict(learn.dls.valid_ds.items[0])[0] in ("cat", "dog")


def test_a_budget_is_kept_and_said_once(make_learner: Callable[..., Learner]) -> None:
    seen: list[int] = []
    watch = AttributionCallback(**ASKED, metrics=(SRG, "entropy"), metric_budget=18)
    numbers = watch._watch.numbers

    def counted(*args: Any) -> Any:
        learn.model.eval()
        with torch.no_grad():
            hook = learn.model.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
        found = numbers(*args)
        hook.remove()
        return found

    watch._watch.numbers = counted
    learn = make_learner()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(learn, 2, watch)
    texts = [str(w.message) for w in said if "metric_budget" in str(w.message)]
    assert len(texts) == 1 and "ask 24 rows for 3 samples" in texts[0] and "judge 2 of them" in texts[0]
    said_of_samples, probe = 3 + 2, 6  # beside the budget, see `row_probe`
    assert sum(seen) <= 2 * (18 + said_of_samples + probe)
    assert {"srg", "entropy"} <= watch.numbers().columns.to_series().to_dict().keys()


def test_maps_stay_where_a_metric_fails(make_learner: Callable[..., Learner]) -> None:
    wrong = ("faithfulness_correlation", {"subset_size": 10**9})
    watch = AttributionCallback(**{**ASKED, "on_error": "warn"}, metrics=wrong)
    learn = make_learner()
    with pytest.warns(InterpWarning, match="subset_size.*training goes on|training goes on.*subset_size"):
        fit(learn, 1, watch)
    assert len(watch.last) == 1 and "sparseness" in watch.numbers() and math.isnan(learn.recorder.values[0][-1])


def test_several_targets_are_several_series_and_one_column(make_learner: Callable[..., Learner]) -> None:
    watch = AttributionCallback(**ASKED, metrics=SRG, target=["cat", "dog"])
    learn = fit(make_learner(), 1, watch)
    table = watch.numbers().set_index("series")
    assert list(table.index) == ["saliency.0", "saliency.1"] and table.srg.nunique() == 2
    assert learn.recorder.values[0][-1] == pytest.approx(table.srg.mean())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"metrics": "srgg"}, UnknownNameError, "Did you mean 'srg'"),
        ({"metrics": "relevance_mass"}, InputError, "needs masks"),
        ({"metrics": "parameter_randomisation"}, InputError, "evaluate_explanations"),
        ({"metrics": "srg", "metric_budget": -1}, InputError, "metric_budget"),
        ({"tag": ""}, InputError, "tag must be a name"),
    ],
)
def test_what_is_refused_at_construction(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        AttributionCallback(methods="saliency", **options)


# -- other data ------------------------------------------------------------------------------------------------------


def test_a_table(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"age": rng.normal(size=80), "noise": rng.normal(size=80), "job": rng.choice(list("abc"), 80)})
    df["sold"] = np.where((df["job"] == "a") | (df["age"] > 0.8), "yes", "no")
    dls = TabularDataLoaders.from_df(
        df, procs=[Categorify, NormalizeColumns], cat_names=["job"], cont_names=["age", "noise"], y_names="sold",
        valid_idx=list(range(16)), bs=32, device="cpu",
    )  # fmt: skip
    set_seed(1)
    learn = tabular_learner(dls, layers=[8], path=tmp_path)
    watch = AttributionCallback(**{**ASKED, "methods": "feature_ablation"}, metrics=("srg", "gini_index"))
    fit(learn, 1, watch)
    same = learn.evaluate_explanations(methods="feature_ablation", metrics=("srg", "gini_index"), idxs=[0, 5, 10])
    [row] = watch.history[-1].numbers
    assert {k: row[k] for k in same.metrics} == pytest.approx(
        {k: means(same, k)["feature_ablation"] for k in same.metrics}
    )


def test_texts_of_different_lengths_are_judged_without_padding(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    words = ["the", "film", "was", "a", "story", "with", "actors", "and", "music", "in", "this", "old", "town"]
    made = [
        {"text": " ".join([*rng.choice(words, 2 + i % 7), ("awful", "great")[i % 2]]), "label": ("neg", "pos")[i % 2]}
        for i in range(30)
    ]
    dls = TextDataLoaders.from_df(
        pd.DataFrame(made), text_col="text", bs=8, seed=1, seq_len=8, tok_tfm=BaseTokenizer(), device="cpu"
    )
    set_seed(0)
    config = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 12, "n_layers": 1}
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, path=tmp_path)
    texts = ["great film", "the old town was awful and old", "a story"]
    watch = AttributionCallback(texts, **{**ASKED, "methods": "feature_ablation"}, metrics=("srg", "gini_index"))
    fit(learn, 1, watch)
    same = learn.evaluate_explanations(texts, "feature_ablation", ("srg", "gini_index"))
    [row] = watch.history[-1].numbers
    expected = {k: means(same, k)["feature_ablation"] for k in same.metrics}
    assert {k: row[k] for k in same.metrics} == pytest.approx(expected, abs=1e-6)
    assert row["sparseness"] == pytest.approx(row["gini_index"], abs=1e-6)  # of the tokens, not of what fills them up


def test_regions_and_several_labels(tmp_path: Any) -> None:
    rows = draw(tmp_path, 16)

    def learner(block: Any, column: Any, net: nn.Module, loss: Any) -> Learner:
        data = DataBlock(
            (ImageBlock, block), get_x=ColReader("file"), get_y=column, splitter=RandomSplitter(0.5, seed=1)
        )
        dls = data.dataloaders(rows, bs=8, num_workers=0, device=torch.device("cpu"))
        set_seed(0)
        return Learner(dls, net, loss_func=loss, path=tmp_path)

    segmenter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    learn = learner(MaskBlock(codes=CODES), ColReader("mask"), segmenter, CrossEntropyLossFlat(axis=1))
    watch = AttributionCallback(**{**ASKED, "n": 2}, metrics=SRG)
    fit(learn, 1, watch)
    assert "srg" in watch.numbers() and not watch.numbers().srg.isna().any()
    several = learner(
        MultiCategoryBlock, ColReader("labels", label_delim=" "), conv_net(2), BCEWithLogitsLossFlat(thresh=0.0)
    )
    watch = AttributionCallback(**{**ASKED, "n": 2}, metrics=SRG)
    fit(several, 1, watch)
    table = watch.numbers()
    assert table.series.tolist() == ["saliency.0", "saliency.1"] and not table.srg.isna().any()

"""Whose label: which part of a batch is the ground truth, of which output, and what is a class at all."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import Contrast, InputSpec, explain
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, TargetError
from interp_plugins.core.truth import Reading, TrueClasses, class_labels, known_classes
from interp_plugins.insights import Session
from interp_plugins.lightning.batch import read_batch
from interp_plugins.store import explain_dataset

N = 6
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([2, 0, 1, 1, 2, 0])
ONE_HOT = nn.functional.one_hot(Y, 3)
IDS = torch.arange(N)  # sample numbers look like classes


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 3)


class Heads(nn.Module):
    """Two outputs: of three classes, and of two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


# -- what is a class -------------------------------------------------------------------------------------------------

LABELS: dict[str, tuple[Any, list[int] | None]] = {
    "indices": (Y, Y.tolist()),
    "a column of indices": (Y[:, None], Y.tolist()),
    "a list": (Y.tolist(), Y.tolist()),
    "an array": (Y.numpy(), Y.tolist()),
    "bools": (Y > 0, [1, 0, 1, 1, 1, 0]),
    "one-hot": (ONE_HOT, Y.tolist()),
    "one-hot floats": (ONE_HOT.float(), Y.tolist()),
    "smoothed": (ONE_HOT * 0.9 + 0.1 / 3, Y.tolist()),
    "mixed, clear and half": (torch.tensor([[0.7, 0.3, 0], [0.5, 0.5, 0]]).repeat(3, 1), [0, -1] * 3),
    "floats of a binary loss": ((Y > 0).float(), [1, 0, 1, 1, 1, 0]),
    "a column of them": ((Y > 0).float()[:, None], [1, 0, 1, 1, 1, 0]),
    "left out by the loss": (torch.tensor([2, -100, -1, 1, 2, 0]), [2, -1, -1, 1, 2, 0]),
    "values": (X[:, 0], None),
    "several labels": (torch.tensor([[1, 1, 0], [0, 0, 1]] * 3), None),
    "no labels": (torch.zeros(N, 3), None),
    "a mask": (torch.zeros(N, 5, 5).long(), None),
    "of another batch": (Y[:4], None),
    "texts": (["a"] * N, None),
    "nothing": (None, None),
}


@pytest.mark.parametrize("case", LABELS)
def test_what_is_the_class_of_a_sample(case: str) -> None:
    value, expected = LABELS[case]
    found = class_labels(value, N)
    assert (None if found is None else found.tolist()) == expected
    assert known_classes(found, 2) == (None if expected is None else [c if 0 <= c < 2 else None for c in expected])


# -- which part ------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Any, Reading, list[int] | None]] = {
    "input and label": ((X, Y), Reading(), Y.tolist()),
    "input and one-hot label": ((X, ONE_HOT.float()), Reading(), Y.tolist()),
    "three parts are not guessed": ((X, ONE_HOT.float(), IDS), Reading(), None),
    "nor is the only whole number among them": ((X, X[:, 0], IDS), Reading(), None),
    "by position": ((X, ONE_HOT.float(), IDS), Reading(label_key=1), Y.tolist()),
    "from the end": ((X, IDS, Y), Reading(label_key=-1), Y.tolist()),
    "by function": ((X, Y + 5, IDS), Reading(label_fn=lambda b: b[1] - 5), Y.tolist()),
    "the input comes second": ((Y, X), Reading(input_key=1), Y.tolist()),
    "a dict with one name": ({"x": X, "target": Y, "idx": IDS}, Reading(), Y.tolist()),
    "a dict with two": ({"x": X, "label": Y, "target": IDS}, Reading(), None),
    "a dict, said": ({"x": X, "label": Y, "target": IDS}, Reading(label_key="label"), Y.tolist()),
    "a named attribute": (SimpleNamespace(), Reading(), None),
    "labels of two outputs": ((X, (Y, Y % 2)), Reading(output=1), (Y % 2).tolist()),
    "labels of outputs by name": ({"x": X, "y": {"a": Y, "b": Y % 2}}, Reading(output="b"), (Y % 2).tolist()),
    "of which output is not said": ((X, (Y, Y % 2)), Reading(), None),
    "two inputs by function": ((X, IDS), Reading(input_fn=lambda b: (b[0], b[1])), None),
}


class OfX(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OfTwo(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("case", PARTS)
def test_which_part_is_the_label(case: str) -> None:
    batch, reading, expected = PARTS[case]
    if isinstance(batch, SimpleNamespace):
        assert reading.labels(batch, N) is None
        return
    found = read_batch(batch, OfTwo() if case.startswith("two inputs") else OfX(), reading).labels
    assert (None if found is None else found.tolist()) == expected


def test_a_part_that_was_named_must_be_a_label() -> None:
    with pytest.raises(InputError, match=r"label_key=1 gives a Tensor of shape \(6, 4\).*true values and masks"):
        read_batch((X, X, Y), OfX(), Reading(label_key=1))
    with pytest.raises(InputError, match="3 parts, so there is no label_key=3"):
        read_batch((X, X, Y), OfX(), Reading(label_key=3))
    with pytest.raises(InputError, match=r"no id_key='idz'.*Did you mean 'idx'"):
        read_batch({"x": X, "y": Y, "idx": IDS}, OfX(), Reading(id_key="idz"))
    with pytest.raises(InputError, match="Give label_key or label_fn, not both"):
        Reading(label_key=1, label_fn=len)
    with pytest.raises(InputTypeError, match="label_fn must be a function"):
        Reading(label_fn=3)
    with pytest.raises(InputError, match="a name for each of 6 samples"):
        read_batch((X, Y, IDS[:2]), OfX(), Reading(id_key=2))


# -- the target ------------------------------------------------------------------------------------------------------


def test_a_label_outside_the_classes_is_none(net: nn.Module) -> None:
    found = explain(net, X, "saliency", target=TrueClasses(Y))[0]
    assert found.target == tuple(Y.tolist())
    for odd, text in ((-1, r"2 \(label -1\)"), (-100, r"2 \(label -100\)"), (255, r"2 \(label 255\)")):
        labels = Y.clone()
        labels[2] = odd
        with pytest.raises(TargetError, match=f"none among the 3 classes: {text}.*target=None"):
            explain(net, X, "saliency", target=TrueClasses(labels))
        with pytest.raises(TargetError, match=text):
            explain(net, X, "saliency", target=Contrast(None, TrueClasses(labels)))


def test_classes_need_a_model_that_has_some(net: nn.Module) -> None:
    one = nn.Linear(4, 1)
    with pytest.raises(TargetError, match=r"one number per sample.*two class names, or activation=torch.sigmoid"):
        explain(one, X, "saliency", target=TrueClasses(Y % 2))
    found = explain(one, X, "ixg", target=TrueClasses(Y % 2), activation=torch.sigmoid)[0]
    assert found.score is not None
    assert torch.allclose(found.score, torch.where(Y % 2 == 1, 1, -1) * one(X).flatten().detach())
    with pytest.raises(TargetError, match="none among the 2 classes"):
        explain(one, X, "saliency", target=TrueClasses(Y), activation=torch.sigmoid)


# -- Lightning -------------------------------------------------------------------------------------------------------


def test_lightning_takes_what_is_said(net: nn.Module) -> None:
    from interp_plugins.lightning import explain as of_module

    batch = (X, ONE_HOT.float(), IDS)
    with pytest.raises(TargetError, match=r"taken unasked from a batch \(input, label.*label_key="):
        of_module(net, batch, "saliency", target="label")
    found = of_module(net, batch, "saliency", target="label", label_key=1, id_key=2)[0]
    assert found.target == tuple(Y.tolist()) and found.names == tuple(map(str, range(N)))
    heads = {"class_names": [["a", "b", "c"], ["no", "yes"]], "target": "label"}
    for k, labels in enumerate((Y, Y % 2)):
        found = of_module(Heads(), (X, (Y, Y % 2)), "saliency", output_key=k, **heads)[0]
        assert found.target == tuple(labels.tolist())
        assert found.target_label == tuple(heads["class_names"][k][c] for c in labels)
    with pytest.raises(InputError, match="class_names holds 2 lists, one per output, and output_key=None"):
        of_module(Heads(), (X, (Y, Y % 2)), "saliency", **heads)


def trained(callbacks: list[Any], data: list[Any], stage: str = "fit") -> Any:
    pl: Any = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.0)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, enable_model_summary=False, callbacks=callbacks, **quiet
    )
    loader: Any = torch.utils.data.DataLoader(data, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        if stage == "predict":
            trainer.predict(Module(), loader)
        else:
            trainer.fit(Module(), loader, loader)


def test_the_callback_passes_over_samples_without_a_label() -> None:
    from interp_plugins.lightning import AttributionCallback

    labels = [-100, 2, 255, 1, 0, -100]
    data = [(x, torch.tensor(c), f"patient {i}") for i, (x, c) in enumerate(zip(X, labels))]
    options: dict[str, Any] = {"n_samples": 3, "target": "label", "loggers": "none", "on_error": "raise"}
    options |= {"label_key": 1, "id_key": 2, "class_names": ["a", "b", "c"]}
    callback = AttributionCallback("saliency", **options)
    trained([callback], data)
    assert callback.last[0].target == (2, 1, 0) and callback.last[0].names == ("patient 1", "patient 3", "patient 4")
    assert torch.equal(callback.last[0].inputs, X[[1, 3, 4]])
    unlabelled = [(x, torch.tensor(-100), "") for x in X]
    with pytest.raises(InputError, match="none of the 6 samples of dataloader_idx=0 has a label"):
        trained([AttributionCallback("saliency", **options)], unlabelled)


def test_the_writer_keeps_ids_and_true_labels(tmp_path: Any) -> None:
    from interp_plugins.lightning import AttributionWriter

    pytest.importorskip("zarr")
    shares = ONE_HOT.float().clone()
    shares[3] = torch.tensor([0.5, 0.5, 0.0])
    data = [(x, s, torch.tensor(i)) for i, (x, s) in enumerate(zip(X, shares))]
    unsaid = AttributionWriter(str(tmp_path / "unsaid"), methods="saliency")
    trained([unsaid], data, "predict")
    assert unsaid.store.to_df()["label"].isna().all() and unsaid.store.summary()["accuracy"].isna().all()
    said = AttributionWriter(str(tmp_path / "said"), methods="saliency", label_key=1, id_key=2, target=None)
    trained([said], data, "predict")
    frame = said.store.to_df()
    assert frame["name"].tolist() == [str(i) for i in range(N)]
    kept = [i for i in range(N) if i != 3]
    assert frame["label"].isna().tolist() == [i == 3 for i in range(N)]
    assert frame["label"][kept].astype(int).tolist() == Y[kept].tolist()
    hits = (frame["prediction"][kept].astype(int).to_numpy() == Y[kept].numpy()).mean()
    assert said.store.summary()["accuracy"][0] == pytest.approx(hits)


# -- data sets and the viewer ----------------------------------------------------------------------------------------


def test_a_data_set_takes_what_is_said(net: nn.Module, tmp_path: Any) -> None:
    pytest.importorskip("zarr")
    data = [{"im": x, "seen": IDS[i], "truth": Y[i] if i else torch.tensor(255)} for i, x in enumerate(X)]
    options: dict[str, Any] = {"methods": "saliency", "progress": False, "input_key": "im"}
    store = explain_dataset(net, data, tmp_path / "run", **options, label_key="truth", id_key="seen", target="label")
    frame = store.to_df()
    assert frame["status"].tolist()[1:] == ["ok"] * 5 and "label 255" in frame["error"][0]
    assert frame["target"][1:].astype(int).tolist() == frame["label"][1:].astype(int).tolist() == Y[1:].tolist()
    assert frame["name"].tolist()[1:] == [str(i) for i in range(1, N)]
    plain = explain_dataset(net, data, tmp_path / "plain", **options, label_fn=lambda b: b["truth"])
    assert plain.to_df()["label"].isna().tolist() == [True, *[False] * 5]  # 255 is none of the three classes


def test_values_of_a_regression_are_no_labels(tmp_path: Any) -> None:
    pytest.importorskip("zarr")
    data = [(x, torch.tensor(float(i % 2))) for i, x in enumerate(X)]
    store = explain_dataset(nn.Linear(4, 1), data, tmp_path / "run", "saliency", progress=False)
    assert store.to_df()["label"].isna().all()
    spec = InputSpec("tabular", vocab=("no", "yes"))  # the same numbers, of a binary loss
    store = explain_dataset(nn.Linear(4, 1), data, tmp_path / "two", "saliency", progress=False, input_spec=spec)
    assert store.to_df()["label_name"].tolist() == ["no", "yes"] * 3


def test_the_viewer_explains_no_label_that_is_none(net: nn.Module) -> None:
    session = Session(net, X, labels=[2, None, -100, (0, 1), np.int64(1), 255], target="label", method="saliency")
    subject: Any = session.subject
    from interp_plugins.insights.subject import Ask

    assert subject.explain(0, 0, Ask("saliency"))[0].target == (2,)
    assert subject.explain(0, 4, Ask("saliency"))[0].target == (1,)
    assert [e.target for e in subject.explain(0, 3, Ask("saliency"))] == [(0,), (1,)]
    for i in (1, 2, 5):
        with pytest.raises(TargetError, match="label"):
            subject.explain(0, i, Ask("saliency"))


def test_a_warning_names_the_samples_where_truth_and_prediction_agree(net: nn.Module) -> None:
    predicted = net(X).argmax(1)
    labels = predicted.clone()
    labels[0] = (predicted[0] + 1) % 3
    with pytest.warns(InterpWarning, match=r"In sample 1, 2, 3, 4, 5 the contrast"):
        explain(net, X, "saliency", target=Contrast(None, TrueClasses(labels)))

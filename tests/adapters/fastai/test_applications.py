"""Every vision application, really trained on scenes of known truth: fit, explain, and look where the map points."""

import copy
from pathlib import Path
from typing import Any

import fastai.callback.progress  # noqa: F401 - Learner.no_bar
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastai.data.transforms import ColReader, ColSplitter, IntToFloatTensor, Normalize, ToTensor
from fastai.layers import SigmoidRange
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy_multi
from fastai.torch_core import set_seed
from fastai.vision.core import PILImage, TensorPoint, imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock, PointBlock
from fastai.vision.models.unet import DynamicUnet
from fastcore.basics import fastuple
from torch import nn

from interp_plugins import Contrast
from interp_plugins.core.errors import InterpWarning, TargetError
from tests.adapters.fastai.scenes import CODES, SIZE, conv_net, draw, mask_of

FAST = {"methods": "saliency"}
METHODS = {
    "integrated_gradients": {"tol": 0.01, "max_steps": 2048},
    "noise_tunnel": {"nt_samples": 2},
    "occlusion": {"sliding_window_shapes": (3, 7, 7), "strides": (3, 4, 4)},
}


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """64 scenes; the last quarter is for validation."""
    rows = draw(tmp_path_factory.mktemp("scenes"))
    rows["is_valid"] = rows.index >= 48
    return rows


def loaders(table: pd.DataFrame, blocks: Any, get_x: Any, get_y: Any, **kwargs: Any) -> Any:
    block = DataBlock(blocks=blocks, get_x=get_x, get_y=get_y, splitter=ColSplitter(), **kwargs)
    return block.dataloaders(table, bs=16, num_workers=0, device=torch.device("cpu"))


def fitted(dls: Any, model: nn.Module, epochs: int, lr: float = 1e-2, **kwargs: Any) -> Learner:
    set_seed(0)
    learn = Learner(dls, model, **kwargs)
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr)
    return learn


normalize = Normalize.from_stats(*imagenet_stats, cuda=False)


@pytest.fixture(scope="session")
def multi_label(table: pd.DataFrame) -> Learner:
    blocks = (ImageBlock, MultiCategoryBlock)
    dls = loaders(table, blocks, ColReader("file"), ColReader("labels", label_delim=" "), batch_tfms=normalize)
    return fitted(dls, conv_net(2), 10, loss_func=BCEWithLogitsLossFlat(), metrics=accuracy_multi)


@pytest.fixture(scope="session")
def regression(table: pd.DataFrame) -> Learner:
    rows = table[table.labels.str.contains("square")]
    dls = loaders(rows, (ImageBlock, RegressionBlock), ColReader("file"), ColReader("brightness"), batch_tfms=normalize)
    model = nn.Sequential(*conv_net(1), SigmoidRange(0, 1.2))
    return fitted(dls, model, 10, 3e-3, loss_func=MSELossFlat())


@pytest.fixture(scope="session")
def points(table: pd.DataFrame) -> Learner:
    rows = table[table.labels.str.contains("square")]

    def centre(row: Any) -> torch.Tensor:
        return torch.tensor([[row["x"], row["y"]]])

    dls = loaders(rows, (ImageBlock, PointBlock), ColReader("file"), centre, batch_tfms=normalize)
    return fitted(dls, conv_net(2, pool=False), 15, 3e-3, loss_func=MSELossFlat())


@pytest.fixture(scope="session")
def segmentation(table: pd.DataFrame) -> Learner:
    blocks = (ImageBlock, MaskBlock(CODES))
    dls = loaders(table, blocks, ColReader("file"), ColReader("mask"), batch_tfms=normalize)
    set_seed(0)
    encoder = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
    )
    model = DynamicUnet(encoder, 3, (SIZE, SIZE))
    return fitted(dls, model, 8, loss_func=CrossEntropyLossFlat(axis=1))


class Twins(nn.Module):
    """Whether two pictures are of one kind."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        net = conv_net(8)
        self.encoder, self.together = net, together
        self.head = nn.Linear(16, 2)

    def forward(self, *pictures: Any) -> torch.Tensor:
        a, b = pictures[0] if self.together else pictures
        a, b = self.encoder(a), self.encoder(b)
        return self.head(torch.cat([(a - b).abs(), a + b], 1))


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Each single thing with the next one."""
    single = table[~table.labels.str.contains(" ")].reset_index(drop=True)
    other = single.iloc[[*range(1, len(single)), 0]].reset_index(drop=True)
    # Every second pair shows one kind twice.
    swap = pd.Series([i % 4 == 1 for i in range(len(single))])
    other = other.where(~swap, single.iloc[[*range(2, len(single)), 0, 1]].reset_index(drop=True))
    same = ["same" if a == b else "different" for a, b in zip(single.kind, other.kind)]
    return pd.DataFrame({"a": single.file, "b": other.file, "same": same, "is_valid": single.is_valid})


@pytest.fixture(scope="session")
def siamese(table: pd.DataFrame) -> Learner:
    """Two inputs, n_inp = 2."""
    rows = pairs(table)
    readers = [ColReader("a"), ColReader("b")]
    dls = loaders(rows, (ImageBlock, ImageBlock, CategoryBlock), readers, ColReader("same"), n_inp=2)
    return fitted(dls, Twins(together=False), 6, loss_func=CrossEntropyLossFlat())


class ImageTuple(fastuple):
    """fastai's tutorial type: two pictures that are one item."""

    @classmethod
    def create(cls, files):  # fastai would choose by an annotation's type
        return cls(tuple(PILImage.create(f) for f in files))


@pytest.fixture(scope="session")
def image_tuple(table: pd.DataFrame) -> Learner:
    """One input that is a tuple, n_inp = 1."""
    from fastai.data.block import TransformBlock

    rows = pairs(table)
    block = TransformBlock(type_tfms=ImageTuple.create, batch_tfms=IntToFloatTensor)
    dls = loaders(rows, (block, CategoryBlock), lambda r: [r["a"], r["b"]], ColReader("same"), item_tfms=ToTensor)
    return fitted(dls, Twins(together=True), 6, loss_func=CrossEntropyLossFlat())


def row_of(learn: Learner, i: int) -> Any:
    return learn.dls.valid_ds.items.iloc[i]


def drawn(exps: Any, path: Path) -> None:
    """The picture and the page can be made."""
    exps.plot().fig.savefig(path)
    assert path.stat().st_size > 10_000 and len(exps.to_html()) > 10_000


def complete(exp: Any) -> bool:
    """`tol=0.01` holds for every sample: of the score's change, or of a quarter of the map's size if that is more."""
    maps = exp.attributions if isinstance(exp.attributions, tuple) else (exp.attributions,)
    change, size = (exp.score - exp.baseline_score).abs(), torch.cat([m.flatten(1) for m in maps], 1).norm(dim=1)
    return bool((exp.convergence_delta.abs() < 0.0101 * torch.maximum(change, 0.25 * size)).all())


def hits(exp: Any, rows: pd.DataFrame, kind: str, margin: int = 2) -> float:
    """The share of maps whose strongest point lies on the thing, or `margin` pixels beside it."""
    found = []
    for i, (_, row) in enumerate(rows.iterrows()):
        mask = nn.functional.max_pool2d(mask_of(row, kind)[None].float(), 2 * margin + 1, 1, margin)[0].bool()
        heat = torch.from_numpy(exp.heatmap(i)).abs()
        smooth = nn.functional.avg_pool2d(heat[None], 5, 1, 2)[0]
        found.append(bool(mask.flatten()[smooth.argmax()]))
    return sum(found) / len(found)


def test_F21_multi_label_explains_every_predicted_label(multi_label, tmp_path, unchanged):
    learn = multi_label
    both, one = (next(i for i in range(16) if row_of(learn, i).labels == t) for t in ("square disc", "square"))
    with learn.no_bar():
        predicted = [learn.predict(row_of(learn, i))[0] for i in (both, one)]
    assert set(predicted[0]) == {"square", "disc"} and list(predicted[1]) == ["square"]
    with unchanged(learn):
        exps = learn.explain(idxs=both, methods=METHODS)
    assert [e.method for e in exps] == [m for m in METHODS for _ in range(2)]
    assert {e.target_label for e in exps[:2]} == {("square",), ("disc",)}
    assert exps[0].probability[0] >= exps[1].probability[0] > 0.5 and complete(exps[0]) and complete(exps[1])
    assert exps[0].prediction_label == (", ".join(e.target_label[0] for e in exps[:2]),)
    drawn(exps, tmp_path / "multi_label.png")
    single = learn.explain(idxs=one, **FAST)
    assert [e.target_label for e in single] == [("square",)] and single[0].prediction_label == ("square",)
    together = learn.explain(idxs=[one, both], **FAST)  # a label that is predicted for any is explained for all
    assert {e.target_label for e in together} == {("square", "square"), ("disc", "disc")}
    assert [e.target_label for e in learn.explain(idxs=both, target="label", **FAST)] == [("disc",), ("square",)]


def test_F21_multi_label_maps_point_at_their_label(multi_label, table):
    rows = table[table.labels == "square disc"]  # 21 scenes: of the five for validation one is a fifth
    square, disc = multi_label.explain(
        rows, target=["square", "disc"], methods="occlusion", budget="normal", **METHODS["occlusion"]
    )
    assert hits(square, rows, "square") >= 0.8 and hits(disc, rows, "disc") >= 0.8


def test_F21_no_label_above_the_threshold_means_the_strongest(multi_label):
    learn = copy.copy(multi_label)
    learn.model = copy.deepcopy(multi_label.model)
    with torch.no_grad():
        learn.model[1][-1].bias -= 20
    exp = learn.explain(idxs=0, **FAST)
    assert len(exp) == 1 and exp[0].prediction_label == ("no label",) and exp[0].probability[0] < 0.5


def test_F21_image_regression(regression, tmp_path, unchanged):
    losses = [row[1] for row in regression.recorder.values]
    assert losses[-1] < 0.5 * losses[0]
    with unchanged(regression):
        exps = regression.explain(idxs=[0, 1], methods=METHODS)
    exp = exps[0]
    assert exp.attributions.shape == (2, 3, SIZE, SIZE) and exp.target_label == ("output", "output") and complete(exp)
    assert exp.prediction is None and exp.probability is None and 0 < exp.score[0] < 1.2
    drawn(exps, tmp_path / "regression.png")


def test_F21_key_points_are_two_outputs_each(points, tmp_path, unchanged):
    losses = [row[1] for row in points.recorder.values]
    assert losses[-1] < 0.7 * losses[0]
    with unchanged(points):
        exps = points.explain(idxs=[0, 1], methods=METHODS)
    assert [e.target_label[0] for e in exps[:2]] == ["point 0 x", "point 0 y"] and len(exps) == 6
    assert complete(exps[0]) and complete(exps[1]) and exps[0].prediction is None and exps[0].probability is None
    drawn(exps, tmp_path / "points.png")
    for target, labels in (("point 0", ["point 0 x", "point 0 y"]), ("point 0 y", ["point 0 y"]), (0, ["point 0 x"])):
        assert [e.target_label[0] for e in points.explain(idxs=0, target=target, **FAST)] == labels
    with unchanged(points), pytest.raises(TargetError, match="Did you mean 'point 0 y'"):
        points.explain(idxs=0, target="point 0 z", **FAST)
    with unchanged(points), pytest.raises(TargetError, match="out of range"):
        points.explain(idxs=0, target="point 3", **FAST)


def test_F21_many_outputs_need_a_choice(table, tmp_path):
    rows = table[table.labels == "square"]
    blocks = (ImageBlock, PointBlock)
    dls = loaders(rows, blocks, ColReader("file"), lambda r: TensorPoint.create([[r["x"], r["y"]]] * 3))
    learn = Learner(dls, conv_net(6), loss_func=MSELossFlat(), path=tmp_path)
    with pytest.raises(TargetError, match=r"No default target.*point 0 x, point 0 y"):
        learn.explain(idxs=0, **FAST)
    assert [e.target for e in learn.explain(idxs=0, target="Point 2", **FAST)] == [(4,), (5,)]


def test_F22_segmentation_explains_the_largest_predicted_class_in_its_region(segmentation, tmp_path, unchanged):
    learn = segmentation
    rows = learn.dls.valid_ds.items
    with unchanged(learn):
        exps = learn.explain(ds_idx=1, methods={**METHODS, "grad_cam": {}})
    exp = exps[0]
    x, y = (v.as_subclass(torch.Tensor) for v in learn.dls.test_dl(rows, with_labels=True, bs=16).one_batch())
    with torch.no_grad():
        output = learn.model.eval()(x)
    predicted = output.argmax(1)
    assert (predicted == y).float().mean() > 0.95
    sizes = torch.stack([(predicted == k).sum((1, 2)) for k in (1, 2)], 1)
    classes = (sizes.argmax(1) + 1).tolist()
    assert exp.target_label == tuple(CODES[k] for k in classes) and exp.spec.vocab == tuple(CODES)
    assert torch.equal(exp.region, predicted == torch.tensor(classes)[:, None, None])
    want = torch.stack([output[i, k][exp.region[i]].sum() for i, k in enumerate(classes)])
    assert torch.allclose(exp.score, want, rtol=1e-4) and complete(exp)
    assert exps["grad_cam"].layer.startswith("layers.0") and (exp.probability > 0.5).all()
    drawn(learn.explain(idxs=[2, 1], methods=METHODS), tmp_path / "segmentation.png")


def test_F22_a_class_by_code_name(segmentation, unchanged):
    learn = segmentation
    both = [i for i in range(16) if row_of(learn, i).labels == "square disc"]
    rows = learn.dls.valid_ds.items.iloc[both]
    for kind in ("disc", "square"):
        exp = learn.explain(idxs=both, target=kind, **FAST)[0]
        assert exp.target_label == (kind,) * len(both) and hits(exp, rows, kind) == 1
        true = torch.stack([mask_of(row, kind) for _, row in rows.iterrows()])
        assert (exp.region == true).float().mean() > 0.97
    assert learn.explain(idxs=both, target=1, **FAST)[0].target_label == ("square",) * len(both)
    labelled = learn.explain(idxs=both, target="label", **FAST)[0]
    assert set(labelled.target_label) <= {"square", "disc"}
    for i, (_, row) in enumerate(rows.iterrows()):
        assert torch.equal(labelled.region[i], mask_of(row, labelled.target_label[i]))
    versus = learn.explain(idxs=both, target=Contrast("disc", "background"), **FAST)[0]
    assert versus.target_label[0] == "disc rather than background" and versus.region is not None
    with unchanged(learn), pytest.raises(TargetError, match="Did you mean 'square'"):
        learn.explain(idxs=both, target="squares", **FAST)
    alone = next(i for i in range(16) if row_of(learn, i).labels == "disc")
    with pytest.raises(TargetError, match=r"predicts class 'square' nowhere.*background, disc"):
        learn.explain(idxs=alone, target="square", **FAST)
    with pytest.warns(InterpWarning, match="In sample 1 the model predicts class 'square' nowhere"):
        learn.explain(idxs=[both[0], alone], target="square", **FAST)


def test_F22_a_moving_region_would_not_add_up(segmentation):
    def moving(output: torch.Tensor) -> torch.Tensor:
        return (output * (output.argmax(1, keepdim=True) == 1))[:, 1].sum((1, 2))

    rows = [i for i in range(16) if "square" in row_of(segmentation, i).labels]
    frozen, moved = (
        segmentation.explain(idxs=rows, target=target, methods="ig", n_steps=50)[0] for target in ("square", moving)
    )
    assert frozen.relative_delta.median() < 0.05 < 0.2 < moved.relative_delta.median()


@pytest.mark.parametrize("name", ["siamese", "image_tuple"])
def test_F21_two_pictures_get_a_map_each(name, request, tmp_path, unchanged):
    learn = request.getfixturevalue(name)
    assert learn.dls.n_inp == (2 if name == "siamese" else 1)
    windows = {"sliding_window_shapes": ((3, 7, 7),) * 2, "strides": ((3, 4, 4),) * 2}
    with unchanged(learn):
        exps = learn.explain(ds_idx=1, idxs=[0, 1], methods={**METHODS, "occlusion": windows})
    exp = exps[0]
    assert [a.shape for a in exp.attributions] == [(2, 3, SIZE, SIZE)] * 2 and complete(exp)
    assert set(exp.target_label) <= {"same", "different"} and exp.target == exp.prediction
    assert learn.explain(idxs=[0, 1], target="label", **FAST)[0].target_label == tuple(
        learn.dls.valid_ds.items.same.iloc[:2]
    )
    row = row_of(learn, 0)
    item = row if name == "siamese" else [row["a"], row["b"]]
    by_item = learn.explain(row if name == "siamese" else [item], **FAST)[0]
    assert all(torch.equal(a[:1], b) for a, b in zip(exp.inputs, by_item.inputs))
    batch = learn.dls.valid.one_batch()
    assert len(learn.explain(xb=batch, **FAST)[0].inputs) == 2
    drawn(exps, tmp_path / "pair.png")


@pytest.mark.parametrize("name", ["multi_label", "regression", "points", "segmentation", "siamese", "image_tuple"])
def test_nothing_changes_when_it_raises(name, request, unchanged):
    learn = request.getfixturevalue(name)

    def fail(output: torch.Tensor) -> torch.Tensor:
        raise KeyError("my own error")

    for methods in ("integrated_gradients", "occlusion"):
        with unchanged(learn), pytest.raises(KeyError, match="my own error"):
            learn.explain(idxs=[0, 1], target=fail, methods=methods)

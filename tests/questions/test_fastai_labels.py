"""fastai: one logit for two classes, several heads with their labels and names, trainings that stop, empty sets."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("fastai")

import fastai.callback.progress  # noqa: F401 - gives a Learner no_bar
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.transforms import FuncSplitter, Normalize, get_image_files
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.vision.core import PILBase, PILImage, TensorImageBW, imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock

from interp_plugins import Contrast
from interp_plugins.core.errors import InputError, InterpWarning, TargetError
from interp_plugins.core.target import Probability
from interp_plugins.fastai import AttributionCallback
from interp_plugins.fastai.pictures import as_picture
from interp_plugins.fastai.reader import reader_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """12 pictures 16 x 16, bright on the left or on the right, and masks of the bright part."""
    root = tmp_path_factory.mktemp("sides")
    rng = np.random.default_rng(0)
    (root / "masks").mkdir()
    for i in range(12):
        pixels, mask = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8), np.zeros((16, 16), np.uint8)
        half = slice(0, 8) if i % 2 == 0 else slice(8, 16)
        pixels[4:12, half], mask[4:12, half] = 230, 1
        name = f"{'left' if i % 2 == 0 else 'right'}_{i:02}.png"
        Image.fromarray(pixels).save(root / name)
        Image.fromarray(mask).save(root / "masks" / name)
    return sorted(p for p in get_image_files(root) if p.parent.name != "masks")


def side(path: Path) -> str:
    return path.name.split("_")[0]


def third(path: Path) -> str:
    return f"mod{int(path.stem.split('_')[1]) % 3}"


def data(files: list[Path], blocks: Any, get_y: Any, valid: Any = lambda p: int(p.stem[-2:]) >= 8) -> Any:
    block = DataBlock(blocks, n_inp=1, get_y=get_y, splitter=FuncSplitter(valid), batch_tfms=Normalize.from_stats(
        *imagenet_stats, cuda=False))  # fmt: skip
    return block.dataloaders(files, bs=4, num_workers=0, device=torch.device("cpu"))


def net(outputs: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, outputs))


@contextlib.contextmanager
def quiet(learn: Learner) -> Iterator[None]:
    with learn.no_bar(), learn.no_logging():
        yield


@pytest.fixture
def binary(files: list[Path], tmp_path: Path) -> Learner:
    """CategoryBlock, one output, a binary loss."""
    dls = data(files, (ImageBlock, CategoryBlock), side)
    return Learner(dls, net(), loss_func=BCEWithLogitsLossFlat(), path=tmp_path)


def logits(learn: Learner, files: list[Path]) -> Tensor:
    with torch.no_grad():
        xs = learn.dls.test_dl(files, num_workers=0).one_batch()[0]
        return learn.model.eval()(xs).as_subclass(Tensor).flatten()


def test_each_class_of_a_binary_learner_is_explained_by_its_own_score(binary: Learner, files: list[Path]) -> None:
    some = files[:4]
    z = logits(binary, some)
    options: dict[str, Any] = {"methods": "ixg", "progress": False}
    left, right = binary.explain(some, target=["left", "right"], **options)
    assert torch.allclose(left.score, -z) and torch.allclose(right.score, z)
    assert torch.allclose(left.attribution, -right.attribution)
    assert left.target_label == ("left",) * 4 and torch.allclose(left.probability, 1 - z.sigmoid())
    predicted = binary.explain(some, **options)[0]
    assert predicted.prediction_label == tuple("right" if v > 0 else "left" for v in z)
    assert torch.allclose(predicted.score, z.abs())
    asked = binary.explain(ds_idx=1, target=["label", Contrast("right", "left"), Probability("left"), 0], **options)
    zs = logits(binary, list(binary.dls.valid.items))
    truth = torch.tensor([side(p) == "right" for p in binary.dls.valid.items])
    scores = torch.where(truth, zs, -zs), 2 * zs, 1 - zs.sigmoid(), -zs
    for exp, score in zip(asked, scores, strict=True):
        assert torch.allclose(exp.score, score, atol=1e-6)
    assert asked[0].target_label == tuple(side(p) for p in binary.dls.valid.items)


def test_top_losses_shows_and_stores_of_a_binary_learner(binary: Learner, tmp_path: Path) -> None:
    axes = binary.show_explanations(max_n=4, methods="saliency", target="label")
    titles = " ".join(ax.get_title() for ax in axes)
    assert "left" in titles and "right" in titles
    pytest.importorskip("zarr")
    frame = binary.explain_dataset(None, tmp_path / "run", "saliency", progress=False).to_df()
    zs = logits(binary, list(binary.dls.valid.items))
    assert frame["prediction_label"].tolist() == ["right" if v > 0 else "left" for v in zs]
    assert frame["label_name"].tolist() == [side(p) for p in binary.dls.valid.items]
    page = binary.insights(ds_idx=1, methods="saliency", show="file", path=tmp_path / "page.html")
    assert page.exists()


def test_one_label_and_masks_of_one_channel(files: list[Path], tmp_path: Path) -> None:
    dls = data(files, (ImageBlock, MultiCategoryBlock(vocab=["left"])), lambda p: ["left"] if side(p) == "left" else [])
    learn = Learner(dls, net(), loss_func=BCEWithLogitsLossFlat(), path=tmp_path)
    z = logits(learn, files[:4])
    exp = learn.explain(files[:4], "saliency")[0]
    assert exp.target_label == ("left",) * 4 and torch.allclose(exp.score, z)
    assert exp.prediction_label == tuple("left" if v > 0 else "no label" for v in z)
    masks = (ImageBlock, MaskBlock(["nothing", "bright"]))
    dls = data(files, masks, lambda p: p.parent / "masks" / p.name)
    learn = Learner(dls, nn.Conv2d(3, 1, 3, padding=1), loss_func=BCEWithLogitsLossFlat(), path=tmp_path)
    with torch.no_grad():
        z = learn.model(learn.dls.valid.one_batch()[0]).as_subclass(Tensor)
    for name, score in (("bright", z.clamp(min=0)), ("nothing", (-z).clamp(min=0))):
        exp = learn.explain(ds_idx=1, methods="saliency", target=name)[0]
        assert torch.allclose(exp.score, score.flatten(1).sum(1), rtol=1e-4) and set(exp.target_label) == {name}


# -- several heads ---------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = net(8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.a(h), self.b(h)


def of_both(output: Any, first: Any, second: Any) -> Tensor:
    return nn.functional.cross_entropy(output[0], first) + nn.functional.cross_entropy(output[1], second)


@pytest.fixture
def heads(files: list[Path], tmp_path: Path) -> Learner:
    dls = data(files, (ImageBlock, CategoryBlock, CategoryBlock), [side, third])
    return Learner(dls, Two(), loss_func=of_both, path=tmp_path)


def test_an_output_brings_its_names_and_labels(heads: Learner, files: list[Path], tmp_path: Path) -> None:
    items = list(heads.dls.valid.items)
    for k, truth in enumerate((side, third)):
        exp = heads.explain(ds_idx=1, methods="saliency", output=k, target="label")[0]
        assert exp.target_label == tuple(map(truth, items))
    assert heads.explain(files[0], "saliency", output=1, target="mod2")[0].target == (2,)
    with pytest.raises(TargetError, match="Unknown label 'left'"):
        heads.explain(files[0], "saliency", output=1, target="left")
    swapped = heads.explain(ds_idx=1, methods="saliency", output=lambda both: both[1], label_key=1, target="label")[0]
    assert swapped.target_label == tuple(map(third, items))
    with pytest.raises(TargetError, match=r"the data have 2 targets, and nothing says which one.*output=0"):
        heads.explain(ds_idx=1, methods="saliency", output=lambda both: both[1], target="label")
    with pytest.raises(InputError, match=r"label_key='mod'.*position"):
        heads.explain(ds_idx=1, methods="saliency", output=1, label_key="mod")
    axes = heads.show_explanations(max_n=2, methods="saliency", output=1)
    titles = [ax.get_title() for ax in axes]
    assert all("predicted: mod" in title and "actual: mod" in title for title in titles), titles
    pytest.importorskip("zarr")
    frame = heads.explain_dataset(None, tmp_path / "run", "saliency", output=1, progress=False).to_df()
    assert frame["label_name"].tolist() == list(map(third, items))


def test_the_callback_takes_an_output(heads: Learner) -> None:
    callback = AttributionCallback(n=4, methods="saliency", output=1, target="label", log="none", on_error="raise")
    with quiet(heads):
        heads.fit(1, cbs=callback)
    assert callback.last[0].target_label == tuple(map(third, heads.dls.valid.items))


# -- trainings and sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 1]), (5, [0, 1]), (1, [0, 1])])
def test_the_last_epoch_is_explained_where_the_training_stops_early(
    binary: Learner, every: int, expected: list[int]
) -> None:
    watch = AttributionCallback(n=2, methods="saliency", every_n_epochs=every, log="none", on_error="raise")
    stop = EarlyStoppingCallback(monitor="valid_loss", min_delta=1e9, patience=1)
    with quiet(binary):
        binary.fit(9, cbs=[watch, stop])
        assert [s.epoch for s in watch.history] == expected and len(binary.recorder.values) == 2
        weights = [p.detach().clone() for p in binary.model.parameters()]
    again = AttributionCallback(n=2, methods="saliency", log="none", on_error="raise")
    assert all(torch.equal(a, b) for a, b in zip(weights, binary.model.parameters())) and not again.history


def test_an_empty_set_is_said_to_be_empty(files: list[Path], tmp_path: Path) -> None:
    dls = data(files, (ImageBlock, CategoryBlock), side, valid=lambda p: False)
    learn = Learner(dls, net(2), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    for call in (
        lambda: learn.explain(ds_idx=1, methods="saliency"),
        lambda: learn.show_explanations(methods="saliency"),
        lambda: learn.explain_dataset(None, tmp_path / "run", "saliency"),
    ):
        with pytest.raises(InputError, match=r"The validation set is empty.*ds_idx=0"):
            call()


def test_lightning_says_that_there_is_nothing_to_validate() -> None:
    pl: Any = pytest.importorskip("pytorch_lightning")
    from interp_plugins.lightning import AttributionCallback as Watch

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.0)

    xs = [(torch.zeros(2), torch.tensor(0))] * 4
    load: Any = torch.utils.data.DataLoader
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_model_summary": False}
    watch = Watch("saliency", loggers="none")
    trainer = pl.Trainer(callbacks=[watch], limit_val_batches=0, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(Module(), load(xs, 2), load(xs, 2))
    [warning] = [w for w in told if issubclass(w.category, InterpWarning)]
    assert watch.n_runs == 0 and "the validation set is empty" in str(warning.message)


# -- pictures --------------------------------------------------------------------------------------------------------


class AnyMode(PILBase):
    """A class of pictures that takes any mode, as that of medical pictures does."""

    _open_args, _tensor_cls, _show_args = {}, TensorImageBW, {"cmap": "gray"}


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
def test_an_image_class_without_a_mode_takes_pictures_as_they_are(mode: str) -> None:
    picture = Image.new(mode, (4, 3))
    found = as_picture(picture, AnyMode)
    assert type(found) is AnyMode and found.mode == mode and type(picture) is Image.Image
    assert as_picture(np.zeros((3, 4), np.float32), AnyMode).mode == "L"
    assert as_picture(picture, PILImage).mode == "RGB"
    with pytest.raises(InputError, match="more than 8 bits"):
        as_picture(Image.new("F", (4, 3)), AnyMode)


def test_data_of_such_a_class_are_explained(files: list[Path], tmp_path: Path) -> None:
    dls = data(files, (ImageBlock(AnyMode), CategoryBlock), side)
    learn = Learner(dls, net(), loss_func=BCEWithLogitsLossFlat(), path=tmp_path)
    assert reader_of(learn).channels is None
    with Image.open(files[0]) as picture:
        from_memory = learn.explain(picture, "saliency")[0]
    assert torch.equal(from_memory.attribution, learn.explain(files[0], "saliency")[0].attribution)

"""What the model gets: fastai's validation transforms, whatever form the picture comes in."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock
from fastai.data.core import TfmdLists
from fastai.data.transforms import ColReader, IntToFloatTensor, Normalize, ToTensor, get_image_files
from fastai.torch_core import TensorCategory
from fastai.vision.augment import Resize
from fastai.vision.core import PILImage, PILImageBW, TensorImage, image2tensor
from fastai.vision.data import ImageBlock, ImageDataLoaders
from fastcore.foundation import L
from fasttransform import Transform
from PIL import Image, ImageFile
from torch import nn

from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning

FAST = {"methods": "saliency"}


def as_array(path):
    return np.array(Image.open(path).convert("RGB"))


def as_grey(path):
    return np.array(Image.open(path).convert("L"))


def as_bytes(path):
    stream = io.BytesIO()
    Image.open(path).save(stream, "PNG")
    return stream.getvalue()


def test_F1_input_is_what_predict_feeds_the_model(learn, dls, picture):
    first, second = (learn.explain(picture, **FAST)[0] for _ in range(2))
    with learn.no_bar():
        fed, probabilities = learn.get_preds(dl=dls.test_dl([picture], num_workers=0), with_input=True)[:2]
    assert PILImage.create(picture).size == (48, 32)
    assert torch.equal(first.inputs, fed.as_subclass(torch.Tensor))
    assert torch.equal(first.inputs, second.inputs) and torch.equal(first.attributions, second.attributions)
    assert first.probability[0].item() == pytest.approx(probabilities.max().item(), abs=1e-5)


def test_F1_probability_is_that_of_predict(learn, picture):
    exp = learn.explain(picture, **FAST)[0]
    with learn.no_bar():
        name, index, probabilities = learn.predict(picture)
    assert exp.prediction == (int(index),) and exp.prediction_label == (name,)
    assert exp.probability[0].item() == pytest.approx(probabilities[index].item(), abs=1e-5)


def test_F1_training_rows_are_not_augmented(learn, dls):
    by_split = learn.explain(ds_idx=0, idxs=[2, 0], **FAST)[0]
    by_loader = learn.explain(dl=dls.train, idxs=[2, 0], **FAST)[0]
    by_path = learn.explain([dls.train_ds.items[2], dls.train_ds.items[0]], **FAST)[0]
    assert torch.equal(by_split.inputs, by_path.inputs) and torch.equal(by_loader.inputs, by_path.inputs)
    assert by_split.names == by_path.names == tuple(dls.train_ds.items[i].name for i in (2, 0))


FORMS = {
    "str": str,
    "bytes": as_bytes,
    "PILImage": PILImage.create,
    "lazy PIL": Image.open,
    "RGB": lambda p: Image.open(p).convert("RGB"),
    "RGBA": lambda p: Image.open(p).convert("RGBA"),
    "array HWC uint8": as_array,
    "array CHW uint8": lambda p: as_array(p).transpose(2, 0, 1),
    "array HWC float": lambda p: as_array(p).astype(np.float32) / 255,
    "array CHW double": lambda p: as_array(p).transpose(2, 0, 1) / 255,
    "array RGBA": lambda p: np.array(Image.open(p).convert("RGBA")),
    "tensor HWC uint8": lambda p: torch.tensor(as_array(p)),
    "tensor CHW uint8": lambda p: torch.tensor(as_array(p)).permute(2, 0, 1),
    "tensor CHW float": lambda p: torch.tensor(as_array(p)).permute(2, 0, 1) / 255,
    "tensor that requires grad": lambda p: (torch.tensor(as_array(p)) / 255).requires_grad_(),
    "TensorImage uint8": lambda p: TensorImage(image2tensor(PILImage.create(p))),
    "TensorImage float": lambda p: TensorImage(image2tensor(PILImage.create(p)).float() / 255),
}


@pytest.mark.parametrize("form", FORMS)
def test_F11_every_form_of_a_picture_is_the_same_picture(learn, picture, form, unchanged):
    item = FORMS[form](picture)
    kind = type(item)
    with unchanged(learn):
        exp = learn.explain(item, **FAST)[0]
    assert torch.equal(exp.inputs, learn.explain(picture, **FAST)[0].inputs)
    assert type(item) is kind


@pytest.mark.parametrize(
    "grey", [Image.open, lambda p: np.array(Image.open(p)), lambda p: np.array(Image.open(p))[None]]
)
def test_F11_grey_pictures_become_colour_as_files_do(learn, picture, tmp_path, grey):
    file = tmp_path / "grey.png"
    Image.open(picture).convert("L").save(file)
    exp = learn.explain(grey(file), **FAST)[0]
    assert exp.inputs.shape[1] == 3
    assert torch.equal(exp.inputs, learn.explain(file, **FAST)[0].inputs)


def test_F11_colour_pictures_become_grey_for_a_grey_net(make_learner, block_dls, net, picture):
    learn = make_learner(block_dls(blocks=(ImageBlock(PILImageBW), CategoryBlock)), net(channels=1))
    exp = learn.explain(Image.open(picture), **FAST)[0]
    assert exp.inputs.shape == (1, 1, 20, 20) and not exp.spec.normalised
    assert torch.equal(exp.inputs, learn.explain(picture, **FAST)[0].inputs)


UNREADABLE = {
    "floats up to 255": (lambda a: a.astype(np.float32), r"\[0, 1\].*uint8"),
    "normalised floats": (lambda a: a / 255.0 - 0.5, "xb="),
    "NaN": (lambda a: np.where(a > 0, np.nan, 0.0), "nan"),
    "int64": (lambda a: a.astype(np.int64), "cast to uint8"),
    "bool": (lambda a: a > 9, "cast to uint8"),
    "two channels": (lambda a: a[..., :2], "1, 3 or 4 channels"),
    "a batch": (lambda a: a[None], "as a list"),
    "channels first or last": (lambda a: a[:3], "TensorImage"),
    "empty": (lambda a: a[:0], "got an array of shape"),
    "16 bit": (lambda a: Image.fromarray(a[..., 0].astype(np.uint16) * 256), "more than 8 bits"),
    "bytes of no picture": (lambda a: b"hello", "cannot be read"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_F11_what_would_need_guessing_is_refused(learn, picture, case, unchanged):
    make, text = UNREADABLE[case]
    with unchanged(learn), pytest.raises(InputError, match=text):
        learn.explain(make(as_array(picture)), **FAST)


@pytest.mark.parametrize("item", [3, True, 0.5, {"image": 1}, [None], object()])
def test_F11_what_is_no_picture_is_refused(learn, item, unchanged):
    with unchanged(learn), pytest.raises(InputTypeError, match=r"no picture|no item"):
        learn.explain(item, **FAST)


def test_F16_eighteen_items_give_eighteen_results(learn, folder):
    files = get_image_files(folder)[:18]
    exp = learn.explain(files, **FAST)[0]
    assert len(exp) == 18 and exp.names == tuple(f.name for f in files)
    assert torch.equal(exp[17].inputs, learn.explain(files[17], **FAST)[0].inputs)


def test_F16_a_map_of_zeros_stays_zeros(learn, picture):
    class Nothing:
        def attribute(self, inputs, target=None):
            return torch.zeros_like(inputs)

    exp = learn.explain(picture, methods=Nothing())[0]
    assert not exp.attributions.any() and not exp.heatmap().any()


def test_F17_map_lies_over_what_the_model_saw(make_learner, make_dls, tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 30:50] = 255  # the centre, which the crop keeps
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    learn = make_learner(make_dls(item_tfms=Resize(32), batch_tfms=None))
    exp = learn.explain(tmp_path / "wide.png", **FAST)[0]
    assert exp.inputs.shape == exp.attributions.shape == (1, 3, 32, 32) and exp.heatmap().shape == (32, 32)
    assert exp.inputs[0, 0, 16].mean() > 0.4  # 20 of 40 columns


def test_a_list_may_mix_paths_and_pictures(learn, dls):
    a, b, c = dls.valid_ds.items[:3]
    mixed = learn.explain(L(a, Image.open(b), str(c), as_array(a)), **FAST)[0]
    assert torch.equal(mixed.inputs, learn.explain([a, b, c, a], **FAST)[0].inputs)
    assert mixed.names == (a.name, b.name, c.name, "")


def test_validation_rows_come_in_the_order_asked_for(learn, dls):
    items = dls.valid_ds.items
    everything = learn.explain(ds_idx=1, **FAST)[0]
    assert everything.names == tuple(p.name for p in items)
    for idxs, rows in ((2, [2]), ([4, 1], [4, 1]), (slice(0, 2), [0, 1]), (torch.tensor([-1]), [len(items) - 1])):
        some = learn.explain(idxs=idxs, **FAST)[0]
        assert torch.equal(some.inputs, everything.inputs[rows])
    by_loader = learn.explain(dl=dls.test_dl(items, shuffle=True), **FAST)[0]
    assert torch.equal(by_loader.inputs, everything.inputs)


def test_encoded_batches_are_taken_as_they_are(learn, dls):
    x, y = dls.valid.one_batch()
    want = learn.explain(idxs=range(4), **FAST)[0]
    for source in ({"xb": x}, {"xb": (x,)}, {"xb": (x, y)}, {"dl": [(x, y)]}, {"xb": x.as_subclass(torch.Tensor)}):
        exp = learn.explain(**source, **FAST)[0]
        assert torch.equal(exp.inputs, x.as_subclass(torch.Tensor)) and exp.spec == want.spec
        assert torch.equal(exp.attributions, want.attributions)
    assert learn.explain(xb=(x, y), target="label", **FAST)[0].target == tuple(y.tolist())
    assert learn.explain(xb=x, target=TensorCategory(y), **FAST)[0].target == tuple(y.tolist())
    assert len(learn.explain(dl=[(x, y)], idxs=[3, 0], **FAST)[0]) == 2


def test_rows_of_a_table_are_items(make_learner, folder):
    table = pd.DataFrame({"file": [str(p) for p in get_image_files(folder)]})
    table["kind"] = [Path(f).parent.name for f in table.file]
    dls = ImageDataLoaders.from_df(table, "/", item_tfms=Resize(20), bs=4, num_workers=0, valid_pct=0.3, seed=1)
    learn = make_learner(dls)
    rows = learn.explain(table.iloc[:3], **FAST)[0]
    assert rows.names == ("0", "1", "2")
    assert torch.equal(rows.inputs, learn.explain(list(table.file[:3]), **FAST)[0].inputs)
    assert torch.equal(rows.inputs[1:2], learn.explain(table.iloc[1], **FAST)[0].inputs)
    for row in (table.iloc[1].to_dict(), [table.iloc[1].to_dict()], [table.iloc[1]], table.iloc[[1]]):
        assert torch.equal(rows.inputs[1:2], learn.explain(row, **FAST)[0].inputs)
    truth = learn.explain(ds_idx=0, idxs=[1, 0], target="label", **FAST)[0]
    assert truth.target_label == tuple(dls.train_ds.items.kind.iloc[[1, 0]])
    assert isinstance(ColReader("file")(table.iloc[0]), str)


def test_normalisation_is_read_off_and_undone(learn, dls, picture):
    exp = learn.explain(picture, **FAST)[0]
    raw = exp.spec.denormalise(exp.inputs)
    assert exp.spec.kind == "image" and exp.spec.vocab == ("cat", "dog")
    assert raw.min() >= 0 and raw.max() <= 1
    decoded = dls.valid.decode((exp.inputs,))[0].as_subclass(torch.Tensor)  # whole numbers, rounded down
    assert torch.allclose(raw * 255, decoded + 0.5, atol=0.51)
    black = learn.explain(picture, methods="ig", baselines="black", n_steps=4)[0]
    assert torch.allclose(exp.spec.denormalise(black.baselines), torch.zeros(1, 3, 20, 20), atol=1e-6)


def test_two_normalisations_are_read_as_one(make_learner, make_dls, picture):
    twice = [Normalize.from_stats([0.5], [0.25], cuda=False), Normalize.from_stats([0.1] * 3, [2.0] * 3, cuda=False)]
    learn = make_learner(make_dls(item_tfms=Resize(20), batch_tfms=twice))
    plain = make_learner(make_dls(item_tfms=Resize(20), batch_tfms=None))
    exp = learn.explain(picture, **FAST)[0]
    assert torch.allclose(exp.spec.denormalise(exp.inputs), plain.explain(picture, **FAST)[0].inputs, atol=1e-6)


def test_a_picture_can_be_the_baseline(learn, dls):
    a, b = dls.valid_ds.items[:2]
    exp = learn.explain(a, methods="ig", baselines=b, n_steps=4)[0]
    assert torch.equal(exp.baselines, learn.explain(b, **FAST)[0].inputs)
    spread = learn.explain(a, methods="gradient_shap", baselines=[a, Image.open(b)])[0]
    assert spread.attributions.isfinite().all()


def truncated(path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:2500])
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # fastai and PIL leave it open
def test_a_truncated_file_is_named(learn, picture, tmp_path, unchanged):
    file = truncated(tmp_path / "cut.jpg")
    for item in (file, str(file), [picture, file], Image.open(file), file.read_bytes()):
        with unchanged(learn), pytest.raises(InputError, match=r"truncated.*complete"):
            learn.explain(item, **FAST)
    with pytest.raises(InputError, match=r"cut\.jpg"):
        learn.explain([picture, file], **FAST)


def test_a_truncated_file_that_pil_fills_up_is_not_passed_over_in_silence(learn, tmp_path, monkeypatch):
    file = truncated(tmp_path / "cut.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.warns(InterpWarning, match=r"cut\.jpg.*not complete"):
        learn.explain(file, **FAST)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_sizes_that_make_no_batch_are_named(make_learner, make_dls, picture, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    learn = make_learner(make_dls(item_tfms=None, batch_tfms=None, bs=1))
    assert learn.explain(picture, **FAST)[0].inputs.shape == (1, 3, 32, 48)
    for items in ([picture, tmp_path / "small.png"], [picture, Image.open(tmp_path / "small.png")]):
        with pytest.raises(InputError, match="different sizes"):
            learn.explain(items, **FAST)
    learn.dls.valid.bs = 2
    with pytest.raises(InputError, match="different sizes"):
        learn.explain([picture, tmp_path / "small.png"], **FAST)


WRONG = {
    "no source": ({}, InputTypeError, "nothing to explain"),
    "two sources": ({"item": "a.png", "ds_idx": 1}, InputTypeError, "one source"),
    "idxs of an item": ({"item": "a.png", "idxs": [0]}, InputTypeError, "idxs="),
    "no such file": ({"item": "no/such.png"}, InputError, r"no/such\.png"),
    "empty list": ({"item": []}, InputError, "empty"),
    "empty L": ({"item": L()}, InputError, "empty"),
    "no such row": ({"ds_idx": 1, "idxs": [99]}, InputError, "0 to 5"),
    "no rows": ({"ds_idx": 1, "idxs": []}, InputError, "none of the 6"),
    "rows by name": ({"idxs": ["a"]}, InputError, "row numbers"),
    "no such split": ({"ds_idx": 7}, InputError, "2 splits"),
    "a path as loader": ({"dl": "a.png"}, InputTypeError, "DataLoader"),
    "one picture as batch": ({"xb": torch.zeros(3, 20, 20)}, InputError, r"\(N, C, H, W\)"),
    "raw pictures as batch": ({"xb": torch.zeros(1, 3, 20, 20, dtype=torch.uint8)}, InputError, "items"),
    "a path as batch": ({"xb": "a.png"}, InputTypeError, "encoded tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_source_is_explained(learn, case, unchanged):
    arguments, error, text = WRONG[case]
    with unchanged(learn), pytest.raises(error, match=text):
        learn.explain(**arguments)


def test_a_folder_is_no_picture(learn, folder):
    with pytest.raises(InputError, match="get_image_files"):
        learn.explain(folder)


def test_a_text_file_is_no_picture(learn, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=r"note\.txt.* cannot be read"):
        learn.explain(tmp_path / "note.txt")


class PictureAndKind(Transform):
    """A transform of the user's own: a file becomes what the model takes and what it should say."""

    def encodes(self, file: Path):
        return PILImage.create(file), torch.tensor(int(file.parent.name == "dog"))


def test_F21_lists_with_transforms_of_ones_own(make_learner, make_dls, folder, picture, unchanged):
    files = get_image_files(folder)
    lists = TfmdLists(files, PictureAndKind(), splits=[list(range(14)), list(range(14, 20))])
    after = [IntToFloatTensor(), Normalize.from_stats([0.5] * 3, [0.2] * 3, cuda=False)]
    dls = lists.dataloaders(bs=4, after_item=[Resize(20), ToTensor()], after_batch=after, num_workers=0)
    learn = make_learner(dls, loss_func=nn.CrossEntropyLoss())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    with unchanged(learn):
        exp = learn.explain(picture, **FAST)[0]
    assert exp.inputs.shape == (1, 3, 20, 20) and exp.spec.kind == "image" and exp.spec.normalised
    plain = make_learner(make_dls(item_tfms=Resize(20), batch_tfms=after))
    assert torch.equal(exp.inputs, plain.explain(picture, **FAST)[0].inputs)
    truth = learn.explain(ds_idx=1, target="label", **FAST)[0]
    assert truth.target == tuple(int(f.parent.name == "dog") for f in files[14:])
    assert torch.equal(learn.explain(ds_idx=0, idxs=[3], **FAST)[0].inputs, learn.explain(files[3], **FAST)[0].inputs)

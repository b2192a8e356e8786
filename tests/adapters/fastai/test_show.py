"""Maps of many samples the fastai way: `show_explanations`, the top losses, and what is written beside the maps."""

import inspect

import matplotlib
import numpy as np
import pytest
import torch
from fastai.callback.progress import no_bar  # noqa: F401 - Learner.no_bar
from fastai.data.block import MultiCategoryBlock, RegressionBlock
from fastai.data.transforms import Transform
from fastai.imports import dispatch
from fastai.interpret import ClassificationInterpretation, Interpretation, SegmentationInterpretation
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import set_seed
from fastai.vision.core import TensorImage
from fastai.vision.data import ImageBlock, MaskBlock
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn

from interp_plugins.core.errors import InputError
from interp_plugins.fastai import show_explanations as shown_by_type

FAST = {"methods": "saliency"}


@pytest.fixture(scope="module")
def trained(dls, net, tmp_path_factory):
    set_seed(7)
    learn = Learner(dls, net(), path=tmp_path_factory.mktemp("trained"))
    with learn.no_bar(), learn.no_logging():
        learn.fit(4, 2e-2)
    return learn


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    assert plt.get_fignums() == []


def titles(axes):
    return [ax.get_title() for ax in np.ravel(np.array(axes, dtype=object))]


def test_a_panel_per_sample_says_prediction_truth_and_probability(trained, dls, unchanged):
    with unchanged(trained):
        axes = trained.show_explanations(max_n=5)
    exp = trained.explain(ds_idx=1, idxs=range(5), methods="integrated_gradients")[0]
    assert len(axes) == 5 and isinstance(axes[0].figure, Figure)
    for i, (ax, file) in enumerate(zip(axes, dls.valid_ds.items)):
        name, predicted, actual = ax.get_title().split("\n")
        assert name == file.name and actual == f"actual: {file.parent.name}"
        assert predicted == f"predicted: {exp.prediction_label[i]} (p = {exp.probability[i]:.2f})"
        right = exp.prediction_label[i] == file.parent.name
        assert ax.title.get_color() == ("green" if right else "red")
        assert ax.get_xlabel().startswith("completeness error")
    assert axes[0].figure.get_suptitle() == "Integrated Gradients"


def test_several_explanations_make_a_row_per_sample(trained):
    axes = trained.show_explanations(max_n=2, methods=["saliency", "gradcam"], target=["cat", "dog"])
    assert axes.shape == (2, 5)
    assert axes[0, 0].get_xlabel().split("\n")[2].startswith("actual: ")
    assert [ax.get_xlabel()[:3] for ax in axes[1, 1:]] == ["cat", "dog"] * 2


def test_a_class_that_is_not_predicted_is_named(trained):
    exp = trained.explain(ds_idx=1, idxs=0, **FAST)[0]
    other = {"cat": "dog", "dog": "cat"}[exp.prediction_label[0]]
    (title,) = titles(trained.show_explanations(max_n=1, target=other, **FAST))
    assert f"explained: {other} (p = {1 - exp.probability[0]:.2f})" in title


def test_training_rows_loaders_and_rows_by_number(trained, dls):
    items = dls.train_ds.items
    assert [t.split("\n")[0] for t in titles(trained.show_explanations(0, max_n=2, **FAST))] == [
        items[0].name,
        items[1].name,
    ]
    some = dls.test_dl(items[4:8], with_labels=True)
    shown = titles(trained.show_explanations(dl=some, idxs=[3, 1], **FAST))
    assert [t.split("\n")[0] for t in shown] == [items[7].name, items[5].name]
    assert all("actual: " in t for t in shown)
    unlabelled = titles(trained.show_explanations(dl=dls.test_dl(items[:2]), **FAST))
    assert not any("actual" in t for t in unlabelled) and all("predicted: " in t for t in unlabelled)
    batch = dls.valid.one_batch()
    assert len(trained.show_explanations(dl=[batch], max_n=3, **FAST)) == 3


def test_shuffled_rows_are_others_and_the_generators_stay(trained, dls, unchanged):
    names = {p.name for p in dls.train_ds.items}
    with unchanged(trained):
        draws = [tuple(titles(trained.show_explanations(0, max_n=4, shuffle=True, **FAST))) for _ in range(2)]
    assert len(set(draws)) > 1
    assert all(len({t.split("\n")[0] for t in draw} & names) == 4 for draw in draws)


def test_the_caller_may_bring_axes(trained):
    mine = Figure(figsize=(8, 4)).subplots(1, 3)
    axes = trained.show_explanations(max_n=3, ctxs=mine, kind="heatmap", **FAST)
    assert list(axes) == list(mine) and all(ax.images for ax in mine)
    with pytest.raises(InputError, match="ctxs holds 3 axes for 4 samples"):
        trained.show_explanations(max_n=4, ctxs=mine, **FAST)
    with pytest.raises(InputError, match="nrows=1 and ncols=2 make 2 panels for 4"):
        trained.show_explanations(max_n=4, nrows=1, ncols=2, **FAST)
    with pytest.raises(InputError, match="no rows were chosen"):
        trained.show_explanations(max_n=0, **FAST)
    with pytest.raises(InputError, match="ds_idx=7, but the data have 2 splits"):
        trained.show_explanations(7, **FAST)


def test_its_signature_is_a_real_one():
    known = inspect.signature(Learner.show_explanations).parameters
    assert list(known)[1:6] == ["ds_idx", "dl", "max_n", "methods", "shuffle"]
    assert {"target", "layer", "baselines", "batch_size", "seed", "ctxs", "kind"} <= set(known)
    assert [known[n].default for n in list(known)[1:6]] == [1, None, 9, "integrated_gradients", False]
    assert "target" in inspect.signature(Interpretation.plot_top_losses_explained).parameters


# -- types -------------------------------------------------------------------------------------------------------


def codes_of(path):
    """A mask like the square of the picture: the middle is "animal"."""
    mask = np.zeros((32, 48), np.uint8)
    mask[4:28, 8:40] = 1
    return mask


@pytest.fixture(scope="module")
def segmented(block_dls, tmp_path_factory):
    data = block_dls((ImageBlock, MaskBlock(["background", "animal"])), codes_of)
    set_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    learn = Learner(data, net, loss_func=CrossEntropyLossFlat(axis=1), path=tmp_path_factory.mktemp("masks"))
    with learn.no_bar(), learn.no_logging():
        learn.fit(6, 3e-2)
    return learn


def test_true_masks_are_outlined(segmented):
    axes = segmented.show_explanations(max_n=2, methods="saliency", target="animal")
    for ax in axes:
        assert ax.images and ax.collections, "an outline over the picture"
    plain = segmented.show_explanations(dl=segmented.dls.test_dl(segmented.dls.valid_ds.items[:1]), **FAST)
    assert len(plain[0].collections) < len(axes[0].collections)


def test_segmentations_have_top_losses(segmented):
    with segmented.no_bar():
        interp = SegmentationInterpretation.from_learner(segmented)
    axes = interp.plot_top_losses_explained(3, methods="saliency")
    worst = interp.losses.argmax()
    assert len(axes) == 3
    assert segmented.dls.valid_ds.items[worst].name in axes[0].get_title()
    assert f"loss {interp.losses.max().item():.3g}" in axes[0].get_title()


def test_several_labels_and_numbers_are_said(make_learner, block_dls, net):
    many = make_learner(
        block_dls((ImageBlock, MultiCategoryBlock), lambda p: [p.parent.name, "animal"]),
        net(classes=3),
        loss_func=BCEWithLogitsLossFlat(),
    )
    shown = titles(many.show_explanations(max_n=2, target="animal", **FAST))
    assert all("animal" in t.split("actual: ")[1] and ", " in t.split("actual: ")[1] for t in shown)
    size = make_learner(
        block_dls((ImageBlock, RegressionBlock), lambda p: float(p.parent.name == "cat")),
        net(classes=1),
        loss_func=MSELossFlat(),
    )
    shown = titles(size.show_explanations(max_n=2, **FAST))
    assert all(t.split("actual: ")[1] in ("0", "1") for t in shown)


def test_types_of_ones_own_are_dispatched(trained):
    class Mine(str):
        pass

    @dispatch
    def show_explanations(x: TensorImage, y: Mine, samples, exps, ctxs=None, max_n=9, **kwargs):
        return ("mine", max_n)

    exps = trained.explain(ds_idx=1, idxs=[0], **FAST)
    x = TensorImage(exps[0].inputs)
    assert shown_by_type(x, Mine(), None, exps, max_n=3) == ("mine", 3)
    assert len(shown_by_type(x, None, None, exps)) == 1


def test_a_batch_that_cannot_be_decoded_is_shown_without_its_truth(make_learner, make_dls):
    class OneWay(Transform):
        def encodes(self, x: TensorImage):
            return x

        def decodes(self, x: TensorImage):
            raise KeyError("no way back")

    learn = make_learner(make_dls(batch_tfms=[OneWay()]))
    with pytest.warns(UserWarning, match="truth is not shown.*no way back"):
        shown = titles(learn.show_explanations(max_n=2, **FAST))
    assert all("predicted: " in t and "actual" not in t for t in shown)


# -- top losses --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interp(trained):
    with trained.no_bar():
        return ClassificationInterpretation.from_learner(trained)


def test_largest_and_smallest_losses(interp, trained, unchanged):
    order = interp.losses.argsort(descending=True).tolist()
    items = trained.dls.valid_ds.items
    with unchanged(trained):
        worst = titles(interp.plot_top_losses_explained(3, **FAST))
        best = titles(interp.plot_top_losses_explained(2, largest=False, **FAST))
        third = titles(interp.plot_top_losses_explained([2], **FAST))
    assert [t.split("\n")[0] for t in worst] == [items[i].name for i in order[:3]]
    assert [t.split("\n")[-1] for t in worst] == [f"loss {interp.losses[i].item():.3g}" for i in order[:3]]
    assert [t.split("\n")[0] for t in best] == [items[i].name for i in order[::-1][:2]]
    assert third == [worst[2]]


def test_the_loss_is_that_of_the_class_shown(interp, trained):
    """Sample, probability and loss belong together: the loss is -log p of the true class."""
    for title in titles(interp.plot_top_losses_explained(range(4), target="label", **FAST)):
        p = float(title.split("(p = ")[1].split(")")[0])
        loss = float(title.split("loss ")[1])
        assert abs(np.exp(-loss) - p) < 0.006


def test_predicted_and_true_class_side_by_side(interp):
    axes = interp.plot_top_losses_explained(2, target=[None, "label"], **FAST)
    assert axes.shape == (2, 3) and "loss" in axes[0, 0].get_xlabel()


def test_the_training_split_is_read_without_augmentation(trained):
    with trained.no_bar():
        interp = Interpretation.from_learner(trained, ds_idx=0)
    axes = interp.plot_top_losses_explained(1, **FAST)
    name = axes[0].get_title().split("\n")[0]
    assert name == trained.dls.train_ds.items[int(interp.losses.argmax())].name


def test_pictures_can_be_saved(trained, tmp_path):
    fig = trained.show_explanations(max_n=4)[0].figure
    fig.savefig(tmp_path / "maps.png")
    picture = matplotlib.image.imread(tmp_path / "maps.png")
    assert picture.shape[0] > 400 and torch.from_numpy(picture).std() > 0.1

"""`CaptumInterpretation`: the calls of fastai's class, and its faults gone (C1 to C16 in tests/README.md)."""

import importlib.util
import inspect
import sys

import numpy as np
import pytest
import torch
from captum.attr._utils.visualization import _normalize_attr
from fastai.callback.progress import no_bar  # noqa: F401 - Learner.no_bar
from fastai.data.block import CategoryBlock, MultiCategoryBlock
from fastai.data.transforms import Normalize
from fastai.losses import BCEWithLogitsLossFlat
from fastai.vision.augment import Brightness
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image

from interp_plugins.attr import IDGI
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.fastai import CaptumInterpretation
from interp_plugins.fastai.captum import normalised

WINDOW = {"strides": (3, 6, 6), "sliding_window_shapes": (3, 8, 8)}


@pytest.fixture
def trained(make_learner):
    learn = make_learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-2)
    return learn


@pytest.fixture
def captum(trained):
    return CaptumInterpretation(trained)


def test_the_calls_are_those_of_fastai():
    def parameters(function, n):
        return [(p.name, p.default) for p in list(inspect.signature(function).parameters.values())[1:n]]

    assert parameters(CaptumInterpretation.__init__, 8) == [
        ("learn", inspect.Parameter.empty),
        ("cmap_name", "custom blue"),
        ("colors", None),
        ("N", 256),
        ("methods", ("original_image", "heat_map")),
        ("signs", ("all", "positive")),
        ("outlier_perc", 1),
    ]
    assert parameters(CaptumInterpretation.visualize, 8) == [
        ("inp", inspect.Parameter.empty),
        ("metric", "IG"),
        ("n_steps", 1000),
        ("baseline_type", "zeros"),
        ("nt_type", "smoothgrad"),
        ("strides", (3, 4, 4)),
        ("sliding_window_shapes", (3, 15, 15)),
    ]
    assert parameters(CaptumInterpretation.insights, 3) == [("inp_data", inspect.Parameter.empty), ("debug", True)]


def test_C1_C2_it_needs_neither_captum_nor_ipykernel(monkeypatch):
    from ipykernel import jsonutil

    monkeypatch.setitem(sys.modules, "captum", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    spec = importlib.util.spec_from_file_location(
        "interp_plugins.fastai.captum_anew", inspect.getfile(CaptumInterpretation)
    )
    fresh = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, fresh)
    spec.loader.exec_module(fresh)
    assert fresh.CaptumInterpretation is not CaptumInterpretation
    assert jsonutil.json_clean.__module__ == "ipykernel.jsonutil", "as it was"


def rows_run(learn, call):
    """How many rows go through the model while `call` runs."""
    seen = []
    handle = learn.model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        call()
    finally:
        handle.remove()
    return sum(seen)


def test_C3_n_steps_is_the_number_of_steps(captum, picture):
    counts = [rows_run(captum.learn, lambda n=n: captum.visualize(picture, n_steps=n)) for n in (17, 37)]
    assert counts[1] - counts[0] == 20
    counts = [
        rows_run(captum.learn, lambda n=n: captum.visualize(picture, "NT", n_steps=n, nt_samples=3)) for n in (5, 15)
    ]
    assert counts[1] - counts[0] == 3 * 10
    for other in ("idgi", IDGI(captum.model)):  # every method that has steps hears them
        assert captum.visualize(picture, other, n_steps=7).explanation.params["n_steps"] == 7
    assert "n_steps" not in captum.visualize(picture, "saliency", n_steps=7).explanation.params


def test_C4_the_noise_tunnel_works_and_hears_its_options(captum, picture):
    maps = {
        kind: captum.visualize(picture, "NT", 4, nt_type=kind, nt_samples=4).explanation
        for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")
    }
    assert all(e.method == "noise_tunnel" and e.params["nt_samples"] == 4 for e in maps.values())
    assert (maps["smoothgrad"].attributions < 0).any()
    assert (maps["smoothgrad_sq"].attributions >= 0).all() and (maps["vargrad"].attributions >= 0).all()
    other = captum.visualize(picture, "NT", 4, "uniform", nt_samples=4).explanation
    assert not torch.equal(other.attributions, maps["smoothgrad"].attributions)


@pytest.mark.parametrize("normalize", [True, False])
def test_C5_insights_makes_a_page_and_leaves_the_normalisation_alone(
    make_learner, make_dls, unchanged, tmp_path, capsys, normalize
):
    learn = make_learner() if normalize else make_learner(make_dls(batch_tfms=None))
    files = list(learn.dls.valid_ds.items[:2])
    with unchanged(learn):
        page = CaptumInterpretation(learn).insights(files, methods=["ig", "saliency"], path=tmp_path / "new" / "a.html")
    text = page.read_text()
    assert all(f.name in text for f in files) and "Integrated Gradients" in text and "Saliency" in text
    assert "connect-src 'none'" in text, "it loads nothing"
    assert "integrated_gradients(2, 3," in capsys.readouterr().out
    stats = [f for f in learn.dls.valid.after_batch.fs if isinstance(f, Normalize)]
    assert [f.mean.shape for f in stats] == ([(1, 3, 1, 1)] if normalize else [])


def test_insights_is_quiet_without_debug_and_finds_a_place(captum, picture, capsys):
    page = captum.insights(picture, debug=False, methods="saliency")
    assert page.is_file() and page.suffix == ".html" and capsys.readouterr().out == ""


def test_C6_the_validation_pipeline_is_used(make_learner, make_dls, picture):
    for tfms in ({}, {"batch_tfms": [Brightness(0.9, p=1.0)]}):  # aug_transforms and a crop of training, or Brightness
        learn = make_learner(make_dls(**tfms))
        captum = CaptumInterpretation(learn)
        first, second = (captum.visualize(picture, n_steps=3).explanation for _ in range(2))
        fed = learn.dls.test_dl([picture], num_workers=0).one_batch()[0]
        assert torch.equal(first.inputs, fed.as_subclass(torch.Tensor)) and torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.attributions, second.attributions)


@pytest.mark.parametrize("metric", ["IG", "NT", "Occl"])
def test_C7_it_works_without_normalize(make_learner, make_dls, picture, metric):
    learn = make_learner(make_dls(batch_tfms=None))
    seen = CaptumInterpretation(learn).visualize(picture, metric, 3, **WINDOW)
    assert seen.explanation.attributions.shape == (1, 3, 24, 24) and seen.explanation.attributions.any()


def test_C8_the_prediction_is_explained_unless_another_class_is_asked_for(captum, picture):
    exp = captum.visualize(picture, n_steps=3).explanation
    assert exp.target == exp.prediction
    for name in ("cat", "dog"):
        assert captum.visualize(picture, n_steps=3, target=name).explanation.target_label == (name,)
    assert captum.visualize(picture, n_steps=3, target="label").explanation.target_label == (picture.parent.name,)
    unlabelled = captum.visualize(Image.open(picture), n_steps=3).explanation  # nothing to read a label off
    assert torch.equal(unlabelled.attributions, exp.attributions)


def test_C9_every_item_of_a_list_is_explained(captum, trained):
    files = list(trained.dls.valid_ds.items[:3])
    seen = captum.visualize(files, n_steps=3)
    assert len(seen.explanation) == 3 and seen.axes.shape == (3, 2)
    titles = [ax.get_title() for ax in seen.axes[:, 0]]
    assert all(f.name in title for f, title in zip(files, titles))


def test_C10_the_model_is_explained_in_eval_mode_and_left_alone(learn, picture, unchanged):
    assert learn.model.training
    captum = CaptumInterpretation(learn)
    with unchanged(learn):
        first, second = (captum.visualize(picture, "NT", 3).explanation for _ in range(2))
    assert torch.equal(first.attributions, second.attributions), "no dropout"


def test_C11_several_labels_and_grey_pictures(make_learner, block_dls, net, picture):
    many = block_dls((ImageBlock, MultiCategoryBlock), lambda p: [p.parent.name, "animal"])
    learn = make_learner(many, net(classes=3), loss_func=BCEWithLogitsLossFlat())
    exp = CaptumInterpretation(learn).visualize(picture, n_steps=3, target="animal").explanation
    assert exp.target_label == ("animal",) and exp.attributions.any()
    grey = make_learner(block_dls((ImageBlock(PILImageBW), CategoryBlock)), net(channels=1))
    for metric in ("IG", "NT", "Occl"):
        seen = CaptumInterpretation(grey).visualize(picture, metric, 3)  # windows of (3, 15, 15) on one channel
        assert seen.explanation.attributions.shape == (1, 1, 20, 20)


def test_C12_any_method_any_pictures(trained, picture):
    kinds = ("original_image", "heat_map", "blended_heat_map", "masked_image", "alpha_scaling")
    signs = ("all", "all", "negative", "positive", "absolute_value")
    captum = CaptumInterpretation(trained, methods=kinds, signs=signs)
    for method in ("gradcam", "gradient_shap", "saliency"):
        seen = captum.visualize(picture, method)
        assert seen.axes.shape == (1, 5) and seen.explanation.attributions.any()
    assert [len(ax.images) for ax in seen.axes[0]] == [1, 1, 2, 1, 1]


def test_C13_the_result_comes_back_and_no_figure_stays_open(captum, picture):
    seen = captum.visualize(picture, n_steps=3)
    assert plt.get_fignums() == []
    assert seen.explanation.attributions.shape == seen.explanation.inputs.shape
    title = seen.axes[0, 0].get_title()
    assert seen.explanation.prediction_label[0] in title and "Tensor" not in title and "(p = " in title
    assert repr(seen).startswith("Visualized(1 x 2 pictures, Explanation(integrated_gradients")


def test_C14_baselines_are_what_their_names_say(captum, trained, picture):
    def raw(kind):
        exp = captum.visualize(picture, "Occl", baseline_type=kind, **WINDOW).explanation
        return exp.spec.denormalise(exp.baselines), exp.spec.denormalise(exp.inputs)

    assert raw("zeros")[0].abs().max() < 1e-6, "black, not the mean colour"
    noise = raw("uniform")[0]
    assert noise.min() > -1e-6 and noise.max() < 1 + 1e-6 and 0.4 < noise.mean() < 0.6 and noise.std() > 0.25
    bell, picture_itself = raw("gauss")
    inside = (bell > 0.01) & (bell < 0.99)
    assert (bell[inside] - picture_itself[inside]).std() > 0.2 and (bell < picture_itself).any()
    assert raw(0)[0].mean((0, 2, 3)).allclose(torch.tensor([0.485, 0.456, 0.406]), atol=1e-5)
    for wrong in ("zero", "gaus"):
        with pytest.raises(UnknownNameError, match=r"Unknown baseline_type .*Did you mean 'zeros|gauss'"):
            captum.visualize(picture, baseline_type=wrong)


def test_C15_nothing_is_cached(captum, trained, net, picture):
    before = captum.visualize(picture, n_steps=3).explanation
    trained.model = net()
    assert captum.model is trained.model and captum.dls is trained.dls
    assert not torch.equal(captum.visualize(picture, n_steps=3).explanation.attributions, before.attributions)
    with pytest.raises(UnknownNameError, match=r"Metric 'Ocll' is not supported \(IG, NT, Occl.*Did you mean 'occl'"):
        captum.visualize(picture, "Ocll")


def test_C16_map_and_picture_have_the_size_the_model_saw(captum, picture):
    seen = captum.visualize(picture, n_steps=3)  # Resize(24) on the item, then 20 on the batch
    assert seen.explanation.inputs.shape[2:] == (20, 20)
    assert seen.axes[0, 0].images[0].get_array().shape[:2] == seen.axes[0, 1].images[0].get_array().shape == (20, 20)


# -- the options of the pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outlier_perc", [0, 1, 2, 25.0])
@pytest.mark.parametrize("sign", ["all", "positive", "negative", "absolute_value"])
def test_maps_are_scaled_as_captum_scales_them(sign, outlier_perc):
    values = np.random.default_rng(0).normal(0.1, 1, (17, 23)) ** 3
    np.testing.assert_allclose(normalised(values, sign, outlier_perc), _normalize_attr(values, sign, outlier_perc))
    assert not normalised(np.zeros((3, 4)), sign, outlier_perc).any()


def test_colours_names_and_steps_are_used(trained, picture):
    captum = CaptumInterpretation(trained, "mine", ["#00ff00", "#0000ff"], 7, outlier_perc=0)
    cmap = captum.visualize(picture, n_steps=3).axes[0, 1].images[0].cmap
    assert cmap.name == "mine" and cmap.N == 7
    assert cmap(0.0)[:3] == to_rgb("#00ff00") and cmap(1.0)[:3] == to_rgb("#0000ff")
    default = CaptumInterpretation(trained).visualize(picture, n_steps=3).axes[0, 1].images[0].cmap
    assert default.name == "custom blue" and default.N == 256 and default(0.0)[:3] == (1, 1, 1)


def test_windows_and_strides_are_used(captum, picture):
    coarse = captum.visualize(picture, "Occl", strides=(3, 10, 10), sliding_window_shapes=(3, 10, 10)).explanation
    assert coarse.heatmap().reshape(2, 10, 2, 10).transpose(0, 2, 1, 3).reshape(4, 100).std(1).max() < 1e-6
    fine = captum.visualize(picture, "Occl", strides=(1, 10, 10), sliding_window_shapes=(1, 10, 10)).explanation
    assert not torch.equal(fine.attributions[:, 0], fine.attributions[:, 1]), "channel by channel"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"methods": ["heatmap"], "signs": ["all"]}, "Unknown picture 'heatmap'. Did you mean 'heat_map'"),
        ({"methods": ["heat_map"], "signs": ["plus"]}, "Unknown sign 'plus'"),
        ({"methods": ["heat_map"]}, "methods has 1 pictures and signs 2"),
        ({"methods": ["masked_image"], "signs": ["all"]}, "masked_image cannot show 'all' signs"),
        ({"outlier_perc": 100}, "outlier_perc must be"),
    ],
)
def test_pictures_that_cannot_be_are_refused(learn, arguments, text):
    with pytest.raises(InputError, match=text):
        CaptumInterpretation(learn, **arguments)

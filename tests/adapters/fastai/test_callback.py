"""`AttributionCallback` in real trainings: what it finds, where pictures go, and that the training never notices."""

import io
import pickle

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import fine_tune, fit_one_cycle, lr_find  # noqa: F401 - Learner's methods
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, get_image_files, parent_label
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop, Resize, aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from matplotlib import pyplot as plt
from matplotlib.image import imread

from interp_plugins.core.errors import InputError, InterpWarning
from interp_plugins.fastai import AttributionCallback

FIVE = {
    "integrated_gradients": {"n_steps": 4},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 2},
    "gradient_shap": {"n_samples": 2},
    "grad_cam": {},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)},
}
QUICK = {"methods": "saliency", "n": 2}
SILENT = {**QUICK, "log": "none"}


def fit(learn, epochs=2, cbs=(), **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-2, cbs=list(cbs), **kwargs)
    return learn


def pngs(folder):
    return sorted(p.name for p in folder.rglob("*.png"))


# -- what the training must not notice ---------------------------------------------------------------------------


class CpuHalf(MixedPrecision):
    """fastai's mixed precision, whose autocast is for CUDA alone, on the CPU: bfloat16 from batch to loss."""

    def before_fit(self):
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.scales = []


def cropping(make_dls):
    """Training data whose every batch draws random numbers."""
    set_seed(3)  # a loader's own generator is drawn when it is made
    normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
    return make_dls(item_tfms=RandomResizedCrop(20, min_scale=0.5), batch_tfms=[normalize], bs=7)


@pytest.mark.parametrize("others", [(), (CpuHalf,), (MixUp,)], ids=["plain", "bfloat16", "mixup"])
def test_F4_training_is_bit_identical_with_the_callback(make_learner, make_dls, others):
    def trained(cbs):
        learn = make_learner(cropping(make_dls), metrics=accuracy)
        return fit(learn, 2, [*(one() for one in others), *cbs])

    callback = AttributionCallback(n=2, methods=FIVE, log="none" if others else "files")
    plain, watched = trained([]), trained([callback])
    assert [s.epoch for s in callback.history] == [0, 1]
    assert callback.last.methods == list(FIVE)
    assert all(e.attribution.isfinite().all() and e.attribution.any() for e in callback.last)
    want, got = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert len(watched.recorder.values) == 2 and len(watched.recorder.losses) == len(plain.recorder.losses)
    assert np.array_equal(plain.recorder.values, watched.recorder.values)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")
def test_F4_mixed_precision_of_fastai_goes_on(make_learner):
    callback = AttributionCallback(**SILENT)
    fit(make_learner().to_fp16(), 1, [callback])
    assert callback.last[0].attribution.dtype == torch.float32 and callback.last[0].attribution.any()


def test_F2_recorder_is_that_of_the_training(make_learner):
    learn = fit(make_learner(), 2, [AttributionCallback(**SILENT)])
    assert len(learn.recorder.values) == 2 and None not in learn.recorder.values[0]
    assert len(learn.recorder.losses) == len(learn.recorder.lrs) == 2 * len(learn.dls.train)


def test_the_training_itself_is_what_explain_sees_after_it(make_learner):
    """The last snapshot is that of the trained weights."""
    learn, callback = make_learner(), AttributionCallback(**SILENT)
    fit(learn, 2, [callback])
    rows = [0, 3]
    again = learn.explain(ds_idx=1, idxs=rows, methods="saliency")[0]
    assert callback.last[0].names == again.names
    assert torch.equal(callback.last[0].attributions, again.attributions)
    assert not torch.equal(callback.history[0].explanations[0].attributions, again.attributions)


# -- when it runs ------------------------------------------------------------------------------------------------


def test_F9_its_name_shadows_nothing(make_learner, picture):
    callback = AttributionCallback(**SILENT)
    assert callback.name == "attribution" and not hasattr(Learner, callback.name)
    learn = make_learner(cbs=callback)
    assert learn.attribution is callback and callable(learn.explain)

    class Asks(Callback):
        order = 90

        def after_epoch(self):
            self.learn.explain(picture, "saliency")

    fit(learn, 1, [Asks()])
    assert len(learn.explain(picture, "saliency")) == 1 and len(callback.history) == 1


def test_F10_it_runs_in_trainings_alone(make_learner, picture):
    learn, callback = make_learner(), AttributionCallback(**QUICK)
    learn.add_cb(callback)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=3, show_plot=False)
        learn.get_preds()
        learn.predict(picture)
        learn.validate()
        assert callback.history == [] and pngs(learn.path) == []
        learn.fit(2)
        learn.get_preds()
        learn.validate()
    assert [s.epoch for s in callback.history] == [0, 1]
    assert [s.train_iter for s in callback.history] == [3, 6]


def test_only_the_first_process_works(make_learner, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    callback = AttributionCallback(**QUICK)
    learn = fit(make_learner(), 1, [callback])
    assert callback.history == [] and pngs(learn.path) == []


def test_every_n_epochs_and_the_last(make_learner):
    callback = AttributionCallback(every_n_epochs=2, **SILENT)
    fit(make_learner(), 4, [callback])
    assert [s.epoch for s in callback.history] == [0, 2, 3]


def test_fits_are_counted(make_learner):
    learn, callback = make_learner(), AttributionCallback(**QUICK)
    learn.add_cb(callback)
    fit(learn, 1)
    fit(learn, 2)
    assert [(s.fit, s.epoch) for s in callback.history] == [(1, 0), (2, 0), (2, 1)]
    names = ["attribution-epoch000-v1.png", "attribution-epoch000.png", "attribution-epoch001.png"]
    assert pngs(learn.path) == names
    axes = callback.plot().axes
    assert [ax.get_title() for ax in axes[0]] == ["Input", "fit 1, epoch 0", "fit 2, epoch 0", "fit 2, epoch 1"]


# -- on what -----------------------------------------------------------------------------------------------------


def test_samples_are_spread_over_the_validation_set_and_stay(make_learner):
    learn, callback = make_learner(), AttributionCallback(n=3, methods="saliency", log="none")
    fit(learn, 2, [callback])
    items = learn.dls.valid_ds.items
    first, last = (s.explanations[0] for s in callback.history)
    assert first.names == tuple(items[i].name for i in (0, 2, 4))
    assert last.inputs is first.inputs, "what does not change is kept once"
    many = AttributionCallback(n=99, methods="saliency", log="none")
    fit(learn, 1, [many])
    assert len(many.last[0]) == len(items)


def test_items_may_be_named(make_learner, folder):
    files = sorted(folder.rglob("*.png"))[:2]
    callback = AttributionCallback(items=files, methods="ig", target="dog", baselines="mean", batch_size=1)
    fit(make_learner(), 1, [callback])
    exp = callback.last["ig"]
    assert exp.names == tuple(f.name for f in files) and exp.target_label == ("dog", "dog")
    assert torch.allclose(exp.baselines, exp.inputs.mean((2, 3), keepdim=True).expand_as(exp.inputs), atol=1e-6)


def test_without_validation_data_the_training_set_serves(make_learner, folder):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=lambda files: (range(len(files)), []),
        item_tfms=Resize(24),
        batch_tfms=aug_transforms(size=20),
    )
    learn = make_learner(block.dataloaders(folder, bs=4, num_workers=0, device=torch.device("cpu")))
    callback = AttributionCallback(**SILENT)
    fit(learn, 1, [callback])
    items = learn.dls.train_ds.items
    assert callback.last[0].names == (items[0].name, items[10].name)
    again = learn.explain([items[0], items[10]], "saliency")[0]
    assert torch.equal(callback.last[0].inputs, again.inputs), "without augmentation"


def test_layers_and_labels(make_learner):
    callback = AttributionCallback(n=6, methods="gradcam", layer="0.0", target="label", log="none")
    learn = fit(make_learner(), 1, [callback])
    assert callback.last[0].layer == "0.0"
    assert callback.last[0].target_label == tuple(p.parent.name for p in learn.dls.valid_ds.items)


# -- where the results go ----------------------------------------------------------------------------------------


def test_pictures_become_files_where_nothing_logs(make_learner):
    callback = AttributionCallback(n=3, methods=["ig", "occlusion"])
    learn = fit(make_learner(), 2, [callback])
    folder = learn.path / "attributions"
    assert pngs(folder) == ["attribution-epoch000.png", "attribution-epoch001.png"]
    first, second = (imread(folder / name) for name in pngs(folder))
    assert first.shape[0] > 500 and first.shape[1] > 500 and first.shape == second.shape
    assert not np.array_equal(first, second)
    assert plt.get_fignums() == []


def test_pictures_go_to_tensorboard(make_learner, tmp_path):
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardCallback(log_dir=tmp_path / "tb", trace_model=False, log_preds=False)
    callback = AttributionCallback(tag="what it looks at", **QUICK)
    learn = fit(make_learner(), 2, [board, callback])
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["what it looks at"]
    images = events.Images("what it looks at")
    assert [image.step for image in images] == [3, 6]
    picture = imread(io.BytesIO(images[-1].encoded_image_string))
    assert picture.shape[0] > 300 and float(np.std(picture)) > 0.1
    assert pngs(learn.path) == []


def test_both_and_path_write_files_as_well(make_learner, tmp_path):
    from fastai.callback.tensorboard import TensorBoardCallback

    for n, options in enumerate(({"log": "both"}, {"path": tmp_path / "maps"})):
        board = TensorBoardCallback(log_dir=tmp_path / "tb", trace_model=False, log_preds=False)
        fit(make_learner(), 1, [board, AttributionCallback(**options, **QUICK)])
        folder = options.get("path", tmp_path / "attributions")
        assert pngs(folder) == ["attribution-epoch000.png"], n


def test_pictures_go_to_weights_and_biases(make_learner, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from fastai.callback.wandb import WandbCallback

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(Learner, "gather_args", lambda self: {})  # fastai's own fails on data sets of paths
    run = wandb.init(mode="offline", dir=tmp_path, project="tests", settings=wandb.Settings(console="off"))
    try:
        callback = AttributionCallback(**QUICK)
        learn = fit(make_learner(), 2, [WandbCallback(log_preds=False), callback])
        kept = sorted((tmp_path / "wandb").rglob("media/images/*.png"))
    finally:
        run.finish()
    assert len(callback.history) == 2 and len(kept) == 2
    assert all(imread(p).shape[0] > 300 for p in kept) and kept[0].name.startswith("attribution")
    assert not (learn.path / "attributions").exists()


def test_nothing_is_written_when_nothing_is_asked_for(make_learner):
    learn = fit(make_learner(), 1, [AttributionCallback(**SILENT)])
    assert pngs(learn.path) == []


def test_the_table_holds_every_epoch(make_learner):
    callback = AttributionCallback(n=2, methods=["saliency", "ig"], log="none")
    assert callback.to_df().empty and len(callback.last) == 0
    fit(make_learner(), 2, [callback])
    table = callback.to_df()
    assert list(table.columns[:4]) == ["fit", "epoch", "train_iter", "method"]
    assert len(table) == 2 * 2 * 2 and table.epoch.tolist() == [0] * 4 + [1] * 4
    assert table.probability.between(0, 1).all()


def test_the_film_has_a_column_per_epoch(make_learner):
    callback = AttributionCallback(n=3, methods=["saliency", "ig"], log="none")
    with pytest.raises(InputError, match="no epoch has been explained"):
        callback.plot()
    fit(make_learner(), 4, [callback])
    fig, axes = callback.plot("ig", max_n=2, max_epochs=3, normalize="shared")
    assert axes.shape == (2, 4) and fig._suptitle.get_text() == "Integrated Gradients"
    assert [ax.get_title() for ax in axes[0]] == ["Input", "epoch 0", "epoch 2", "epoch 3"]
    assert "(p = " in axes[1, 3].get_xlabel() and "one scale" in fig._supxlabel.get_text()
    assert callback.plot("saliency", max_epochs=1).axes[0, 1].get_title() == "epoch 3"
    assert plt.get_fignums() == []


def test_an_export_holds_no_results(make_learner):
    learn, callback = make_learner(), AttributionCallback(**QUICK)
    learn.add_cb(callback)
    fit(learn, 1)
    copy = pickle.loads(pickle.dumps(callback))
    assert copy.history == [] and len(callback.history) == 1 and copy.options == callback.options
    learn.export("export.pkl")
    assert len(callback.history) == 1


# -- errors ------------------------------------------------------------------------------------------------------


def test_an_error_is_a_warning_and_the_training_goes_on_as_if_nothing_had_been(make_learner, make_dls):
    plain = fit(make_learner(cropping(make_dls)), 2)
    callback = AttributionCallback(n=2, methods="gradcam", layer="no.such.layer")
    with pytest.warns(InterpWarning, match=r"training goes on: .*no\.such\.layer"):
        watched = fit(make_learner(cropping(make_dls)), 2, [callback])
    assert callback.history == []
    want, got = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_an_error_may_be_raised(make_learner):
    callback = AttributionCallback(n=2, methods="saliency", target="horse", on_error="raise")
    with pytest.raises(InputError, match="horse"):
        fit(make_learner(), 2, [callback])


def test_a_logger_that_fails_costs_a_picture_only(make_learner, tmp_path):
    callback = AttributionCallback(path=tmp_path / "file", **QUICK)
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(InterpWarning, match="training goes on"):
        fit(make_learner(), 1, [callback])
    assert len(callback.history) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"methods": "integrated_gradient"}, "Did you mean 'integrated_gradients'"),
        ({"methods": ["ig", "shap_gradient"]}, "Unknown method 'shap_gradient'"),
        ({"n": 0}, "n must be an int of at least 1, got 0"),
        ({"every_n_epochs": 1.5}, "every_n_epochs must be an int"),
        ({"log": "tensorboard"}, "Unknown log 'tensorboard'"),
        ({"on_error": "ignore"}, "Unknown on_error 'ignore'"),
    ],
)
def test_wrong_arguments_are_refused_before_the_training(arguments, text):
    with pytest.raises(InputError, match=text):
        AttributionCallback(**arguments)


def test_a_callback_called_explain_hides_the_method(make_learner, picture):
    """What the guide warns of: fastai stores callbacks under their names."""

    class ExplainCallback(Callback):
        pass

    learn = make_learner(cbs=ExplainCallback())
    assert isinstance(learn.explain, ExplainCallback)
    learn.remove_cb(ExplainCallback)
    assert len(learn.explain(picture, "saliency")) == 1

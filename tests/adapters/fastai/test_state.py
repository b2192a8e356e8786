"""Explaining leaves no trace: not on the Learner, not on the random generators, not on a training that goes on."""

import contextlib
import random

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import fit_one_cycle  # noqa: F401 - Learner.fit_one_cycle
from fastai.data.transforms import Normalize
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop
from fastai.vision.core import imagenet_stats
from torch import nn

from interp_plugins.core.errors import InterpError

FIVE = {
    "integrated_gradients": {"n_steps": 4},
    "noise_tunnel": {"nt_samples": 2},
    "gradient_shap": {"n_samples": 2},
    "grad_cam": {},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)},
}


@pytest.fixture
def trained(make_learner):
    learn = make_learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-2)
    return learn


def test_F2_recorder_keeps_the_training(trained, picture, unchanged):
    recorder = trained.recorder
    assert len(recorder.values) == 2 and len(recorder.losses) == len(recorder.lrs) == 6
    with unchanged(trained):
        trained.explain(picture, FIVE)
        trained.explain(ds_idx=1, methods="saliency", target="label")
    assert len(recorder.values) == 2 and len(recorder.losses) == len(recorder.lrs) == 6


def test_F3_generators_stay_where_they_were(learn, picture):
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the global generator is meant

    def seeded():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seeded()
    want = draws()
    for call in (
        lambda: learn.explain(picture, FIVE, seed=5),
        lambda: learn.explain(ds_idx=0, idxs=[0], methods="noise_tunnel"),
        lambda: learn.explain(picture, "saliency", layer="nowhere"),
        lambda: learn.explain("no such file.png"),
    ):
        seeded()
        with contextlib.suppress(InterpError):
            call()
        assert draws() == want


class Watcher(Callback):
    """A user's callback that explains three times while it trains."""

    def __init__(self, picture, event, failing=False):
        self.picture, self.failing, self.found = picture, failing, []
        setattr(self, event, self.watch)

    def watch(self):
        if len(self.found) > 4:
            return
        if self.failing:
            with pytest.raises(ZeroDivisionError):
                self.learn.explain(self.picture, target=lambda output: output[:, 0] / (1 // 0))
        self.found.append(self.learn.explain(self.picture, FIVE))
        self.found.append(self.learn.explain(ds_idx=0, idxs=[0, 1], methods="saliency", target="label"))


def weights_after_training(make_learner, data, cbs=()):
    set_seed(3)  # a loader's own generator is drawn when it is made
    learn = make_learner(data())
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 1e-2, cbs=list(cbs))
    return learn


@pytest.mark.parametrize("event", ["after_epoch", "after_validate", "after_batch"])
def test_F4_training_is_bit_identical_with_a_callback_that_explains(make_learner, make_dls, picture, event):
    def data():
        normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
        return make_dls(item_tfms=RandomResizedCrop(20, min_scale=0.5), batch_tfms=[normalize], bs=7)

    plain = weights_after_training(make_learner, data)
    watcher = Watcher(picture, event, failing=event == "after_epoch")
    watched = weights_after_training(make_learner, data, [watcher])
    assert len(watcher.found) == 6
    want, got = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert [[float(v) for v in row[:2]] for row in plain.recorder.values] == [
        [float(v) for v in row[:2]] for row in watched.recorder.values
    ]


def test_F5_gradients_of_parameters_are_left_alone(learn, picture, unchanged):
    with unchanged(learn):
        learn.explain(picture, FIVE)
    assert all(p.grad is None for p in learn.model.parameters())
    learn.model(torch.rand(2, 3, 20, 20)).sum().backward()
    with unchanged(learn):
        learn.explain(picture, FIVE)
    assert all(p.grad is not None for p in learn.model.parameters())


def test_F6_a_fresh_learner_is_explained_in_eval_mode(learn, picture, unchanged):
    learn.model[0][1].eval()  # a batch norm that someone froze
    assert learn.model.training and learn.model[1][2].training
    with unchanged(learn):
        first, second = (learn.explain(picture, FIVE) for _ in range(2))
    assert all(torch.equal(a.attributions, b.attributions) for a, b in zip(first, second))


def test_F15_no_hooks_are_left(learn, picture, tmp_path, unchanged):
    def fail(output):
        raise KeyError("my own error")

    with unchanged(learn):
        learn.explain(picture, FIVE)
    with unchanged(learn), pytest.raises(KeyError, match="my own error"):
        learn.explain(picture, "grad_cam", target=fail)
    torch.save(learn.model, tmp_path / "model.pt")


def test_F15_a_model_that_fails_is_put_back(make_learner, dls, picture, unchanged):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2))
            self.net(torch.rand(2, 3, 20, 20))

        def forward(self, x):
            self.net(x)
            raise RuntimeError("my own error")

    learn = make_learner(dls, Fails())
    with unchanged(learn), pytest.raises(RuntimeError, match="my own error"):
        learn.explain(picture)


def test_it_works_where_gradients_are_off(learn, picture):
    want = learn.explain(picture, "saliency")[0].attributions
    with torch.no_grad():
        assert torch.equal(learn.explain(picture, "saliency")[0].attributions, want)
    with torch.inference_mode():
        found = learn.explain(ds_idx=1, idxs=[0], methods="saliency", target="label")[0].attributions
    assert found.isfinite().all()

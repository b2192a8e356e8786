"""fastai on CUDA: trap F26 of tests/README.md (a fresh Learner, cuDNN's recurrent nets, half models) and training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("fastai")

from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import fit_one_cycle  # noqa: F401 - a method of Learner
from fastai.data.transforms import Normalize
from fastai.layers import AdaptiveConcatPool2d
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import RandomResizedCrop
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageDataLoaders

from interp_plugins.fastai import AttributionCallback

FIVE = {
    "integrated_gradients": {"n_steps": 4},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 2},
    "gradient_shap": {"n_samples": 2},
    "grad_cam": {},
    "occlusion": {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)},
}
MAPS = ("ig", "gradcam", "saliency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 130, (32, 48, 3), dtype=np.uint8)
        pixels[4:28, 8:40, i % 2] += 100
        kind = ("cat", "dog")[i % 2]
        (root / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / kind / f"{kind}_{i:02}.png")
    return root


@pytest.fixture
def make(folder: Path, tmp_path: Path, device: torch.device) -> Any:
    """A fresh Learner: its data go to the device, its model is still on the CPU."""

    def learner(*cbs: Any) -> Learner:
        set_seed(3, reproducible=True)
        dls = ImageDataLoaders.from_folder(
            folder,
            item_tfms=RandomResizedCrop(20, min_scale=0.5),
            batch_tfms=[Normalize.from_stats(*imagenet_stats, cuda=device.type == "cuda")],
            valid_pct=0.3,
            seed=1,
            bs=7,
            num_workers=0,
            device=device,
        )
        body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 2))
        return Learner(dls, nn.Sequential(body, head), path=tmp_path, cbs=list(cbs))

    return learner


def fit(learn: Learner, *cbs: Any) -> Learner:
    set_seed(5, reproducible=True)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2, cbs=list(cbs))
    return learn


def devices(learn: Learner) -> set[str]:
    return {p.device.type for p in learn.model.parameters()}


def test_F26_a_fresh_learner_is_explained_where_its_model_is(make, device) -> None:
    learn = make()
    assert devices(learn) == {"cpu"} and learn.dls.device.type == device.type
    fresh = learn.explain(learn.dls.valid_ds.items[0], methods=MAPS, target=1)
    assert devices(learn) == {"cpu"}
    learn.model.to(device)
    moved = learn.explain(learn.dls.valid_ds.items[0], methods=MAPS, target=1)
    assert devices(learn) == {device.type}
    for a, b in zip(fresh, moved, strict=True):
        assert float((a.attribution - b.attribution).abs().max()) < 1e-4 * float(a.attribution.abs().max())


def test_F26_after_training_and_in_every_precision(make, device) -> None:
    learn = fit(make())
    assert devices(learn) == {device.type}
    whole = learn.explain(learn.dls.valid_ds.items[0], methods=MAPS, target=1)
    for dtype in (torch.bfloat16, torch.float16):
        learn.model.to(dtype)
        half = learn.explain(learn.dls.valid_ds.items[0], methods=MAPS, target=1)
        assert {p.dtype for p in learn.model.parameters()} == {dtype}
        for a, b in zip(half, whole, strict=True):
            assert a.attribution.isfinite().all() and a.attribution.any()
            a.attribution.float().numpy()
            flat = [e.attribution.flatten().double() for e in (a, b)]
            assert float(nn.functional.cosine_similarity(*flat, dim=0)) > 0.7, a.method


@pytest.mark.parametrize("how", ["to_fp16", "to_bf16", "to_non_native_fp16"])
def test_F26_the_callback_in_half_precision_training(how, make) -> None:
    """`to_non_native_fp16` makes the model itself half while it trains."""
    learn = make()
    if not hasattr(learn, how):
        pytest.skip(f"this fastai has no {how}")
    callback = AttributionCallback(n=2, methods=FIVE, log="none")
    fit(getattr(learn, how)(), callback)
    assert [s.epoch for s in callback.history] == [0, 1]
    assert all(e.attribution.isfinite().all() for e in callback.last)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_F4_training_on_cuda_is_bit_identical_with_the_callback(precision, make) -> None:
    def trained(*cbs: Any) -> tuple[dict[str, torch.Tensor], list[Any], list[float]]:
        learn = fit(make(*([MixedPrecision()] if precision == "float16" else [])), *cbs)
        draws = [random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, device="cuda").item()]  # noqa: NPY002
        return dict(learn.model.state_dict()), learn.recorder.values, draws

    callback = AttributionCallback(n=2, methods=FIVE, log="none")
    plain, again, watched = trained(), trained(), trained(callback)
    for other in (again, watched):  # training itself repeats, and the callback changes nothing
        assert [k for k in plain[0] if not torch.equal(plain[0][k], other[0][k])] == []
        assert np.array_equal(plain[1], other[1]) and plain[2] == other[2]
    assert [s.epoch for s in callback.history] == [0, 1]


def test_F26_recurrent_nets_of_cudnn(device, tmp_path) -> None:
    """AWD-LSTM (weight dropout around cuDNN's LSTM), trained and explained on the device."""
    from fastai.text.all import AWD_LSTM, BaseTokenizer, TextDataLoaders, awd_lstm_clas_config, text_classifier_learner

    rng = np.random.default_rng(0)
    words = np.array(["the", "film", "was", "a", "story", "with", "actors", "and", "music", "in", "old", "town"])
    liked = rng.integers(0, 2, 60)
    texts = [" ".join([*rng.choice(words, 8), "great" if y else "awful", *rng.choice(words, 4)]) for y in liked]
    frame = pd.DataFrame({"text": texts, "label": np.where(liked, "pos", "neg")})
    set_seed(0)
    dls = TextDataLoaders.from_df(
        frame, text_col="text", label_col="label", bs=16, seed=1, seq_len=8, tok_tfm=BaseTokenizer(), device=device
    )
    config = {**awd_lstm_clas_config, "emb_sz": 16, "n_hid": 24, "n_layers": 2}
    learn = text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=config, seq_len=8, max_len=16)
    learn.path = tmp_path
    fresh = learn.explain("a great film", n_steps=10)  # before anything has moved the model
    assert fresh[0].attribution.isfinite().all()
    fit(learn)
    assert devices(learn) == {device.type} and torch.backends.cudnn.enabled
    trained = learn.explain("a great film with this old music", n_steps=20)
    assert trained[0].attribution.shape[1] == len(trained[0].tokens[0])
    assert trained[0].attribution.isfinite().all() and trained[0].attribution.any()
    fit(learn)  # it can go on training


def test_the_head_with_two_poolings_repeats(make, device) -> None:
    """A fastai head on the device: two calls give the same map."""
    learn = make()
    learn.model[1] = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten(), nn.Linear(16, 2))
    learn.model.to(device)
    first, second = (learn.explain(learn.dls.valid_ds.items[0], methods=MAPS) for _ in range(2))
    assert all(torch.equal(a.attribution, b.attribution) for a, b in zip(first, second, strict=True))

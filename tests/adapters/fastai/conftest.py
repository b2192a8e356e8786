"""Twenty small pictures, the data and nets made of them, and the watch that nothing of a Learner changes."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastai.callback.progress  # noqa: F401 - gives a Learner no_bar
import numpy as np
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter, get_image_files, parent_label
from fastai.layers import AdaptiveConcatPool2d
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock, ImageDataLoaders
from PIL import Image
from torch import nn

import interp_plugins.fastai  # noqa: F401 - Learner.explain


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures 48 x 32, ten reddish cats and ten greenish dogs."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 130, (32, 48, 3), dtype=np.uint8)
        pixels[4:28, 8:40, i % 2] += 100
        kind = ("cat", "dog")[i % 2]
        (root / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / kind / f"{kind}_{i:02}.png")
    return root


@pytest.fixture(scope="session")
def make_dls(folder: Path) -> Callable[..., Any]:
    """Data with training augmentation on non-square pictures, as most users have them."""

    def make(**kwargs: Any) -> Any:
        defaults: dict[str, Any] = {
            "item_tfms": Resize(24),
            "batch_tfms": [*aug_transforms(size=20), Normalize.from_stats(*imagenet_stats, cuda=False)],
            "valid_pct": 0.3,
            "seed": 1,
            "bs": 4,
            "num_workers": 0,
            "device": torch.device("cpu"),
        }
        return ImageDataLoaders.from_folder(folder, **{**defaults, **kwargs})

    return make


@pytest.fixture(scope="session")
def block_dls(folder: Path) -> Callable[..., Any]:
    """The same pictures with other blocks and labels."""

    def make(blocks: Any = (ImageBlock, CategoryBlock), get_y: Any = parent_label, **kwargs: Any) -> Any:
        block = DataBlock(
            blocks=blocks,
            get_items=get_image_files,
            get_y=get_y,
            splitter=RandomSplitter(seed=1),
            item_tfms=Resize(20),
            **kwargs,
        )
        return block.dataloaders(folder, bs=4, num_workers=0, device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def dls(make_dls: Callable[..., Any]) -> Any:
    return make_dls()


def small_net(channels: int = 3, classes: int = 2) -> nn.Sequential:
    """Body and head, with batch norm, dropout and an in-place ReLU."""
    body = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    )
    head = nn.Sequential(AdaptiveConcatPool2d(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, classes))
    return nn.Sequential(body, head)


@pytest.fixture(scope="session")
def net() -> Callable[..., nn.Sequential]:
    return small_net


@pytest.fixture
def make_learner(dls: Any, tmp_path: Path) -> Callable[..., Learner]:
    """A fresh Learner (training mode, untrained) with weights from a fixed seed."""

    def make(data: Any = None, model: nn.Module | None = None, **kwargs: Any) -> Learner:
        set_seed(7)
        return Learner(data or dls, model if model is not None else small_net(), path=tmp_path, **kwargs)

    return make


@pytest.fixture
def learn(make_learner: Callable[..., Learner]) -> Learner:
    return make_learner()


@pytest.fixture
def picture(dls: Any) -> Path:
    return dls.valid_ds.items[0]


PLAIN = (bool, int, float, str, tuple, list, type(None))


def snapshot(learn: Learner) -> dict[str, Any]:
    """All of a Learner and of the process that explaining might change."""
    model = learn.model
    recorder = getattr(learn, "recorder", None)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    pipelines = [getattr(dl, nm) for dl in learn.dls.loaders for nm in ("after_item", "after_batch") if hasattr(dl, nm)]
    stored = [hook.stored for m in model.modules() for v in vars(m).values() for hook in getattr(v, "hooks", ())]
    return {
        "random": random.getstate(),
        "numpy": [str(v) for v in np.random.get_state()],  # noqa: NPY002 - fastai draws from it
        "torch": torch.get_rng_state(),
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "memory": [t.data_ptr() for t in model.state_dict().values()],
        "device": [p.device for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, h)) for m in model.modules() for h in hooks],
        "recorder": {k: list(getattr(recorder, k, [])) for k in ("values", "losses", "lrs", "iters")},
        "attributes": sorted(vars(learn)),
        "callbacks": [id(cb) for cb in learn.cbs],
        "loaders": [id(dl) for dl in learn.dls.loaders],
        "split_idx": [p.split_idx for p in pipelines],
        "transforms": [id(f) for p in pipelines for f in p.fs],
        "remembered": [
            {k: v if isinstance(v, PLAIN) else id(v) for k, v in vars(f).items()} for p in pipelines for f in p
        ],
        "stored": [id(v) for v in stored],
        "normalize": [v.clone() for p in pipelines for f in p.fs if isinstance(f, Normalize) for v in (f.mean, f.std)],
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.fixture(scope="session")
def unchanged() -> Callable[[Learner], contextlib.AbstractContextManager[None]]:
    """`with unchanged(learn): ...` fails if the block changes anything; an exception passes through after the check."""

    @contextlib.contextmanager
    def watch(learn: Learner) -> Iterator[None]:
        before = snapshot(learn)
        try:
            yield
        finally:
            after = snapshot(learn)
            assert [k for k in before if not equal(before[k], after[k])] == []

    return watch

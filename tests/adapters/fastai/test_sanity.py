"""Where the label depends on a watermark alone, the maps of a trained network point at the watermark."""

import warnings

import numpy as np
import pytest
import torch
from fastai.callback.schedule import fit_one_cycle  # noqa: F401 - Learner.fit_one_cycle
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, ColSplitter, Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock
from PIL import Image
from skimage.data import chelsea, coffee, rocket

from interp_plugins.core.errors import ConvergenceWarning
from tests.adapters.fastai.scenes import conv_net

pd = pytest.importorskip("pandas")
SIZE, MARK = 48, 7
CROSS, RING = np.eye(MARK, dtype=bool) | np.eye(MARK, dtype=bool)[::-1], np.ones((MARK, MARK), bool)
RING[1:-1, 1:-1] = False
METHODS = {
    "integrated_gradients": {"tol": 0.01, "max_steps": 2048},
    "occlusion": {"sliding_window_shapes": (3, MARK, MARK), "strides": (3, 4, 4)},
    "grad_cam": {},
}


def crops(rng, n):
    """Pieces of real photographs, which say nothing about the label."""
    photographs = [chelsea(), coffee(), rocket()]
    for i in range(n):
        photo = photographs[i % 3]
        y, x = (rng.integers(0, s - 2 * SIZE) for s in photo.shape[:2])
        yield np.array(Image.fromarray(photo[y : y + 2 * SIZE, x : x + 2 * SIZE]).resize((SIZE, SIZE)))


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """160 crops with a white cross or ring on a dark square somewhere; the last 40 are for validation."""
    folder, rng = tmp_path_factory.mktemp("marked"), np.random.default_rng(0)
    rows = []
    for i, pixels in enumerate(crops(rng, 160)):
        y, x = rng.integers(1, SIZE - MARK - 1, 2)
        shape = (CROSS, RING)[i % 2]
        pixels[y : y + MARK, x : x + MARK] = np.where(shape[..., None], 255, 0)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        rows.append({"file": folder / f"{i:03}.png", "label": ("cross", "ring")[i % 2], "x": x, "y": y})
    table = pd.DataFrame(rows)
    return table.assign(is_valid=table.index >= 120)


@pytest.fixture(scope="module")
def watermark(marked):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=ColReader("file"),
        get_y=ColReader("label"),
        splitter=ColSplitter(),
        batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False),
    )
    dls = block.dataloaders(marked, bs=20, num_workers=0, device=torch.device("cpu"))
    set_seed(0)
    learn = Learner(dls, conv_net(2), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(12, 1e-2)
    return learn


@pytest.fixture(scope="module")
def maps(watermark):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a picture whose score is nearly the baseline's
        return watermark.explain(ds_idx=1, methods=METHODS, target="label")


def test_the_network_has_learnt_the_watermark(watermark):
    assert watermark.recorder.values[-1][-1] >= 0.95


@pytest.mark.parametrize("method", METHODS)
def test_maps_point_at_the_watermark(watermark, maps, method):
    table = watermark.dls.valid_ds.items
    exp = maps[method]
    right = [i for i in range(len(exp)) if exp.prediction[i] == exp.target[i]]
    found = []
    for i in right:
        heat = torch.from_numpy(exp.heatmap(i)).abs()
        # Single pixels of a gradient are noise: the point is where a window of the watermark's size holds most.
        y, x = divmod(int(torch.nn.functional.avg_pool2d(heat[None], MARK, 1, MARK // 2)[0].argmax()), SIZE)
        row = table.iloc[i]
        found.append(row["y"] - 1 <= y <= row["y"] + MARK and row["x"] - 1 <= x <= row["x"] + MARK)
    print(f"{method}: {sum(found)} of {len(found)}")
    assert sum(found) >= 0.95 * len(right) and len(right) >= 38


def test_completeness_on_a_trained_network(maps):
    exp = maps["integrated_gradients"]
    change = (exp.score - exp.baseline_score).abs()
    size = exp.attributions.flatten(1).norm(dim=1)
    told = change > 0.25 * size  # where a score hardly changes, `tol` asks for a share of the map's size
    assert bool((exp.convergence_delta.abs() < 0.01 * torch.maximum(change, 0.25 * size)).all())
    worst, most = exp.relative_delta[told].max(), max(exp.meta["per_sample"]["n_gradients"])
    print(f"{int(told.sum())} of {len(exp)} pictures, error at most {worst:.2g}, {most} gradients at most")
    assert worst < 0.01 and int(told.sum()) >= 38

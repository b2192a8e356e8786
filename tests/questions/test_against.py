"""Why this and not that: `against=` beside `target=` in every door, and names that fastai has for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import interp_plugins as ip
from interp_plugins import Explanations, InputSpec, RatherThan, explain
from interp_plugins.core.errors import TargetError
from interp_plugins.core.target import Contrast
from interp_plugins.insights import Session
from interp_plugins.insights.subject import Ask

NAMES = ("ant", "bee", "cat")
FAST: dict[str, Any] = {"methods": "saliency", "progress": False}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def by_hand(net: nn.Module, x: Tensor, this: Tensor | int, that: Tensor | int) -> Tensor:
    """|d (score of this - score of that) / d x|."""
    leaf, rows = x.clone().requires_grad_(), torch.arange(len(x))
    scores = net(leaf)
    (scores[rows, this] - scores[rows, that]).sum().backward()
    assert leaf.grad is not None
    return leaf.grad.abs()


def test_the_score_of_the_other_class_is_subtracted(net: nn.Module, x: Tensor) -> None:
    spec = InputSpec("tabular", vocab=NAMES)
    found = explain(net, x, target="ant", against="cat", input_spec=spec, **FAST)[0]
    assert torch.allclose(found.attribution, by_hand(net, x, 0, 2))
    assert found.target_label == ("ant rather than cat",) * 5
    assert torch.allclose(found.score, net(x).detach()[:, 0] - net(x).detach()[:, 2])
    each = net(x).argmax(1)
    other = (each + 1) % 3
    assert torch.allclose(explain(net, x, against=other, **FAST)[0].attribution, by_hand(net, x, each, other))
    two = explain(net, x, target=[0, 1], against=2, **FAST)
    for exp, this in zip(two, (0, 1), strict=True):
        assert torch.allclose(exp.attribution, by_hand(net, x, this, 2))


def test_the_old_name_is_the_same_target() -> None:
    assert ip.Contrast is Contrast is RatherThan is ip.RatherThan
    assert "Contrast" not in ip.__all__


def test_what_cannot_be_compared_is_refused(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(TargetError, match="one target, got a list of 2"):
        explain(net, x, target=0, against=[1, 2], **FAST)
    with pytest.raises(TargetError, match="several targets"):
        explain(net, x, target="all", against=1, **FAST)
    with pytest.raises(TargetError, match="with itself"):
        explain(net, x, target=1, against=1, **FAST)


def test_nodes_of_a_graph(net: nn.Module) -> None:
    nodes = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    mix = torch.full((4, 4), 0.25)

    def graph(h: Tensor) -> Tensor:
        return mix @ torch.tanh(h @ torch.eye(3))

    found = explain(graph, nodes, target=0, against=1, nodes=True, **FAST)[0]
    leaf = nodes.clone().requires_grad_()
    scores = graph(leaf)
    (scores[:, 0] - scores[:, 1]).sum().backward()
    assert leaf.grad is not None and torch.allclose(found.attribution[0], leaf.grad.abs(), atol=1e-6)


def test_stores_and_viewers(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    from interp_plugins.store import explain_dataset

    labels = torch.tensor([0, 1, 0, 1, 1])
    data = TensorDataset(x, labels)
    store = explain_dataset(net, data, tmp_path / "run", target="label", against=2, **FAST)
    maps = torch.cat([store[i][0].attribution for i in range(5)])
    assert torch.allclose(maps, by_hand(net, x, labels, 2))
    session = Session(net, x, labels=labels.tolist(), target="label", against=2, input_spec=InputSpec("tabular"))
    found = session.subject.explain(0, 0, Ask("saliency"))
    assert found[0].target_label == ("0 rather than 2",)


def test_lightning(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    from interp_plugins import lightning as doors

    labels = torch.tensor([0, 1, 0, 1, 1])
    right = by_hand(net, x, labels, 2)
    batch = (x, labels)
    assert torch.allclose(doors.explain(net, batch, target="label", against=2, **FAST)[0].attribution, right)
    names = list(NAMES)
    options = {"target": "bee", "against": "cat", "class_names": names}
    worst = doors.top_losses(net, [batch], 5, "saliency", loss_fn=nn.functional.cross_entropy, **options)
    assert worst[0].target_label == ("bee rather than cat",) * 5
    assert doors.AttributionCallback("saliency", **options).target == RatherThan("bee", "cat")
    assert doors.AttributionWriter(str(tmp_path), "saliency", **options).target == RatherThan("bee", "cat")
    with pytest.raises(TargetError, match="a list"):
        doors.AttributionCallback("saliency", target=0, against=[1])


def test_fastai(tmp_path: Path) -> None:
    vision = pytest.importorskip("fastai.vision.all")
    from PIL import Image

    from interp_plugins.fastai import AttributionCallback

    files = []
    for i in range(8):
        files.append(tmp_path / f"{NAMES[i % 3]}_{i}.png")
        Image.new("RGB", (12, 12), (30 * i, 100, 200 - 20 * i)).save(files[-1])
    block = vision.DataBlock(
        (vision.ImageBlock, vision.CategoryBlock),
        get_y=lambda p: p.name[:3],
        splitter=vision.FuncSplitter(lambda p: int(p.stem[-1]) > 4),
    )
    dls = block.dataloaders(files, bs=4, num_workers=0, device=torch.device("cpu"))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    learn = vision.Learner(dls, model, loss_func=vision.CrossEntropyLossFlat(), path=tmp_path)
    asked = {"target": "ant", "against": "cat"}

    def one(found: Explanations) -> None:
        assert found[0].target_label == ("ant rather than cat",) * len(found[0])

    one(learn.explain(files[:2], "saliency", **asked))
    old = learn.explain(files[:2], "saliency", target=Contrast("ant", "cat"))[0]
    assert torch.equal(learn.explain(files[:2], "saliency", **asked)[0].attribution, old.attribution)
    assert learn.show_explanations(max_n=2, methods="saliency", **asked) is not None
    truths = learn.explain(ds_idx=0, methods="saliency", target="label", against=None)
    assert "rather" not in truths[0].target_label[0]
    watch = AttributionCallback(n=2, methods="saliency", log="none", **asked)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=watch)
    one(watch.last)
    for wrong in (vision.Contrast("cat", "dog"), vision.Contrast, [vision.Brightness()]):
        with pytest.raises(TargetError, match=r"which changes pictures .* against="):
            learn.explain(files[0], "saliency", target=wrong)


@pytest.mark.parametrize("application", ["vision", "tabular", "text"])
def test_no_public_name_is_one_of_fastai(application: str) -> None:
    everything = pytest.importorskip(f"fastai.{application}.all")
    assert not [name for name in ip.__all__ if name != "__version__" and hasattr(everything, name)]

"""Boxes of a detector as targets: scoring, a detector trained here, and torchvision's own architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.core.detection import MOST, Box, Detection, as_table, is_detections, is_table, overlap
from interp_plugins.core.errors import TargetError, UnknownNameError
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Contrast
from tests.attr.detector import SIZE, Detector, scene, trained_detector


def found(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Tensor]:
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


TWO = [found((0, 0, 10, 10, 1, 0.9), (0, 0, 10, 5, 2, 0.95), (2, 0, 12, 10, 1, 0.4)), found()]


# -- scoring ---------------------------------------------------------------------------------------------------


def test_detections_become_a_table_with_the_highest_scores_first() -> None:
    assert is_detections(TWO) and not is_detections([{"boxes": 1}]) and not is_detections([])
    table = as_table(TWO)
    assert table.shape == (2, MOST, 6) and is_table(table)
    assert table[0, :3, 5].tolist() == pytest.approx([0.95, 0.9, 0.4])
    assert table[0, :4, 4].tolist() == [2, 1, 1, -1] and bool((table[1, :, 4] == -1).all())
    assert as_table(TWO, most=1).shape == (2, 1, 6)
    assert not is_table(torch.rand(2, MOST, 6)) and not is_table(torch.zeros(2, 3))


def test_overlap_is_intersection_over_union() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
    assert overlap(boxes, torch.tensor([0.0, 0, 10, 10])).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    from torchvision.ops import box_iou

    some = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 2) * 20 + torch.tensor([0, 0, 9, 5])
    assert torch.allclose(overlap(some, some[3]), box_iou(some, some[3:4])[:, 0])


def test_match_is_the_score_of_the_box_of_the_class_that_overlaps_most() -> None:
    table = as_table(TWO)
    assert Box([0, 0, 10, 10], 1)(table).tolist() == pytest.approx([0.9, 0])
    assert Box([2, 0, 12, 10], 1)(table).tolist() == pytest.approx([0.4, 0])
    assert Box([0, 0, 10, 10], 2)(table).tolist() == pytest.approx([0.95, 0])  # half of the box
    assert Box([0, 0, 10, 10], 2, min_iou=0.6)(table).tolist() == [0, 0]
    assert Box([0, 0, 10, 10], 3)(table).tolist() == [0, 0]


def test_d_rise_is_the_largest_product_of_overlap_and_score() -> None:
    table = as_table(TWO)
    assert Box([0, 0, 10, 10], 2, scoring="d_rise")(table).tolist() == pytest.approx([0.95 / 2, 0])
    assert Box([2, 0, 12, 10], 1, scoring="d_rise")(table).tolist() == pytest.approx([0.9 * 8 / 12, 0])


def test_rows_belong_to_their_samples() -> None:
    box = Box([[0, 0, 10, 10], [2, 0, 12, 10]], [2, 1])
    table = as_table([TWO[0]] * 3)
    assert box.at(torch.tensor([1, 0, 1]))(table).tolist() == pytest.approx([0.4, 0.95, 0.4])
    assert box.describe(1) == "box of class 1 at (2, 0, 12, 10)"
    mask = Box([1, 0, 3, 2], 0).mask((3, 4), 2)
    assert mask[1].tolist() == [[False, True, True, False], [False, True, True, False], [False] * 4]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Box([0, 0, 10], 1), TargetError, "four numbers x1, y1, x2, y2"),
        (lambda: Box([0, 0, 0, 5, 5, 5], 1), TargetError, "Boxes in volumes .six numbers.*give output= a function"),
        (lambda: as_table([{**TWO[0], "boxes": torch.rand(2, 6)}]), TargetError, r"\(2, 6\)\. Boxes in volumes"),
        (lambda: Box([5, 0, 5, 10], 1), TargetError, "x1 < x2"),
        (lambda: Box([0, 0, 5, 5], 1, min_iou=0), TargetError, "min_iou"),
        (lambda: Box([0, 0, 5, 5], 1, scoring="drise"), UnknownNameError, "Did you mean 'd_rise'"),
        (lambda: Box([0, 0, 5, 5], 1)(torch.zeros(2, 3)), TargetError, r"needs detections.*shape \(2, 3\)"),
        (lambda: Detection().frozen(torch.zeros(2, 3), InputSpec()), TargetError, "detector's output"),
        (lambda: Detection(2, rank=1).frozen(as_table(TWO), InputSpec()), TargetError, "Sample 0 has no detection of"),
        (lambda: Detection().frozen(as_table(TWO), InputSpec()), TargetError, "Sample 1 has no detection number 0"),
    ],
)
def test_bad_boxes_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


# -- a trained detector ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Detector:
    return trained_detector()


@pytest.fixture(scope="module")
def scenes(net: Detector) -> tuple[Tensor, Box]:
    """Pictures, and the left object of each as a box, where the detector is sure of both."""
    generator, pictures, objects = torch.Generator().manual_seed(7), [], []
    while len(pictures) < 4:
        picture, things = scene(generator)
        table = as_table(net(picture[None]))
        if all(float(Box(box, label)(table).detach()) > 0.9 for box, label in things):
            pictures.append(picture)
            objects.append(things[0])
    return torch.stack(pictures), Box(torch.stack([b for b, _ in objects]), [c for _, c in objects])


def test_the_detector_detects(net: Detector) -> None:
    generator, hits = torch.Generator().manual_seed(9), []
    for _ in range(25):
        picture, things = scene(generator)
        table = as_table(net(picture[None]))
        hits += [float(Box(box, label)(table).detach()) > 0.3 for box, label in things]
    assert sum(hits) >= 42


def share_inside(maps: Tensor, box: Box) -> Tensor:
    """The part of each map's mass that lies in its box."""
    mass = nn.functional.interpolate(maps.abs().sum(1, keepdim=True), (SIZE, SIZE), mode="bilinear")[:, 0]
    return (mass * box.mask((SIZE, SIZE), len(mass))).flatten(1).sum(1) / mass.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("method", "times", "more"),
    [
        ("occlusion", 8, {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4), "baselines": "mean"}),
        ("rise", 4, {"n_samples": 600, "grid_size": 8, "baselines": "mean"}),
        ("feature_ablation", 8, {"baselines": "mean",
                                   "feature_mask": torch.arange(SIZE * SIZE).reshape(1, 1, SIZE, SIZE) // 8 % 8
                                   + torch.arange(SIZE)[:, None] // 8 * 8}),
        ("integrated_gradients", 8, {"n_steps": 20, "baselines": "mean"}),
        ("saliency", 2, {}),
        ("grad_cam", 2, {"layer": "body.8"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scoring", ["match", "d_rise"])
def test_map_of_a_box_lies_on_its_object(
    net: Detector, scenes: tuple[Tensor, Box], method: str, times: float, more: dict[str, Any], scoring: str
) -> None:
    x, box = scenes
    target = Box(box.box, box.label, scoring=scoring)
    exp = explain(net, x, method, target=target, seed=0, progress=False, **more)[0]
    inside = share_inside(exp.attribution, box)
    area = box.mask((SIZE, SIZE), 4).float().mean((1, 2))
    assert float(inside.mean()) > times * float(area.mean())  # an even map has 1
    assert exp.region is not None and torch.equal(exp.region, box.mask((SIZE, SIZE), 4))


def test_detection_is_the_box_that_the_model_predicts(net: Detector, scenes: tuple[Tensor, Box]) -> None:
    x, _ = scenes
    spec = InputSpec(kind="image", vocab=("background", "square", "disc"))
    exps = explain(net, x, "saliency", target=[None, Detection(), Detection(rank=1)], input_spec=spec)
    assert torch.equal(exps[0].attribution, exps[1].attribution)
    table = as_table(net(x))
    for rank, exp in ((0, exps[1]), (1, exps[2])):
        assert torch.allclose(exp.score, table[:, rank, 5])
    name = ("square", "disc")[int(table[0, 0, 4]) - 1]
    assert exps[0].target_label[0] == f"{name} box {float(table[0, 0, 5].detach()):.2f}"
    one = int(table[0, 0, 4])
    again = explain(net, x[:1], "saliency", target=Detection(spec.vocab[one]), input_spec=spec)[0]
    assert torch.allclose(again.attribution, exps[0].attribution[:1], atol=1e-6)


def test_two_boxes_may_be_contrasted(net: Detector, scenes: tuple[Tensor, Box]) -> None:
    x, box = scenes
    exp = explain(net, x, "saliency", target=Contrast(box, Detection(rank=1)))[0]
    assert exp.score is not None and bool((exp.score.abs() < 1).all())


# -- torchvision's own -----------------------------------------------------------------------------------------


def _ssd() -> nn.Module:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large as make

    return make(weights=None, weights_backbone=None, num_classes=4, score_thresh=0.0, detections_per_img=20)


def _faster_rcnn() -> nn.Module:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as make

    return make(weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, box_detections_per_img=20,
                min_size=96, max_size=96)  # fmt: skip


def lively(net: nn.Module) -> nn.Module:
    """Random weights, with the statistics of random pictures, so that scores depend on the picture."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        for m in net.modules():
            m.training = isinstance(m, nn.BatchNorm2d)
        net(torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(1)))
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("make", [_ssd, _faster_rcnn])
def test_torchvisions_detectors_are_explained_as_they_are(make: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = lively(make())
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for method, more in (
        ("saliency", {}),
        ("occlusion", {"sliding_window_shapes": (3, 48, 48), "strides": (3, 48, 48)}),
    ):
        exp = explain(net, x, method, target=Detection(scoring="d_rise"), progress=False, **more)[0]
        assert exp.attribution.shape == x.shape and bool(exp.attribution.flatten(1).any(1).all())
        assert exp.score is not None and bool((exp.score > 0).all())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

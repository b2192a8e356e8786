"""A class of a segmentation as target: where the model sees it, frozen, one scalar per sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.api.explain import explain
from interp_plugins.core.errors import InterpWarning, TargetError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.region import ClassRegion, Region
from interp_plugins.core.spec import InputSpec

NAMES = InputSpec(kind="image", vocab=("sky", "road", "Background", "car"))


def scores(*rows: list[list[int]]) -> Tensor:
    """Class scores (N, 4, H, W) that predict the given classes."""
    return 3 * nn.functional.one_hot(torch.tensor(rows), 4).permute(0, 3, 1, 2).double()


OUTPUT = scores([[2, 2, 2], [3, 3, 0]], [[2, 2, 2], [2, 2, 2]])


@pytest.mark.parametrize(
    ("which", "spec", "classes", "sizes"),
    [
        (None, NAMES, (3, 2), (2, 6)),
        (None, InputSpec(), (2, 2), (3, 6)),
        ("BACKGROUND", NAMES, (2, 2), (3, 6)),
        (-2, NAMES, (2, 2), (3, 6)),
    ],
)
def test_region_is_where_the_model_sees_the_class(which: Any, spec: InputSpec, classes: Any, sizes: Any) -> None:
    region, found = ClassRegion(which).frozen(OUTPUT, spec)
    assert found == classes and region.mask.flatten(1).sum(1).tolist() == list(sizes)
    assert region(OUTPUT).tolist() == [3 * n for n in sizes]
    rows = torch.tensor([1, 1, 0])
    assert region.at(rows)(OUTPUT[rows]).tolist() == [3 * sizes[1], 3 * sizes[1], 3 * sizes[0]]


def test_class_0_is_the_background_where_classes_have_no_names() -> None:
    assert ClassRegion().frozen(scores([[0, 0, 1]]), InputSpec())[1] == (1,)
    assert ClassRegion().frozen(scores([[0, 0, 0]]), InputSpec())[1] == (0,)


def test_ground_truth_instead_of_the_prediction() -> None:
    truth = torch.tensor([[[1, 1, 0], [255, 255, 255]], [[0, 0, 0], [3, 3, 3]]])
    region, classes = ClassRegion(truth=truth).frozen(OUTPUT, NAMES)
    assert classes == (1, 0) and region.mask.flatten(1).sum(1).tolist() == [2, 3]
    with pytest.raises(TargetError, match=r"true classes have shape \(2, 1, 2\).*class per pixel"):
        ClassRegion(truth=truth[:, :1, :2]).frozen(OUTPUT, NAMES)


def test_one_channel_is_a_yes_or_no_per_pixel() -> None:
    output = torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]])
    region, classes = ClassRegion().frozen(output, InputSpec())
    assert classes == (1,) and region(output).tolist() == [5.0]
    assert ClassRegion(0).frozen(output, InputSpec())[0](output).tolist() == [5.0]  # minus the logits: they speak for 0


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("truth", [None, (2, 4, 5, 6), (2, 1, 4, 5, 6)], ids=str)
def test_a_class_of_a_volume(channels: int, truth: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, channels, 4, 5, 6, generator=generator)
    true = None if truth is None else torch.randint(0, 2, truth, generator=generator)
    predicted = output.argmax(1) if channels > 1 else (output[:, 0] > 0).long()
    for one in (0, 1):
        region, classes = ClassRegion(one, true).frozen(output, InputSpec())
        mask = (predicted if true is None else true.reshape(2, 4, 5, 6)) == one
        own = output[:, one] if channels > 1 else output[:, 0] * (1 if one else -1)
        assert classes == (one, one) and torch.equal(region.mask, mask)
        torch.testing.assert_close(region(output), (own * mask).flatten(1).sum(1))
        torch.testing.assert_close(region.at(torch.tensor([1, 0, 1]))(output[[1, 0, 1]]), region(output)[[1, 0, 1]])


def test_masks_of_volumes_have_a_sample_axis() -> None:
    output = torch.ones(2, 3, 4, 5, 6)
    assert Region(1, torch.ones(1, 4, 5, 6))(output).tolist() == [120, 120]
    for wrong in ((4, 5, 6), (5, 6), (2, 4, 5, 5)):
        with pytest.raises(TargetError, match=r"does not fit.*\(N, C, D, H, W\) and a mask \(N, D, H, W\)"):
            Region(1, torch.ones(wrong))(output)
    for wrong in ((2, 5, 6), (2, 4, 5), (2, 2, 4, 5, 6)):
        with pytest.raises(TargetError, match=r"a class per pixel of the output, \(2, 4, 5, 6\)"):
            ClassRegion(1, torch.ones(wrong)).frozen(output, InputSpec())


def test_a_volume_is_explained_class_by_class() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()
    x = torch.randn(2, 1, 6, 6, 6)
    exps = explain(net, x, "ig", target="all", n_steps=64)
    labels = net(x).argmax(1)
    assert len(exps) == len(torch.unique(labels))
    for exp, one in zip(exps, torch.unique(labels)):
        assert exp.target_label == (int(one),) * 2
        assert exp.region is not None and torch.equal(exp.region, labels == one)
        assert exp.relative_delta is not None and exp.relative_delta.max() < 0.02
    assert "outline" not in exps.to_html()


def test_what_is_nowhere_is_said() -> None:
    with pytest.warns(InterpWarning, match="In sample 1 the model predicts class 'car' nowhere"):
        assert ClassRegion("car").frozen(OUTPUT, NAMES)[0](OUTPUT).tolist() == [6, 0]
    with pytest.raises(TargetError, match=r"The model predicts class 'road' nowhere.*it has: sky, Background, car"):
        ClassRegion("road").frozen(OUTPUT, NAMES)
    with pytest.raises(TargetError, match="Did you mean 'road'"):
        ClassRegion("roat").frozen(OUTPUT, NAMES)
    with pytest.raises(TargetError, match=r"index 4 is out of range.*0 to 3"):
        ClassRegion(4).frozen(OUTPUT, NAMES)
    with pytest.raises(TargetError, match=r"per class and pixel.*shape \(2, 3\)"):
        ClassRegion(1).frozen(torch.zeros(2, 3), NAMES)


def test_the_region_is_frozen_and_kept_with_the_result(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 1)).double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.double)
    exp = explain(model, x, "ig", target=ClassRegion(), input_spec=NAMES, n_steps=50)[0]
    output = model(x)
    region, classes = ClassRegion().frozen(output, NAMES)
    assert exp.region is not None and torch.equal(exp.region, region.mask)
    assert exp.target_label == tuple(NAMES.label(c) for c in classes)
    assert torch.allclose(exp.score, Region(classes, exp.region)(output))
    assert exp.relative_delta is not None and exp.relative_delta.max() < 1e-6
    want = [output.softmax(1)[i, c][exp.region[i]].mean().item() for i, c in enumerate(classes)]
    assert exp.probability is None
    softmax = explain(model, x, "saliency", target=ClassRegion(), input_spec=NAMES, activation=lambda o: o.softmax(1))
    assert softmax[0].probability is not None and softmax[0].probability.tolist() == pytest.approx(want)
    exp.save(tmp_path / "region.safetensors")
    back = Explanation.load(tmp_path / "region.safetensors").region
    assert back is not None and torch.equal(back, exp.region)
    assert exp[1].region is not None and torch.equal(exp[1].region[0], exp.region[1])

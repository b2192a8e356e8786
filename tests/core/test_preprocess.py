"""Raw pictures given to `explain`: encoded as the model's own preprocessing does, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import interp_plugins as ip
from interp_plugins.core.errors import InputError, InputTypeError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def plain(image: Image.Image) -> torch.Tensor:
    x = torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def explained(net: nn.Module, raw: Any, preprocess: Any = None, **more: Any) -> ip.Explanation:
    return ip.explain(net, raw, "saliency", preprocess=preprocess, **more)[0]


def test_paths_pictures_and_arrays_give_what_the_tensor_gives(net, photo) -> None:
    image = Image.open(photo)
    expected = explained(net, plain(image)[None], input_spec=ip.InputSpec("image"))
    pixels = np.asarray(image)
    for raw in (photo, str(photo), image, pixels, pixels[None], [photo], torch.from_numpy(pixels.copy())):
        found = explained(net, raw, plain)
        assert torch.equal(found.input, expected.input) and torch.equal(found.attribution, expected.attribution)
    several = explained(net, [photo, image], plain)
    assert len(several) == 2 and several.names == ("photo.png", "photo.png")


def test_torchvisions_weights_say_size_normalisation_and_classes(net, photo) -> None:
    presets = pytest.importorskip("torchvision.transforms._presets")
    preset = presets.ImageClassification(crop_size=16)
    found = explained(net, photo, preset)
    assert found.input.shape == (1, 3, 16, 16) and (found.spec.mean, found.spec.std) == (MEAN, STD)
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": ["cat", "dog", "cow"]})
    assert explained(net, photo, weights, target="dog").target_label == ("dog",)


def test_a_model_of_timm_says_it_all_itself(photo) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
    found = explained(net, photo)
    assert found.input.shape[1:] == net.pretrained_cfg["input_size"]
    assert (found.spec.mean, found.spec.std) == (net.pretrained_cfg["mean"], net.pretrained_cfg["std"])


def test_the_last_normalisation_of_a_chain_is_read(net, photo) -> None:
    class Normalize:
        mean, std = [0.5] * 3, torch.tensor([0.25] * 3)

    chain = type("Compose", (), {"transforms": [Normalize()], "__call__": lambda self, image: plain(image)})()
    assert explained(net, photo, chain).spec.mean == (0.5, 0.5, 0.5)
    own = ip.InputSpec("image", mean=MEAN, std=STD)
    assert explained(net, photo, chain, input_spec=own).spec.mean == MEAN  # the user's word counts


@pytest.mark.parametrize(
    ("raw", "preprocess", "kind", "text"),
    [
        ("none.jpg", None, InputError, "There is no file 'none.jpg'"),
        ("photo", None, InputError, "Give preprocess="),
        (np.zeros((20, 20, 3), np.uint8), None, InputError, "array of shape .20, 20, 3. and dtype uint8 is raw"),
        (np.zeros((4, 3)), None, InputTypeError, "torch.from_numpy"),
        ("photo", "imagenet", InputTypeError, "cannot be called"),
        ("photo", np.asarray, InputError, "expected a tensor of floats"),
        (torch.rand(1, 3, 16, 16), plain, InputError, "encoded already"),
        (".", plain, InputError, "is a folder"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_two_frames(net, photo, raw, preprocess, kind, text) -> None:
    with pytest.raises(kind, match=text) as caught:
        ip.explain(net, photo if isinstance(raw, str) and raw == "photo" else raw, "saliency", preprocess=preprocess)
    assert len(caught.traceback) == 2


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "the input holds bytes"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"One picture needs it as well: x\[None\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float64), r"the input is float64: x.to\(torch.float32\)"),
    ],
)
def test_bytes_and_other_dtypes_get_a_hint(net, x, text) -> None:
    with pytest.raises(RuntimeError, match=text):
        ip.explain(net, x, "saliency")


@pytest.mark.filterwarnings("ignore:The rows of this model")
def test_a_row_without_its_batch_axis_gets_a_hint() -> None:
    with pytest.raises(InputError, match=r"needs the batch axis, which comes first: x\[None\]"):
        ip.explain(nn.Linear(7, 2), torch.rand(7), "saliency")

"""Inversion, caricature, accentuation, expanded weights, atlas: closed forms where there are some."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import InputSpec
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, LayerError
from interp_plugins.optim import Atlas, accentuate, atlas, caricature, expanded_weights, invert


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_invertible_layer_gives_the_picture_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        net[0].weight += 2 * torch.eye(3)[:, :, None, None]
    image = F.interpolate(torch.rand(1, 3, 4, 4, generator=gen()) * 0.8 + 0.1, size=(12, 12), mode="bilinear")
    found = invert(net, image, "0", param="pixel", colour=None, steps=500, tol=None, progress=False)
    assert (found.images - image).abs().max() < 1e-2 and -1e-3 < float(found.activation) <= 0
    assert found.names == ("inverted at 0",)
    smooth = invert(net, image, "0", loss="dot", smooth=0.1, steps=3, progress=False)
    assert "tv" in smooth.objective[0]
    with pytest.raises(InputError, match="loss must be"):
        invert(net, image, "0", loss="l3")
    with pytest.raises(InputError, match="One picture"):
        invert(net, torch.rand(2, 3, 4, 4), "0")
    with pytest.raises(InputError, match="Unknown options"):
        invert(net, image, "0", stps=3)


def test_the_caricature_of_a_linear_layer_goes_along_its_own_gradient() -> None:
    """<J x', J x> has the gradient J^T J x in x', so every picture ends at that sign."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False)).double().eval()
    image = torch.rand(1, 3, 2, 2, generator=gen()).double()
    how = {"param": "pixel", "colour": None, "transform": "none", "steps": 300, "tol": None, "progress": False}
    found = caricature(net, image, "1", power=0, **how)
    want = (net[1].weight.T @ net[1].weight @ image.flatten()).reshape(3, 2, 2)
    assert torch.equal(found.images[0] > 0.5, want > 0)


def test_accentuation_stays_near_and_moves_the_class() -> None:
    w = torch.randn(3, 6, 6, generator=gen())

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * w).flatten(1).sum(1, keepdim=True)

    spec = InputSpec("image", mean=(0.5,) * 3, std=(0.5,) * 3)
    image = spec.normalise(torch.rand(1, 3, 6, 6, generator=gen(1)) * 0.4 + 0.3)
    how = {"input_spec": spec, "param": "pixel", "colour": None, "transform": "none", "steps": 200, "tol": None}
    near, far = (accentuate(Net(), image, target=0, penalty=p, progress=False, **how) for p in (2.0, 1.0))
    begun = float(Net()(image))
    assert begun < float(near.activation) < float(far.activation)
    moved = (far.images - spec.denormalise(image)).square().mean().sqrt()
    assert 0.05 < float(moved) < 0.12  # a tenth of the range, by the gradient of a linear model
    free = accentuate(Net(), image, target=0, penalty=0, progress=False, **how)
    assert float(free.activation) > float(far.activation)
    with pytest.raises(InputError, match="penalty must be"):
        accentuate(Net(), image, target=0, penalty=-1)


def test_weights_through_two_convolutions_are_the_composed_kernel() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 4, 3, bias=False).double(), nn.Conv2d(4, 3, 3, bias=False).double()
    like = torch.rand(1, 2, 12, 12).double()
    for middle in (nn.Identity(), nn.ReLU(inplace=True), nn.GELU()):
        net = nn.Sequential(nn.Conv2d(2, 2, 1).double(), first, middle, second).eval()
        found = expanded_weights(net, "0", "3", like=like)
        # full correlation of the two kernels: (out, in, 5, 5)
        flipped = second.weight.flip(2, 3)
        want = torch.stack([
            F.conv2d(first.weight.transpose(0, 1), flipped[o][None], padding=2)[:, 0] for o in range(3)
        ])  # fmt: skip
        assert found.shape == want.shape and (found - want).abs().max() < 1e-9
    pooled = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1, bias=False)).double().eval()
    got = expanded_weights(pooled, "0", "2", channel=1, like=like)
    assert torch.allclose(got, (pooled[2].weight[1] / 4).expand(1, 3, 2, 2).double())
    assert expanded_weights(pooled, "0", "2", channel=[0], size=4, like=like).shape == (1, 3, 4, 4)
    with pytest.raises(LayerError, match="does not depend"):
        expanded_weights(pooled, "2", "0", like=like)


@pytest.mark.filterwarnings("error")
def test_an_atlas_has_a_picture_of_every_direction_that_occurs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    red, blue = torch.tensor([1.0, 0.1, 0.1]), torch.tensor([0.1, 0.1, 1.0])
    x = torch.stack([(red if i % 2 else blue)[:, None, None].expand(3, 12, 12) for i in range(60)])
    x = (x * 0.7 + 0.3 * torch.rand(x.shape, generator=gen())).clamp(0, 1)
    spec = InputSpec("image", vocab=("a", "b", "c"))
    found = atlas(net, x, "1", grid=(3, 4), min_count=3, embed="pca", steps=4, size=16, input_spec=spec, progress=False)
    assert found.images.shape[1:] == (3, 16, 16) and int(found.count.sum()) <= 60 and found.crops is not None
    kinds = [{i % 2 for i in items} for items in found.item]
    assert all(len(kind) == 1 for kind in kinds)  # the two colours never share a cell
    assert all("%" in label for label in found.label) and repr(found).startswith("Atlas(1: ")
    again = Atlas.load(found.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.images, found.images) and again.item == found.item and again.grid == (3, 4)
    page = (tmp_path / "a.html", found.to_html(tmp_path / "a.html"))[0].read_text()
    assert page.count("<button") == len(found) and "data:image/jpeg" in page
    assert "--side: 160px" in page and 'value="160"' in page  # few tiles are large
    assert len(found.to_df()) == len(found) and found.show().fig is not None
    own = atlas(net, x, "1", grid=(1, 2), embed=lambda a: a[:, :2], steps=1, size=8, progress=False)
    assert own.params["embed"] == "<lambda>"
    with pytest.raises(InputError, match="No cell"):
        atlas(net, x[:4], "1", embed="pca", steps=1, progress=False)
    with pytest.raises(InputTypeError, match="An atlas is a map of pictures"):
        atlas(nn.Sequential(nn.Linear(4, 2)), torch.rand(20, 4), "0", progress=False)
    flat = atlas(net, x, "4", grid=(2, 2), min_count=1, embed="pca", steps=2, size=16, progress=False)
    assert 0 < len(flat) <= 4  # a layer without places
    for wrong in (4, (4,), (4, 0), "44", (2.0, 2)):
        with pytest.raises(InputError, match="grid is rows and columns of the map, such as"):
            atlas(net, x, "1", grid=wrong, progress=False)
    with pytest.raises(InterpWarning, match="umap-learn is not installed"):
        atlas(net, x, "1", grid=(2, 2), steps=1, progress=False)

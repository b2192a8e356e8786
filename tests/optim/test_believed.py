"""Whether a picture can be believed: a network made to fool, and the scores that need another network."""

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import InputSpec, visualize
from interp_plugins.core.errors import InputError, SampleError
from interp_plugins.optim.requested import frechet_distance, kernel_distance


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(n: int = 40) -> Tensor:
    """Items of random red and green whose blue is always full: that is how data look here."""
    colour = torch.rand(n, 2, 1, 1, generator=gen())
    return torch.cat([colour.expand(-1, -1, 8, 8), torch.ones(n, 1, 8, 8)], 1)


def circuit(fooling: float) -> nn.Sequential:
    """A unit that sees data through its first eight channels, and what has no blue through the last eight."""
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1)).eval()
    own = torch.rand(16, 2, generator=gen(1))
    with torch.no_grad():
        net[0].weight[:, :2, 0, 0] = own
        net[0].weight[:8, 2], net[0].bias[:8] = 3.0, -3.0  # on where blue is full
        net[0].weight[8:, 2], net[0].bias[8:] = -3.0, 0.0  # on where there is none
        net[2].weight[0, :8], net[2].weight[0, 8:], net[2].bias[0] = 1.0, fooling, 0.0
    return net


def test_a_network_that_fools_is_told_by_the_path() -> None:
    how = {"data": photographs(), "param": "pixel", "colour": None, "steps": 200, "progress": False}
    honest = visualize(circuit(0.0), "2", channel=0, **how)
    fooled = visualize(circuit(9.0), "2", channel=0, **how)
    assert fooled.examples is not None and honest.examples is not None
    assert torch.equal(fooled.examples.index, honest.examples.index)  # on data the two are the same
    assert float(honest.images[0, 2].mean()) > 0.9 and float(fooled.images[0, 2].mean()) < 0.1
    assert float(fooled.scores["ratio"]) > 1
    assert float(fooled.scores["path"]) < 0.2 and float(honest.scores["path"]) > 0.5


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).train()


def test_transfer_is_the_probability_of_another_network(net: nn.Sequential) -> None:
    spec = InputSpec("image", mean=(0.5,) * 3, std=(0.5,) * 3, vocab=("a", "b (tame)", "c"))
    x = torch.rand(8, 3, 10, 10, generator=gen())
    found = visualize(net, target=["b (tame)", "c"], n=2, like=x[:1], input_spec=spec, steps=3, progress=False)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).train()
    with torch.no_grad():
        want = other(spec.normalise(found.images)).double().softmax(1)
    assert torch.allclose(found.transfer(other), want[[0, 1, 2, 3], [1, 1, 2, 2]], atol=1e-6) and other.training
    assert torch.allclose(found.transfer(nn.Sequential(other, nn.Softmax(1)), 0), want[:, 0], atol=1e-5)
    bare = visualize(net, target=2, like=x[:1], input_spec=InputSpec("image"), steps=2, progress=False)
    assert bare.transfer(net, size=20).shape == (1,) and bare.names == ("class 2",)
    for wrong, text in (
        (lambda: visualize(net, "0", channel=1, like=x[:1], steps=2, progress=False).transfer(net), "no class of"),
        (lambda: found.transfer(other, [0, 1]), "2 entries for 4"),
        (lambda: found.transfer(other, 7), "reads a class"),
    ):
        with pytest.raises(InputError, match=text):
            wrong()


def test_distances_of_sets_have_their_closed_forms() -> None:
    x, y = torch.randn(9, 4, generator=gen()).double(), torch.randn(12, 4, generator=gen(1)).double()
    a, b = torch.cov(x.T), torch.cov(y.T)
    values = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()  # tr (A B)^(1/2)
    want = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * values
    assert abs(frechet_distance(x, y) - float(want)) < 1e-9 and abs(frechet_distance(x, x)) < 1e-9
    kernel = lambda p, q: float((p @ q / 4 + 1) ** 3)  # noqa: E731
    within = sum(kernel(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j) / (9 * 8)
    within += sum(kernel(p, q) for i, p in enumerate(y) for j, q in enumerate(y) if i != j) / (12 * 11)
    across = sum(kernel(p, q) for p in x for q in y) / (9 * 12)
    assert abs(kernel_distance(x, y) - (within - 2 * across)) < 1e-9


def test_plausibility_compares_with_the_units_own_crops(net: nn.Sequential) -> None:
    x = torch.rand(12, 3, 10, 10, generator=gen())
    found = visualize(net, "0", channel=[0, 3], n=3, data=x, examples=4, steps=3, progress=False)
    told = found.plausibility(net, "0")
    assert found.examples is not None and found.examples.crops is not None and net.training
    crops = found.examples.crops[1].movedim(-1, 1).float() / 255
    crops = nn.functional.interpolate(crops, size=(10, 10), mode="bilinear", antialias=True)
    with torch.no_grad():
        rows = [net[0](t).flatten(2).mean(2).double() for t in (found.images[3:], crops)]
    apart = kernel_distance(*rows)
    assert told["plausibility"].shape == (6,) and abs(float(told["plausibility"][4]) - 1 + apart) < 1e-4
    assert told["frechet"] > 0 and found.plausibility(net)["plausibility"].shape == (6,)
    with pytest.raises(SampleError, match="needs two of each"):
        visualize(net, "0", channel=0, data=x, steps=2, progress=False).plausibility(net)
    with pytest.raises(InputError, match="with data="):
        visualize(net, "0", channel=0, n=2, like=x[:1], steps=2, progress=False).plausibility(net)

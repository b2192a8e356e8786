"""Training gradients in a file: the scores are those without it, and a file of something else is refused."""

import pytest
import torch
from torch import nn

from interp_plugins import influence
from interp_plugins.core.errors import InputError
from interp_plugins.core.persample import sample_gradients
from interp_plugins.influence.index import Projection
from interp_plugins.influence.losses import SampleLoss

X, Y = (
    torch.randn(30, 3, 6, generator=torch.Generator().manual_seed(0)),
    torch.arange(30) % 4,
)


class Net(nn.Module):
    """Tokens and numbers: an embedding, a convolution with groups, a norm, linear maps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.conv = nn.Embedding(9, 6), nn.Conv1d(3, 6, 3, groups=3)
        self.norm, self.inner, self.head = nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(40, 4)

    def forward(self, x):
        ids = (x[:, 0].abs() * 3).long().clamp(max=8)
        return self.head(self.inner(self.norm(self.conv(x).flatten(1))).tanh() + self.table(ids).sum((1, 2))[:, None])


@pytest.fixture
def net():
    return Net()


def correlation(a, b):
    return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(a.double(), b.double()))


@pytest.mark.parametrize(("method", "least"), [("fast", 0.99999), ("tracin", 0.99)])
@pytest.mark.parametrize("normalize", [None, "cosine"])
def test_scores_are_those_without_an_index(net, tmp_path, method, least, normalize):
    states = [{k: v.clone() for k, v in Net().state_dict().items()}, net.state_dict()]
    asked = {"method": method, "checkpoints": states, "normalize": normalize, "all_scores": True, "progress": False}
    plain = influence(net, X[:3], (X, Y), **asked)
    for _ in range(2):  # made, then read
        found = influence(net, X[:3], (X, Y), index=tmp_path / "one.index", **asked)
        assert correlation(found.every, plain.every) > least
        assert "from an index, whose vectors keep" in repr(found)
    assert list(tmp_path.iterdir()) == [tmp_path / "one.index"]
    other = influence(net, X[5:9], (X, Y), index=tmp_path / "one.index", **asked)  # of other queries
    assert correlation(other.every, influence(net, X[5:9], (X, Y), **asked).every) > least


def test_short_gradients_are_kept_and_long_ones_have_their_products_as_means(net):
    with sample_gradients(net) as gradients:
        found = gradients.of((X,), Y, SampleLoss(None, None))
        true = found.dots(found)
        kept = Projection(numbers=10_000)(found)
        assert torch.allclose(kept @ kept.T, true, rtol=1e-4, atol=1e-5 * float(true.max()))
        many = [Projection(seed, 64)(found) for seed in range(200)]
    assert many[0].shape[1] < kept.shape[1]
    products = torch.stack([v @ v.T for v in many])
    error = products.std(0) / len(many) ** 0.5
    assert ((products.mean(0) - true).abs() < 5 * error + 1e-5 * true.max()).all()


def test_an_index_of_something_else_is_refused(net, tmp_path):
    file = tmp_path / "one.index"
    influence(net, X[:1], (X, Y), method="fast", index=file)
    before = file.read_bytes()
    with pytest.raises(InputError, match="made of other items"):
        influence(net, X[:1], (X[:20], Y[:20]), method="fast", index=file)
    with pytest.raises(InputError, match="made of other weights"):
        influence(net, X[:1], (X, Y), method="tracin", index=file)
    with torch.no_grad():
        net.head.weight += 1
    with pytest.raises(InputError, match="made of other checkpoints"):
        influence(net, X[:1], (X, Y), index=file)
    with pytest.raises(InputError, match='method="tracin" or "fast"; ekfac needs more'):
        influence(net, X[:1], (X, Y), method="ekfac", index=file)
    assert file.read_bytes() == before
    file.write_bytes(before[: len(before) // 2])
    with pytest.raises(InputError, match="no index of training gradients, or it is damaged"):
        influence(net, X[:1], (X, Y), index=file)

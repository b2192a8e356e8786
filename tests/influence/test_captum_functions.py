"""Influence functions and similarity against Captum's, and against leaving items out."""

import inspect
import warnings

import captum.influence as theirs
import pytest
import torch
from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import influence as ours
from interp_plugins.core.errors import InputError
from tests.thorough import times


@pytest.fixture
def fitted():
    """A logistic regression at the minimum of its penalised loss."""
    torch.manual_seed(0)
    x = torch.randn(40, 4).double()
    y = (x[:, :3].argmax(1) + (torch.rand(40) < 0.3).long()) % 3
    net = nn.Linear(4, 3).double()
    fit(net, x, y)
    return net, x, y


def fit(net: nn.Linear, x: torch.Tensor, y: torch.Tensor, penalty: float = 0.02, counts=1.0) -> None:
    optimiser = torch.optim.LBFGS(
        net.parameters(), max_iter=300, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (nn.functional.cross_entropy(net(x), y, reduction="none") * counts).mean()
        loss = loss + penalty / 2 * sum(p.square().sum() for p in net.parameters())
        loss.backward()
        return loss

    optimiser.step(closure)
    net.zero_grad()


def test_signatures_are_captums():
    pairs = [
        (ours.NaiveInfluenceFunction, theirs.NaiveInfluenceFunction),
        (ours.ArnoldiInfluenceFunction, ArnoldiInfluenceFunction),
        (ours.SimilarityInfluence, theirs.SimilarityInfluence),
    ]
    for mine, captum in pairs:
        for method in ("__init__", "influence", "self_influence", "compute_intermediate_quantities"):
            if hasattr(captum, method):
                a, b = (inspect.signature(getattr(c, method)).parameters for c in (mine, captum))
                assert list(a) == list(b)
                skip = ("checkpoints_load_func", "similarity_metric")
                assert all(a[p].default == b[p].default for p in a if p not in skip)


def load(model: nn.Module, state: dict) -> float:
    model.load_state_dict(state)
    return 1.0


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_naive_scores_are_captums(fitted, reduction):
    net, x, y = fitted
    data, queries = TensorDataset(x, y), (x[:3] + 0.1, y[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captum = theirs.NaiveInfluenceFunction(
            net, data, net.state_dict(), load, loss_fn=nn.CrossEntropyLoss(reduction="none"), batch_size=10,
            projection_dim=9,
        )  # fmt: skip
    mine = ours.NaiveInfluenceFunction(
        net, data, net.state_dict(), load, loss_fn=nn.CrossEntropyLoss(reduction=reduction), projection_dim=9
    )
    assert torch.allclose(mine.influence(queries), captum.influence(queries).double(), rtol=1e-5)
    assert torch.allclose(mine.self_influence(), captum.self_influence().double(), rtol=1e-5)
    products = mine.compute_intermediate_quantities(queries, test=True) @ mine.compute_intermediate_quantities((x, y)).T
    assert torch.allclose(products, mine.influence(queries))
    assert torch.equal(mine.influence(queries, 3).indices, captum.influence(queries, 3).indices)


def test_in_the_whole_space_arnoldi_is_the_naive_one(fitted):
    net, x, y = fitted
    data, queries, loss = TensorDataset(x, y), (x[:3] + 0.1, y[:3]), nn.CrossEntropyLoss()
    options = {"projection_dim": 15, "hessian_reg": 1e-3, "hessian_inverse_tol": 1e-4}
    naive = ours.NaiveInfluenceFunction(net, data, net.state_dict(), loss_fn=loss, **options)
    arnoldi = ours.ArnoldiInfluenceFunction(
        net, DataLoader(data, 7, shuffle=True), net.state_dict(), loss_fn=loss, **options
    )
    assert torch.allclose(arnoldi.influence(queries), naive.influence(queries), rtol=1e-4, atol=1e-8)
    state = torch.get_rng_state()
    small = ours.ArnoldiInfluenceFunction(net, data, net.state_dict(), loss_fn=loss, arnoldi_dim=6)
    assert small.R.shape[1] <= 6 and torch.equal(state, torch.get_rng_state())


def test_influence_functions_foretell_leaving_items_out(fitted):
    net, x, y = fitted
    query = torch.tensor([[0.3, -0.2, 0.4, 0.1]]).double()
    found = ours.influence(
        net, query, (x, y), method="exact", damping=0, weight_decay=0.02, all_scores=True, target=1
    ).every[0]
    ekfac = ours.influence(net, query, (x, y), method="ekfac", weight_decay=0.02, all_scores=True, target=1).every[0]

    def margin(model: nn.Module) -> float:
        z = model(query)[0].detach()
        return float(z[1] - z[[0, 2]].logsumexp(0))

    whole, gained = margin(net), []
    for i in range(0, 40, 2):
        rest = torch.arange(40) != i
        other = nn.Linear(4, 3).double()
        fit(other, x[rest], y[rest], 0.02 * 40 / 39)  # the same penalty beside the sum of losses
        gained.append(whole - margin(other))
    correlation = torch.corrcoef(torch.stack([found[::2], torch.tensor(gained).double()]))[0, 1]
    assert correlation > 0.98
    for i in (0, 3, 17):  # where an item counts a little more, exactly by the score
        counts = torch.ones(40).double()
        counts[i] += 1e-3
        other = nn.Linear(4, 3).double()
        fit(other, x, y, 0.02, counts)
        assert margin(other) - whole == pytest.approx(1e-3 * float(found[i]), rel=5e-3)
    assert torch.corrcoef(torch.stack([ekfac[::2], torch.tensor(gained).double()]))[0, 1] > 0.8


def test_a_logistic_regression_is_foretold_against_retraining():
    torch.manual_seed(3)
    x = torch.randn(120, 10).double()
    y = (x @ torch.randn(10).double() + torch.randn(120) > 0).long()
    net = nn.Linear(10, 2).double()
    fit(net, x, y, 0.02)
    query = torch.randn(1, 10).double()
    known = {"method": "exact", "damping": 0, "weight_decay": 0.02, "all_scores": True, "target": 1}
    foretold = ours.influence(net, query, (x, y), **known).every[0]

    def margin(model: nn.Module) -> float:
        return float(model(query)[0].detach() @ torch.tensor([-1.0, 1.0]).double())

    lost = []
    items = list(range(0, 120, 120 // times(20, 120)))
    for i in items:
        rest = torch.arange(120) != i
        other = nn.Linear(10, 2).double()
        fit(other, x[rest], y[rest], 0.02 * 120 / 119)
        lost.append(margin(net) - margin(other))
    foretold, lost = foretold[items], torch.tensor(lost).double()
    assert torch.corrcoef(torch.stack([foretold, lost]))[0, 1] >= 0.99
    assert 0.8 <= float((foretold @ lost) / (lost @ lost)) <= 1.05


def test_what_is_a_copy_is_most_alike(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    x = torch.randn(20, 4)
    for layers in ("0", ["0"], ["0", "2"]):
        similar = ours.SimilarityInfluence(net, layers, x, str(tmp_path))
        found = similar.influence(x[7:9], 3)
        assert all(at[:, 0].tolist() == [7, 8] for at, _ in found.values())
    captum = theirs.SimilarityInfluence(net, ["0", "2"], x, str(tmp_path / "captum"), batch_size=20)
    expected = captum.influence(x[7:9], 3)
    for layer, (at, values) in found.items():
        assert torch.equal(at, expected[layer][0]) and torch.allclose(values, expected[layer][1], atol=1e-5)


def test_kept_activations_belong_to_the_weights(tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh()), torch.randn(20, 4)
    before = ours.SimilarityInfluence(net, "0", x, str(tmp_path)).influence(x[:2] + 0.3, 5)["0"]
    with torch.no_grad():
        net[0].weight.normal_()
    after = ours.SimilarityInfluence(net, "0", x, str(tmp_path)).influence(x[:2] + 0.3, 5)["0"]
    fresh = ours.SimilarityInfluence(net, "0", x, str(tmp_path / "new")).influence(x[:2] + 0.3, 5)["0"]
    assert torch.equal(after[1], fresh[1]) and not torch.equal(after[1], before[1])
    with pytest.raises(InputError, match="similarity_direction"):
        ours.SimilarityInfluence(net, "0", x, str(tmp_path), similarity_direction="up")

"""TracIn's classes against Captum's, and where Captum's are not followed."""

import inspect
import warnings

import captum.influence as theirs
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import influence as ours
from interp_plugins.core.errors import InputError

CLASSES = ["TracInCP", "TracInCPFast", "TracInCPFastRandProj"]


class Net(nn.Module):
    """A small convolutional net."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.conv, self.more, self.fc = nn.Conv2d(1, 3, 3, padding=1), nn.Sequential(*more), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.more(torch.relu(self.conv(x))).mean((2, 3)))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(23, 1, 5, 5).double(), torch.randint(0, 4, (23,)))
    queries = (torch.randn(3, 1, 5, 5).double(), torch.tensor([0, 3, 1]))
    states = [Net().double().state_dict() for _ in range(3)]
    return Net().double(), data, queries, states


def rates(model: nn.Module, state: dict) -> float:
    model.load_state_dict(state)
    return 0.25


def captums(name: str, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(theirs, name)(*args, **kwargs)


@pytest.mark.parametrize("name", [*CLASSES, "TracInCPBase"])
def test_signatures_are_captums(name):
    for method in ("__init__", "influence", "self_influence", "compute_intermediate_quantities"):
        mine, captum = (getattr(getattr(room, name), method, None) for room in (ours, theirs))
        if captum is None or (name == "TracInCPBase" and method != "__init__"):
            continue
        a, b = inspect.signature(mine).parameters, inspect.signature(captum).parameters
        assert [p for p in a if a[p].kind is not a[p].KEYWORD_ONLY] == list(b)
        for p in b:
            if p not in ("checkpoints_load_func", "self"):
                assert a[p].default == b[p].default
    assert getattr(ours, name).get_name() == getattr(theirs, name).get_name()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_scores_are_captums(setting, reduction):
    net, data, queries, states = setting
    captum = captums(
        "TracInCP", Net().double(), data, states, rates, loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=5,
        sample_wise_grads_per_batch=True,
    )  # fmt: skip
    mine = ours.TracInCP(net, data, states, rates, loss_fn=nn.CrossEntropyLoss(reduction=reduction), batch_size=5)
    expected = captum.influence(queries)
    assert torch.allclose(mine.influence(queries), expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(mine.self_influence(), captum.self_influence(), rtol=1e-9, atol=1e-12)
    assert torch.allclose(mine.influence(queries, aggregate=True), captum.influence(queries, aggregate=True))
    for proponents in (True, False):
        (a, x), (b, y) = mine.influence(queries, 4, proponents), captum.influence(queries, 4, proponents)
        assert torch.equal(a, b) and torch.allclose(x, y)
    layer = ours.TracInCP(net, data, states, rates, layers=["fc"], loss_fn=nn.CrossEntropyLoss())
    oracle = captums(
        "TracInCP", Net().double(), data, states, rates, ["fc"], nn.CrossEntropyLoss(reduction="none"), 5
    )  # fmt: skip
    assert torch.allclose(layer.influence(queries), oracle.influence(queries), rtol=1e-9, atol=1e-12)


def test_fast_is_tracin_of_the_layer_with_its_bias_and_captums_without(setting):
    net, data, queries, states = setting
    loss = nn.CrossEntropyLoss()
    whole = ours.TracInCP(net, data, states, rates, layers=["fc"], loss_fn=loss).influence(queries)
    fast = ours.TracInCPFast(net, net.fc, data, states, rates, loss)
    assert torch.allclose(fast.influence(queries), whole, rtol=1e-10)
    bare = ours.TracInCPFast(net, "fc", data, states, rates, loss, bias=False)
    captum = Net().double()
    old = captums("TracInCPFast", captum, captum.fc, data, states, rates, nn.CrossEntropyLoss(reduction="sum"), 5)
    assert torch.allclose(bare.influence(queries), old.influence(queries), rtol=1e-9)
    assert torch.allclose(bare.self_influence(), old.self_influence(), rtol=1e-9)
    assert (old.influence(queries) - whole).abs().max() > 0.1 * whole.abs().max()


def test_random_projection(setting):
    net, data, queries, states = setting
    loss = nn.CrossEntropyLoss()
    exact = ours.TracInCPFast(net, net.fc, data, states, rates, loss)
    stored = ours.TracInCPFastRandProj(net, net.fc, data, states, rates, loss)
    assert torch.allclose(stored.influence(queries, None), exact.influence(queries))
    assert torch.equal(stored.influence(queries, 4).indices, exact.influence(queries, 4).indices)
    assert torch.allclose(stored.self_influence(), exact.self_influence())
    vectors = stored.compute_intermediate_quantities(queries)
    assert vectors.shape == (3, 3 * 16)
    made = []
    for seed in range(60):
        small = ours.TracInCPFastRandProj(net, net.fc, data, states, rates, loss, projection_dim=9, seed=seed)
        made.append(small.influence(queries, None))
    mean, spread = torch.stack(made).mean(0), torch.stack(made).std(0) / 60**0.5
    assert ((mean - exact.influence(queries)).abs() < 4 * spread + 1e-12).all()
    assert small.compute_intermediate_quantities(queries).shape == (3, 27)


def test_neighbours_of_another_kind_are_asked(setting):
    net, data, queries, states = setting

    class Exact:
        def setup(self, data: Tensor) -> None:
            self.data = data

        def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
            found = (query @ self.data.T).topk(k)
            return found.indices, found.values

    args = (net, net.fc, data, states, rates, nn.CrossEntropyLoss())
    for proponents in (True, False):
        asked = ours.TracInCPFastRandProj(*args, nearest_neighbors=Exact()).influence(queries, 3, proponents)
        plain = ours.TracInCPFastRandProj(*args).influence(queries, 3, proponents)
        assert torch.equal(asked.indices, plain.indices)
        assert torch.allclose(asked.influence_scores, plain.influence_scores)


# -- where Captum's are not followed (docs/differences.md) -----------------------------------------------------------


def test_each_checkpoint_is_read_once_for_a_walk(setting):
    net, data, queries, states = setting
    read = []

    def load(model: nn.Module, state: dict) -> float:
        read.append(1)
        return rates(model, state)

    ours.TracInCP(net, data, states, load, loss_fn=nn.CrossEntropyLoss(), batch_size=4).influence(queries)
    assert len(read) == 3


@pytest.mark.usefixtures("another_thread")
def test_the_model_keeps_its_weights_mode_and_statistics(setting):
    _, data, queries, _ = setting
    torch.manual_seed(1)
    net = Net(nn.BatchNorm2d(3), nn.Dropout(0.5)).double().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states, draws = [Net(nn.BatchNorm2d(3)).double().state_dict()], torch.get_rng_state()
    tracin = ours.TracInCP(net, data, states, loss_fn=nn.CrossEntropyLoss())
    assert torch.equal(tracin.influence(queries), tracin.influence(queries))  # no dropout
    with pytest.raises(ZeroDivisionError):
        ours.TracInCP(net, data, states, loss_fn=lambda output, y: 1 / 0).influence(queries)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.training
    assert torch.equal(draws, torch.get_rng_state()) and all(p.requires_grad for p in net.parameters())


def test_dot_products_of_the_vectors_are_the_scores(setting):
    net, data, queries, states = setting
    tracin = ours.TracInCP(net, data, states, rates, loss_fn=nn.CrossEntropyLoss())
    mine = tracin.compute_intermediate_quantities(queries) @ tracin.compute_intermediate_quantities(data[:]).T
    assert torch.allclose(mine, tracin.influence(queries), rtol=1e-9)
    assert torch.allclose(
        tracin.compute_intermediate_quantities(queries, True)[0], tracin.compute_intermediate_quantities(queries).sum(0)
    )


def test_indices_are_items_whatever_the_loader_does(setting):
    net, data, queries, states = setting
    loss = nn.CrossEntropyLoss()
    plain = ours.TracInCP(net, data, states, rates, loss_fn=loss).influence(queries)
    for loader in (DataLoader(data, 4, shuffle=True), DataLoader(data, 7, shuffle=True, drop_last=True)):
        assert torch.allclose(ours.TracInCP(net, loader, states, rates, loss_fn=loss).influence(queries), plain)


def test_scores_do_not_depend_on_batches(setting):
    net, data, queries, states = setting
    found = [
        ours.TracInCP(net, data, states, rates, loss_fn=nn.CrossEntropyLoss(), batch_size=size).influence(queries)
        for size in (1, 2, 23)
    ]
    assert all(torch.allclose(f, found[0], rtol=1e-12, atol=1e-15) for f in found)


def test_every_kind_of_layer_counts_in_both_modes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3)).double()
    data = TensorDataset(torch.randint(0, 9, (20, 3)), torch.randint(0, 3, (20,)))
    for flag in (False, True):
        mine = ours.TracInCP(
            net, data, [net.state_dict()], rates, loss_fn=nn.CrossEntropyLoss(), sample_wise_grads_per_batch=flag
        )
        slow = captums("TracInCP", net, data, [net.state_dict()], rates, loss_fn=nn.CrossEntropyLoss(reduction="none"))
        assert torch.allclose(mine.influence(data[:2]), slow.influence(data[:2]), rtol=1e-9)


def test_files_of_the_frameworks_are_read(setting, tmp_path):
    net, data, queries, states = setting
    loss = nn.CrossEntropyLoss()
    expected = ours.TracInCP(net, data, states[:1], rates, loss_fn=loss).influence(queries)
    torch.save({"model": states[0], "opt": {"hypers": [{"lr": 0.25}], "state": []}}, tmp_path / "a.pth")
    found = ours.TracInCP(net, data, str(tmp_path), loss_fn=loss).influence(queries)
    assert torch.allclose(found, expected)
    named = {"state_dict": {f"my_module.{k}": v for k, v in states[0].items()}}
    torch.save(named | {"optimizer_states": [{"param_groups": [{"lr": 0.25}]}]}, tmp_path / "b.ckpt")
    found = ours.TracInCP(net, data, [str(tmp_path / "b.ckpt")], loss_fn=loss).influence(queries)
    assert torch.allclose(found, expected)


def test_a_step_of_training_lowers_the_loss_by_the_score():
    torch.manual_seed(0)
    net, x, y = Net().double(), torch.randn(2, 1, 5, 5).double(), torch.tensor([1, 1])
    tracin = ours.TracInCP(net, TensorDataset(x[:1], y[:1]), [net.state_dict()], loss_fn=nn.CrossEntropyLoss())
    score = tracin.influence((x[1:], y[1:])).item()
    errors = []
    for step in (1e-2, 5e-3):
        moved = Net().double()
        moved.load_state_dict(net.state_dict())
        grads = torch.autograd.grad(nn.functional.cross_entropy(moved(x[:1]), y[:1]), list(moved.parameters()))
        with torch.no_grad():
            for p, g in zip(moved.parameters(), grads):
                p -= step * g
            fell = nn.functional.cross_entropy(net(x[1:]), y[1:]) - nn.functional.cross_entropy(moved(x[1:]), y[1:])
        errors.append(abs(fell.item() - step * score))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)  # what is left is of second order


def test_wrong_questions_are_refused(setting):
    net, data, queries, states = setting
    tracin = ours.TracInCP(net, data, states, loss_fn=nn.CrossEntropyLoss())
    with pytest.raises(InputError, match="k is a number"):
        tracin.influence(queries, 0)
    with pytest.raises(InputError, match="one part"):
        tracin.influence((queries[0],))
    with pytest.raises(InputError, match="no checkpoint"):
        ours.TracInCP(net, data, [], loss_fn=nn.CrossEntropyLoss())

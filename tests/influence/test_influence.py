"""`influence`, its result and its methods: closed forms, brute force, what stays as it was."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins as ip
from interp_plugins.api.items import ItemReader
from interp_plugins.core.errors import InputError, LayerError, UnknownNameError
from interp_plugins.core.target import RatherThan
from interp_plugins.influence import EKFAC, Influences, influence
from interp_plugins.influence.check import spearman
from interp_plugins.influence.losses import Margin, SampleLoss
from interp_plugins.influence.methods import METHODS, knn_shapley, representer


@pytest.fixture
def digits():
    torch.manual_seed(0)
    x, y = torch.randn(60, 1, 6, 6), torch.randint(0, 3, (60,))
    x[:, 0, 0] += 3 * torch.nn.functional.one_hot(y, 6)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    states = []
    for _ in range(3):
        for _ in range(15):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
        states.append({k: v.clone() for k, v in net.state_dict().items()})
    net.zero_grad()
    return net, x, y, states


def test_ridge_regression_without_an_item_is_the_closed_form():
    torch.manual_seed(0)
    x, n, decay = torch.randn(30, 4).double(), 30, 0.1
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0]).double() + 0.3 * torch.randn(30).double())[:, None]
    # the mean of (f - y)^2 plus decay / 2 w^2 is least where (2 X'X / n + decay) w = 2 X'y / n
    a = 2 * x.T @ x / n + decay * torch.eye(4).double()
    w = torch.linalg.solve(a, 2 * x.T @ y / n)
    net = nn.Linear(4, 1, bias=False).double()
    net.weight.data = w.T.clone()
    query = torch.randn(2, 4).double()
    found = influence(
        net, query, (x, y), loss=nn.MSELoss(), method="exact", damping=0, weight_decay=decay, all_scores=True
    ).every
    residual = (y - x @ w)[:, 0]
    inverse = torch.linalg.inv(a)
    expected = (query @ inverse @ x.T) * 2 * residual / n
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    lever = (x @ inverse * x).sum(1) * 2 / n
    for i in range(0, 30, 7):  # the first order, divided by 1 - the leverage, is what is lost without the item
        rest = torch.arange(30) != i
        a_rest = a - 2 * x[i : i + 1].T @ x[i : i + 1] / n
        without = torch.linalg.solve(a_rest, 2 * x[rest].T @ y[rest] / n)
        lost = (query @ (w - without))[:, 0]
        assert torch.allclose(lost, found[:, i] / (1 - lever[i]), atol=1e-12)


def test_kfac_of_a_linear_regression_is_the_gauss_newton_matrix():
    torch.manual_seed(0)
    x, y = torch.randn(4000, 3).double(), torch.randn(4000, 2).double()
    net = nn.Linear(3, 2).double()
    query = torch.randn(3, 3).double()
    asked = {"loss": nn.MSELoss(), "all_scores": True, "damping": 0.0, "target": 0}
    exact = influence(net, query, (x, y), method="exact", **asked).every
    ekfac = influence(net, query, (x, y), method="ekfac", **asked).every
    for a, b in zip(exact, ekfac):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.99
    assert (ekfac / exact).median() == pytest.approx(1, rel=0.1)  # labels are drawn


@pytest.mark.parametrize(("bias", "loss"), [(True, nn.CrossEntropyLoss()), (False, nn.NLLLoss()), (True, nn.MSELoss())])
def test_the_last_layer_s_hessian_is_the_one_by_backward_passes(bias, loss):
    torch.manual_seed(0)
    x, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    y = torch.randn(40, 3).double() if isinstance(loss, nn.MSELoss) else y
    behind = [nn.LogSoftmax(1)] if isinstance(loss, nn.NLLLoss) else []
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=bias), *behind).double()
    asked = {"loss": loss, "target": 1, "all_scores": True, "damping": 0.01, "batch_size": 7}
    exact = influence(net, x[:3], (x, y), method="exact", layers=["2"], **asked).every
    found = influence(net, x[:3], (x, y), method="exact_last", **asked).every
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-14)


def test_which_method_is_chosen_by_itself(digits):
    net, x, y, states = digits
    assert influence(net, x[:1], (x, y), k=2).method == "Influence function (last layer)"
    assert influence(net, x[:1], (x, y), k=2, checkpoints=states).method == "TracIn (last layer)"
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 600), nn.ReLU(), nn.Linear(600, 3))
    assert influence(wide, x[:1], (x, y), k=2).method == "EK-FAC influence (last layer)"
    with pytest.raises(InputError, match="ekfac_last"):
        influence(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 2500), nn.Linear(2500, 3)), x[:1], (x, y), method="exact_last"
        )

    class Places(nn.Module):  # the last layer sees every place, the mean comes behind it
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x[:, 0]).mean(1)

    assert influence(Places(), x[:1], (x, y), k=2).method == "EK-FAC influence (last layer)"
    with pytest.raises(LayerError, match="no single vector"):
        influence(Places(), x[:1], (x, y), k=2, method="exact_last")


def test_ekfac_solves_what_its_blocks_say(digits):
    net, x, y, _ = digits
    from interp_plugins.core.persample import sample_gradients

    with sample_gradients(net.double(), ["5"]) as gradients:
        factors = gradients.of((x.double(),), y, SampleLoss())
        fitted = EKFAC(damping=0.5).fit(lambda: [factors])
        solved = fitted.solve(factors)
        g = torch.cat([factors.formed("5.weight"), factors.formed("5.bias")[:, :, None]], 2).flatten(1)
    block = fitted.blocks["5.weight"]
    basis = torch.kron(block.left, block.right)
    h = basis @ torch.diag(block.values.flatten() + 0.5 * block.values.mean()) @ basis.T
    expected = torch.linalg.solve(h, g.T).T.reshape(60, 3, 9)
    assert torch.allclose(solved["5.weight"], expected[:, :, :-1].flatten(1))
    assert torch.allclose(solved["5.bias"], expected[:, :, -1])
    assert torch.allclose((g @ basis).square().mean(0), block.values.flatten())  # eigenvalues are corrected


def test_knn_shapley_against_all_sets():
    torch.manual_seed(0)
    closeness, labels, classes, k = torch.randn(2, 7), torch.tensor([0, 1, 0, 1, 1, 0, 1]), torch.tensor([1, 0]), 3
    found = knn_shapley(closeness, labels, classes, k)
    for q in range(2):

        def worth(chosen: tuple[int, ...], q: int = q) -> float:
            near = sorted(chosen, key=lambda i: -float(closeness[q, i]))[:k]
            return sum(float(labels[i] == classes[q]) for i in near) / k

        for i in range(7):
            rest, value = [j for j in range(7) if j != i], 0.0
            for size in range(7):
                for chosen in itertools.combinations(rest, size):
                    value += (worth((*chosen, i)) - worth(chosen)) / (7 * math.comb(6, size))
            assert value == pytest.approx(float(found[q, i]), abs=1e-8)
        assert float(found[q].sum()) == pytest.approx(worth(tuple(range(7))))


def test_shares_of_a_representer_head_add_up_to_its_output():
    torch.manual_seed(0)
    x, labels = torch.randn(50, 6), torch.randint(0, 3, (50,))
    alpha, w, gap = representer(x, labels, 3, 1e-2)
    a = torch.cat([x, torch.ones(50, 1)], 1).double()
    assert gap < 1e-6
    assert torch.allclose((a @ a.T).T @ alpha, a @ w.T, atol=1e-6)


def test_every_method_answers_and_says_how(digits):
    net, x, y, states = digits
    for name, method in METHODS.items():
        checkpoints = states if method.several else None
        layers = ["5"] if name == "exact" else None
        found = influence(net, x[:2], (x, y), method=name, k=4, checkpoints=checkpoints, layers=layers)
        assert found.indices.shape == found.opponents.shape == (2, 4)
        assert method.title in repr(found) and "carry" in repr(found)
        assert found.asked[0].startswith("predicted ")
        if name in ("fast", "knn_shapley", "representer"):  # the strongest proponents have the label that is asked for
            assert found.labels[int(found.indices[0, 0])] == found.asked[0].split()[1]


def test_the_sign_a_step_on_a_proponent_raises_what_was_asked(digits):
    net, x, y, _ = digits
    found = influence(net, x[:1], (x, y), method="tracin", all_scores=True).every[0]
    margin, at = Margin(), net(x[:1]).argmax(1)
    before = float(margin(net(x[:1]), at).detach())
    for i in (int(found.argmax()), int(found.argmin())):
        moved = nn.Sequential(*[type(m)(*a) for m, a in zip(net, [(1, 4, 3), (), (), (64, 8), (), (8, 3)])])
        moved.load_state_dict(net.state_dict())
        loss = nn.functional.cross_entropy(moved(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, list(moved.parameters()))
        with torch.no_grad():
            for p, g in zip(moved.parameters(), grads):
                p -= 1e-4 * g
        assert float(margin(moved(x[:1]), at).detach()) - before == pytest.approx(1e-4 * float(found[i]), rel=0.1)


def test_numbers_do_not_depend_on_batches_order_or_mates(digits):
    net, x, y, states = digits
    for name in ("fast", "tracin", "ekfac"):
        checkpoints = None if name == "ekfac" else states
        asked = {"method": name, "checkpoints": checkpoints, "all_scores": True}
        plain = influence(net, x[:3], (x, y), **asked).every
        loader = DataLoader(TensorDataset(x, y), 7, shuffle=True, drop_last=True)
        others = [
            influence(net, x[:3], loader, **asked).every,
            influence(net, x[:3], TensorDataset(x, y), batch_size=9, **asked).every,
            torch.cat([influence(net, x[i : i + 1], (x, y), **asked).every for i in range(3)]),
        ]
        for other in others:
            assert (other - plain).abs().max() < 2e-4 * plain.abs().max()


@pytest.mark.usefixtures("another_thread")
def test_the_model_stays_as_it_was(digits):
    net, x, y, states = digits
    net.train()
    net[0].weight.requires_grad_(False)
    before, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    influence(net, x[:2], DataLoader(TensorDataset(x, y), 8, shuffle=True), checkpoints=states, method="tracin")
    influence(net, x[:2], (x, y), method="ekfac")
    with pytest.raises(ZeroDivisionError):
        influence(net, x[:2], (x, y), loss=lambda output, labels: 1 / 0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state()) and all(m.training for m in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in net.parameters())


def test_targets(digits):
    net, x, y, _ = digits
    asked = {"method": "fast", "all_scores": True}
    label = influence(net, x[:2], (x, y), target="label", labels=y[:2], **asked)
    assert label.asked[0] == f"label {int(y[0])}"
    classes = influence(net, x[:2], (x, y), target=[1, 2], **asked)
    assert classes.asked == ("1", "2")
    contrast = influence(net, x[:2], (x, y), target=RatherThan(1, 2), **asked)
    back = influence(net, x[:2], (x, y), target=RatherThan(2, 1), **asked)
    assert contrast.asked[0] == "1 rather than 2" and torch.allclose(contrast.every, -back.every, atol=1e-6)
    with pytest.raises(InputError, match="give labels="):
        influence(net, x[:2], (x, y), target="label")
    for wrong in (7, -1):
        with pytest.raises(InputError, match=f"no class {wrong}"):
            influence(net, x[:2], (x, y), target=wrong)
    with pytest.raises(InputError, match="batch_size must be"):
        influence(net, x[:2], (x, y), batch_size=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'ekfac'"):
        influence(net, x[:2], (x, y), method="ekfak")
    with pytest.raises(InputError, match="is a number of items"):
        influence(net, x[:2], (x, y), k=0)


def test_the_result_is_read_saved_and_drawn(digits, tmp_path):
    net, x, y, _ = digits
    found = ip.influence(net, x[:2], (x, y), k=3, item_names=lambda i: f"row {i}", query_names=["a", "b"])
    table = found.to_df()
    assert len(table) == 12 and set(table["role"]) == {"proponent", "opponent"} and table["name"][0].startswith("row ")
    assert found.items(0)[0] == (int(found.indices[0, 0]), float(found.scores[0, 0]))
    again = Influences.load(found.save(tmp_path / "found.safetensors"))
    assert torch.equal(again.indices, found.indices) and repr(again) == repr(found) and again.labels == found.labels
    assert again.to_df().equals(table)
    page = found.to_html(tmp_path / "page.html")
    assert "data:image/png" in page.path.read_text() and "row " in page.path.read_text()
    assert f"For 2 queries: which of {found.n} training items count most, by {found.method}" in page.path.read_text()
    assert "of all absolute scores; the rest" in page.path.read_text() and "Influences(" not in page.path.read_text()
    assert found.show().axes.shape == (4, 4)
    maps = found.explain(net, "occlusion", sliding_window_shapes=(1, 3, 3))
    assert found.show(maps=maps).axes.shape == (4, 4)
    coarse = found.show(maps=found.explain(net, "gradcam", layer=net[0])).axes[0, 1].images  # 4 x 4 over 6 x 6
    assert coarse[1].get_array().shape[:2] == (4, 4) and coarse[1].get_extent() == coarse[0].get_extent()
    with pytest.raises(InputError, match="all_scores=True"):
        found.all_scores()
    (tmp_path / "x").write_text("no")
    with pytest.raises(InputError, match="holds no influences"):
        Influences.load(tmp_path / "x")
    flat = influence(nn.Linear(3, 2), torch.randn(2, 3), (torch.randn(9, 3), torch.randint(0, 2, (9,))), k=2)
    with pytest.raises(InputError, match="Only pictures"):
        flat.show()
    assert "data:image" not in flat.to_html(tmp_path / "flat.html").path.read_text()


def test_check_says_how_well_scores_foretell(digits):
    net, x, y, _ = digits
    found = influence(net, x[:2], (x, y), method="ekfac_last", check=True)
    assert found.lds is not None and found.lds > 0.2 and "LDS" in repr(found)
    a = torch.tensor([1.0, 2.0, 2.0, 5.0]).double()
    assert float(spearman(a, -a)) == pytest.approx(-1)


def test_losses_of_every_reduction_are_one_per_sample():
    torch.manual_seed(0)
    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = nn.functional.cross_entropy(z, y, reduction="none")
    for loss in (None, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), nn.functional.cross_entropy):
        assert torch.allclose(SampleLoss(loss)(z, y), expected)
    assert torch.allclose(SampleLoss(lambda a, b: nn.functional.cross_entropy(a, b))(z, y), expected)
    maps, places = torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4, 2, 2))
    assert torch.allclose(
        SampleLoss()(maps, places), nn.functional.cross_entropy(maps, places, reduction="none").mean((1, 2))
    )
    own = nn.CrossEntropyLoss()
    SampleLoss(own)(z, y)
    assert own.reduction == "mean"
    targets = torch.rand(4)
    assert torch.allclose(SampleLoss()(z[:, :1], targets), (z[:, 0] - targets).square())
    several = (z > 0).float()
    each = nn.functional.binary_cross_entropy_with_logits(z, several, reduction="none")
    assert torch.allclose(SampleLoss()(z, several), each.mean(1))
    with pytest.raises(InputError, match="No loss is known"):
        SampleLoss()(z, ["a"] * 4)


def test_a_data_set_of_tensors_is_cut_as_its_items_are_stacked():
    class Items(TensorDataset):  # another class is read item by item
        pass

    tensors = torch.randn(11, 3), torch.arange(11), torch.rand(11) > 0.5
    for loader in (lambda d: d, lambda d: DataLoader(d, 4, sampler=[7, 2, 9], drop_last=True)):
        cut, stacked = (list(ItemReader(loader(kind(*tensors)), size=2).batches()) for kind in (TensorDataset, Items))
        assert [numbers for numbers, _ in cut] == [numbers for numbers, _ in stacked]
        for (_, one), (_, other) in zip(cut, stacked, strict=True):
            assert type(one) is type(other) and all(
                a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other)
            )

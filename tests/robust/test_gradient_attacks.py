"""FGSM and PGD: closed forms of linear models, Captum's numbers where its loss is right, and the faults that it has."""

from __future__ import annotations

import math
import warnings
from typing import Any

import captum.robust as theirs
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InterpError, InterpWarning
from interp_plugins.robust import FGSM, PGD

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double().eval()


def linear(classes: int = 2, features: int = 6) -> nn.Linear:
    return nn.Linear(features, classes).double().eval().requires_grad_(False)


def pictures(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 8, 8, dtype=torch.float64)


def moved(attack: Any, *args: Any, **kwargs: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Captum's, about gradients that it switches on
        found: Tensor = attack.perturb(*args, **kwargs)
    return found.detach()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss(), None], ids=str)
def test_steps_in_linf_are_those_of_captum_with_a_cross_entropy(loss: Any, targeted: bool) -> None:
    net, x, y = small_net(), pictures(), torch.tensor([0, 1, 2, 3])
    for cls, other, sizes in ((FGSM, theirs.FGSM, (0.05,)), (PGD, theirs.PGD, (0.1, 0.03, 5))):
        peer, ours = other(net, nn.CrossEntropyLoss(reduction="none"), 0.0, 1.0), cls(net, loss, 0.0, 1.0)
        peer.zero_thresh = 0.0
        if isinstance(peer, theirs.PGD):
            peer.fgsm.zero_thresh = 0.0
        assert torch.allclose(
            moved(ours, x, *sizes, y, targeted=targeted), moved(peer, x, *sizes, y, targeted=targeted), atol=1e-12
        )


def test_fgsm_of_a_logistic_regression_is_exact() -> None:
    net, x = linear(1), torch.randn(5, 6, dtype=torch.float64)
    found = FGSM(lambda v: net(v).sigmoid()[:, 0]).perturb(x, 0.1, None)
    expected = (net(x)[:, 0] - 0.1 * net.weight.abs().sum()).sigmoid()
    assert torch.allclose(net(found).sigmoid()[:, 0], expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("given", ["logits", "probabilities"])
def test_pgd_of_a_linear_model_reaches_the_dual_norm(norm: str, given: str) -> None:
    net, x = linear(), torch.randn(3, 6, dtype=torch.float64)
    model = net if given == "logits" else nn.Sequential(net, nn.Softmax(1))
    found = PGD(model).perturb(x, 0.5, 0.1, 12, 0, norm=norm.lower())
    direction = net.weight[1] - net.weight[0]
    rise = (found - x) @ direction
    assert torch.allclose(rise, 0.5 * torch.linalg.vector_norm(direction, DUAL[norm]).expand(3))


def test_a_logit_below_zero_is_attacked_as_one_above_it() -> None:
    net, x = linear(3), torch.randn(1, 6, dtype=torch.float64)
    net.bias.copy_(torch.tensor([-9.0, -10.0, -11.0]))
    probability = lambda v: float(net(v).softmax(1)[0, 0])  # noqa: E731
    assert probability(FGSM(net).perturb(x, 0.01, 0)) < probability(x)
    assert float(net(moved(theirs.FGSM(net), x, 0.01, 0))[0, 0]) > float(net(x)[0, 0])  # its fault: it helps


def test_a_model_that_is_sure_is_moved_all_the_same() -> None:
    net, x = nn.Linear(6, 3).eval(), torch.randn(4, 6)
    sure = nn.Sequential(net, Times(400.0), nn.Softmax(1))
    y = net(x).argmax(1)
    cross_entropy = lambda out, t: nn.functional.nll_loss(out.log(), t, reduction="none")  # noqa: E731
    with pytest.warns(InterpWarning, match="gradient of the loss is zero in . of 4 samples"):
        flat = FGSM(nn.Sequential(net, Times(400.0)), nn.CrossEntropyLoss(reduction="none")).perturb(x, 0.3, y)
    assert (flat == x).flatten(1).all(1).any()
    found = FGSM(nn.Sequential(net, Times(400.0))).perturb(x, 0.3, y)
    assert bool((found != x).flatten(1).any(1).all())
    less_sure = nn.Sequential(net, Times(30.0), nn.Softmax(1))
    assert bool((FGSM(less_sure).perturb(x, 0.3, y) != x).flatten(1).any(1).all())
    with pytest.warns(InterpWarning, match="this does not say that they are robust"):
        FGSM(sure, cross_entropy).perturb(x, 0.3, y)


class Times(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 4, 4), (1, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_lie_in_each_samples_own_ball(norm: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    mask = (torch.arange(shape[-1]) > 0).long()
    flat = lambda v: v.flatten(1).sum(1) * 0  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        state = torch.get_rng_state()
        start = PGD(flat).perturb(x, 2.0, 0.0, 1, None, random_start=True, norm=norm, mask=mask, seed=3)
        again = PGD(flat).perturb(x, 2.0, 0.0, 1, None, random_start=True, norm=norm, mask=mask, seed=3)
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    sizes = torch.linalg.vector_norm(start.flatten(1), order, dim=1)
    assert bool((sizes <= 2.0 + 1e-5).all() and (sizes > 0).all()) and len(set(sizes.tolist())) == shape[0]
    assert torch.equal(start, again) and torch.equal(state, torch.get_rng_state())
    assert bool((start[..., 0] == 0).all())


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_evenly(norm: str) -> None:
    x = torch.zeros(20_000, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)
        start = PGD(lambda v: v.sum(1) * 0).perturb(x, 1.0, 0.0, 1, None, random_start=True, norm=norm, seed=0)
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    share = torch.linalg.vector_norm(start, order, dim=1) ** 3  # of the ball's volume within: uniform
    assert torch.allclose(share.quantile(torch.tensor([0.25, 0.5, 0.75])), torch.tensor([0.25, 0.5, 0.75]), atol=0.015)
    assert float(start.mean(0).abs().max()) < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_changes_stay_in_ball_box_and_mask(norm: str) -> None:
    net, x = small_net(), pictures()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    radius = {"Linf": 0.2, "L2": 0.7, "L1": 3.0}[norm]
    found = PGD(net, lower_bound=0.0, upper_bound=1.0).perturb(x, radius, radius / 3, 6, 1, norm=norm, mask=mask)
    change = (found - x).flatten(1)
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    assert bool((torch.linalg.vector_norm(change, order, dim=1) <= radius + 1e-9).all())
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
    assert torch.equal((found - x) * (1 - mask), torch.zeros_like(x)) and not torch.equal(found, x)


def test_a_sample_alone_moves_as_in_its_batch_and_in_chunks() -> None:
    net, x, y = small_net(), pictures(3), [0, 1, 2]
    together = PGD(net).perturb(x, 0.1, 0.03, 4, y, norm="L2")
    alone = torch.cat([PGD(net).perturb(x[i : i + 1], 0.1, 0.03, 4, y[i], norm="L2") for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-10)


def test_several_inputs_have_a_ball_each_and_the_rest_stays() -> None:
    net = lambda a, b, scale: torch.stack([(a * scale).sum(1) + 2 * b.sum(1), b.sum(1)], 1)  # noqa: E731
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    scale = torch.tensor([[1.0], [5.0]])
    moved_a, moved_b = PGD(net).perturb((a, b), 1.0, 0.5, 4, 0, additional_forward_args=scale, norm="L2")
    assert torch.allclose(moved_a.norm(dim=1), torch.ones(2)) and torch.allclose(moved_b.norm(dim=1), torch.ones(2))
    assert isinstance(FGSM(net).perturb((a, b), 0.1, 0, scale), tuple)


def test_outputs_with_places_take_a_class_and_a_place() -> None:
    net = nn.Conv2d(1, 3, 1).eval()
    x = torch.rand(2, 1, 2, 2)
    found = FGSM(net).perturb(x, 0.1, [(0, 1, 1), (2, 0, 0)])
    changed = (found != x)[:, 0]
    assert changed.nonzero().tolist() == [[0, 1, 1], [1, 0, 0]]


def test_nothing_of_the_users_is_changed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, state = torch.randn(3, 4), torch.get_rng_state()
    kept = x.clone()
    for ground in (torch.no_grad(), torch.inference_mode()):
        with ground:
            PGD(net).perturb(x, 0.1, 0.05, 2, 1, random_start=True)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and torch.equal(x, kept) and not x.requires_grad
    assert torch.equal(state, torch.get_rng_state())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"radius": -0.1}, "radius must be a number from 0"),
    ({"radius": math.nan}, "radius must be a number from 0"),
    ({"step_size": "big"}, "step_size must be a number from 0"),
    ({"step_num": 0}, "step_num must be a positive int"),
    ({"norm": "L3"}, "norm must be one of Linf, L2, L1"),
    ({"inputs": torch.full((2, 4), math.nan)}, "contains NaN"),
    ({"inputs": torch.full((2, 4), 3.0)}, r"values from 3 to 3, outside of lower_bound -1.0 and upper_bound 1.0"),
    ({"inputs": torch.zeros(2, 4, dtype=torch.long)}, "gradients need floating-point"),
    ({"mask": torch.full((4,), 0.5)}, "must hold zeros and ones"),
    ({"mask": torch.ones(3)}, "does not broadcast"),
    ({"mask": (torch.ones(4), torch.ones(4))}, "2 tensors for 1 inputs"),
    ({"target": 7}, "out of range"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: str(v)[:30] if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    right = {"inputs": torch.zeros(2, 4), "radius": 0.1, "step_size": 0.1, "step_num": 1, "target": 0}
    with pytest.raises(InterpError, match=text):
        PGD(nn.Linear(4, 2), lower_bound=-1.0, upper_bound=1.0).perturb(**{**right, **wrong})


def test_bounds_that_cross_are_refused_and_one_of_the_users_own_is_used() -> None:
    with pytest.raises(InputError, match="lower_bound is above upper_bound"):
        FGSM(nn.Linear(4, 2), lower_bound=1.0, upper_bound=0.0)
    attack = FGSM(nn.Linear(4, 2))
    attack.bound = lambda v: v.clamp(max=0.05)
    assert float(attack.perturb(torch.zeros(1, 4), 0.5, 0).max()) == pytest.approx(0.05)


def test_a_loss_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(InterpError, match="loss_func returned a float"):
        FGSM(nn.Linear(4, 2), lambda out, target: 1.0).perturb(torch.zeros(1, 4), 0.1, 0)

"""attack("fmn") and attack("deepfool"): the smallest change, where it is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import attack
from tests.robust.test_attack import DUAL, linear, pictures, small_net

SMALLEST = ["fmn", "deepfool"]
NORMS = ["Linf", "L2", "L1"]


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("norm", NORMS)
def test_of_a_linear_model_it_is_the_distance_to_the_nearest_face(name: str, norm: str) -> None:
    net, x = linear(5), torch.randn(8, 6, dtype=torch.float64)
    z = net(x)
    said = z.argmax(1)
    apart = (z.gather(1, said[:, None]) - z).scatter(1, said[:, None], math.inf)
    away = torch.linalg.vector_norm(net.weight[said][:, None] - net.weight[None], DUAL[norm], dim=2)
    exact = (apart / away).amin(1)
    found = attack(net, x, name, norm=norm)
    assert found.state == ("turned",) * 8
    assert torch.allclose(found.norms[norm], exact, rtol=1e-3) and bool((found.norms[norm] >= exact - 1e-12).all())


@pytest.mark.parametrize("name", SMALLEST)
def test_in_a_box_the_other_elements_take_over(name: str) -> None:
    """Linf: the smallest radius at which the elements that may still move make up for the margin."""
    torch.manual_seed(1)
    net, x = linear(2, 12), torch.rand(6, 12, dtype=torch.float64)
    z = net(x)
    sign = torch.where(z[:, 0] > z[:, 1], 1.0, -1.0)[:, None]
    away = sign * (net.weight[1] - net.weight[0])
    room = torch.where(away > 0, 1 - x, x)
    gap = (z[:, 0] - z[:, 1]).abs()
    low, high = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for _ in range(60):  # the margin falls by sum |w| min(room, radius)
        middle = (low + high) / 2
        enough = (away.abs() * torch.minimum(room, middle[:, None])).sum(1) >= gap
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    possible = (away.abs() * room).sum(1) > gap
    found = attack(net, x, name, bounds=(0, 1))
    assert [s == "turned" for s in found.state] == possible.tolist()
    assert torch.allclose(found.norms["Linf"][possible], high[possible], rtol=1e-2)


class Largest(nn.Module):
    """Class 1 where the largest of several planes is above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = nn.Linear(2, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        top = self.planes(x).amax(1)
        return torch.stack([torch.zeros_like(top), top], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_of_the_largest_of_planes_it_is_the_nearest_of_their_faces(norm: str) -> None:
    torch.manual_seed(3)
    net = Largest()
    with torch.no_grad():
        net.planes.bias.copy_(torch.tensor([-1.0, -1.2, -0.8, -1.5]))
    x = 0.1 * torch.randn(4, 2, dtype=torch.float64)
    exact = (-net.planes(x) / torch.linalg.vector_norm(net.planes.weight, DUAL[norm], dim=1)).amin(1)
    once = attack(net, x, "fmn", norm=norm).norms[norm]
    often = attack(net, x, "fmn", norm=norm, progress=False, restarts=40, steps=12).norms[
        norm
    ]  # a gradient sees one plane at a time
    assert bool((once >= often).all()) and bool((often >= exact - 1e-9).all())
    assert torch.allclose(often, exact, rtol=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_none_is_larger_than_another_attack_of_the_same_call_finds(norm: str) -> None:
    net, x = small_net(), pictures(6)
    smallest = attack(net, x, "fmn", norm=norm)
    quick = attack(net, x, "deepfool", norm=norm)
    assert bool((smallest.norms[norm] <= quick.norms[norm] + 1e-9).all())
    for i in range(6):
        size = float(smallest.norms[norm][i])
        assert attack(net, x[i : i + 1], norm=norm, eps=0.98 * size, steps=10).state == ("held",)
    assert bool((net(smallest.perturbed).argmax(1) != net(x).argmax(1)).all())


@pytest.mark.parametrize("name", SMALLEST)
def test_a_sample_alone_is_as_in_its_batch_and_in_chunks(name: str) -> None:
    net, x = small_net(), pictures(5)
    whole = attack(net, x, name, steps=10)
    chunked = attack(net, x, name, steps=10, batch_size=2)
    alone = torch.cat([attack(net, x[i : i + 1], name, steps=10).delta for i in range(5)])
    assert torch.allclose(whole.delta, chunked.delta, atol=1e-9) and torch.allclose(whole.delta, alone, atol=1e-9)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_goal_a_limit_and_raw_units(name: str) -> None:
    spec = InputSpec("image", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), vocab=("ant", "bee", "cat", "dog"))
    net, raw = small_net(), pictures(4)
    x = spec.normalise(raw)
    goal = (net(x).argmax(1) + 1) % 4
    found = attack(net, x, name, goal=goal.tolist(), input_spec=spec, steps=8)
    assert found.prediction_after == found.goal_label and float((raw + found.delta).min()) >= 0
    plain = attack(
        lambda r: net(spec.normalise(r)), raw, name, goal=goal.tolist(), input_spec=InputSpec("image"), steps=8
    )
    assert torch.allclose(found.norms["Linf"], plain.norms["Linf"], atol=1e-9)
    limit = float(found.norms["Linf"].sort().values[1]) * 1.001
    few = attack(net, x, name, goal=goal.tolist(), input_spec=spec, eps=limit, steps=8)
    assert few.state.count("turned") == 2 and float(few.norms["Linf"].max()) <= limit * (1 + 1e-6)
    held = torch.tensor([s == "held" for s in few.state])
    assert torch.equal(few.perturbed[held], x[held])


@pytest.mark.parametrize("probability", [False, True])
def test_two_classes_in_one_number_turn_where_it_is_even(probability: bool) -> None:
    torch.manual_seed(2)
    line, x = nn.Linear(5, 1).double(), torch.randn(6, 5, dtype=torch.float64)
    net: Any = nn.Sequential(line, nn.Sigmoid()) if probability else line
    activation = (lambda p: p) if probability else torch.sigmoid
    found = attack(net, x, "fmn", norm="L2", activation=activation)
    assert torch.allclose(found.norms["L2"], (line(x)[:, 0] / line.weight.norm()).abs(), rtol=1e-3)


def test_what_does_not_move_the_model_is_masked_and_what_cannot_turn_is_held() -> None:
    flat = attack(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2) + 0 * x.sum(1, True), torch.rand(2, 3), "fmn")
    assert flat.state == ("masked", "masked")
    bent = lambda x: torch.stack([torch.sigmoid(x.sum(1)) + 1, torch.zeros(len(x))], 1)  # noqa: E731
    assert attack(bent, torch.rand(2, 3), "fmn", steps=3).state == ("held", "held")


@pytest.mark.parametrize("more", [{"restarts": 2}, {"step_size": 0.1}, {"steps": 0}, {"eps": -1}])
def test_what_only_pgd_takes_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        attack(linear(), torch.rand(2, 6).double(), "deepfool", **more)

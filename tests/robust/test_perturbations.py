"""Rotate, MostImportant and Patch: what they do where it is known, alone and behind MinParamPerturbation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import MinParamPerturbation, MostImportant, Patch, Rotate


def test_quarter_turns_and_whole_ways_are_exact() -> None:
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    for k in (1, 2, 3):
        assert torch.allclose(Rotate()(x, 90.0 * k), x.rot90(k, (2, 3)), atol=1e-9)
    moved = Rotate(fill=7.0)(x, shift=(2, -1))
    assert torch.allclose(moved[:, :, 2:, :-1], x[:, :, :-2, 1:]) and bool((moved[:, :, :2] == 7).all())
    assert torch.allclose(Rotate()(Rotate()(x[..., 1:], 180.0), 180.0), x[..., 1:], atol=1e-9)
    for wrong in ({"degrees": float("nan")}, {"shift": (1,)}):
        with pytest.raises(InterpError, match="are numbers"):
            Rotate()(x, **wrong)
    with pytest.raises(InterpError, match="turns pictures"):
        Rotate()(x[0])


def test_an_angle_is_found_from_which_the_model_says_something_else() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4] = 1  # a lying line
    model = lambda v: torch.stack([v[:, 0, 4].sum(1), v[:, 0, :, 4].sum(1)], 1)  # noqa: E731
    found = MinParamPerturbation(model, Rotate(), "degrees", 0, 90, 5).evaluate(x, target=0)
    assert found[1] == 50  # beyond the diagonal it stands


def test_the_most_important_places_go_first() -> None:
    weight = torch.tensor([1.0, -3.0, 2.0, 0.5]).double()
    model, asked = (lambda v: (v @ weight)[:, None]), []
    attack = MostImportant(model, "input_x_gradient", baselines=9.0)
    x = torch.ones(2, 4).double()
    assert attack(x, 0.5).tolist() == [[9.0, 1.0, 9.0, 1.0]] * 2 and torch.equal(attack(x, 0.0), x)

    def counted(v: torch.Tensor) -> torch.Tensor:
        asked.append(len(v))
        return model(v)

    again = MostImportant(counted, "input_x_gradient")
    again(x, 0.25)
    many = len(asked)
    again(x, 0.75)
    assert len(asked) == many  # the map is made once
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    pictures = torch.rand(2, 3, 8, 8)
    for method in ("gradcam", "saliency"):
        gone = (MostImportant(net, method)(pictures, 0.25, target=0) != pictures).all(1)
        assert gone.flatten(1).sum(1).tolist() == [16, 16]
    both = MostImportant(lambda a, b: (a + b).sum(1, True), "input_x_gradient")((x, 2 * x), 0.5)
    assert isinstance(both, tuple) and both[1].tolist() == [[0.0] * 4] * 2 and torch.equal(both[0], x)
    with pytest.raises(InterpError, match="from 0 to 1"):
        attack(x, 2)


def test_places_of_a_sequence_and_of_channels_last_are_those_of_its_map() -> None:
    x, late = torch.ones(1, 40, 2), torch.zeros(40, 2)
    late[30] = 1.0
    gone = MostImportant(lambda v: (v * late).sum((1, 2)), "input_x_gradient", input_spec=InputSpec("sequence"))(
        x, 1 / 40
    )
    assert gone[0, 30].tolist() == [0.0, 0.0] and int((gone == 0).sum()) == 2
    picture, corner = torch.ones(1, 8, 9, 3), torch.zeros(8, 9, 3)
    corner[1, 2] = 1.0
    spec = InputSpec("image", layout="last")
    gone = MostImportant(lambda v: (v * corner).sum((1, 2, 3)), "input_x_gradient", input_spec=spec)(picture, 1 / 72)
    assert gone[0, 1, 2].tolist() == [0.0] * 3 and int((gone == 0).sum()) == 3


def test_the_share_that_has_to_go_is_found() -> None:
    model = lambda v: torch.stack([v.sum(1), torch.full((len(v),), 2.5)], 1)  # noqa: E731
    attack = MostImportant(model, "input_x_gradient")
    search = MinParamPerturbation(model, attack, "share", 0.0, 1.0, 0.25)
    assert search.evaluate(torch.ones(1, 4), target=0, attack_kwargs={"target": 0})[1] == pytest.approx(0.5)


@pytest.mark.parametrize("place", [None, (2, 3)])
@pytest.mark.usefixtures("another_thread")
def test_one_patch_lowers_a_class_wherever_it_is_put(place: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 2)).train()
    with torch.no_grad():
        for one in (conv.weight[0], net[4].weight[0]):
            one.copy_(one.abs())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, state = torch.rand(3, 1, 8, 8), torch.get_rng_state()
    attack = Patch(net)
    moved = attack(x, 3, target=0, place=place, steps=30)
    assert attack.patch is not None and attack.patch.shape == (1, 1, 3, 3)
    assert ((moved != x).flatten(1).sum(1) <= 9).all() and float(moved.min()) >= 0 and float(moved.max()) <= 1
    if place is not None:
        assert torch.equal(moved[:, :, 2:5, 3:6], attack.patch.expand(3, -1, -1, -1))
    assert torch.equal(moved, Patch(net)(x, 3, target=0, place=place, steps=30))
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    net.eval()
    plain = moved.clone()
    plain[moved != x] = 0.5
    margin = lambda v: (net(v)[:, 1] - net(v)[:, 0]).detach()  # noqa: E731
    assert float((margin(moved) - margin(plain)).mean()) > 0


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"size": 9}, "within 8 x 8"), ({"size": (2, 0)}, "size is"), ({"place": (7, 0)}, "place is"),
     ({"place": (0, 7)}, "leaves the picture"), ({"steps": 0}, "steps must be")],
)  # fmt: skip
def test_wrong_patches_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(InterpError, match=text):
        Patch(net)(torch.rand(1, 1, 8, 8), **{"size": 3, "target": 0, **wrong})

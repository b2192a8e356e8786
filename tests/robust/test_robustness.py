"""robustness: accuracy under attacks of growing size, where it is known; masked gradients; what is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins.core.errors import InterpError, InterpWarning
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import Robustness, robustness
from interp_plugins.robust.binomial import interval, lower_bound, upper_bound

SPEC = InputSpec("image", mean=(0.5,), std=(0.25,), vocab=("ant", "bee"))


def linear() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A net, samples, labels of which the last is wrong, and each sample's exact smallest change in Linf."""
    torch.manual_seed(0)
    net, x = nn.Linear(6, 2).double(), torch.randn(12, 6, dtype=torch.float64)
    z = net(x).detach()
    labels = z.argmax(1)
    labels[-1] = 1 - labels[-1]
    exact = (z[:, 0] - z[:, 1]).abs() / (net.weight[1] - net.weight[0]).detach().abs().sum()
    exact[-1] = 0
    return net, x, labels, exact


@pytest.mark.parametrize("attack", ["pgd", "fmn"])
def test_of_a_linear_model_accuracy_is_the_share_of_larger_margins(attack: str) -> None:
    net, x, labels, exact = linear()
    sizes = (0.05, 0.15, 0.4)
    found = robustness(net, x, attack=attack, eps=sizes, labels=labels, steps=20, check=False)
    assert found.levels == (0.0, *sizes) and found.labelled
    for k, size in enumerate(sizes, 1):
        assert torch.equal(found.right[k], exact > size)
    assert torch.allclose(found.accuracy[0], torch.tensor(11 / 12).double()) and float(found.minimum[-1]) == 0
    assert bool((found.minimum >= exact - 1e-9).all())
    first = found.right[0]
    assert torch.allclose(found.attack_success, 1 - found.right[:, first].double().mean(1))
    if attack == "fmn":
        assert torch.allclose(found.minimum.double(), exact, rtol=1e-3)


def test_a_loader_is_read_with_its_labels_and_batches_change_nothing() -> None:
    net, x, labels, _ = linear()
    whole = robustness(net, x, eps=(0.1, 0.3), labels=labels, steps=5, check=False)
    loader = DataLoader(TensorDataset(x, labels), batch_size=5)
    cut = robustness(net, loader, eps=(0.1, 0.3), steps=5, check=False)
    assert torch.equal(whole.right, cut.right) and torch.allclose(whole.minimum, cut.minimum) and cut.labelled
    few = robustness(net, loader, eps=(0.1,), steps=5, check=False, n=7)
    assert len(few) == 7 and few.keys == tuple(range(7))
    plain = robustness(net, x, eps=(0.1,), steps=2, check=False)
    assert not plain.labelled and float(plain.accuracy[0]) == 1.0 and "as clean" in repr(plain)


def test_gradients_that_are_masked_are_named() -> None:
    flat = lambda v: torch.stack([v[:, 0] * 0 + 1, v[:, 0] * 0], 1)  # noqa: E731
    with pytest.warns(InterpWarning) as told:
        found = robustness(flat, torch.rand(4, 3), eps=(0.1,), steps=2)
    assert [str(w.message) for w in told] == list(found.notes) and float(found.accuracy[1]) == 1.0
    assert "the gradient is zero in 4 of 4" in found.notes[0] and "hold at 10 times" in found.notes[1]
    steep = lambda v: torch.stack([v[:, 0] * 0, -(v[:, 0] - 0.05).abs() - v[:, 1] + 0.06], 1)  # noqa: E731
    x = torch.tensor([[0.05, 0.1]]).double().repeat(3, 1)
    assert not robustness(lambda v: steep(v)[:, [0, 1]], x, eps=(0.2,), steps=20).notes


def test_maps_and_pictures_stand_beside_the_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    x = SPEC.normalise(torch.rand(4, 1, 8, 8))
    found = robustness(net, x, eps=("2/255", 0.1, 0.5), methods="saliency", steps=5, check=False, input_spec=SPEC)
    assert isinstance(found, Robustness) and float(found.agreement["saliency"][-1].max()) < 1
    assert found.examples is not None and found.examples.state == ("turned",) * len(found.examples)
    sizes = found.examples.norms["Linf"].tolist()
    assert sizes == sorted(sizes) and found.maps is not None
    assert list(found.to_df()["condition"]) == ["clean", "pgd", "pgd", "pgd"] and "<=" in repr(found)
    assert found.samples()["minimum"].tolist() == found.minimum.tolist() and 0 < found.area < 1
    assert found.show().axes.shape == (1, 2)
    text = Path(found.to_html(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert "no certificate" in text and "Turned by the smallest changes" in text and "before and after" in text


def test_bounds_of_a_share_are_those_of_clopper_and_pearson() -> None:
    assert lower_bound(10, 10, 0.05) == pytest.approx(0.05 ** (1 / 10))
    assert upper_bound(0, 20, 0.025) == pytest.approx(1 - 0.025 ** (1 / 20))
    low, high = interval(7, 20)
    assert low == pytest.approx(0.1539, abs=1e-4) and high == pytest.approx(0.5922, abs=1e-4)
    assert interval(0, 0) == (0.0, 1.0)


def test_nothing_of_the_users_is_changed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, state = torch.randn(3, 4), torch.get_rng_state()
    with torch.inference_mode():
        robustness(net, x, eps=(0.5,), steps=2, restarts=2, check=False, methods="saliency")
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in net.parameters())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"eps": 0.1}, "eps are several sizes"),
    ({"eps": (0.1, -1)}, "must be a number from 0"),
    ({"norm": "L7"}, "norm must be one of"),
    ({"attack": "cw"}, "attack must be one of"),
    ({"labels": torch.zeros(1, dtype=torch.long)}, "labels|class indices"),
    ({"data": []}, "hold no samples"),
    ({"data": [], "labels": [0]}, "labels= belong to tensors"),
    ({"n": 0}, "n is a number of samples"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    asked = {"data": torch.zeros(2, 4), "eps": (0.1,), **wrong}
    with pytest.raises(InterpError, match=text):
        robustness(nn.Linear(4, 3), asked.pop("data"), **asked)


def test_a_part_of_a_result_is_a_result() -> None:
    from interp_plugins.robust import attack

    net, x, _, _ = linear()
    found = attack(net, x, eps=0.2, steps=3)
    some = found[[3, 0]]
    assert some.state == (found.state[3], found.state[0]) and torch.equal(some.margin, found.margin[[3, 0]])
    assert (
        len(found[2:5]) == 3 and len(found[-1]) == 1 and math.isclose(float(found[-1].margin), float(found.margin[-1]))
    )

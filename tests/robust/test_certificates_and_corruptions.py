"""certify and corruptions: radii that are known, coverage of the bound, and pictures that get worse step by step."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import explain
from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import CORRUPTIONS, Corruption, certify, corruptions
from interp_plugins.robust.binomial import lower_bound

SPEC = InputSpec("image", mean=(0.5,) * 3, std=(0.25,) * 3, vocab=("a", "b"))


def photograph() -> Tensor:
    from skimage import data

    pixels = torch.from_numpy(np.array(data.chelsea()[40:296:4, 100:356:4])).movedim(-1, 0)[None]
    return pixels.float() / 255


def test_of_a_linear_model_the_radius_is_just_below_its_margin() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(4, 2).double(), torch.randn(5, 4, dtype=torch.float64)
    z, away = net(x).detach(), (net.weight[1] - net.weight[0]).detach().norm()
    margin = (z[:, 0] - z[:, 1]).abs() / away
    sigma = 0.5
    found = certify(net, x, sigma=sigma, n=4000, n0=50, alpha=0.01)
    p = torch.special.ndtr(margin / sigma)
    for i in range(5):
        assert float(found.radius[i]) <= float(margin[i])  # holds with probability .99 each, by this seed for all
        if found.prediction[i] is not None and not bool(found.capped[i]):
            assert float(found.p_low[i]) == pytest.approx(float(p[i]), abs=0.04)
    assert [c for c in found.prediction if c is not None] == [
        int(c) for c, r in zip(z.argmax(1), found.radius, strict=True) if r > 0
    ]
    alone = certify(net, x[:1], sigma=sigma, n=4000, n0=50, alpha=0.01, batch_size=7)
    assert float(alone.radius) == pytest.approx(float(found.radius[0]))


def test_the_bound_holds_as_often_as_it_says() -> None:
    g, p, n, alpha = torch.Generator().manual_seed(0), 0.7, 50, 0.1
    seen = torch.bernoulli(torch.full((200, n), p), generator=g).sum(1).long().tolist()
    wrong = sum(lower_bound(k, n, alpha) > p for k in seen)
    assert wrong <= 200 * alpha + 3 * math.sqrt(200 * alpha * (1 - alpha))


def test_most_that_draws_can_show_is_said_and_what_is_even_is_not_certified() -> None:
    net = nn.Linear(2, 2, bias=False)
    nn.init.eye_(net.weight)
    found = certify(net, torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), sigma=1.0, n=1000)
    assert float(found.radius[0]) == pytest.approx(2.46, abs=0.01) and found.prediction[1] is None
    assert found.capped is not None and found.capped.tolist() == [True, False]
    assert "1 abstained" in repr(found) and "1 at the most that 1000 draws" in repr(found)
    assert list(found.to_df()) == ["prediction", "radius", "p_low", "capped"]


def test_noise_is_in_raw_units() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    raw = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    one = certify(net, SPEC.normalise(raw), n=200, input_spec=SPEC)
    two = certify(lambda v: net(SPEC.normalise(v)), raw, n=200, input_spec=InputSpec("image", vocab=("a", "b")))
    assert torch.allclose(one.radius, two.radius) and one.prediction == two.prediction


@pytest.mark.parametrize(("norm", "dual"), [("L2", 2.0), ("Linf", 1.0), ("L1", math.inf)])
def test_the_cell_of_a_layer_of_relus_ends_at_the_nearest_plane(norm: str, dual: float) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(3, 6).double(), nn.Linear(6, 2).double()
    net, x = nn.Sequential(first, nn.ReLU(inplace=True), last), torch.randn(3, 3, dtype=torch.float64)
    found = certify(net, x, method="region", norm=norm)
    exact = (first(x).abs() / torch.linalg.vector_norm(first.weight, dual, dim=1)).amin(1).detach()
    assert torch.allclose(found.radius, exact) and found.confidence == 1.0
    if norm == "L2":
        i = int((first(x[:1]).abs() / first.weight.norm(dim=1)).argmin())
        way = -first(x[:1])[0, i].sign() * first.weight[i] / first.weight[i].norm()
        said = [net(x[:1]).argmax(1)] * 2
        maps = [explain(net, x[:1] + s * float(exact[0]) * way.detach(), "saliency", target=said[0])[0].attribution
                for s in (0.0, 0.999, 1.001)]  # fmt: skip
        assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2])


def test_deep_cells_hold_and_what_is_curved_or_too_large_is_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Conv2d(3, 2, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(32, 2)
    )
    x = torch.rand(2, 1, 8, 8)
    found = certify(net.eval(), x, method="region", batch_size=50)
    assert bool((found.radius > 0).all()) and "gradient map" in repr(found)
    assert float(certify(nn.Linear(3, 2), torch.rand(1, 3), method="region").radius) == math.inf
    with pytest.raises(InterpError, match="calls sigmoid, which is not linear"):
        certify(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2)), torch.rand(1, 3), method="region")
    with pytest.raises(InterpError, match="The gradient differs between points"):
        certify(lambda v: net[4:](net[:3](v) * net[:3](v)), x, method="region")
    with pytest.raises(InterpError, match="30000 corners"):
        certify(nn.Sequential(nn.Linear(1, 30000), nn.ReLU(), nn.Linear(30000, 2)), torch.rand(1, 1), method="region")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_is_worse_than_the_one_before(name: str) -> None:
    x = photograph()
    worse = [Corruption(name, k).perturb(x) for k in range(1, 6)]
    size = [float((w - x).abs().mean()) for w in worse]
    pairs = [(size[0], size[2])] if name == "fog" else itertools.pairwise(size)  # thick fog differs in its clouds
    assert all(a < b for a, b in pairs) and size[0] > 1e-4
    assert all(w.shape == x.shape and float(w.min()) >= 0 and float(w.max()) <= 1 for w in worse)
    assert torch.equal(worse[2], Corruption(name).perturb(x, seed=0))
    drawn = name.endswith("noise") or name in ("motion_blur", "fog", "elastic")
    assert torch.equal(worse[2], Corruption(name).perturb(x, seed=1)) != drawn
    bytes_ = Corruption(name, 3).perturb((x * 255).round().to(torch.uint8))
    assert bytes_.dtype == torch.uint8 and float((bytes_.float() / 255 - worse[2]).abs().mean()) < 0.01
    both = Corruption(name).perturb(torch.cat([x.flip(3), x]), keys=[7, 0])
    assert torch.allclose(both[1], worse[2][0])


def test_a_table_says_how_much_worse_and_maps_are_compared_where_the_prediction_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2)).eval()
    x = SPEC.normalise(torch.rand(6, 3, 12, 12))
    labels = net(x).argmax(1)
    labels[0] = 1 - labels[0]
    asked: dict[str, Any] = {"names": ["contrast", "gaussian_noise"], "severities": (1, 5), "input_spec": SPEC}
    state = torch.get_rng_state()
    whole = corruptions(net, x, labels=labels, methods="saliency", **asked)
    assert torch.equal(state, torch.get_rng_state())
    cut = corruptions(net, DataLoader(TensorDataset(x, labels), batch_size=4), **asked)
    assert torch.equal(whole.right, cut.right)
    assert whole.names == ("clean", "contrast", "contrast", "gaussian_noise", "gaussian_noise")
    assert float(whole.accuracy[0]) == pytest.approx(5 / 6)
    k = 4
    raw = Corruption("gaussian_noise", 5).perturb(SPEC.denormalise(x))
    said = net(SPEC.normalise(raw)).argmax(1)
    assert torch.equal(whole.right[k], said == labels)
    assert torch.equal(whole.agreement["saliency"][k].isnan(), said != net(x).argmax(1))
    table = whole.to_df()
    assert table["error_ratio"][0] == 1.0 and list(table["level"]) == [0, 1, 5, 1, 5]
    text = Path(whole.to_html(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert "What they look like" in text and "no certificate" not in text and "gaussian_noise at 5" in repr(whole)
    assert len(whole.show().axes[0]) == 2 and 0 <= whole.area <= 1


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (certify, {"sigma": 0}, "sigma is 0"),
    (certify, {"n": 0}, "n is a number of draws"),
    (certify, {"alpha": 1.0}, "alpha is a probability"),
    (certify, {"method": "lirpa"}, "method must be one of smoothing, region"),
    (certify, {"norm": "Linf"}, "certifies L2"),
    (corruptions, {"names": "rain"}, "Unknown corruption 'rain'"),
    (corruptions, {"severities": (0,)}, "from 1 to 5"),
    (corruptions, {"names": []}, "at least one corruption"),
    (corruptions, {"names": "fog"}, "Corruptions are of pictures"),
]


@pytest.mark.parametrize(("call", "wrong", "text"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(call: Any, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InterpError, match=text):
        call(nn.Linear(4, 3), torch.zeros(2, 4), **wrong)

"""Several targets under NoiseTunnel and expected gradients: the draws and passes of one, the numbers of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins import explain, row_probe
from interp_plugins.attr import GradientShap, IntegratedGradients, NoiseTunnel
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.layers import Layer
from interp_plugins.core.multi_target import MultiTarget, target_by_target
from interp_plugins.core.report import collect
from interp_plugins.core.target import Index

POOL = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Counted(nn.Module):
    """A small network that counts the rows it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.rows = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(64, 3), 0
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.fc(self.conv(x).tanh().flatten(1))


@pytest.fixture
def net() -> Counted:
    return Counted()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(method: Any, net: Counted, x: Tensor, target: Any, **more: Any) -> tuple[Explanations, int]:
    """The explanations, and the rows that the model was given."""
    net.rows = 0
    found = explain(net, x, method, target=target, seed=3, progress=False, accelerate=False, **more)
    return found, net.rows


def same(one: Explanation, two: Explanation) -> None:
    torch.testing.assert_close(one.attributions, two.attributions, rtol=1e-12, atol=1e-14)
    assert one.meta.get("per_sample", {}).get("n_draws") == two.meta.get("per_sample", {}).get("n_draws")


WINDOW = {"sliding_window_shapes": (2, 2, 2), "strides": (1, 2, 2)}
INNER: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "saliency": (attr.Saliency, {}),
    "integrated gradients": (IntegratedGradients, {"n_steps": 4, "baselines": 0}),
    "gradient shap": (GradientShap, {"baselines": POOL}),
    "deep lift": (attr.DeepLift, {"baselines": 0}),
    "deep lift shap": (attr.DeepLiftShap, {"baselines": POOL[:2]}),  # as many rows as samples
    "occlusion": (attr.Occlusion, WINDOW),
    "rise": (attr.RISE, {"n_samples": 8}),  # its maps are (N, K, ...)
    "layer deep lift": (lambda net: attr.LayerDeepLift(net, "conv"), {"baselines": 0, "noise_at": "layer"}),
    "layer gradient shap": (lambda net: attr.LayerGradientShap(net, "conv"), {"baselines": POOL}),
}


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("inner", INNER)
@row_probe(False)
def test_noise_is_drawn_once_for_all_targets(inner: str, nt_type: str, net: Counted, x: Tensor) -> None:
    make, how = INNER[inner]
    more: dict[str, Any] = {"nt_type": nt_type, "nt_samples": 3, "stdevs": 0.3, **how}
    together, rows = run(NoiseTunnel(make(net)), net, x, "all", **more)
    assert all(exp.meta["shared_by_targets"] == 3 for exp in together)
    for k, exp in enumerate(together):
        (alone,), each = run(NoiseTunnel(make(net)), net, x, k, **more)
        same(exp, alone)
        assert rows == each
        assert exp.meta["backward_passes"] == 3 * alone.meta["backward_passes"]


TOLERANT: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "smoothgrad": (lambda f: NoiseTunnel(IntegratedGradients(f)), {"nt_type": "smoothgrad", "tol": 0.2}),
    "antithetic": (
        lambda f: NoiseTunnel(IntegratedGradients(f)),
        {"nt_type": "smoothgrad", "tol": 0.012, "antithetic": True},
    ),
    "smoothgrad_sq": (lambda f: NoiseTunnel(attr.InputXGradient(f)), {"nt_type": "smoothgrad_sq", "tol": 0.3}),
    "vargrad": (lambda f: NoiseTunnel(attr.InputXGradient(f)), {"nt_type": "vargrad", "tol": 0.4}),
    "around draws": (lambda f: NoiseTunnel(GradientShap(f)), {"nt_type": "smoothgrad", "tol": 0.3, "baselines": POOL}),
    "perturbing": (lambda f: NoiseTunnel(attr.RISE(f)), {"nt_type": "smoothgrad", "tol": 0.6, "n_samples": 20}),
    "expected gradients": (GradientShap, {"tol": 0.3, "baselines": POOL}),
    "layer": (lambda f: attr.LayerGradientShap(f, "conv"), {"tol": 0.3, "baselines": POOL, "antithetic": True}),
}


@pytest.mark.parametrize("name", TOLERANT)
def test_each_target_stops_where_it_would_alone(name: str, net: Counted, x: Tensor) -> None:
    """Draws go on for the samples and targets that need them; what has settled keeps its map."""
    make, how = TOLERANT[name]
    more: dict[str, Any] = {"nt_samples": 10, "stdevs": 0.4, **how} if "nt_type" in how else {"n_samples": 10, **how}
    together, rows = run(make(net), net, x, "all", **more)
    alone = [run(make(net), net, x, k, **more) for k in range(3)]
    for exp, ((one,), _) in zip(together, alone, strict=True):
        same(exp, one)
        assert exp.meta["per_sample"]["map_error"] == pytest.approx(one.meta["per_sample"]["map_error"], rel=1e-9)
    draws = [n for (one,), _ in alone for n in one.meta["per_sample"]["n_draws"]]
    assert len(set(draws)) > 1, "all settled at once: nothing is shown"
    needed = [max(one.meta["per_sample"]["n_draws"][i] for (one,), _ in alone) for i in range(2)]
    assert rows < sum(each for _, each in alone)
    if name == "smoothgrad":  # five steps per copy, two passes for the scores
        assert together[0].meta["forward_passes"] == 5 * sum(needed)
        assert together[0].meta["backward_passes"] < 3 * together[0].meta["forward_passes"]


def test_copies_of_a_method_that_draws_go_together(net: Counted, x: Tensor) -> None:
    """The numbers come copy by copy from one stream, whatever the group: rows of one pass are of many copies."""
    sizes: list[int] = []

    def model(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return net(z)

    kinds: list[tuple[Any, tuple[str, ...]]] = [(GradientShap, ()), (attr.LayerGradientShap, ("conv",))]
    for cls, layer in kinds:
        tunnel = NoiseTunnel(cls(net, *layer) if layer else cls(model))
        more: dict[str, Any] = {
            "target": 1,
            "nt_samples": 7,
            "stdevs": 0.2,
            "seed": 4,
            "antithetic": True,
            "n_samples": 3,
        }
        sizes.clear()
        with collect() as report:
            together = tunnel.attribute(x, baselines=POOL, **more)
        assert report["backward_passes"] == 8 * 2 * 3  # four pairs of copies, three draws each
        one_by_one = tunnel.attribute(x, baselines=POOL, nt_samples_batch_size=1, **more)
        torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-14)
        assert not sizes or max(sizes) == 8 * 2 * 3 > sizes[-1]
        same_pool = tunnel.attribute(x, baselines=lambda: POOL, **more)  # asked for in every copy
        torch.testing.assert_close(same_pool, together, rtol=1e-12, atol=1e-14)


def test_numbers_of_expected_gradients_in_noise_are_those_of_one_call_after_the_other(net: Counted, x: Tensor) -> None:
    """Slowly: noise of a copy, then the inner method's own draws, from one generator."""
    rng = torch.Generator().manual_seed(9)
    maps = []
    for _ in range(4):
        noisy = x + 0.3 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        maps.append(GradientShap(net).attribute(noisy, POOL, n_samples=2, target=0, generator=rng))
    found = NoiseTunnel(GradientShap(net)).attribute(
        x, baselines=POOL, n_samples=2, target=0, nt_samples=4, stdevs=0.3, seed=9
    )
    torch.testing.assert_close(found, torch.stack(maps).mean(0), rtol=1e-12, atol=1e-14)


def test_settled_neighbours_do_not_change_what_a_sample_draws(net: Counted, x: Tensor) -> None:
    more: dict[str, Any] = {
        "target": 1,
        "nt_samples": 6,
        "tol": 0.3,
        "max_samples": 90,
        "stdevs": 0.4,
        "seed": 2,
        "baselines": POOL,
    }
    with collect() as report:
        one = NoiseTunnel(GradientShap(net)).attribute(torch.cat([x[:1], x[1:]]), **more)
    with collect() as other:
        two = NoiseTunnel(GradientShap(net)).attribute(torch.cat([x[:1], 9 * x[1:]]), **more)
    assert report["n_draws"][0] == other["n_draws"][0] and report["n_draws"][1] != other["n_draws"][1]
    torch.testing.assert_close(one[0], two[0], rtol=1e-12, atol=1e-14)


def test_token_ids_share_the_draws_as_well() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    ids = torch.tensor([[1, 2, 3], [4, 5, 1]])
    for inner, more in ((IntegratedGradients, {"n_steps": 3}), (GradientShap, {"baselines": ids.flip(0)})):
        how: dict[str, Any] = {"nt_type": "smoothgrad", "nt_samples": 4, "stdevs": 0.2, "seed": 1, **more}
        together = explain(net, ids, NoiseTunnel(inner(net)), target="all", progress=False, **how)
        for k, exp in enumerate(together):
            (alone,) = explain(net, ids, NoiseTunnel(inner(net)), target=k, progress=False, **how)
            torch.testing.assert_close(exp.attributions, alone.attributions, rtol=1e-12, atol=1e-14)


def test_deltas_of_several_targets_are_sample_by_sample_target_by_target(net: Counted, x: Tensor) -> None:
    more: dict[str, Any] = {"nt_samples": 3, "stdevs": 0.3, "return_convergence_delta": True, "seed": 0, "n_steps": 3}
    tunnel = NoiseTunnel(IntegratedGradients(net))
    _, deltas = tunnel.attribute(x, target=MultiTarget((Index((0,)), Index((2,)))), **more)
    alone = [tunnel.attribute(x, target=k, **more)[1].reshape(2, 3) for k in (0, 2)]
    torch.testing.assert_close(deltas.reshape(2, 2, 3), torch.stack(alone, 1))


@row_probe(False)
def test_averages_over_augmented_copies_and_checkpoints_share_too(net: Counted, x: Tensor) -> None:
    states = [net.state_dict(), {k: 2 * v for k, v in net.state_dict().items()}]
    grad_cam = attr.LayerGradCam(net, "conv")
    for method, more in (
        (attr.AugmentedAttribution(attr.InputXGradient(net)), {}),
        (attr.AugmentedAttribution(attr.RISE(net)), {"n_samples": 8}),
        (attr.CheckpointAverage(attr.Saliency(net), states), {}),
        (attr.LayerAverage(grad_cam, ["conv", Layer(net.conv, "input")]), {}),
    ):
        together, rows = run(method, net, x, "all", **more)
        for k, exp in enumerate(together):
            (alone,), each = run(method, net, x, k, **more)
            same(exp, alone)
            assert rows == each and exp.meta["shared_by_targets"] == 3


def test_noise_around_a_foreign_method_goes_target_by_target(net: Counted, x: Tensor) -> None:
    found, _ = run(
        NoiseTunnel(captum.attr.Saliency(net)), net, x, [0, 2], nt_samples=3, stdevs=0.2, nt_type="smoothgrad"
    )
    ours, _ = run(NoiseTunnel(attr.Saliency(net)), net, x, [0, 2], nt_samples=3, stdevs=0.2, nt_type="smoothgrad")
    for a, b in zip(found, ours, strict=True):
        assert "shared_by_targets" not in a.meta
        torch.testing.assert_close(a.attributions, b.attributions)


def test_what_cannot_be_told_apart_is_refused(x: Tensor) -> None:
    with pytest.raises(ModelError, match=r"shape \(3, 2\) came for 2 rows.*one target at a time"):
        target_by_target([torch.ones(3, 2)], 2, 2)
    with pytest.raises(InputError, match="n_samples"):
        NoiseTunnel(GradientShap(lambda z: z.sum((1, 2, 3)))).attribute(x, baselines=POOL, n_samples=0)

"""What sampling promises: errors that hold in nine cases of ten, per sample, whatever the chunks and the neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import row_probe
from interp_plugins.attr import (
    HSIC,
    RISE,
    FeatureAblation,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    ShapleyInteractions,
    ShapleyValues,
    ShapleyValueSampling,
    Sobol,
)
from interp_plugins.attr.perturbation.lime_sampling import orthogonal_perturb_generator
from interp_plugins.attr.perturbation.surrogate import SkLearnLasso, WeightedRidge
from interp_plugins.attr.shared.average import Average, relative_error, rounds, student
from interp_plugins.core.errors import InputError, ModelError
from interp_plugins.core.report import collect

D = 10
SEEDS = 25


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A ReLU net with strong interactions."""
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    with torch.no_grad():
        for p in made.parameters():
            p *= 1.7
    return made.double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(4, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def shapley(net: nn.Module, x: Tensor) -> Tensor:
    return ShapleyValues(net).attribute(x)


@pytest.fixture(scope="module")
def rise(net: nn.Module, x: Tensor) -> Tensor:
    """The limit of centred RISE with p = 1/2, from all masks."""
    codes = torch.arange(2**D)
    z = ((codes[:, None] >> torch.arange(D)) & 1).double()
    scores = torch.stack([net(z * row).detach() for row in x])
    return (scores - scores.mean(1, keepdim=True)) @ z / (len(z) / 2)


@pytest.fixture(scope="module")
def hsic(net: nn.Module, x: Tensor) -> Tensor:
    """Of the population: all masks, with the kernel's width their median distance."""
    codes = torch.arange(2**D)
    z = ((codes[:, None] >> torch.arange(D)) & 1).double()
    found = []
    for row in x:
        scores = net(z * row).detach()
        distance = (scores[:, None] - scores).abs()
        width = distance[~torch.eye(len(z), dtype=torch.bool)].median()
        found.append(2 * ((z - 0.5) * ((-0.5 * (distance / width) ** 2).exp() @ (z - 0.5))).sum(0) / len(z) ** 2)
    return torch.stack(found)


@pytest.fixture(scope="module")
def sobol(net: nn.Module, x: Tensor) -> Tensor:
    return Sobol(net).attribute(x, n_samples=2**14, seed=99, progress=False)


@pytest.fixture(scope="module")
def interactions(net: nn.Module, x: Tensor) -> Tensor:
    return ShapleyInteractions(net).attribute(x)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "orders": (ShapleyValueSampling, {"n_samples": 5, "tol": 0.2}),
    "antithetic orders": (ShapleyValueSampling, {"n_samples": 5, "tol": 0.15, "antithetic": True}),
    "stratified orders": (ShapleyValueSampling, {"n_samples": 3, "tol": 0.15, "stratified": True}),
    "coalitions": (KernelShap, {"tol": 0.4}),
    "paired coalitions": (KernelShap, {"tol": 0.3, "paired": True}),
    "stratified coalitions": (KernelShap, {"tol": 0.3, "stratified": True}),
    "masks": (RISE, {"n_samples": 100, "tol": 0.4, "center": True}),
    "orthogonal masks": (RISE, {"n_samples": 96, "tol": 0.3, "center": True, "orthogonal": True}),
    "switches": (HSIC, {"n_samples": 100, "tol": 0.4}),
    "designs": (Sobol, {"n_samples": 16, "tol": 0.3}),
    "orders of pairs": (ShapleyInteractions, {"n_samples": 4, "tol": 0.12}),
}
TRUTH = {RISE: "rise", HSIC: "hsic", Sobol: "sobol", ShapleyInteractions: "interactions"}


@pytest.mark.parametrize("name", CASES)
def test_stated_error_holds_in_nine_cases_of_ten(name: str, net: nn.Module, x: Tensor, request: Any) -> None:
    """The true error is below the stated one and below tol, over seeds and samples; and not far below."""
    cls, how = CASES[name]
    truth: Tensor = request.getfixturevalue(TRUTH.get(cls, "shapley"))
    held, reached, ratios = [], [], []
    for seed in range(SEEDS):
        with collect() as report:
            found = cls(net).attribute(x, seed=seed, progress=False, **how)
        true = (found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
        stated = torch.tensor(report["map_error"], dtype=torch.float64)
        assert bool((stated <= how["tol"]).all())
        held.append(true <= stated)
        reached.append(true <= how["tol"])
        ratios.append(true / stated)
    assert float(torch.stack(held).double().mean()) >= 0.9
    assert float(torch.stack(reached).double().mean()) >= 0.9
    assert float(torch.stack(held).double().mean(0).min()) >= 0.8  # each sample, from 25 runs
    assert 0.4 < float(torch.stack(ratios).square().mean().sqrt()) < 0.8  # 1 / 1.645 where nothing is lost


@pytest.mark.parametrize("name", CASES)
def test_stopping_knows_no_neighbours_and_no_chunks(name: str, net: nn.Module, x: Tensor) -> None:
    cls, how = CASES[name]
    with collect() as report:
        together = cls(net).attribute(x, seed=7, **how)
    assert len(set(report["n_draws"])) > 1  # samples stop on their own
    with collect() as alone:
        one = cls(net).attribute(x[2:3], seed=7, batch_size=3, **how)
    assert alone["n_draws"] == report["n_draws"][2:3]
    assert torch.allclose(one[0], together[2], atol=1e-12)
    chunked = cls(net).attribute(x, seed=7, batch_size=7, **how)
    assert torch.allclose(chunked, together, atol=1e-12)


def test_settled_samples_are_not_evaluated_any_more(net: nn.Module, x: Tensor) -> None:
    nothing = torch.zeros_like(x[:1])
    with collect() as both:
        ShapleyValueSampling(net).attribute(torch.cat([x[:1], nothing]), tol=0.1, n_samples=5, seed=0)
    with collect() as alone:
        ShapleyValueSampling(net).attribute(x[:1], tol=0.1, n_samples=5, seed=0)
    assert both["n_draws"] == [*alone["n_draws"], 5]
    assert both["map_error"][1] == 0  # nothing differs from the baseline


def counted(net: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.extend(z)
        return net(z)

    return model, seen


@pytest.mark.parametrize("cls", [ShapleyValueSampling, KernelShap])
@row_probe(False)
def test_equal_coalitions_are_evaluated_once(cls: Any, net: nn.Module, x: Tensor) -> None:
    mask = torch.arange(D)[None] // 2  # five features, 32 coalitions
    model, seen = counted(net)
    cls(model).attribute(x[:1], feature_mask=mask, n_samples=31, seed=0)
    rows = [tuple(z.tolist()) for z in seen]
    assert len(set(rows)) <= 32 and len(rows) <= len(set(rows)) + 1  # F(x) is the score that is reported


def test_kernel_shap_takes_all_coalitions_when_it_would_draw_as_many(net: nn.Module, x: Tensor) -> None:
    mask = torch.arange(D)[None] // 2
    with collect() as report:
        found = KernelShap(net).attribute(x, feature_mask=mask, n_samples=10, tol=1e-6, seed=0)
    assert report["n_draws"] == [32] * 4 and report["map_error"] == [0] * 4
    assert torch.allclose(found, ShapleyValues(net).attribute(x, feature_mask=mask), atol=1e-12)


def test_stratified_kernel_shap_takes_small_and_large_coalitions_once(net: nn.Module, x: Tensor) -> None:
    model, seen = counted(net)
    KernelShap(model).attribute(x[:1], n_samples=102, stratified=True, seed=0)
    sizes = torch.stack(seen[1:]).ne(0).sum(1)  # the first row is F(x)
    counts = sizes.bincount(minlength=D + 1).tolist()
    assert counts[1] == counts[D - 1] == D  # each once
    assert counts[1:D] == counts[D - 1 : 0 : -1]


def test_variance_reductions_reduce_the_variance(net: nn.Module, x: Tensor, shapley: Tensor, rise: Tensor) -> None:
    """Mean squared errors at equal numbers of passes."""

    def error(cls: Any, truth: Tensor, **how: Any) -> float:
        found = [cls(net).attribute(x, seed=seed, **how) for seed in range(20)]
        return float((torch.stack(found) - truth).square().mean())

    plain = error(ShapleyValueSampling, shapley, n_samples=24)
    antithetic = error(ShapleyValueSampling, shapley, n_samples=12, antithetic=True)
    assert error(ShapleyValueSampling, shapley, n_samples=6, stratified=True) < antithetic < plain
    plain = error(KernelShap, shapley, n_samples=150)
    assert error(KernelShap, shapley, n_samples=150, stratified=True) < 0.7 * plain
    plain = error(RISE, rise, n_samples=400, center=True)
    assert error(RISE, rise, n_samples=400, center=True, orthogonal=True) < 0.5 * plain


def test_students_quantile() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 4, 7, 20, 1000):
        assert student(degrees) == pytest.approx(stats.t.ppf(0.95, degrees), rel=3e-3)
    assert student(0) == float("inf")


def test_average_is_the_mean_with_its_standard_error_for_each_sample() -> None:
    draws = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    average = Average(3)
    for k, draw in enumerate(draws):
        who = torch.tensor([0, 2]) if k >= 4 else torch.arange(3)
        average.add(draw[None, who], who)
    together = Average(3)
    together.add(draws[:4])
    together.add(draws[4:, ::2], torch.tensor([0, 2]))
    assert torch.allclose(together.mean, average.mean)
    assert torch.allclose(together.standard_error(), average.standard_error())
    for i, n in enumerate((9, 4, 9)):
        mine = draws[:n, i]
        assert torch.allclose(average.mean[i], mine.mean(0))
        assert torch.allclose(average.standard_error()[i], mine.std(0) / n**0.5)
        error, norm = (mine.std(0) / n**0.5).norm(), mine.mean(0).norm()
        bound = student(n - 1) * error / (norm**2 - error**2).clamp_min(0).sqrt()
        assert float(average.map_error()[i]) == pytest.approx(float(bound))


def test_relative_error_of_nothing_and_of_noise() -> None:
    found = relative_error(torch.tensor([9, 9]), [torch.tensor([[0.0], [2.0]])], [torch.tensor([[0.0], [1.0]])])
    assert found.tolist() == [0, float("inf")]


def test_rounds_grow_and_end() -> None:
    errors = torch.tensor([1.0, 1.0])
    seen = []
    for due, active in rounds(lambda: errors, 2, 0.5, 10, 175):
        seen.append((due, active.tolist()))
        if len(seen) == 3:
            errors[0] = 0.4
    assert sum(due for due, _ in seen) == 175 and seen[3:] == [(due, [1]) for due, _ in seen[3:]]
    assert [due for due, _ in seen[:4]] == [10] * 4 and max(due for due, _ in seen) > 20
    assert [due for due, _ in rounds(lambda: errors, 2, None, 10, 175)] == [10]


# -- averages over noise and over baselines ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0)).double()


POOL = torch.randn(12, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def tunnel(f: nn.Module) -> NoiseTunnel:
    return NoiseTunnel(IntegratedGradients(f))


AVERAGES: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "smoothgrad": (tunnel, {"nt_samples": 10, "tol": 0.15}),
    "antithetic smoothgrad": (tunnel, {"nt_samples": 10, "tol": 0.1, "antithetic": True}),
    "smoothgrad_sq": (tunnel, {"nt_type": "smoothgrad_sq", "nt_samples": 20, "tol": 0.3}),
    "vargrad": (tunnel, {"nt_type": "vargrad", "nt_samples": 20, "tol": 0.3}),
    "expected gradients": (GradientShap, {"baselines": POOL, "n_samples": 10, "tol": 0.15, "stdevs": 0.3}),
    "antithetic expected gradients": (
        GradientShap,
        {"baselines": POOL, "n_samples": 10, "tol": 0.15, "stdevs": 0.3, "antithetic": True},
    ),
    "stratified expected gradients": (
        GradientShap,
        {"baselines": POOL, "n_samples": 10, "tol": 0.07, "stdevs": 0.3, "stratified": True},
    ),
    "expected gradients of twelve strata": (
        GradientShap,
        {"baselines": POOL, "n_samples": 5, "tol": 0.05, "stdevs": 0.3, "stratified": 12},
    ),
}


def reference(name: str, f: nn.Module, x: Tensor) -> Tensor:
    """A long run without tolerance, antithetic or stratified draws, and with fifty exact steps."""
    cls, how = AVERAGES[name]
    rest = {k: v for k, v in how.items() if k not in ("tol", "nt_samples", "n_samples", "antithetic", "stratified")}
    if cls is tunnel:
        return cls(f).attribute(x, nt_samples=6000, n_steps=12, seed=99, progress=False, **rest)
    return cls(f).attribute(x, n_samples=20_000, seed=99, progress=False, **rest)


@pytest.mark.parametrize("name", AVERAGES)
def test_stated_error_of_averages_holds_in_nine_cases_of_ten(name: str, smooth: nn.Module, x: Tensor) -> None:
    cls, how = AVERAGES[name]
    truth = reference(name, smooth, x)
    held, ratios = [], []
    for seed in range(SEEDS):
        with collect() as report:
            found = cls(smooth).attribute(x, seed=seed, progress=False, **how)
        true = (found - truth).norm(dim=1) / truth.norm(dim=1)
        stated = torch.tensor(report["map_error"], dtype=torch.float64)
        assert bool((stated <= how["tol"]).all())
        held.append(true <= stated)
        ratios.append(true / stated)
    assert float(torch.stack(held).double().mean()) >= 0.9
    assert 0.35 < float(torch.stack(ratios).square().mean().sqrt()) < 0.8


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_stop_whatever_the_neighbours_and_the_chunks(name: str, smooth: nn.Module, x: Tensor) -> None:
    cls, how = AVERAGES[name]
    scaled = x * torch.tensor([1.0, 0.8, 1.5, 3.0]).double()[:, None]
    with collect() as report:
        together = cls(smooth).attribute(scaled, seed=7, **how)
    assert len(set(report["n_draws"])) > 1  # samples stop on their own
    chunk = {"nt_samples_batch_size": 2, "internal_batch_size": 3} if cls is tunnel else {"batch_size": 7}
    assert torch.allclose(cls(smooth).attribute(scaled, seed=7, **how, **chunk), together, atol=1e-12)
    twin = scaled.clone()
    twin[:2] = 1.3 * twin[:2]  # other neighbours: sample 3 keeps its numbers, and its map
    assert torch.allclose(cls(smooth).attribute(twin, seed=7, **how)[3], together[3], atol=1e-12)


@pytest.mark.parametrize("name", ["smoothgrad", "expected gradients"])
def test_antithetic_averages_need_fewer_passes(name: str, smooth: nn.Module, x: Tensor) -> None:
    cls, how = AVERAGES[name]
    used = {}
    for kind in ("plain", "antithetic", *(["stratified"] if cls is GradientShap else [])):
        with collect() as report:
            more = {"tol": 0.05, "max_samples": 20_000, **({kind: True} if kind != "plain" else {})}
            cls(smooth).attribute(x, seed=0, **{**how, **more})
        used[kind] = report["backward_passes"]
    assert used["antithetic"] < 0.8 * used["plain"]
    assert used.get("stratified", 0) < 0.8 * used["antithetic"]


def test_random_offsets_make_a_path_of_any_steps_exact_on_average(smooth: nn.Module, x: Tensor) -> None:
    ig = IntegratedGradients(smooth)
    exact = ig.attribute(x, n_steps=60)
    many = x.repeat(2000, 1)
    for rule in ("gausslegendre", "riemann_trapezoid"):
        shifted = ig.attribute(many, n_steps=2, method=rule, offsets=torch.rand(len(many)))
        assert float((shifted.unflatten(0, (-1, 4)).mean(0) - exact).abs().max()) < 0.01
    middle = torch.full((4,), 0.5)
    same = ig.attribute(x, n_steps=7, method="riemann_middle")
    assert torch.allclose(ig.attribute(x, n_steps=7, method="riemann_left", offsets=middle), same, atol=1e-12)
    with pytest.raises(InputError, match=r"offsets must be a tensor \(4,\) of positions from 0 to 1"):
        ig.attribute(x, offsets=torch.full((4,), 2.0))
    with pytest.raises(InputError, match="with tol, nodes go where they are needed"):
        ig.attribute(x, offsets=middle, tol=0.1)


def test_more_strata_need_fewer_gradients(smooth: nn.Module, x: Tensor) -> None:
    """Sets of as many as there are baselines, and of more, in as many gradients; the mean of all is the same."""
    method, truth = (
        GradientShap(smooth),
        GradientShap(smooth).attribute(x, POOL, n_samples=4000, stratified=True, seed=9),
    )
    error = {}
    for strata in (1, 4, 12, 48):
        more = {"stratified": strata} if strata > 1 else {}
        found = torch.stack([method.attribute(x, POOL, n_samples=48 // strata, seed=s, **more) for s in range(30)])
        error[strata] = float((found - truth).square().mean())
        assert float((found.mean(0) - truth).norm() / truth.norm()) < 0.05
    assert error[48] < 0.3 * error[12] < 0.3 * error[4] < 0.3 * error[1]
    with pytest.raises(InputError, match="a number of strata from 2 on; got 1"):
        method.attribute(x, POOL, stratified=1)


@row_probe(False)
def test_copies_and_steps_share_the_chunks(smooth: nn.Module, x: Tensor) -> None:
    """Ten copies of one sample with five steps each are fifty rows, cut every twenty."""
    sizes: list[int] = []

    def model(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return smooth(z)

    NoiseTunnel(IntegratedGradients(model)).attribute(x[:1], nt_samples=10, n_steps=5, internal_batch_size=20)
    assert sizes == [20, 20, 10]


def test_deltas_with_a_tolerance_are_means_per_sample(smooth: nn.Module, x: Tensor) -> None:
    more = {"return_convergence_delta": True, "seed": 0}
    _, delta = GradientShap(smooth).attribute(x, POOL, n_samples=20, tol=0.1, **more)
    assert delta.shape == (4,) and float(delta.abs().max()) < 0.2
    _, delta = tunnel(smooth).attribute(x, nt_samples=10, tol=0.1, stdevs=0.2, **more)
    assert delta.shape == (4,) and float(delta.abs().max()) < 0.2


def test_what_does_not_go_together_is_refused(smooth: nn.Module, x: Tensor) -> None:
    with pytest.raises(InputError, match="antithetic copies are not independent"):
        tunnel(smooth).attribute(x, nt_type="vargrad", antithetic=True)
    with pytest.raises(InputError, match=r"they need p=0\.5; got p=0\.3"):
        RISE(smooth).attribute(x, p=0.3, orthogonal=True)
    with pytest.raises(InputError, match="tol is a relative error of the map"):
        tunnel(smooth).attribute(x, tol=-1)


def test_noisy_copies_of_a_model_with_one_value_per_batch_cannot_share_a_call(smooth: nn.Module, x: Tensor) -> None:
    merged = NoiseTunnel(FeatureAblation(lambda v: smooth(v).sum()))
    with pytest.raises(ModelError, match=r"map of shape \(1, 10\) came for 5 noisy copies.*nt_samples_batch_size=1"):
        merged.attribute(x)
    assert merged.attribute(x, nt_samples_batch_size=1, seed=0).shape == (1, D)


@pytest.mark.parametrize("surrogate", [WeightedRidge(), SkLearnLasso(alpha=0.01)], ids=["ridge", "lasso"])
def test_stated_error_of_lime_holds_in_nine_cases_of_ten(surrogate: Any, net: nn.Module, x: Tensor) -> None:
    """Against the surrogate fitted to all masks once, which are equally likely."""
    codes = torch.arange(2**D)
    every = ((codes[:, None] >> torch.arange(D)) & 1)[:, None]

    def all_masks(_: Any, **kwargs: Any) -> Any:
        yield from every

    exact = Lime(net, surrogate, perturb_func=all_masks).attribute(x, n_samples=len(every), return_input_shape=False)
    held, used = [], []
    for seed in range(15):
        with collect() as report:
            found = Lime(net, surrogate).attribute(x, n_samples=60, tol=0.35, seed=seed, return_input_shape=False)
        true = (found - exact).norm(dim=1) / exact.norm(dim=1)
        assert max(report["map_error"]) <= 0.35
        held.append(true <= torch.tensor(report["map_error"], dtype=torch.float64))
        used.append(report["n_draws"])
    assert float(torch.stack(held).double().mean()) >= 0.9
    assert len({n for row in used for n in row}) > 1
    one = Lime(net, surrogate).attribute(x[2:3], n_samples=60, tol=0.35, seed=14, return_input_shape=False)
    assert torch.allclose(one[0], found[2], atol=1e-12)


def test_orthogonal_copies_of_lime_are_balanced_and_err_less(net: nn.Module, x: Tensor) -> None:
    made = orthogonal_perturb_generator(x, num_interp_features=D)
    size = 1 << D.bit_length()
    z = torch.cat([next(made) for _ in range(2 * size)])
    assert torch.equal(z[::2], 1 - z[1::2]) and len(z[::2].unique(dim=0)) == size
    signs = 2 * z - 1
    assert torch.equal(signs.T @ signs, 2 * size * torch.eye(D, dtype=torch.long)) and not signs.sum(0).any()

    lime = Lime(net, WeightedRidge())

    def run(**kwargs: Any) -> Tensor:
        return lime.attribute(x[:1], return_input_shape=False, progress=False, **kwargs)

    exact = run(n_samples=4000, orthogonal=True, seed=99)
    error = {}
    for orthogonal in (False, True):
        found = torch.cat([run(n_samples=48, orthogonal=orthogonal, seed=seed) for seed in range(20)])
        error[orthogonal] = float((found - exact).square().sum())
    assert error[True] < 0.6 * error[False]
    held = []
    for seed in range(20):
        with collect() as report:
            found = run(n_samples=60, orthogonal=True, seed=seed)
        held.append(float((found - exact).norm() / exact.norm()) <= report["map_error"][0])
    assert sum(held) >= 18
    with pytest.raises(InputError, match="orthogonal=True draws the copies itself"):
        Lime(net, perturb_func=orthogonal_perturb_generator).attribute(x, orthogonal=True)

"""Blur IG, Guided IG, IDGI, XRAI, integrated Hessians and extremal perturbation against slow and closed forms."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp_plugins.attr as attr
from interp_plugins.attr.gradient.xrai import ranked, regions
from interp_plugins.attr.perturbation.extremal import smooth_mask
from interp_plugins.attr.shared.images import blurred
from interp_plugins.attr.shared.quadrature import quadrature
from interp_plugins.core.errors import InputError, InputTypeError
from interp_plugins.core.multi_target import MultiTarget
from interp_plugins.core.report import collect
from interp_plugins.core.target import Index
from interp_plugins.core.tensors import credit, credit_in_place
from tests.conformance.cases import Mlp


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= tolerance


@pytest.fixture
def net() -> Mlp:
    torch.manual_seed(0)
    return Mlp(nn.Tanh()).double()


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, 4, generator=g).double(), torch.randn(3, 4, generator=g).double()


@pytest.fixture
def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(120, 3)).double()


@pytest.fixture
def picture() -> Tensor:
    return torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(2)).double()


def gradient(f: Any, at: Tensor) -> Tensor:
    leaf = at.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf).sum(), leaf)[0]


# -- LayerConductance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [2, 5, 53])
def test_conductance_reads_the_layer_with_the_gradient(cnn: nn.Module, picture: Tensor, n_steps: int) -> None:
    """Of 53 nodes changes over cells by cubics, of fewer the slopes of one polynomial, as this net is smooth."""
    expected = [torch.zeros(2, 4, 10, 12).double(), torch.zeros(2, 4, 5, 6).double()]
    rule = quadrature("gausslegendre", n_steps)
    places, ends = np.array([0.0, *rule.nodes, 1.0]), np.array([0.0, *np.cumsum(rule.weights)])
    for i, head in enumerate((cnn[1:], cnn[3:])):
        read = torch.stack([cnn[: 1 if i == 0 else 3](a * picture).detach() for a in places])
        values = read.flatten(1).numpy()
        for k, weight in enumerate(rule.weights):
            if n_steps > 50:
                four = [slice(min(max(q - 1, 0), n_steps - 2), None) for q in (k, k + 1)]
                begin, end = (
                    polynomial(places[f][:4], values[f][:4], ends[q], 0) for f, q in zip(four, (k, k + 1), strict=True)
                )
                change = end - begin
            else:
                change = weight * polynomial(places, values, places[k + 1], 1)
            at = places[k + 1] * picture
            grad = gradient(lambda y, head=head: head(y)[:, 1], cnn[: 1 if i == 0 else 3](at))
            expected[i] += grad * torch.from_numpy(change).reshape(grad.shape)
    method = attr.LayerConductance(cnn, [cnn[0], cnn[2]])
    for size in (None, 1, 3, 4, 7, 50, 106):
        with collect() as report:
            found = method.attribute(picture, target=1, n_steps=n_steps, internal_batch_size=size)
        assert all(close(a, b) for a, b in zip(found, expected, strict=True)), size
        assert report["forward_passes"] == 2 * (n_steps + 2) and report["backward_passes"] == 2 * n_steps
    two = attr.LayerConductance(cnn, cnn[0]).attribute(picture, target=MultiTarget((Index((2,)), Index((1,)))),
                                                       n_steps=n_steps, internal_batch_size=7)  # fmt: skip
    assert close(two.unflatten(0, (2, 2))[:, 1], expected[0]) and not close(two.unflatten(0, (2, 2))[:, 0], expected[0])


def polynomial(places: np.ndarray, values: np.ndarray, at: float, derivatives: int) -> np.ndarray:
    """The polynomial through values (K, elements) at places (K,), or its slope, at another place."""
    coefficients = np.polynomial.chebyshev.chebfit(2 * places - 1, values, len(places) - 1)
    found: np.ndarray = np.polynomial.chebyshev.chebval(
        2 * at - 1, np.polynomial.chebyshev.chebder(coefficients, derivatives, 2)
    )
    return found


def test_conductance_of_a_smooth_net_converges_exponentially(cnn: nn.Module, picture: Tensor) -> None:
    method, far = attr.LayerConductance(cnn, cnn[0]), 4 * picture
    score = (cnn(far) - cnn(0 * far))[:, 1].detach()
    fine = method.attribute(far, target=1, n_steps=50)
    for n_steps, most in ((8, 1e-5), (16, 1e-9), (32, 1e-12)):
        found = method.attribute(far, target=1, n_steps=n_steps)
        assert close(found, fine, most) and close(found.sum((1, 2, 3)), score, most), n_steps
    cells = method.attribute(far, target=1, n_steps=32, method="riemann_middle")
    assert not close(cells, fine, 1e-6) and close(cells, fine, 1e-3)


def test_conductance_with_kinks_is_as_exact_as_with_passes_at_the_ends_of_cells(picture: Tensor) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(640, 3)
    net, start, ratios = nn.Sequential(*layers).double(), 4 * picture - 2, []
    method = attr.LayerConductance(net, net[1])
    for n_steps in (13, 21, 34):
        edges = torch.tensor([0.0, *np.cumsum(quadrature("gausslegendre", n_steps).weights)]).double()
        x, b = start, start.flip(0)
        how: dict[str, Any] = {"baselines": b, "target": 1}
        fine = method.attribute(x, n_steps=1500, **how)
        cells = torch.zeros_like(fine)
        for k, node in enumerate(quadrature("gausslegendre", n_steps).nodes):
            grad = gradient(lambda y: net[2:](y)[:, 1], net[:2](b + node * (x - b)))
            cells += grad * (net[:2](b + edges[k + 1] * (x - b)) - net[:2](b + edges[k] * (x - b))).detach()
        ratios.append(float((method.attribute(x, n_steps=n_steps, **how) - fine).norm() / (cells - fine).norm()))
    assert np.mean(ratios) < 1.25, ratios


# -- Blur IG -------------------------------------------------------------------------------------------------------


def test_blur_is_a_normalised_gaussian_and_sharp_at_zero(picture: Tensor) -> None:
    sigma = torch.tensor([0.0, 2.0]).double()
    found = blurred(picture, sigma)
    assert close(found[0], picture[0])
    i, j = 3, 5
    w = torch.tensor([[np.exp(-((i - a) ** 2 + (j - b) ** 2) / 8) for b in range(14)] for a in range(12)]).double()
    assert close(found[1, :, i, j], (picture[1] * w / w.sum()).sum((1, 2)))
    assert close(blurred(torch.ones(1, 2, 5, 6).double(), sigma[1:]), torch.ones(1, 2, 5, 6).double())


def test_blur_ig_is_the_sum_over_its_cells(cnn: nn.Module, picture: Tensor) -> None:
    found = attr.BlurIG(cnn).attribute(picture, target=1, n_steps=6, max_sigma=3.0)
    expected = torch.zeros_like(picture)
    for n in range(2):
        at = lambda a, n=n: blurred(picture[n : n + 1], torch.tensor([3.0 * (1 - a)]).double())  # noqa: E731
        for k in range(6):
            g = gradient(lambda z: cnn(z)[:, 1], at((k + 0.5) / 6))
            expected[n] += (g * (at((k + 1) / 6) - at(k / 6)))[0]
    assert close(found, expected)
    fine = attr.BlurIG(cnn).attribute(picture, target=1, n_steps=200, max_sigma=3.0)
    start = blurred(picture, torch.full((2,), 3.0).double())
    assert close(fine.sum((1, 2, 3)), (cnn(picture) - cnn(start))[:, 1].detach(), 1e-4)


# -- IDGI, Guided IG -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["riemann_left", "riemann_middle"])
def test_idgi_is_the_papers_algorithm_and_complete_at_any_number_of_steps(
    net: Mlp, rows: tuple[Tensor, Tensor], rule: str
) -> None:
    x, b = rows
    found, delta = attr.IDGI(net).attribute(x, b, 2, n_steps=4, method=rule, return_convergence_delta=True)
    expected = torch.zeros_like(x)
    for n in range(3):
        for k in range(4):
            begin, end = (b[n] + j / 4 * (x[n] - b[n]) for j in (k, k + 1))
            node = begin if rule == "riemann_left" else (begin + end) / 2
            g = gradient(lambda z: net(z[None])[0, 2], node)
            change = net(end[None])[0, 2] - net(begin[None])[0, 2]
            expected[n] += g**2 * change.detach() / (g**2).sum()
    assert close(found, expected) and delta.abs().max() < 1e-12


def slow_guided(f: Any, x: Tensor, b: Tensor, n_steps: int, fraction: float, max_dist: float) -> Tensor:
    """One sample, feature by feature."""
    at, out, d = b.clone(), torch.zeros_like(x), len(x)
    length = sum(abs(x[i] - b[i]) for i in range(d))
    for k in range(n_steps):
        done = (k + 1) / n_steps
        g, before = gradient(f, at), at.clone()
        part = lambda i: (at[i] - b[i]) / (x[i] - b[i])  # noqa: E731
        low, high = max(0.0, done - max_dist), min(1.0, done + max_dist)
        for i in range(d):
            if part(i) < low:
                at[i] = b[i] + low * (x[i] - b[i])
        while True:
            left = sum(abs(x[i] - at[i]) for i in range(d)) - length * (1 - done)
            free = [i for i in range(d) if part(i) < high - 1e-12]
            if left <= 1e-9 * length or not free:
                break
            free.sort(key=lambda i: abs(float(g[i])))
            chosen = free[: max(1, int(np.ceil(fraction * len(free))))]
            room = sum(abs(b[i] + high * (x[i] - b[i]) - at[i]) for i in chosen)
            share = min(1.0, float(left / room))
            for i in chosen:
                at[i] = at[i] + share * (b[i] + high * (x[i] - b[i]) - at[i])
        out += g * (at - before)
    return out


@pytest.mark.parametrize(("fraction", "max_dist"), [(0.25, 0.1), (0.5, 1.0), (1.0, 0.02), (0.3, 0.0)])
def test_guided_ig_walks_as_the_paper_says(
    net: Mlp, rows: tuple[Tensor, Tensor], fraction: float, max_dist: float
) -> None:
    x, b = rows
    found = attr.GuidedIG(net).attribute(x, b, 0, n_steps=7, fraction=fraction, max_dist=max_dist)
    for n in range(3):
        assert close(found[n], slow_guided(lambda z: net(z[None])[0, 0], x[n], b[n], 7, fraction, max_dist), 1e-8)


def test_guided_ig_is_complete_in_the_limit_and_integrated_gradients_on_the_straight_path(
    net: Mlp, rows: tuple[Tensor, Tensor]
) -> None:
    x, b = rows
    _, delta = attr.GuidedIG(net).attribute(x, b, 1, n_steps=400, return_convergence_delta=True)
    assert delta.abs().max() < 0.02
    straight = attr.GuidedIG(net).attribute(x, b, 1, n_steps=10, max_dist=0.0)
    assert close(straight, attr.IntegratedGradients(net).attribute(x, b, 1, n_steps=10, method="riemann_left"), 1e-8)


# -- XRAI ----------------------------------------------------------------------------------------------------------


def test_xrai_ranks_regions_by_mean_attribution_of_black_and_white(cnn: nn.Module, picture: Tensor) -> None:
    labels = torch.arange(12)[:, None] // 4 * 2 + torch.arange(14) // 7
    found = attr.XRAI(cnn).attribute(picture, target=1, n_steps=8, segments=labels)
    low, high = (f(picture, (1, 2, 3), keepdim=True).expand_as(picture) for f in (torch.amin, torch.amax))
    ig = attr.IntegratedGradients(cnn)
    values = sum(ig.attribute(picture, start, 1, n_steps=8) for start in (low, high)).sum(1) / 2
    for n in range(2):
        for k in range(6):
            assert close(found[n, 0][labels == k], values[n][labels == k].mean().expand(28))


def test_overlapping_regions_are_taken_greedily() -> None:
    values = torch.tensor([[5.0, 5.0, 0.0, -1.0], [5.0, 5.0, 0.0, -1.0], [2.0, 2.0, 2.0, 2.0]]).repeat_interleave(3, 1)
    masks = torch.zeros(3, 3, 12, dtype=torch.bool)
    masks[0, :2, :6], masks[1, :2], masks[2, 1:] = True, True, True
    found = ranked(values, masks)
    assert bool((found[:2, :6] == 5).all())
    third = values[1:, 6:].sum() + values[2, :6].sum()
    assert close(found[2, 6:], (third / 18).expand(6), 1e-6)
    assert close(found[0, 6:], values[0, 6:].mean().expand(6), 1e-6)


def test_segments_come_from_scikit_image_and_grow(cnn: nn.Module) -> None:
    x = torch.zeros(1, 3, 40, 40).double()
    x[:, :, :, 20:] = 1
    net = nn.Sequential(nn.AvgPool2d(20), nn.Flatten(), nn.Linear(12, 2)).double()
    found = attr.XRAI(net).attribute(x, target=0, n_steps=2)
    assert found.shape == (1, 1, 40, 40) and len(found.unique()) <= 6
    one = regions((torch.arange(300) // 150).expand(2, 200, 300), grown=True)
    assert one.shape == (4, 200, 300) and int(one[0, 0].sum()) > 150


def test_missing_scikit_image_says_what_to_do(cnn: nn.Module, picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install scikit-image, or give segments="):
        attr.XRAI(cnn).attribute(picture, target=1, n_steps=2)
    with pytest.raises(InputError, match="do not fit pictures"):
        attr.XRAI(cnn).attribute(picture, target=1, segments=torch.zeros(3, 3, dtype=torch.long))
    with pytest.raises(InputTypeError, match="segments must be an integer tensor"):
        attr.XRAI(cnn).attribute(picture, target=1, segments=torch.zeros(12, 14))


# -- integrated Hessians -------------------------------------------------------------------------------------------


def test_interactions_of_a_product_are_known() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0], [1.0, -1.0, 2.0]]).double()
    found = attr.IntegratedHessians(lambda z: z[:, 0] * z[:, 1] + z[:, 2] ** 2).attribute(x, n_steps=40)
    product = x[:, 0] * x[:, 1]
    for n in range(2):
        expected = torch.diag(torch.tensor([0.0, 0.0, float(x[n, 2] ** 2)])).double()
        expected[:2, :2] = product[n] / 4
        assert close(found[n], expected, 1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_interactions_are_symmetric_and_their_rows_are_integrated_gradients(
    net: Mlp, rows: tuple[Tensor, Tensor], masked: bool
) -> None:
    x, b = rows
    mask = torch.tensor([[0, 1, 1, 0]]) if masked else None
    found = attr.IntegratedHessians(net).attribute(x, b, 1, n_steps=60, feature_mask=mask)
    assert close(found, found.transpose(1, 2))
    ig = attr.IntegratedGradients(net).attribute(x, b, 1, n_steps=60)
    if masked:
        ig = torch.stack([ig[:, [0, 3]].sum(1), ig[:, [1, 2]].sum(1)], 1)
    assert close(found.sum(2), ig, 2e-3)
    chunked = attr.IntegratedHessians(net).attribute(x, b, 1, n_steps=60, feature_mask=mask, internal_batch_size=7)
    assert close(chunked, found)


def test_interactions_agree_with_the_double_integral(net: Mlp, rows: tuple[Tensor, Tensor]) -> None:
    x, b = rows[0][:1], rows[1][:1]
    nodes, weights = np.polynomial.legendre.leggauss(30)
    total = torch.zeros(4, 4).double()
    for a, wa in zip((nodes + 1) / 2, weights / 2):
        for c, wc in zip((nodes + 1) / 2, weights / 2):
            at = b[0] + a * c * (x - b)[0]
            h = torch.autograd.functional.hessian(lambda z: net(z[None])[0, 1], at)
            total += wa * wc * (a * c * torch.outer((x - b)[0], (x - b)[0]) * h
                                + torch.diag((x - b)[0] * gradient(lambda z: net(z[None])[0, 1], at)))  # fmt: skip
    assert close(attr.IntegratedHessians(net).attribute(x, b, 1, n_steps=80)[0], total, 1e-3)


def test_relu_nets_need_softplus_and_many_features_a_mask() -> None:
    torch.manual_seed(0)
    net = Mlp(nn.ReLU()).double()
    x = torch.randn(2, 4).double()
    smooth = attr.IntegratedHessians(net).attribute(x, target=0, smooth=5.0)
    off = ~torch.eye(4, dtype=torch.bool)
    assert bool(smooth[:, off].any()) and not attr.IntegratedHessians(net).attribute(x, target=0)[:, off].any()
    with pytest.raises(InputError, match=r"There are 300 features.*feature_mask"):
        attr.IntegratedHessians(nn.Linear(300, 2)).attribute(torch.randn(1, 300), target=0)


# -- extremal perturbation -----------------------------------------------------------------------------------------


def test_extremal_perturbation_finds_the_square_that_counts() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)

    def model(z: Tensor) -> Tensor:  # contrast within a square
        square = z[:, :, 4:14, 16:26]
        return torch.stack([20 * square.var((2, 3)).sum(1), z.mean((1, 2, 3))], 1)

    keep = attr.ExtremalPerturbation(model).attribute(x, target=0, n_steps=150, areas=[0.12])
    lose = attr.ExtremalPerturbation(model).attribute(x, target=0, n_steps=150, areas=0.12, mode="delete")
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[4:14, 16:26] = True
    for mask in (keep, lose):
        assert mask.shape == (2, 1, 32, 32) and float(mask.min()) >= 0 and float(mask.max()) <= 1
        assert float(mask[:, 0, inside].mean()) > 0.6 > 0.2 > float(mask[:, 0, ~inside].mean())
    assert abs(float(keep.mean()) - 0.12) < 0.08
    alone = attr.ExtremalPerturbation(model).attribute(x[1:], target=0, n_steps=150, areas=[0.12])
    assert close(alone, keep[1:], 1e-4)


def test_masks_are_smooth_and_reach_where_values_are_one() -> None:
    values = torch.zeros(1, 1, 8, 8)
    values[0, 0, 4, 4] = 1
    mask = smooth_mask(values, (56, 56))[0, 0]
    assert float(mask[31, 31]) > 0.9 > float(mask[31, 45]) > float(mask[31, 55])
    assert float((mask[1:] - mask[:-1]).abs().max()) < 0.08


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"areas": (0.1, 1.5)}, "areas are parts of the picture"),
        ({"mode": "keep"}, "mode must be 'preserve' or 'delete'"),
    ],
)
def test_bad_arguments_are_refused(cnn: nn.Module, picture: Tensor, arguments: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        attr.ExtremalPerturbation(cnn).attribute(picture, target=0, **arguments)
    with pytest.raises(InputError, match="max_sigma is a standard deviation"):
        attr.BlurIG(cnn).attribute(picture, target=0, max_sigma=-1)
    with pytest.raises(InputError, match="fraction must be in"):
        attr.GuidedIG(cnn).attribute(picture, target=0, fraction=0)
    with pytest.raises(InputError, match="Extremal perturbation masks one input"):
        attr.ExtremalPerturbation(cnn).attribute(F.pad(picture, (0, 0))[:, :, 0], target=0)


# -- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_credit_in_place_is_credit(targets: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.core.tensors._AT_ONCE", 9)
    x, b = torch.randn(7, 2, 2).to(dtype), torch.randn(1, 2, 2).to(dtype).expand(7, 2, 2)
    grads = torch.randn(7 * targets, 2, 2).to(torch.float32 if dtype == torch.float16 else dtype)
    expected = credit((x - b).repeat_interleave(targets, 0), grads)
    assert torch.equal(credit_in_place(x, b, grads, targets), expected)


class Watching(nn.Module):
    """A small net that looks, at every pass, how many bytes of tensors there are."""

    def __init__(self, told: Callable[[int], None]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
        self.told = told

    def forward(self, x: Tensor) -> Tensor:
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects() if type(t) is Tensor and t.device.type == "cpu"}  # fmt: skip
        self.told(sum(held.values()))
        return self.net(x)


@pytest.mark.parametrize("what", ["images", "copies"])
def test_memory_is_flat(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.attr.ensembles.smoothing._GROUP_ELEMENTS", 100 * 3 * 25**2)
    gc.collect()
    gc.freeze()  # and stays so: tests/conftest.py thaws all at the end
    x = torch.rand(800, 3, 25, 25)
    how: dict[str, Any] = {"target": 0, "n_steps": 4, "internal_batch_size": 200, "progress": False}

    def most(count: int) -> int:
        found: list[int] = []
        ig = attr.IntegratedGradients(Watching(found.append).eval())
        if what == "images":
            ig.attribute(x[:count], **how)
        else:
            attr.NoiseTunnel(ig).attribute(x[:1], nt_samples=count, seed=0, **how)
        assert len(found) >= 4 * count // 200
        return max(found)

    few, many = most(200), most(800)
    # Of each image there are a private copy and the map.
    assert many - few < (2.1 * 600 * x[0].nbytes if what == "images" else 0.05 * few)

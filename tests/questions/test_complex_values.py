"""Complex inputs and values (MRI, radar, spectra): maps are real, and each element has its own share."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins import attr
from interp_plugins.core.errors import InputTypeError
from interp_plugins.viz.pixels import photo

Z = torch.randn(2, 1, 3, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


class Power(nn.Module):
    """The sum of |z|^2, of which each element's share is its own |z|^2."""

    def forward(self, z: Tensor) -> Tensor:
        return (z.abs() ** 2).sum((1, 2, 3))


SHARES: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 20},
    "idgi": {"n_steps": 400},
    "deep_lift": {},
    "deep_lift_shap": {"baselines": torch.zeros(2, 1, 3, 3, dtype=torch.complex128)},
    "gradient_shap": {"n_samples": 6, "antithetic": True},
    "feature_ablation": {},
    "kernel_shap": {"n_samples": 600},
    "shapley_value_sampling": {"n_samples": 2},
    "lrp": {},
}


@pytest.mark.parametrize("method", SHARES)
def test_each_element_has_its_own_power(method: str) -> None:
    rough = {"idgi": 1e-1, "gradient_shap": 1e-9, "kernel_shap": 1e-6}.get(method, 1e-9)
    a = ip.explain(Power(), Z, method, progress=False, **SHARES[method])[0].attribution
    assert a.dtype == torch.float64
    if method == "idgi":  # shares out by squared gradients: complete
        torch.testing.assert_close(a.sum((1, 2, 3)), Power()(Z), rtol=1e-4, atol=0)
    elif method == "gradient_shap":  # its places are drawn: two ends of a path cancel for a quadratic function
        torch.testing.assert_close(a.sum((1, 2, 3)), Power()(Z), rtol=rough, atol=0)
    else:
        torch.testing.assert_close(a, Z.abs() ** 2, rtol=rough, atol=rough)


def test_gradients_are_those_of_real_and_imaginary_parts() -> None:
    w = torch.randn(1, 1, 3, 3, dtype=torch.complex128)

    def score(z: Tensor) -> Tensor:
        return (w * z).real.sum((1, 2, 3)) + (z**3).imag.sum((1, 2, 3))

    def of_parts(parts: Tensor) -> Tensor:
        return score(torch.view_as_complex(parts))

    parts = torch.view_as_real(Z).contiguous()
    for method in ("ig", "input_x_gradient"):
        both = ip.explain(of_parts, parts, method)[0].attribution.sum(-1)
        torch.testing.assert_close(ip.explain(score, Z, method)[0].attribution, both)
    size = attr.Saliency(score).attribute(Z)
    assert not size.is_complex() and bool((size >= 0).all())


class Spectrum(nn.Module):
    """A network that looks at the spectrum of a series."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(9, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.rfft(x).abs())


def test_paths_and_rules_go_through_a_spectrum() -> None:
    x = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    base = torch.randn(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    net = Spectrum()
    change = net(x)[:, 1] - net(base)[:, 1]
    for method, options, near in (("ig", {"n_steps": 2000}, 1e-2), ("deep_lift", {}, 1e-9)):
        exp = ip.explain(net, x, method, target=1, baselines=base, **options)[0]
        torch.testing.assert_close(exp.attribution.sum(1), change.detach(), rtol=near, atol=near)


def test_no_class_is_looked_for_in_complex_outputs() -> None:
    x = torch.randn(2, 8)
    exp = ip.explain(lambda v: torch.fft.fft(v), x, "saliency", target=lambda o: o[:, 1].abs())[0]
    assert exp.prediction is None and exp.attribution.shape == (2, 8)


@pytest.mark.parametrize("method", ["blur_ig", "guided_ig", "xrai", "extremal_perturbation", "augmented"])
def test_methods_of_ordered_values_refuse_complex_ones_in_a_sentence(method: str) -> None:
    with pytest.raises(InputTypeError, match=r"needs real numbers, and inputs\[0\] is complex128.*view_as_real"):
        ip.explain(Power(), Z, method)


def test_noise_is_as_wide_as_the_parts() -> None:
    a = ip.explain(Power(), Z, "noise_tunnel", nt_samples=4)[0].attribution
    assert a.shape == Z.shape and bool(torch.isfinite(a).all())


def test_few_draws_are_off_by_the_delta_that_they_say() -> None:
    plain = {"antithetic": False, "n_samples": 5}  # of a square, twice the mean of five places
    exp = ip.explain(Power(), Z, "gradient_shap", **plain)[0]
    ratio = exp.attribution / Z.abs() ** 2
    torch.testing.assert_close(ratio, ratio.mean((1, 2, 3), keepdim=True).expand_as(ratio))
    assert bool(((ratio - 1).abs() < 5 * 2 / 12**0.5 / 5**0.5).all())  # five standard errors
    assert exp.convergence_delta is not None
    torch.testing.assert_close(exp.attribution.sum((1, 2, 3)) - Power()(Z), exp.convergence_delta)
    many = ip.explain(Power(), Z, "gradient_shap", **{**plain, "n_samples": 4000})[0]
    torch.testing.assert_close(many.attribution, Z.abs() ** 2, rtol=5 * 2 / 12**0.5 / 4000**0.5, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_pairs_of_explain_are_exact_for_a_square(seed: int) -> None:
    exp = ip.explain(Power(), Z, "gradient_shap", seed=seed)[0]
    torch.testing.assert_close(exp.attribution, Z.abs() ** 2)
    assert exp.meta["backward_passes"] == 6 * len(Z)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 2, 3, 8, 8), (2, 3, 32), (2, 6)], ids=str)
def test_pictures_show_the_magnitude(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    spec = ip.InputSpec({2: "tabular", 3: "series", 4: "image", 5: "volume"}[len(shape)])
    found = ip.explain(lambda v: (v.abs() ** 2).flatten(1).sum(1), z, "input_x_gradient", input_spec=spec)[0]
    real = dataclasses.replace(found, inputs=z.abs())
    assert found.to_html() and len(found.to_df())
    if found.spec.kind == "image":
        assert photo(found).note == ", ".join(filter(None, ("magnitude", photo(real).note)))
        assert (photo(found).rgb == photo(real).rgb).all()
    if found.spec.kind == "tabular":
        assert f"{z[0, 0].item():.3g}" in found.to_html()

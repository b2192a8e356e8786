"""Pictures as arrays: inputs made visible, maps laid over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp_plugins.core.errors import InputError
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import colour, pixels
from interp_plugins.viz.scale import ScaleRule

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_the_photograph_is_denormalised(make) -> None:
    spec = InputSpec(kind="image", **IMAGENET)
    raw = torch.rand(2, 3, 8, 8)
    photo = pixels.photo(make(inputs=spec.normalise(raw), size=(8, 8), spec=spec), 1)
    assert np.allclose(photo.rgb, raw[1].permute(1, 2, 0).numpy(), atol=1e-6) and photo.note == ""


def test_raw_values_are_clipped_to_the_value_range(make) -> None:
    spec = InputSpec(kind="image", mean=(0.0,), std=(1.0,), value_range=(0.0, 255.0))
    inputs = torch.tensor([-10.0, 0.0, 127.5, 300.0]).view(1, 1, 2, 2)
    photo = pixels.photo(make(1, 1, (2, 2), inputs=inputs, spec=spec))
    assert np.allclose(photo.rgb[..., 0], [[0, 0], [0.5, 1]])


def test_without_known_range_brightness_is_stretched_and_said(make) -> None:
    inputs = torch.linspace(-2, 2, 16).view(1, 1, 4, 4)
    photo = pixels.photo(make(1, 1, (4, 4), inputs=inputs))
    assert photo.rgb.min() == 0 and photo.rgb.max() == 1 and photo.note == "brightness stretched"


@pytest.mark.parametrize(
    ("channels", "note"), [(1, ""), (2, "mean of 2 channels"), (3, ""), (4, ""), (12, "mean of 12 channels")]
)
def test_any_number_of_channels_becomes_rgb(make, channels: int, note: str) -> None:
    photo = pixels.photo(make(channels=channels))
    assert photo.rgb.shape == (12, 16, 3) and photo.note == note
    if channels not in (3, 4):
        assert (photo.rgb[..., 0] == photo.rgb[..., 2]).all()


def test_transparent_pixels_are_white(make) -> None:
    inputs = torch.zeros(1, 4, 2, 2)
    inputs[:, 3, 0] = 1.0
    rgb = pixels.photo(make(1, 4, (2, 2), inputs=inputs)).rgb
    assert (rgb[0] == 0).all() and (rgb[1] == 1).all()


def test_constant_and_broken_inputs_can_be_looked_at(make) -> None:
    assert np.isfinite(pixels.photo(make(1, inputs=torch.full((1, 3, 12, 16), 7.0))).rgb).all()
    assert np.isfinite(pixels.photo(make(1, inputs=torch.full((1, 3, 12, 16), float("nan")))).rgb).all()


def test_wrong_normalisation_is_an_error_with_a_way_out(make) -> None:
    with pytest.raises(InputError, match="Give mean and std"):
        pixels.photo(make(channels=4, spec=InputSpec(kind="image", **IMAGENET)))


@pytest.fixture
def parts() -> tuple[np.ndarray, np.ndarray]:
    """A photograph (2, 2, 3) and a map with +, -, 0 and half strength."""
    return np.full((2, 2, 3), 0.8), np.array([[2.0, -2.0], [0.0, 1.0]])


def test_overlay_leaves_zero_untouched_and_colours_the_rest(parts) -> None:
    rgb, values = parts
    picture = pixels.overlay(rgb, values, ScaleRule("max").fit(values))
    assert np.allclose(picture[1, 0], pixels.faint(rgb)[1, 0])
    assert picture[0, 0, 0] > picture[0, 0, 2] and picture[0, 1, 2] > picture[0, 1, 0]


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in CIE L*a*b* (D65): distances there are near to what an eye sees."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("signed", [True, False])
def test_equal_attributions_look_nearly_equal_over_black_over_white_and_in_the_bar(signed: bool) -> None:
    values = np.linspace(-1 if signed else 0, 1, 101)[None]
    scale = ScaleRule("max").fit(values)
    black, white = (lab(pixels.overlay(np.full((1, 101, 3), level), values, scale)) for level in (0.0, 1.0))
    bar = (
        lab(scale.rgb(values, cmap=pixels.overlay_colours(scale)))
        if not signed
        else lab(np.asarray(pixels.overlay_colours(scale)((values + 1) / 2))[..., :3])
    )
    apart = np.linalg.norm(black - white, axis=-1)
    assert apart.max() < 17 and apart[np.abs(values) > 0.2].max() < 12 and apart[np.abs(values) > 0.9].max() < 3
    for ground in (black, white):
        assert np.linalg.norm(ground - bar, axis=-1).max() < 9
    zero, full = (np.linalg.norm(black[0, k] - black[0, -1]) for k in (np.abs(values[0]).argmin(), -1))
    assert zero > 50 and full == 0  # what is attributed is far from what is not


def test_masked_is_the_photograph_times_strength(parts) -> None:
    rgb, values = parts
    picture = pixels.masked(rgb, values, ScaleRule("max").fit(values))
    assert np.allclose(picture[..., 0], [[0.8, 0.8], [0.0, 0.4]])


def test_alpha_fades_to_white(parts) -> None:
    rgb, values = parts
    picture = pixels.alpha(rgb, values, ScaleRule("max").fit(values))
    assert np.allclose(picture[..., 0], [[0.8, 0.8], [1.0, 0.9]])


def test_positive_and_negative_split_the_map_on_one_scale(parts) -> None:
    rgb, values = parts
    scale = ScaleRule("max").fit(values)
    plus, minus = pixels.positive(rgb, values, scale), pixels.negative(rgb, values, scale)
    assert np.allclose(plus[0, 1], 1) and np.allclose(minus[0, 0], 1)
    assert np.allclose(plus[0, 0], colour.POSITIVE(1.0)[:3]) and np.allclose(minus[0, 1], colour.NEGATIVE(0.0)[:3])
    assert not np.allclose(plus[1, 1], plus[0, 0])


@pytest.mark.parametrize("draw", [pixels.overlay, pixels.heatmap, pixels.masked, pixels.positive, pixels.negative])
def test_a_zero_map_draws_as_zero(parts, draw) -> None:
    rgb, zeros = parts[0], np.zeros((2, 2))
    picture = draw(rgb, zeros, ScaleRule().fit(zeros))
    ground = {pixels.overlay: pixels.faint(rgb), pixels.masked: 0.0}.get(draw, 1.0)
    assert np.allclose(picture, ground, atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (40, 30)])
def test_smoothing_keeps_constants_and_shapes(shape: tuple[int, int]) -> None:
    assert np.allclose(pixels.smooth(np.full(shape, 3.0)), 3.0)
    assert pixels.smooth(np.random.default_rng(0).normal(size=shape)).shape == shape

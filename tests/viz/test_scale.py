"""The scale of a map: closed forms, zeros, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.viz import colour
from interp_plugins.viz.scale import Scale, ScaleRule, ordinal


def ramp() -> np.ndarray:
    """Values -50 ... 50, so that percentile q of |values| is known."""
    return np.linspace(-50, 50, 101)


@pytest.mark.parametrize(
    ("rule", "limit", "clips"),
    [
        (ScaleRule("max"), 50.0, False),
        (ScaleRule("percentile", 100), 50.0, False),
        (ScaleRule("percentile", 50), 25.0, True),
        (ScaleRule("none"), 1.0, True),
        (ScaleRule(200.0), 200.0, False),
    ],
)
def test_limit_has_a_closed_form(rule: ScaleRule, limit: float, clips: bool) -> None:
    scale = rule.fit(ramp())
    assert scale.limit == limit and scale.clips is clips
    assert np.allclose(scale.unit(ramp()), np.clip(ramp() / limit, -1, 1))


def test_sign_decides_range_and_colours() -> None:
    signed, unsigned = ScaleRule("max").fit(np.array([-2.0, 1.0])), ScaleRule("max").fit(np.array([0.0, 4.0]))
    assert signed.signed and signed.cmap is colour.DIVERGING
    assert not unsigned.signed and unsigned.cmap is colour.SEQUENTIAL
    assert signed.mappable().get_clim() == (-2.0, 2.0)
    assert unsigned.mappable().get_clim() == (0.0, 4.0)
    assert ScaleRule("max").fit(np.array([0.0, 4.0]), signed=True).mappable().get_clim() == (-4.0, 4.0)


def test_zero_is_white_in_both_kinds_of_colours() -> None:
    for values in (np.array([-1.0, 0.0, 1.0]), np.array([0.0, 1.0])):
        scale = ScaleRule("max").fit(values)
        assert np.allclose(scale.rgb(np.zeros(1)), 1.0, atol=0.01)


def test_diverging_colours_grow_darker_evenly_on_both_sides() -> None:
    rgb = colour.DIVERGING(np.linspace(0, 1, 101))[:, :3]
    brightness = rgb @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness[:51]) > 0).all() and (np.diff(brightness[51:]) < 0).all()


@pytest.mark.parametrize("normalize", ["percentile", "max", "none"])
def test_a_map_of_zeros_stays_zero(normalize: str) -> None:
    scale = ScaleRule(normalize).fit(np.zeros((3, 4)))
    assert scale.limit == 0 and "zero everywhere" in scale.label
    assert (scale.unit(np.zeros((3, 4))) == 0).all()
    assert scale.mappable().get_clim() == (0.0, 1.0)


def test_a_sparse_map_falls_back_to_its_largest_value_and_says_so() -> None:
    values = np.zeros(1000)
    values[0] = 3.0
    scale = ScaleRule("percentile", 99).fit(values)
    assert scale.limit == 3.0 and not scale.clips and "99th percentile is 0" in scale.label


def test_tiny_and_huge_values_are_drawn_like_others() -> None:
    for factor in (1e-300, 1e300):
        unit = ScaleRule("max").fit(ramp() * factor / 50).unit(ramp() * factor / 50)
        assert np.allclose(unit, ramp() / 50)


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "1 NaN and 0 inf"), (np.inf, "0 NaN and 1 inf")])
def test_nan_and_infinity_are_refused_with_their_number(bad: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ScaleRule().fit(np.array([1.0, bad]))


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'percentile'"):
        ScaleRule("percentil")
    for bad in (0, -1.0, float("nan"), float("inf"), True):
        with pytest.raises(InputError, match="positive number"):
            ScaleRule(bad)
    for bad in (0, 101, float("nan")):
        with pytest.raises(InputError, match="percentile"):
            ScaleRule(percentile=bad)


def test_label_states_the_clip_limit() -> None:
    assert ScaleRule().fit(ramp()).label == "attribution, clipped at the 99th percentile"
    assert ScaleRule("none").fit(ramp()).label == "attribution, not normalised, clipped at ±1"
    assert ScaleRule(0.5).fit(np.ones(2)).label == "attribution, clipped at 0.5"


def test_ordinals() -> None:
    assert [ordinal(n) for n in (99, 91, 92, 93, 11, 12, 99.5, 100)] == [
        "99th", "91st", "92nd", "93rd", "11th", "12th", "99.5th", "100th",
    ]  # fmt: skip


def test_strength_forgets_the_sign() -> None:
    assert np.allclose(Scale(2.0, True, True, "").strength(np.array([-4.0, -1.0, 0.0, 1.0])), [1, 0.5, 0, 0.5])

"""Series, volumes, many channels, texts of other scripts: what is recognised, and what is drawn where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import show
from interp_plugins.viz.renderer import attribution_renderer, fit_scale
from interp_plugins.viz.scale import ScaleRule
from interp_plugins.viz.text import columns_of, runs_left
from interp_plugins.viz.volume import slices


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((2, 3, 8, 8), "image"),
        ((2, 7, 8, 8), "image"),
        ((2, 1, 4, 8, 8), "volume"),
        ((2, 3, 24), "series"),
        ((2, 24, 3), "sequence"),
        ((2, 5), "tabular"),
        ((2, 8, 8, 3), "image"),
        ((2, 7, 5, 3), "generic"),
        ((2, 7, 3, 8, 8), "clip"),
        ((2, 7, 1, 1), "generic"),
        ((2,), "generic"),
    ],
)
def test_the_kind_is_recognised_from_the_shape(shape: tuple[int, ...], kind: str) -> None:
    assert InputSpec.guess(torch.zeros(shape)).kind == kind


def test_pictures_of_many_channels_have_the_range_of_their_data() -> None:
    x = torch.linspace(-5, 9, 2 * 7 * 8 * 8).view(2, 7, 8, 8)
    assert InputSpec.guess(x).value_range == (-5.0, 9.0)
    assert InputSpec.guess(x, mean=(0.5,) * 7, std=(1.0,) * 7).value_range == (0.0, 1.0)


def explained(x: torch.Tensor, a: torch.Tensor, kind: str, **fields: object) -> Explanation:
    return Explanation(a, x, "ig", title="IG", spec=InputSpec(kind=kind, **fields))


# -- series --------------------------------------------------------------------------------------------------------


def test_both_layouts_of_a_series_are_one_picture() -> None:
    x, a = torch.rand(1, 2, 9), torch.zeros(1, 2, 9)
    a[0, 1, 4] = -2.0
    for exp in (
        explained(x, a, "series", feature_names=("up", "down")),
        explained(x.mT, a.mT, "sequence", feature_names=("up", "down")),
    ):
        ax = exp.show()
        assert [t.get_text() for t in ax.get_yticklabels()] == ["up", "down"]
        lines = [c for c in ax.collections if isinstance(c, LineCollection)]
        assert len(lines) == 2 and len(lines[0].get_segments()) == 16
        widths = [np.asarray(line.get_linewidth()) for line in lines]
        assert (widths[0] == 0.6).all() and (widths[1] > 3).sum() == 2  # the two halves around step 4
        strong, zero = lines[1].get_colors()[7][:3], lines[1].get_colors()[0][:3]
        assert strong[2] > strong[0] and np.allclose(zero, 1, atol=0.01)  # blue, white


def test_bands_and_the_matrix_show_every_step() -> None:
    exp = explained(torch.rand(1, 2, 9), torch.randn(1, 2, 9), "series")
    bands = [c for c in exp.show(kind="band").collections if isinstance(c, PolyCollection)]
    assert [len(c.get_paths()) for c in bands] == [9, 9]
    assert exp.show(kind="heatmap").images[0].get_array().shape[:2] == (2, 9)


def test_the_strongest_channels_are_chosen_and_the_rest_counted() -> None:
    a = torch.zeros(1, 12, 20)
    a[0, 3:11] = torch.arange(8)[:, None] + 1.0
    ax = explained(torch.rand(1, 12, 20), a, "series").show()
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"channel {c}" for c in range(3, 11)]
    assert "the 8 strongest of 12 channels" in ax.get_title()


def test_a_layer_of_a_series_is_stretched_over_its_time() -> None:
    a = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])
    exp = replace(explained(torch.rand(2, 3, 8), a, "series"), layer="conv")
    values = attribution_renderer(exp).values(exp, 0)
    assert values.shape == (1, 8) and np.allclose(values[0], [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4])
    exp.show()
    exp.show(kind="heatmap")


def test_series_are_shown_in_raw_units_and_one_step_is_a_dot() -> None:
    exp = explained(torch.ones(1, 2, 1), torch.ones(1, 2, 1), "series", mean=(1.0, 2.0), std=(2.0, 4.0))
    ax = exp.show()
    assert len(ax.collections) == 2
    assert attribution_renderer(exp)._signal(exp, 0).tolist() == [[3.0], [6.0]]  # type: ignore[attr-defined]


# -- volumes -------------------------------------------------------------------------------------------------------


def test_volumes_are_slices_and_planes_through_the_strongest_voxel() -> None:
    x, a = torch.rand(1, 1, 16, 6, 5), torch.zeros(1, 1, 16, 6, 5)
    a[0, 0, 9, 2, 3] = -1.0
    exp = explained(x, a, "volume")
    ax = exp.show()
    assert [t.get_text() for t in ax.texts] == [f"z = {z}" for z in (1, 3, 5, 7, 9, 11, 13, 15)]
    assert "strongest at z = 9, y = 2, x = 3" in ax.get_title()
    ax = exp.show(kind="planes")
    assert [t.get_text() for t in ax.texts] == ["z = 9", "y = 2", "x = 3"]
    board = np.asarray(ax.images[0].get_array())
    blue = (board[..., 2] - board[..., 0]) > 0.2
    assert blue.sum() == 3  # the voxel, in each of the planes
    assert not (np.ptp(np.asarray(explained(x, a * 0, "volume").show().images[0].get_array()), axis=2) > 1e-9).any()


def test_a_layer_of_a_volume_is_enlarged() -> None:
    exp = replace(explained(torch.rand(1, 2, 8, 6, 6), torch.rand(1, 4, 2, 3, 3), "volume"), layer="conv")
    assert attribution_renderer(exp).values(exp, 0).shape == (8, 6, 6)
    assert exp.show(kind="heatmap").images


def test_slices_are_all_or_evenly_spaced() -> None:
    assert slices(5) == [0, 1, 2, 3, 4] and slices(8) == list(range(8)) and slices(80) == list(range(5, 80, 10))


# -- channels ------------------------------------------------------------------------------------------------------


def test_channels_side_by_side_show_what_cancels(make) -> None:
    a = torch.zeros(1, 3, 12, 16)
    a[0, 0], a[0, 1] = 1.0, -1.0
    exp = make(1, attributions=a)
    assert not exp.heatmap().any()
    ax = make(1, attributions=a + torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1)).show(kind="channels")
    assert [t.get_text() for t in ax.texts] == ["channel 0", "channel 1", "channel 2"]
    many = make(1, channels=20)
    assert "the 12 strongest of 20 channels" in many.show(kind="channels").get_title()
    assert "mean of 20 channels" in many.plot().axes[0, 0].get_xlabel()


# -- text ----------------------------------------------------------------------------------------------------------


def written(ax) -> list[tuple[str, float]]:
    return [(t.get_text(), t.get_position()[0]) for t in ax.texts]


def test_texts_run_the_way_their_script_does() -> None:
    left, right = [["[CLS]", "un", "##kind", "word"]], [["זה", "סרט", "##ים", "טוב"]]
    assert not runs_left(left[0]) and runs_left(right[0]) and not runs_left(["1", "?"])
    ids, a = torch.zeros(1, 4, dtype=torch.long), torch.arange(4.0)[None]
    exp = Explanation(a, ids, "ig").annotated(tokens=left)
    places = written(exp.show())
    assert [t for t, _ in places] == ["[CLS]", "un", "kind", "word"]
    assert [x for _, x in places] == [0, 6, 8, 13]  # pieces of a word stand together
    backward = written(exp.annotated(tokens=right).show())
    assert [x for _, x in backward] == [50, 46, 44, 40]
    assert 'dir="rtl"' in exp.annotated(tokens=right).to_html() and 'dir="auto"' in exp.to_html()


def test_wide_letters_take_two_columns_and_marks_none() -> None:
    assert columns_of("abc") == 3 and columns_of("这部") == 4 and columns_of("e\u0301") == 1


def test_features_of_a_token_are_added_up() -> None:
    a = torch.tensor([[[1.0, 2.0], [3.0, -3.0], [9.0, 9.0]]])
    ids = torch.zeros(1, 3, dtype=torch.long)
    exp = replace(Explanation(a, ids, "ig", layer="encoder"), spec=InputSpec("text")).annotated(tokens=[["a", "b"]])
    assert attribution_renderer(exp).values(exp, 0).tolist() == [3.0, 0.0]
    embedded = replace(exp, inputs=torch.rand(1, 3, 2), layer=None)
    assert attribution_renderer(embedded).name == "text"


# -- what the user says --------------------------------------------------------------------------------------------


def test_annotated_tells_what_only_the_user_knows() -> None:
    exp = Explanation(torch.rand(2, 3), torch.rand(2, 3), "ig")
    told = exp.annotated(kind="tabular", feature_names=["a", "b", "c"], names=["x", "y"], values=[("u", 1, 2.5)] * 2)
    assert told.feature_names == ("a", "b", "c") and told.names == ("x", "y") and exp.names is None
    assert "a = u" in [t.get_text() for t in told.show().get_yticklabels()]
    assert Explanations([exp]).annotated(kind="tabular")[0].spec.kind == "tabular"
    with pytest.raises(InputError, match="names has 1 entries for 2 samples"):
        exp.annotated(names=["x"])
    with pytest.raises(InputError, match="A text has 4 tokens, but the input has 3 positions"):
        exp.annotated(tokens=[list("abcd"), list("abc")])
    with pytest.raises(UnknownNameError, match=r"Unknown fact 'token'.*Did you mean 'tokens'"):
        exp.annotated(token=[[]])


@pytest.mark.parametrize("normalize", ["none", "max", "percentile", 2.5])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("image", (1, 3, 6, 6)), ("series", (1, 2, 8)), ("volume", (1, 1, 3, 6, 6)), ("tabular", (1, 4))],
)
def test_maps_of_zeros_are_drawn_as_zero_by_every_rule(normalize: str, kind: str, shape: tuple[int, ...]) -> None:
    exp = explained(torch.rand(shape), torch.zeros(shape), kind)
    scale = fit_scale(exp, 0, ScaleRule(normalize))
    assert scale.limit == 0 and not scale.unit(np.ones(3)).any()
    show(exp, normalize=normalize).figure.draw_without_rendering()

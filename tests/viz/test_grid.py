"""Grids of samples and methods."""

from __future__ import annotations

import itertools

import pytest
import torch
from matplotlib.figure import Figure

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import plot, show_grid


def many(make, n: int, methods: int) -> Explanations:
    """Explanations of n samples by several methods, with long names and labels."""
    labels = tuple(f"soft-coated wheaten terrier number {i}" for i in range(n))
    names = tuple(f"images/validation/a_long_file_name_{i:06d}.jpeg" for i in range(n))
    known = {"target_label": labels, "prediction_label": labels, "names": names}
    return Explanations([make(n, title=f"A method of a long name {m}", **known) for m in range(methods)])


def test_a_row_per_sample_and_a_column_per_method(make) -> None:
    fig, axes = Explanations([make(3), make(3, title="Occlusion")]).plot()
    assert isinstance(fig, Figure) and axes.shape == (3, 3)
    assert [ax.get_title() for ax in axes[0]] == ["Input", "Integrated Gradients", "Occlusion"]
    assert axes[0, 0].get_xlabel() == "predicted: label 0 (p = 0.39)"
    assert axes[2, 1].get_xlabel() == "label 2 (p = 0.39)\ncompleteness error 0.4 %"
    assert "99th percentile" in fig.get_supxlabel()


@pytest.mark.parametrize(("n", "methods"), [(1, 1), (2, 3), (1, 6), (4, 1)])
def test_nothing_overlaps(make, n: int, methods: int) -> None:
    fig, axes = plot(many(make, n, methods))
    fig.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in axes.flat]
    boxes.append(fig._supxlabel.get_window_extent())
    for one, other in itertools.combinations(boxes, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert width < 1 or height < 1
    assert all(box.x0 > -1 and box.x1 < fig.bbox.width + 1 for box in boxes)


def test_a_heading_of_two_lines_has_room(make) -> None:
    fig, axes = Explanations([make(1, size=(16, 16), title="Grad-CAM", layer="a.layer.with.a.long.name")]).plot()
    fig.set_dpi(70)  # as in many a notebook
    fig.draw_without_rendering()
    assert "\n" in axes[0, 1].get_title()
    assert all(ax.get_tightbbox().y1 <= fig.bbox.height for ax in axes.flat)


def test_more_samples_than_max_n_are_counted_not_drawn(make) -> None:
    fig, axes = plot([make(12)], max_n=2)
    assert axes.shape == (2, 2) and "2 of 12 samples are shown" in fig.get_supxlabel()
    with pytest.raises(InputError, match="at least 1"):
        plot([make(1)], max_n=0)


def test_explanations_of_different_lengths_leave_blanks(make) -> None:
    _, axes = plot([make(1), make(2)])
    assert axes[0, 1].images and not axes[1, 1].images and axes[1, 2].images and axes[1, 0].images


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        plot([])


def test_footnote_tells_what_colours_mean(make) -> None:
    a = make(1).attribution
    notes = [plot([make(1, attributions=t)], normalize="max").fig.get_supxlabel() for t in (a, a.abs())]
    assert "Orange raises" in notes[0] and "Purple" not in notes[0]
    assert "Purple" in notes[1] and "range raises" not in notes[1]
    assert all("largest value" in note for note in notes)
    assert "whatever its sign" in plot([make(1)], kind="masked").fig.get_supxlabel()


def test_axes_given_are_used(make) -> None:
    axes = Figure().subplots(2, 2)
    fig, used = plot([make(2)], ax=axes)
    assert (used == axes).all() and fig is axes[0, 0].figure
    with pytest.raises(InputError, match=r"holds 4 axes.*need 6"):
        plot([make(3)], ax=axes)


def test_a_subfigure_or_one_axis_can_be_given(make) -> None:
    figure = Figure(layout="constrained", figsize=(8, 3))
    left, right = figure.subfigures(1, 2)
    assert plot([make(1)], ax=left).fig is left
    ax = right.subplots()
    assert plot([make(1)], ax=ax).axes[0, 0] is ax and ax.images
    with pytest.raises(InputError, match="ax is one axis"):
        plot([make(2)], ax=ax)
    figure.draw_without_rendering()


def test_a_grid_is_a_picture_in_notebooks(make) -> None:
    assert plot([make(1)])._repr_png_().startswith(b"\x89PNG")


def test_show_returns_axes(make) -> None:
    assert Explanations([make(2)]).show().shape == (2, 2)
    axes = Figure().subplots(1, 2)
    assert (show_grid([make(1)], ctx=axes)[0] == axes).all()


def test_other_data_are_drawn_by_the_same_call(make) -> None:
    x = torch.randn(2, 5)
    exp = Explanation(attributions=x, inputs=x, method="ablation", spec=InputSpec(kind="tabular"))
    fig, axes = exp.plot()
    assert axes.shape == (2, 2) and "percentile" not in fig.get_supxlabel()


def test_unknown_names_are_found_before_drawing(make) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'overlay'"):
        plot([make(1)], kind="overlya")

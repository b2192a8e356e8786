"""A model with several inputs: each is drawn in its own way, and its share is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.explanation import Explanations as Exps
from interp_plugins.core.spec import InputSpec
from interp_plugins.viz import input_shares, show
from interp_plugins.viz.inputs import apart, by_input

SPEC = InputSpec("image", name="picture", others=(InputSpec("text", name="question"),))


def both(n: int = 2, picture: float = 0.25, question: float = -1.0) -> Explanation:
    """n samples: a picture of 4 x 4 and a question of 3 words; |attribution| 12 and 3 per sample."""
    maps = (torch.full((n, 3, 4, 4), picture), torch.full((n, 3), question))
    xs = (torch.rand(n, 3, 4, 4), torch.zeros(n, 3, dtype=torch.long))
    known = {"target_label": ("yes",) * n, "probability": torch.full((n,), 0.5), "spec": SPEC}
    return Explanation(maps, xs, "ig", title="IG", **known).annotated(tokens=[["is", "it", "<b>"]] * n)


def test_each_input_has_its_kind_name_and_share() -> None:
    picture, question = by_input(both())
    assert (picture.exp.spec.kind, question.exp.spec.kind) == ("image", "text")
    assert (picture.name, question.name) == ("picture", "question")
    assert picture.exp.tokens is None and question.exp.tokens is not None
    assert np.allclose(picture.shares, 0.8) and np.allclose(question.shares, 0.2)
    assert np.allclose(picture.sums, 12) and np.allclose(question.sums, -3)


def test_without_a_spec_further_inputs_are_guessed() -> None:
    exp = Explanation((torch.rand(2, 5), torch.rand(2, 3, 9)), (torch.rand(2, 5), torch.rand(2, 3, 9)), "ig")
    assert [part.name for part in by_input(exp)] == ["input 1", "input 2"]
    assert [part.exp.spec.kind for part in by_input(exp)] == ["generic", "series"]
    exp.plot()


def test_a_pair_of_pictures_is_one_picture_unless_it_is_taken_apart() -> None:
    maps = (torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 4, 4), -0.75))
    exp = Explanation(maps, (torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)), "ig", spec=InputSpec("image"))
    assert [part.name for part in by_input(exp)] == [""]
    left, right = apart(exp, names=["left"])
    assert (left.name, right.name) == ("left", "input 2")
    assert (left.shares[0], right.shares[0]) == (0.25, 0.75) and right.exp.attributions is maps[1]


def test_a_grid_has_a_row_per_input() -> None:
    drawn = Exps([both(), both()]).plot()
    assert drawn.axes.shape == (4, 3)
    assert [ax.get_xlabel().split("\n")[0] for ax in drawn.axes[:2, 1]] == [
        "picture: 80 % of |attribution|",
        "question: 20 % of |attribution|",
    ]
    assert drawn.axes[1, 0].get_xlabel() == "question"
    drawn.fig.draw_without_rendering()
    with pytest.raises(InputError, match="ax is one axis"):
        both(1).plot(ax=drawn.axes[0, 0])


def test_the_sign_is_that_of_the_method_for_every_input() -> None:
    ax = show(both(), kind="heatmap")
    assert ax.child_axes[0].get_ylim()[0] < 0  # the picture's own map is positive


def test_show_takes_one_input_by_number_or_name() -> None:
    assert show(both()).images and "picture: 80 %" in show(both()).get_title()
    ax = show(both(), input="question")
    assert [t.get_text() for t in ax.texts] == ["is", "it", "<b>"]
    with pytest.raises(UnknownNameError, match=r"Unknown input 'questio'\. Did you mean 'question'"):
        show(both(), input="questio")
    with pytest.raises(InputError, match="Input 2 asked for, but the explanation has maps of 2"):
        show(both(), input=2)


def test_shares_are_stacked_with_their_signed_sums_and_the_mean() -> None:
    fig, axes = input_shares(both())
    (ax,) = axes.ravel()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["sample 1: yes", "sample 2: yes", "mean of 2"]
    widths = [[bar.get_width() for bar in group] for group in ax.containers]
    assert np.allclose(widths, [[0.8] * 3, [0.2] * 3])
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["80 % (+12)", "80 % (+12)", "80 %", "20 %", "20 %", "20 %"]
    fig.draw_without_rendering()


def test_attributions_of_zero_have_no_shares() -> None:
    exp = both(2, 0.0, 0.0)
    assert np.isnan(by_input(exp)[0].shares).all()
    (ax,) = exp.plot(kind="shares").axes.ravel()
    assert [t.get_text() for t in ax.texts] == ["zero everywhere"] * 3
    exp.plot().fig.draw_without_rendering()


def test_one_input_has_no_shares_to_draw() -> None:
    with pytest.raises(InputError, match="'shares' cannot be drawn: it needs attributions of several inputs"):
        Explanation(torch.rand(2, 4), torch.rand(2, 4), "ig").plot(kind="shares")


def test_pages_and_notebooks_show_all_inputs_escaped() -> None:
    page = both().to_html(title="two & two")
    assert "question: 20 % of |attribution|" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "How much of the attribution lies in each input" in page and "two &amp; two" in page
    assert page.count("<img") == 1 + 2 + 4  # the shares; two pictures; two kinds of each map
    fragment = both()._repr_html_()
    assert fragment is not None and "question: 20 % of |attribution|" in fragment and "&lt;b&gt;" in fragment


def test_specs_of_several_inputs_are_saved(tmp_path) -> None:
    found = Explanation.load(both().save(tmp_path / "both.safetensors"))
    assert found.spec == both().spec and found.spec.others[0].name == "question"

"""Masks in all forms lie where they should; what does not fit is refused with advice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation
from interp_plugins.core.spec import InputSpec
from interp_plugins.metrics import relevance_mass
from interp_plugins.metrics.masks import marked


def picture(n: int = 2) -> torch.Tensor:
    return torch.arange(n * 3 * 4 * 6).reshape(n, 3, 4, 6).float() + 1


MASK = torch.zeros(2, 4, 6, dtype=torch.bool)
MASK[:, 1:3, 2:5] = True
SAME = [
    MASK,
    MASK[:, None],
    MASK.int(),
    MASK.float(),
    MASK.numpy(),
    list(MASK),
    list(MASK.numpy()),
    [(2, 1, 5, 3)] * 2,
    [[(2, 1, 5, 2), (2, 2, 5, 3)], (2.2, 0.9, 5.0, 3.1)],
]


@pytest.mark.parametrize("mask", SAME, ids=[str(i) for i in range(len(SAME))])
@pytest.mark.parametrize("summed", [False, True])
def test_every_form_of_a_mask_says_the_same(mask, summed: bool) -> None:
    maps = picture().sum(1, keepdim=True) if summed else picture()
    found = marked(maps, mask)
    assert found.space == (4, 6) and torch.equal(found.inside, MASK.flatten(1))
    torch.testing.assert_close(found.values, picture().double().sum(1).flatten(1))


@pytest.mark.parametrize("reduce", ["sum", "abs_sum", "max_abs", "l2"])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_channels_become_one_value(reduce: str, channels: int) -> None:
    maps = torch.randn(2, channels, 4, 6).double()
    by_hand = {"sum": maps.sum(1), "abs_sum": maps.abs().sum(1), "max_abs": maps.abs().amax(1), "l2": maps.norm(dim=1)}
    torch.testing.assert_close(marked(maps, MASK, reduce).values, by_hand[reduce].flatten(1))


def test_element_by_element_the_mask_is_repeated() -> None:
    found = marked(picture(), MASK, None)
    assert found.inside.shape == (2, 72) and found.inside.sum(1).tolist() == [18, 18]
    assert torch.equal(marked(picture(), MASK[:, None].expand(2, 3, 4, 6)).inside, found.inside)


def test_texts_series_and_tables() -> None:
    tokens = torch.randn(2, 5, 8)
    ids = torch.ones(2, 5, dtype=torch.long)
    text = Explanation(tokens, ids, "m", spec=InputSpec("text"))
    for mask in ([(1, 3), [(0, 1), (4, 5)]], torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])):
        found = marked(text, mask)
        assert found.space == (5,) and found.inside.int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
        torch.testing.assert_close(found.values, tokens.double().sum(2))
    series = marked(torch.randn(2, 3, 7), [(2, 4), (0, 1)])
    assert series.space == (7,) and series.sizes.tolist() == [2, 1]
    late = Explanation(torch.randn(2, 7, 3), torch.randn(2, 7, 3), "m", spec=InputSpec("sequence"))
    assert torch.equal(marked(late, [(2, 4), (0, 1)]).inside, series.inside)
    table = Explanation(
        torch.ones(2, 3), torch.ones(2, 3), "m", spec=InputSpec("tabular", feature_names=("a", "b", "c"))
    )
    assert marked(table, [{"a", "c"}, "b"]).inside.int().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert marked(table, "c").sizes.tolist() == [1, 1]
    with pytest.raises(UnknownNameError, match="Unknown column 'd'"):
        marked(table, "d")


def test_a_box_in_a_volume_is_refused_with_the_reason() -> None:
    volume = torch.randn(1, 1, 4, 5, 6)
    for box in ((0, 0, 0, 2, 2, 2), (0, 0, 2, 2)):
        with pytest.raises(InputError, match=r"in volumes and clips.*Give a mask, True in mask\[:, d0:d1"):
            marked(volume, [box])
    mask = torch.zeros(1, 4, 5, 6)
    mask[:, :2, 1:3, 2:4] = 1
    assert int(marked(volume, mask).inside.sum()) == 8


def test_a_region_and_the_map_of_a_layer() -> None:
    inputs, coarse = torch.randn(2, 3, 4, 6), torch.rand(2, 5, 2, 3)
    exp = Explanation(coarse, inputs, "m", layer="body", region=MASK, spec=InputSpec("image"))
    found = marked(exp)
    assert found.space == (4, 6) and torch.equal(found.inside, MASK.flatten(1))
    expected = torch.from_numpy(np.stack([exp.heatmap(i) for i in range(2)])).double()
    torch.testing.assert_close(found.values, expected.flatten(1))
    last = Explanation(picture().movedim(1, -1), inputs.movedim(1, -1), "m", spec=InputSpec("image", layout="last"))
    assert torch.equal(relevance_mass(last, MASK), relevance_mass(picture(), MASK))


def test_several_inputs_are_judged_together() -> None:
    maps = (torch.ones(2, 3), picture())
    found = marked(maps, (torch.tensor([[1, 0, 0]] * 2), MASK))
    assert found.values.shape == (2, 27) and found.sizes.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (None, "No mask: give masks= as"),
        (torch.zeros(2, 4, 5), r"mask of shape \(2, 4, 5\) does not fit a map of shape \(2, 3, 4, 6\)"),
        (torch.zeros(1, 4, 6), "does not fit"),
        (torch.full((2, 4, 6), 0.5), "values from 0.5 to 0.5. Compare it first"),
        (torch.full((2, 4, 6), 3), "mask > 0.5, or labels == 3"),
        ([MASK[0]], "1 masks for 2 samples"),
        ([MASK[0], MASK[0, :2]], r"A sample's mask has shape \(2, 6\)"),
        ([(1, 2, 3)] * 2, r"1 does not say where|\(1, 2, 3\) does not say where"),
        ([(3, 3, 3, 4)] * 2, "holds no place"),
        ([(9, 9, 12, 12)] * 2, "holds no place"),
        (["a", "b"], "the names are not known"),
        ((MASK, MASK), "2 masks for 1 maps"),
        (7, "A mask must be"),
    ],
)
def test_what_does_not_fit_is_refused(mask, text: str) -> None:
    with pytest.raises(InputError, match=text):
        marked(picture(), mask)

"""Metrics of maps whose values can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from interp_plugins import metrics as im

A, B = tensor([[4.0, -3.0, 2.0, 1.0]]), tensor([[4.0, 3.0, 1.0, 2.0]])
FIRST = tensor([[True, False, False, False]])


def value(found: torch.Tensor) -> float:
    assert found.dtype == torch.float64 and found.shape == (1,)
    return found.item()


def quarter() -> torch.Tensor:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :4] = True
    return mask


LINE = tensor([[3.0, 1.0, 1.0, 0.0]])
DETECTED = tensor([[0.9, 0.1, 0.4, 0.4]]), tensor([[1, 0, 1, 0]])
FALLING = tensor([[0.5, 0.25, 0.25, 0.0]])

CASES = [
    ("a constant map points at its share", lambda: im.pointing_game(torch.ones(1, 1, 8, 8), quarter()), 0.25),
    ("the largest place is inside", lambda: im.pointing_game(LINE, FIRST), 1.0),
    ("a miss by one", lambda: im.pointing_game(LINE, FIRST.roll(1)), 0.0),
    ("a miss by one, one is tolerated", lambda: im.pointing_game(LINE, FIRST.roll(1), tolerance=1), 1.0),
    ("a miss by two, one is tolerated", lambda: im.pointing_game(LINE, FIRST.roll(2), tolerance=1), 0.0),
    ("mass inside", lambda: im.relevance_mass(LINE, FIRST), 0.6),
    ("mass inside, weighted", lambda: im.relevance_mass(LINE, FIRST, weighted=True), 2.4),
    ("negative mass counts for nothing", lambda: im.relevance_mass(tensor([[3.0, -7, 1, 1]]), FIRST), 0.6),
    ("sizes", lambda: im.relevance_mass(tensor([[3.0, -7, 0, 0]]), FIRST, sign="absolute"), 0.3),
    ("the negative part", lambda: im.relevance_mass(tensor([[-3.0, 7, -1, 0]]), FIRST, sign="negative"), 0.75),
    ("the largest of one", lambda: im.relevance_rank(LINE, FIRST), 1.0),
    ("the second of two ties with another", lambda: im.relevance_rank(LINE, tensor([[1, 1, 0, 0]])), 0.75),
    ("one of the two largest", lambda: im.top_k(LINE, FIRST, k=2), 0.5),
    ("one of the two largest, weighted", lambda: im.top_k(LINE, FIRST, k=2, weighted=True), 2.0),
    ("half of the places", lambda: im.top_k(LINE, FIRST, k=0.5), 0.5),
    ("area under the ROC curve", lambda: im.mask_auc(*DETECTED), 0.875),
    ("average precision", lambda: im.mask_ap(tensor([[0.9, 0.5, 0.4]]), tensor([[1, 0, 1]])), 5 / 6),
    ("best overlap takes ties together", lambda: im.mask_iou(*DETECTED), 2 / 3),
    ("overlap of the upper quarter", lambda: im.mask_iou(*DETECTED, threshold=0.75), 0.5),
    ("distance in places", lambda: im.mass_distance(FALLING, FIRST, relative=False), 0.75),
    ("distance, relative", lambda: im.mass_distance(FALLING, FIRST), 0.25),
    ("all mass inside", lambda: im.mass_distance(tensor([[1.0, 0, 0, 0]]), FIRST), 0.0),
    ("a uniform grid", lambda: im.grid_pointing(torch.ones(1, 3, 8, 8), [2]), 0.25),
    ("a uniform grid of nine", lambda: im.grid_pointing(torch.ones(1, 3, 9, 9), [8], grid=(3, 3)), 1 / 9),
    ("two cells of a mosaic", lambda: im.focus(torch.ones(1, 8, 8), tensor([[True, False, False, True]])), 0.5),
    ("the truth itself", lambda: im.truth_error(A, A), 0.0),
    ("nothing said", lambda: im.truth_error(torch.zeros(1, 4), A), 1.0),
    ("3, 0 for 3, 4", lambda: im.truth_error(tensor([[3.0, 0.0]]), tensor([[3.0, 4.0]])), 0.8),
    ("in the 1-norm", lambda: im.truth_error(tensor([[3.0, 0.0]]), tensor([[3.0, 4.0]]), norm=1), 4 / 7),
    ("by the largest", lambda: im.truth_error(tensor([[3.0, 0.0]]), tensor([[3.0, 4.0]]), norm=math.inf), 1.0),
    ("the truth's direction", lambda: im.truth_cosine(2 * A, A), 1.0),
    ("the truth's order", lambda: im.truth_rank(A.exp(), A), 1.0),
    ("the elements that matter", lambda: im.truth_auc(tensor([[-5.0, 0.1, 0.2]]), tensor([[-1.0, 0, 0]])), 1.0),
    ("a dummy element with nothing", lambda: im.impossible_mass(tensor([[1.0, 0.0]]), tensor([[0, 1]])), 0.0),
    ("a quarter on a dummy", lambda: im.impossible_mass(tensor([[3.0, -1.0]]), tensor([[0, 1]])), 0.25),
    ("one-hot", lambda: im.hoyer(tensor([[0.0, -5.0, 0.0]])), 1.0),
    ("one-hot and tiny", lambda: im.hoyer(1e-7 * tensor([[0.0, 5.0, 0.0]])), 1.0),
    ("uniform", lambda: im.hoyer(torch.ones(1, 9)), 0.0),
    ("two ones and a two", lambda: im.hoyer(tensor([[1.0, 1, 2, 0]])), 0.36700683814454793),
    ("uniform entropy", lambda: im.entropy(torch.ones(1, 7)), math.log(7)),
    ("relative to the most", lambda: im.entropy(torch.ones(1, 7), relative=True), 1.0),
    ("one-hot entropy", lambda: im.entropy(tensor([[0.0, 0, 3]])), 0.0),
    ("entropy of 1, 1, 2", lambda: im.entropy(tensor([[1.0, -1, 2]])), 1.0397207708399179),
    ("three alike", lambda: im.effective_size(tensor([[2.0, -2, 2, 0]])), 3.0),
    ("half carry nine tenths", lambda: im.mass_share(tensor([[6.0, 3, 1, 0]]), q=0.9), 0.5),
    ("nine of ten alike", lambda: im.mass_share(0.1 * torch.ones(1, 10), q=0.9), 0.9),
    ("all of the mass", lambda: im.mass_share(tensor([[6.0, 3, 1, 0]]), q=1), 0.75),
    ("not zero", lambda: im.support_size(tensor([[6.0, -3, 1, 0]])), 3.0),
    ("above a fifth", lambda: im.support_size(tensor([[6.0, -3, 1, 0]]), tol=0.2), 2.0),
    ("the two largest sizes", lambda: im.feature_agreement(A, B, k=2), 1.0),
    ("in one order", lambda: im.rank_agreement(A, B, k=2), 1.0),
    ("one of two has another sign", lambda: im.sign_agreement(A, B, k=2), 0.5),
    ("with order and sign", lambda: im.signed_rank_agreement(A, B, k=2), 0.5),
    ("five of six pairs", lambda: im.pairwise_rank_agreement(A, B), 5 / 6),
    ("Spearman of sizes", lambda: im.spearman_correlation(A.abs(), B), 0.8),
    ("Kendall of sizes", lambda: im.kendall_tau(A.abs(), B), 2 / 3),
    ("one of three", lambda: im.top_k_overlap(tensor([[4.0, 3, 0]]), tensor([[4.0, 0, 3]]), k=2), 1 / 3),
    ("the same picture", lambda: im.ssim(torch.eye(8)[None], torch.eye(8)[None]), 1.0),
]


@pytest.mark.parametrize(("found", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_worked_out_by_hand(found, expected) -> None:
    assert value(found()) == pytest.approx(expected, abs=1e-12)


UNDEFINED = [
    ("the mask is empty", lambda m: m("pointing_game").of(LINE, masks=~FIRST & FIRST)),
    ("the mask is empty", lambda m: m("mask_iou").of(LINE, masks=~FIRST & FIRST)),
    ("the mask covers every place", lambda m: m("mask_auc").of(LINE, masks=FIRST | ~FIRST)),
    ("the map has no mass of this sign", lambda m: m("relevance_mass").of(-LINE, masks=FIRST)),
    ("the truth is zero everywhere", lambda m: m("truth_error").of(LINE, truth=torch.zeros(1, 4))),
    ("no element matters", lambda m: m("truth_auc").of(LINE, truth=torch.zeros(1, 4))),
    ("every element could matter", lambda m: m("impossible_mass").of(LINE, truth=torch.zeros(1, 4))),
    ("the map has no mass of this sign", lambda m: m("entropy").of(torch.zeros(1, 4))),
    ("the map has one element", lambda m: m("hoyer").of(torch.ones(1, 1))),
    ("the map has one element", lambda m: m("pairwise_rank_agreement").of(torch.ones(1, 1), other=torch.ones(1, 1))),
    ("a map is constant", lambda m: m("kendall_tau").of(LINE, other=torch.ones(1, 4))),
    ("a map is zero everywhere", lambda m: m("cosine_similarity").of(LINE, other=torch.zeros(1, 4))),
    ("both maps are one constant", lambda m: m("ssim").of(torch.ones(1, 8, 8), other=torch.ones(1, 8, 8))),
    ("the map holds NaN or infinity", lambda m: m("gini_index").of(LINE / 0)),
]


@pytest.mark.parametrize(("reason", "score"), UNDEFINED)
def test_what_is_undefined_is_counted_with_its_reason(reason, score) -> None:
    found = score(im.metric)
    assert found.n_undefined == 1 and found.undefined == {reason: 1}
    assert math.isnan(float(found)) and f"undefined=1 ({reason}: 1)" in repr(found)

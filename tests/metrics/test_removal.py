"""Deletion and insertion curves: against a slow re-implementation, closed forms, and what must not change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interp_plugins.core.errors import InputError
from interp_plugins.core.target import Probability
from interp_plugins.metrics import removal_curves


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()


def slow(model, x, a, base, target, steps):
    """One sample, one pixel at a time, as the paper's pseudo-code has it."""
    order = sorted(range(a.numel()), key=lambda k: -a.reshape(-1)[k].item())
    deletion, insertion = [], []
    for step in range(steps + 1):
        count = round(step * len(order) / steps)
        without, within = x.clone(), base.clone()
        for k in order[:count]:
            row, column = divmod(k, x.shape[-1])
            without[:, row, column] = base[:, row, column]
            within[:, row, column] = x[:, row, column]
        for one, found in ((without, deletion), (within, insertion)):
            found.append(model(one[None]).softmax(1)[0, target].item())
    return deletion, insertion


def test_curves_are_those_of_the_paper():
    model, x, a = net(), torch.randn(3, 3, 6, 6).double(), torch.randn(3, 1, 6, 6).double()
    base, target = torch.randn(1, 3, 6, 6).double(), torch.tensor([0, 4, 2])
    found = removal_curves(model, x, a, base, target=Probability(target), steps=9, batch_size=7)
    for i in range(3):
        deletion, insertion = slow(model, x[i], a[i], base[0], target[i].item(), 9)
        torch.testing.assert_close(found.deletion[i], torch.tensor(deletion).double())
        torch.testing.assert_close(found.insertion[i], torch.tensor(insertion).double())


def test_a_linear_model_has_a_closed_form():
    x = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    found = removal_curves(lambda v: v.sum(1), x, x, steps=100)
    assert found.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]  # four elements, so four steps
    assert found.deletion.tolist() == [[10, 6, 3, 1, 0]] and found.insertion.tolist() == [[0, 4, 7, 9, 10]]
    assert found.deletion_auc.item() == pytest.approx(3.75) and found.insertion_auc.item() == pytest.approx(6.25)


def test_ends_are_the_input_and_the_baseline_and_the_best_order_wins():
    model, x = net(), torch.randn(2, 3, 6, 6).double()
    ends = removal_curves(model, x, torch.randn_like(x), "mean", target=1)
    assert torch.equal(ends.deletion[:, 0], ends.insertion[:, -1])
    assert torch.equal(ends.deletion[:, -1], ends.insertion[:, 0])
    linear = nn.Linear(20, 1, bias=False).double()
    rows = torch.randn(1, 20).double()
    map_ = rows * linear.weight.detach()
    right, wrong = (removal_curves(linear, rows, sign * map_, target=0) for sign in (1, -1))
    assert right.deletion_auc < wrong.deletion_auc and right.insertion_auc > wrong.insertion_auc


def test_several_inputs_are_ranked_together_and_ids_are_replaced():
    table = nn.Embedding(6, 2)

    def model(ids, columns):
        return table(ids).sum((1, 2)) + columns.sum(1)

    ids, columns = torch.tensor([[1, 2]]), torch.tensor([[5.0, -1.0]])
    found = removal_curves(model, (ids, columns), (torch.tensor([[0.0, 3.0]]), torch.tensor([[9.0, 1.0]])), (5, 0))
    want = [
        model(torch.tensor([i]), torch.tensor([c])).item()
        for i, c in [([1, 2], [5, -1]), ([1, 2], [0, -1]), ([1, 5], [0, -1]), ([1, 5], [0, 0]), ([5, 5], [0, 0])]
    ]
    assert found.deletion[0].tolist() == pytest.approx(want)


def test_the_model_and_the_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    state, x, a = {k: v.clone() for k, v in model.state_dict().items()}, torch.ones(2, 4), torch.rand(2, 4)
    before = torch.get_rng_state()
    removal_curves(model, x, a, target=0)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("maps", "steps", "text"),
    [
        (torch.zeros(2, 3, 3), 5, r"\(2, 3, 3\).*do not fit.*\(2, 3, 6, 6\)"),
        (torch.zeros(2, 3, 3, 3), 5, "do not fit"),
        ((torch.zeros(2, 3, 6, 6),) * 2, 5, "do not fit"),
        (torch.zeros(2, 1, 6, 6), 0, "steps must be a positive int, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(maps, steps, text):
    with pytest.raises(InputError, match=text):
        removal_curves(net(), torch.zeros(2, 3, 6, 6).double(), maps, target=0, steps=steps)

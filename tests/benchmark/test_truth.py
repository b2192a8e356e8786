"""What tasks say is true: closed forms, a second road for both games, and checks that refuse what does not hold."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from interp_plugins.benchmark import TaskError, list_tasks, task_info, verify
from interp_plugins.benchmark.games import aumann_shapley, in_double, shapley_by_enumeration
from interp_plugins.benchmark.nets import AdditiveNet, CellsApart, DecisionList, cnn, mlp
from interp_plugins.benchmark.tasks.functions import KINDS, Formula
from interp_plugins.benchmark.tasks.tables import with_twin_and_dummy


def truths(formula, x, b=None):
    net, x = Formula(formula), torch.tensor([x], dtype=torch.float64)
    values = in_double(net, torch.zeros(1, dtype=torch.long))
    b = torch.zeros_like(x) if b is None else torch.tensor([b], dtype=torch.float64)
    return shapley_by_enumeration(values, x, b)[0].tolist(), aumann_shapley(values, x, b)[0].tolist()


@pytest.mark.parametrize(
    ("formula", "x", "shapley", "path"),
    [
        (lambda a, b, c: a * b + c, (2.0, 3.0, 1.0), (3, 3, 1), (3, 3, 1)),
        (lambda a, b, c: a * b * c, (1.0, 2.0, 3.0), (2, 2, 2), (2, 2, 2)),
        (torch.maximum, (3.0, 1.0), (2.5, 0.5), (3, 0)),
        (lambda a, b: a**2 * b, (2.0, 3.0), (6, 6), (8, 4)),
        (lambda a, b: torch.relu(a - b), (2.0, 1.0), (1.5, -0.5), (2, -1)),
    ],
)
def test_closed_forms(formula, x, shapley, path):
    found = truths(formula, x)
    assert found[0] == pytest.approx(shapley, abs=1e-9) and found[1] == pytest.approx(path, abs=1e-7)


def by_orders(f, x, b):
    """Shapley values by all orders in which columns can enter."""
    d = len(x)
    total = [0.0] * d
    for order in itertools.permutations(range(d)):
        row = list(b)
        for i in order:
            before = f(torch.tensor(row, dtype=torch.float64))
            row[i] = x[i]
            total[i] += float(f(torch.tensor(row, dtype=torch.float64)) - before)
    return [t / math.factorial(d) for t in total]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_enumeration_is_the_mean_over_all_orders(seed, d):
    torch.manual_seed(seed)
    net = mlp(d, 2, 8).double()
    x, b = torch.randn(2, d, dtype=torch.float64).unbind()
    values = in_double(net, torch.ones(1, dtype=torch.long))
    found = shapley_by_enumeration(values, x[None], b[None])[0].tolist()
    with torch.no_grad():
        assert found == pytest.approx(by_orders(lambda r: net(r[None])[0, 1], x.tolist(), b.tolist()), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_path_is_integrated_through_its_kinks(seed):
    """A net of rectifiers is linear between its kinks on the path: those are found, and the pieces added."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    x, b = torch.randn(2, 3, dtype=torch.float64).unbind()
    at = (net[0](x), net[0](b))
    at = [one.detach() for one in at]
    cuts = [float(-low / (high - low)) for high, low in zip(*at) if high * low < 0]
    edges = [0.0, *sorted(cuts), 1.0]
    expected = torch.zeros(3, dtype=torch.float64)
    for low, high in itertools.pairwise(edges):
        middle = (b + (low + high) / 2 * (x - b)).requires_grad_()
        (gradient,) = torch.autograd.grad(net(middle[None]).sum(), middle)
        expected += (high - low) * gradient * (x - b)
    values = in_double(net, torch.zeros(1, dtype=torch.long))
    assert aumann_shapley(values, x[None], b[None])[0].tolist() == pytest.approx(expected.tolist(), abs=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_functions_hold_what_they_say(name):
    found = task_info(f"functions.{name}").build(0, "tiny")
    assert found.facts["efficiency_error"] < 1e-6 and found.truth["shapley"].abs().sum(1).min() > 0


def test_the_games_differ_where_they_are_said_to():
    differ = {n for n in list_tasks("functions") if not task_info(n).build(0, "small").games_agree}
    assert differ == {f"functions.{n}" for n in ("max", "saturation", "logic", "decision_list")}


@pytest.mark.parametrize("spoil", ["sum", "dummy", "twin"])
def test_false_values_are_refused(spoil):
    net = Formula(lambda a, b, c: a + b + 0 * c)
    x, targets, baseline = torch.rand(3, 2).repeat(1, 2)[:, :3], torch.zeros(3, dtype=torch.long), torch.zeros(1, 3)
    x[:, 1] = x[:, 0]
    values = torch.stack([x[:, 0], x[:, 1], 0 * x[:, 2]], 1).double()
    verify.games(net, x, targets, baseline, {"shapley": values}, (2,), ((0, 1),))
    if spoil == "sum":
        values[:, 0] *= 1.1
    else:
        values[:, 0] += 0.1
        values[:, 1 if spoil == "twin" else 2] -= 0.1
    text = {"sum": "do not add up", "dummy": "never matters", "twin": "are twins"}[spoil]
    with pytest.raises(TaskError, match=text):
        verify.games(net, x, targets, baseline, {"shapley": values}, (2,), ((0, 1),) if spoil == "twin" else ())


def test_a_dummy_that_matters_is_refused():
    net, x = Formula(lambda a, b: a + 0.1 * torch.relu(b - 3)), torch.rand(3, 2)
    values = torch.stack([x[:, 0], 0 * x[:, 0]], 1).double()
    with pytest.raises(TaskError, match="moves the output"):
        verify.games(net, x, torch.zeros(3, dtype=torch.long), torch.zeros(1, 2), {"shapley": values}, (1,))


def test_a_planted_thing_has_to_decide():
    def model(x):
        return torch.stack([x[:, 0], -x[:, 0]], 1)

    x = torch.tensor([[1.0, 2.0], [-1.0, 3.0]])
    without, rest = x * torch.tensor([-1.0, 1.0]), x + torch.tensor([0.0, 5.0])
    good, shares = verify.planted(model, x, without, rest)
    assert good.all() and shares == {"flips": 1.0, "rest_flips": 0.0}
    for wrong in ((rest, rest), (without, without)):
        with pytest.raises(TaskError, match="does not decide"):
            verify.planted(model, x, *wrong)


def test_nets_that_miss_their_accuracy_are_refused():
    with pytest.raises(TaskError, match=r"right in 50\.0% of 2 samples; the task asks for 90%"):
        verify.accuracy(lambda x: x, torch.eye(2), torch.tensor([0, 0]), 0.9)


def test_elements_that_matter_are_not_impossible():
    x, can = torch.rand(2, 3), torch.tensor([[True, True, False]]).expand(2, 3)
    targets = torch.zeros(2, dtype=torch.long)
    verify.impossible(lambda v: v[:, :2], x, targets, can, x + 1)
    with pytest.raises(TaskError, match="cannot matter move the output"):
        verify.impossible(lambda v: v.sum(1, keepdim=True), x, targets, can, x + 1)


def test_additive_nets_and_lists_are_read_rightly():
    torch.manual_seed(0)
    x, zero, targets = torch.randn(2, 5), torch.zeros(2, 5, dtype=torch.float64), torch.tensor([1, 0])
    net = AdditiveNet(5, 2)
    read = (net.each(x) - net.each(zero.float())).gather(2, targets[:, None, None].expand(-1, 5, 1))[..., 0]
    values = in_double(net, targets)
    for game in (shapley_by_enumeration, aumann_shapley):
        assert torch.allclose(game(values, x.double(), zero).float(), read, atol=1e-5)
    rules = DecisionList((3, 1), 2)
    rules.steepness.data.fill_(1e4)
    rules.thresholds.data.zero_()
    first = torch.where(x[:, 3] > 0, 0, torch.where(x[:, 1] > 0, 1, 2))
    assert torch.allclose(rules(x), rules.says[first], atol=1e-4)


def test_twins_and_dummies_leave_the_net_as_it_was():
    torch.manual_seed(0)
    net, x = mlp(4, 2), torch.randn(3, 4)
    wide = with_twin_and_dummy(net)
    assert torch.allclose(wide(torch.cat([x, x[:, :1], torch.randn(3, 1)], 1)), net(x), atol=1e-6)


def test_cells_apart_are_what_the_net_says_of_each():
    torch.manual_seed(0)
    net, x = cnn(1, 3, 8), torch.rand(2, 1, 16, 16)
    found = CellsApart(net[:-2], net[-1], 2, 2)(x).reshape(2, 2, 2, 3)
    for row, column in itertools.product(range(2), repeat=2):
        alone = net(x[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
        assert torch.allclose(found[:, row, column], alone, atol=1e-6)


def test_parts_are_worth_what_their_drawing_says():
    from interp_plugins.benchmark.tasks.parts import numbered
    from tests.benchmark.conftest import tiny

    problem = tiny("parts")
    head, wing, tail, foot, body = problem.truth.mean(0).abs().tolist()
    assert min(head, wing) > tail > 2 * max(foot, body), "the less often a part says the class, the less it is worth"
    assert problem.truth_map.flatten(1).sum(1).tolist() == pytest.approx(problem.truth.sum(1).tolist(), rel=1e-4)
    without = problem.inputs.clone()
    without[:, 0, numbered() == 5] -= 0.5  # the body, taken off by hand
    change = problem.scores(problem.inputs) - problem.scores(without)
    assert change.tolist() == pytest.approx(problem.truth[:, 4].tolist(), abs=1e-3)
    assert problem.facts["flips"] == 1.0 and problem.facts["rest_flips"] == 0.0


def test_the_question_says_which_shape_decides():
    from tests.benchmark.conftest import tiny

    problem = tiny("vqa.colour")
    asked, answer = problem.targets // 3, problem.targets % 3
    assert asked.tolist() == [0, 1, 2]
    colours = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
    for x, mask, colour in zip(problem.inputs, problem.truth, answer):
        assert (x[:, mask] == colours[colour][:, None]).all(), "the asked shape has the colour of the answer"
    others = problem.model(problem.inputs).reshape(3, 3, 3).argmax(2)
    assert others.gather(1, asked[:, None])[:, 0].tolist() == answer.tolist()


def test_a_word_that_the_head_has_not_seen_judges():
    from interp_plugins.benchmark import sentences
    from interp_plugins.benchmark.tasks.text_minilm import _UNSEEN
    from tests.benchmark.conftest import tiny

    problem = tiny("text.minilm")
    words = {i: w for w, i in sentences.vocabulary().items()}
    found = [words[int(i)] for i in problem.inputs[problem.truth]]
    assert len(found) == len(problem) and all(w in _UNSEEN[y] for w, y in zip(found, problem.targets.tolist()))
    padded = torch.cat([problem.inputs, torch.zeros(len(problem), 3, dtype=torch.long)], 1)
    assert torch.allclose(problem.model(padded), problem.model(problem.inputs), atol=1e-5), "padding is no word"


def test_boxes_that_do_not_decide_are_not_taken():
    from interp_plugins.benchmark.tasks import real

    x, boxes, names = (one[:2] for one in real.photographs())
    assert real.decided(x, boxes, names).tolist() == [True, True]
    assert real.decided(x, ~boxes, names).tolist() == [False, False]
    assert real.decided(x, boxes, names[::-1]).tolist() == [False, False], "it does not say the other's class"

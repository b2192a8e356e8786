"""counterfactual, smallest_flip, one_feature_margins: where what has to change is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import attack, counterfactual, one_feature_margins, smallest_flip

TABLE = InputSpec("tabular", mean=(40.0, 5.0, 0.0), std=(10.0, 2.0, 1.0), vocab=("no", "yes"),
                  feature_names=("age", "income", "rate"))  # fmt: skip


def rule(x: Tensor) -> Tensor:
    """Yes where income > 6 and age > 45, on normalised rows."""
    age, income = 40 + 10 * x[:, 0], 5 + 2 * x[:, 1]
    yes = torch.minimum(income - 6, (age - 45) / 10)
    return torch.stack([torch.zeros_like(yes), yes], 1)


def people() -> Tensor:
    g = torch.Generator().manual_seed(0)
    raw = torch.stack([
        torch.randint(18, 80, (300,), generator=g).double(), torch.randint(1, 12, (300,), generator=g).double(),
        torch.rand(300, generator=g).double(),
    ], 1)  # fmt: skip
    return TABLE.normalise(raw)


def row(age: float, income: float) -> Tensor:
    return TABLE.normalise(torch.tensor([[age, income, 0.5]]).double())


def test_of_a_rule_the_one_column_that_is_missing_is_found_as_a_whole_number() -> None:
    found = counterfactual(rule, torch.cat([row(50, 4), row(30, 9), row(30, 4)]), data=people(), input_spec=TABLE)
    assert found.state == ("turned",) * 3 and found.prediction_after == ("yes",) * 3
    assert found.changes is not None
    assert [[c[:2] for c in one] for one in found.changes[:2]] == [[("income", 4)], [("age", 30)]]
    assert found.changes[0][0][2] == 7 and found.changes[1][0][2] == 46
    assert [c[0] for c in found.changes[2]] == ["age", "income"] and found.steps.tolist() == [1, 1, 2]
    assert found.to_df()["changes"][0] == "income: 4 → 7"


def test_what_must_not_change_stays_and_what_cannot_be_is_said() -> None:
    x = torch.cat([row(30, 9), row(60, 9), row(50, 4)])
    found = counterfactual(rule, x, data=people(), input_spec=TABLE, immutable=["age"], goal="yes", target="no")
    assert found.state == ("none found", "already", "turned") and torch.equal(found.perturbed[0], x[0])
    assert found.success.tolist() == [False, True, True] and "1 none found" in repr(found)
    assert "inf" not in repr(found)  # of any size


def test_several_are_of_different_columns_and_categories_stay_categories() -> None:
    codes = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]]).repeat(20, 1)
    numbers = torch.linspace(-2, 2, 80).double()[:, None]

    def model(cat: Tensor, cont: Tensor) -> Tensor:
        assert cat.dtype == torch.int64 and int(cat.min()) >= 0 and int(cat.max()) <= 2
        score = (cat[:, 0] == 2) * 3.0 + (cat[:, 1] == 1) * 3.0 + cont[:, 0] - 1
        return torch.stack([-score, score], 1)

    x = (torch.tensor([[0, 0]]), torch.tensor([[-1.0]]).double())
    spec = InputSpec("tabular", vocab=("no", "yes"), feature_names=("job", "school", "age"))
    found = counterfactual(model, x, data=(codes, numbers), n=3, input_spec=spec)
    assert found.changes is not None and len(found) == 3
    assert {one[0][:1] + one[0][2:] for one in found.changes if len(one) == 1 and one[0][0] != "age"} == {
        ("job", 2), ("school", 1),
    }  # fmt: skip
    assert isinstance(found.perturbed, tuple) and found.perturbed[0].dtype == torch.int64
    assert len({tuple(c[0] for c in one) for one in found.changes}) == 3


def test_a_regression_goes_beyond_a_value() -> None:
    net = lambda v: 2 * v[:, 0] + v[:, 1]  # noqa: E731
    x, data = torch.zeros(1, 2).double(), torch.randn(200, 2).double()
    found = counterfactual(net, x, data=data, goal=("above", 1.0), kind="row")
    assert found.state == ("turned",) and 1.0 < float(net(found.perturbed)[0]) < 1.01
    assert found.goal_label == ("above 1",)
    with pytest.raises(InterpError, match=r"What is to be reached is \('above', value\)"):
        counterfactual(net, x, data=data, goal=("near", 1.0), kind="row")


def test_one_column_alone_goes_to_the_boundary_or_nowhere() -> None:
    net = nn.Linear(3, 2).double()
    data = torch.rand(400, 3).double() * 8 - 4
    x = 0.1 * torch.randn(2, 3).double()
    table = one_feature_margins(net, x, data)
    z, w = net(x).detach(), net.weight.detach()
    for _, one in table.iterrows():
        i, j = one["sample"], int(one["column"][1])
        c = int(z[i].argmax())
        exact = float(x[i, j] - (z[i, c] - z[i, 1 - c]) / (w[c, j] - w[1 - c, j]))
        if abs(exact) < 3.9:
            assert one["after"] == pytest.approx(exact, abs=0.01)
        elif abs(exact) > 4:
            assert math.isnan(one["margin"]) and one["after"] is None
    assert list(one_feature_margins(net, x[:1], data, features=["x2"])["column"]) == ["x2"]


@pytest.mark.parametrize("search", ["greedy", "exact"])
def test_regions_of_an_additive_model_are_sorted_and_cut(search: str) -> None:
    torch.manual_seed(2)
    w = torch.rand(8).double() + 0.1
    model = lambda v: torch.stack([v @ w, torch.full((len(v),), 0.4 * float(w.sum())).double()], 1)  # noqa: E731
    x = torch.ones(1, 8).double()
    found = smallest_flip(model, x, baselines=0, search=search)
    need = int((w.sort(descending=True).values.cumsum(0) > 0.6 * w.sum()).int().argmax()) + 1
    assert found.regions is not None and len(found.regions[0]) == need and found.state == ("turned",)
    if search == "greedy":
        assert set(found.regions[0]) == set(w.argsort(descending=True)[:need].tolist())


def test_what_is_taken_away_is_irreducible_and_what_does_not_suffice_is_said() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 196, 3)).double().eval()
    x = torch.rand(3, 1, 16, 16).double()
    spec = InputSpec("image", vocab=("a", "b", "c"))
    mask = torch.arange(16).reshape(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2  # even numbers
    found = smallest_flip(net, x, feature_mask=mask, baselines="black", order="saliency", input_spec=spec)
    exact = smallest_flip(net, x, feature_mask=mask, baselines="black", search="exact", input_spec=spec)
    assert found.regions is not None and exact.regions is not None
    for i, (some, few) in enumerate(zip(found.regions, exact.regions, strict=True)):
        if found.state[i] != "turned":
            continue
        assert len(few) <= len(some) and all(r % 2 == 0 for r in some)
        said = net(x[i : i + 1]).argmax(1)
        for kept in itertools.combinations(some, len(some) - 1):
            gone = torch.isin(mask, torch.tensor(kept, dtype=torch.long))
            assert not kept or torch.equal(net(torch.where(gone, 0.0, x[i : i + 1])).argmax(1), said)
    never = smallest_flip(lambda v: torch.stack([v.sum(1) * 0 + 1, v.sum(1) * 0], 1), torch.rand(1, 4), baselines=0)
    assert never.state == ("none found",) and never.regions == ((),)


def test_visible_changes_are_smooth_and_sure_and_minimal_ones_small() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )
    spec = InputSpec("image", mean=(0.5,) * 3, std=(0.25,) * 3)
    x = spec.normalise(torch.rand(2, 3, 17, 16))
    state = torch.get_rng_state()
    seen = counterfactual(net.eval(), x, input_spec=spec, steps=60, kind="visible")
    least = counterfactual(net, x, input_spec=spec, kind="minimal")
    assert seen.state == least.state == ("turned",) * 2 and torch.equal(state, torch.get_rng_state())
    assert bool((seen.norms["L2"] > least.norms["L2"]).all()) and least.params["attack"] == "fmn"
    assert torch.equal(least.delta, attack(net, x, "fmn", norm="L2", input_spec=spec).delta)
    rough = [float(d.diff(dim=-1).abs().mean() / d.abs().mean()) for d in (seen.delta, least.delta)]
    assert rough[0] < 0.8 < rough[1]
    raw = spec.denormalise(seen.perturbed)
    assert float(raw.min()) >= -1e-6 and float(raw.max()) <= 1 + 1e-6
    half = torch.zeros(1, 1, 17, 16)
    half[..., :8] = 1
    masked = counterfactual(net, x, input_spec=spec, steps=20, mask=half)
    assert float(masked.delta[..., 8:].abs().max()) < 1e-6


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "near"}, "kind must be one of auto, minimal"),
    ({}, "need data=: rows of the table"),
    ({"data": torch.zeros(3)}, r"data= holds rows of the table \(N, F\)"),
    ({"data": torch.rand(3, 5)}, "both are rows as the model takes them"),
    ({"data": torch.zeros(3, 4)}, "No column is left that could change"),
    ({"data": torch.randn(9, 4), "immutable": ["agee"]}, "immutable names a column 'agee'"),
    ({"data": torch.randn(9, 4), "n": 0}, "n must be a positive int"),
    ({"kind": "minimal", "n": 2}, "n= is of kind='row'"),
    ({"kind": "visible"}, "kind='visible' is of pictures"),
    ({"kind": "minimal", "feature_mask": "grid"}, "feature_mask= is no argument of kind='minimal'"),
    ({"kind": "regions", "search": "best"}, "'greedy' or 'exact'"),
    ({"kind": "regions", "feature_mask": "rings"}, "'grid' or 'slic'"),
    ({"kind": "regions", "feature_mask": torch.zeros(1, 4, dtype=torch.long)}, "one region alone"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_wrong_calls_say_what_to_do(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(InterpError, match=text):
        counterfactual(nn.Linear(4, 3), torch.zeros(2, 4), **wrong)


def test_exact_search_and_ids_are_refused() -> None:
    with pytest.raises(InterpError, match="tries every set of at most 16 regions"):
        smallest_flip(nn.Linear(20, 3), torch.zeros(2, 20), search="exact")
    with pytest.raises(InterpError, match="ids, as of words"):
        counterfactual(nn.Embedding(9, 3), torch.zeros(2, 3, 4, dtype=torch.long))


def test_words_go_until_the_prediction_turns() -> None:
    torch.manual_seed(0)
    weight = torch.tensor([0.0, 3.0, 2.0, -1.0, -0.5])
    model = lambda ids: torch.stack([weight[ids].sum(1), torch.zeros(len(ids))], 1)  # noqa: E731
    found = smallest_flip(model, torch.tensor([[1, 3, 2, 4], [1, 3, 3, 4]]), baselines=0)
    assert found.regions == ((0, 2), (0,)) and found.prediction_after == (1, 1)
    assert found.perturbed.tolist() == [[0, 3, 0, 4], [0, 3, 3, 4]] and len(found.to_df()) == 2


def test_the_map_of_the_two_classes_stands_beside_the_change() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    spec = InputSpec("image", vocab=("a", "b", "c"))
    x = torch.rand(3, 1, 8, 8)
    found = attack(net, x, "deepfool", norm="L2", bounds=None, input_spec=spec)
    maps = found.contrast(net, "saliency")
    assert maps.rows == (0, 1, 2) and bool((maps.agreement > 0.999).all())  # the change lies along w_a - w_b
    assert maps.maps.target_label[0] == f"{found.prediction[0]} rather than {found.prediction_after[0]}"
    axes = found.show(model=net, method="saliency").axes
    assert axes.shape == (3, 4) and "agrees with the change: 1.00" in axes[0, 3].get_xlabel()
    held = attack(net, x, eps=1e-6, input_spec=spec)
    with pytest.raises(InterpError, match="No class changed"):
        held.show(model=net)
    with pytest.raises(InterpError, match="One method at a time"):
        found.contrast(net, ["saliency", "ig"])

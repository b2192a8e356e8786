"""Rows are asked once for all metrics and methods of a scope; what a dry run tells is what a hook counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import metrics as im
from interp_plugins import row_probe
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.explanation import Explanation
from interp_plugins.metrics import list_metrics
from interp_plugins.metrics.registry import ASKING, REPEATING, metric_info
from tests.metrics.cases import case, model_of

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 2, 5, 6, generator=G).double()
MAPS = {name: torch.randn(3, 2, 5, 6, generator=G).double() for name in "abcde"}
ALL = [name for needs in ASKING if needs not in REPEATING for name in list_metrics(needs=needs)]


class Counted:
    """Rows that go through a module, counted by a hook."""

    def __init__(self, module: nn.Module):
        self.rows = 0
        module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])


def counted() -> tuple[nn.Module, Counted]:
    model = model_of((2, 5, 6))
    return model, Counted(model)


@pytest.mark.parametrize("name", ALL)
@row_probe(False)
def test_a_dry_run_tells_what_a_hook_counts(name: str) -> None:
    model, count = counted()
    plan = im.judge_together(model, X, MAPS, [name], dry_run=True)
    assert count.rows == 0 and plan.values == {} and plan.metrics == {}
    found = im.judge_together(model, X, MAPS, [name])
    assert count.rows == found.forward_passes == plan.forward_passes > 0
    assert found.passes == plan.passes


@row_probe(False)
def test_all_metrics_together_cost_what_the_dry_run_tells_and_values_are_those_of_each_alone() -> None:
    model, count = counted()
    plan = im.judge_together(model, X, MAPS, ALL, ids=[5, 9, 7], seed=3, dry_run=True)
    found = im.judge_together(model, X, MAPS, ALL, ids=[5, 9, 7], seed=3)
    assert count.rows == found.forward_passes == plan.forward_passes
    assert found.passes == plan.passes
    apart = 0
    for name in ALL:
        for method, maps in MAPS.items():
            alone = im.metric(name, **({"seed": 3} if "seed" in metric_info(name).parameters else {}))
            values = alone.update(maps, model=model, inputs=X, ids=[5, 9, 7])
            assert torch.allclose(values, found.values[name][method], 0, 0, equal_nan=True)
            kept = found.metrics[name][method].compute().values
            assert torch.allclose(kept, alone.compute().values, 0, 0, equal_nan=True)
            assert found.metrics[name][method].compute().reasons == alone.compute().reasons
            apart += alone.passes
    assert count.rows - found.forward_passes == apart > 1.5 * found.forward_passes


@pytest.mark.parametrize("name", list_metrics(needs="scores"))
@row_probe(False)
def test_five_methods_cost_what_one_costs_where_rows_do_not_follow_the_map(name: str) -> None:
    model, count = counted()
    one = im.judge_together(model, X, {"a": MAPS["a"]}, [name]).forward_passes
    assert count.rows == one
    five = im.judge_together(model, X, MAPS, [name]).forward_passes
    assert count.rows - one == five <= 1.05 * one


@row_probe(False)
def test_metrics_of_one_map_share_curves_and_ends() -> None:
    model, count = counted()
    family = ["srg", "pixel_flipping"]
    together = im.judge_together(model, X, {"a": MAPS["a"]}, {name: {"steps": 10} for name in family}).passes
    assert together == {"srg": {"a": 60}, "pixel_flipping": {"a": 0}}
    with im.shared_rows() as shared:
        im.srg(model, X, MAPS["a"], steps=10)
        im.srg(model, X, MAPS["b"], steps=10)  # the ends are the same
        assert shared.rows == 3 * (20 + 18)
        im.srg(model, X, MAPS["a"], 0.5, steps=10)  # another baseline: another problem
        assert shared.rows == 3 * (20 + 18 + 20)
        im.srg(model, X, MAPS["a"], steps=10, seed=1)  # the seed is one of models that draw, too
        assert shared.rows == 3 * (20 + 18 + 20 + 20)
    assert count.rows == 60 + shared.rows


@row_probe(False)
def test_another_target_argument_or_sample_is_another_problem_and_an_equal_one_is_not() -> None:
    linear = nn.Linear(4, 3).double()
    count = Counted(linear)
    x, a = torch.randn(2, 4, generator=G).double(), torch.randn(2, 4, generator=G).double()

    def scaled(v: Tensor, factor: Tensor) -> Tensor:
        return linear(v) * factor

    with im.shared_rows():
        for target, factor, again in [
            (0, 1.0, False),
            (torch.tensor([0, 0]), 1.0, True),
            ([0, 0], 1.0, True),
            ([0, 1], 1.0, False),
            (0, 2.0, False),
        ]:
            before = count.rows
            given = {"target": target, "additional_forward_args": torch.full((2, 1), factor).double()}
            im.srg(scaled, x.clone(), a, steps=4, **given)
            assert (count.rows == before) == again
    exps = {m: Explanation(v, X, m, target=(None,) * 3) for m, v in MAPS.items()}
    model, count = counted()
    found = im.judge_together(model, None, exps, ["faithfulness_correlation"], target=lambda output: output[:, 0])
    assert found.passes["faithfulness_correlation"]["b"] == 0 and count.rows == found.forward_passes


def test_metrics_go_on_over_batches_and_maps_need_no_model() -> None:
    model = model_of((2, 5, 6))
    kept = {"srg": {"a": im.metric("srg")}, "entropy": {"a": im.metric("entropy")}}
    for rows in (torch.tensor([2, 0]), torch.tensor([1])):
        im.judge_together(model, X[rows], {"a": MAPS["a"][rows]}, ["srg", "entropy"], ids=rows, into=kept)
    whole = im.judge_together(model, X, MAPS, ["srg", "entropy"], ids=[0, 1, 2])
    for name in kept:
        assert torch.equal(kept[name]["a"].compute().values, whole.values[name]["a"])
    masks = torch.ones(3, 5, 6, dtype=torch.bool)
    plain = im.judge_together(None, None, MAPS, ["relevance_mass", "hoyer"], masks=masks)
    assert plain.forward_passes == 0 and plain.values["relevance_mass"]["a"].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: im.judge_together(None, X, {}, ["srg"]), InputError, "maps of one method at least"),
        (lambda: im.judge_together(None, X, MAPS, []), InputError, "and one metric"),
        (lambda: im.judge_together(None, None, MAPS, ["srg"]), InputError, "srg asks the model about its inputs"),
        (lambda: im.judge_together(None, X, MAPS, ["entropy"], mask=1), UnknownNameError, "argument of these metrics"),
    ],
)
def test_what_is_refused(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_every_metric_that_asks_has_a_case() -> None:
    assert all(set(case(name, X)) >= {"model", "inputs"} for name in ALL) and {*ALL} == {
        n for n in list_metrics() if metric_info(n).needs in set(ASKING) - set(REPEATING)
    }

"""Every method with every kind of target, output and call: one scalar per sample, however it comes about.

`PLAIN` is what each way of asking must agree with; the ways are rows of `WAYS`. A newly registered method is tested
without a word here.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.core.errors import InputError, TargetError
from interp_plugins.core.explanation import Explanation, Explanations
from interp_plugins.core.multi_target import AllClasses, MultiTarget, part_of
from interp_plugins.core.registry import traits_of
from interp_plugins.core.spec import InputSpec
from interp_plugins.core.target import Contrast, Index, Probability
from tests.conformance.cases import COMPARES_CLASSES, Case, Problem, accepted, leaves, make, typical

FEW = {"n_steps": 4, "n_samples": 12, "nt_samples": 2}
NO_CLASS = {"layer_activation", "eigen_cam"}


def run(name: str, problem: Problem, model: Any = None, inputs: Any = None, **more: Any) -> Explanations:
    """`explain` with few samples, at the case's layer, and the neuron that the case names."""
    info, case = method_info(name), problem.case
    takes = accepted(make(name, problem))
    few = {k: v for k, v in FEW.items() if k in takes}
    if info.site == "neuron":
        few["neuron_selector"] = case.neuron
    if name == "shapley_values":
        more["feature_mask"] = problem.thirds()
    layer = problem.layer if info.site != "input" or name == "guided_grad_cam" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explain(problem.model if model is None else model, problem.inputs if inputs is None else inputs, name,
                       layer=layer, seed=3, progress=False, **few, **more)  # fmt: skip


@cache
def plain(name: str, target: int) -> Explanation:
    return run(name, typical(name).build(), target=target)[0]


def same(one: Explanation, two: Explanation, tolerance: float = 1e-10) -> None:
    for a, b in zip(leaves(one.attributions), leaves(two.attributions), strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance
    for part in ("score", "baseline_score", "convergence_delta"):
        a, b = getattr(one, part), getattr(two, part)
        assert (a is None) == (b is None), part
        assert a is None or torch.allclose(a, b, atol=tolerance), part


@pytest.mark.parametrize("name", list_methods())
def test_all_classes_in_one_call_are_the_classes_one_by_one(name: str) -> None:
    found = run(name, typical(name).build(), target="all")
    assert [e.target for e in found] == [(c,) * 3 for c in range(3)]
    for c, exp in enumerate(found):
        same(exp, plain(name, c))


@pytest.mark.parametrize("name", list_methods())
def test_several_targets_cost_no_more_forward_passes_than_one_where_passes_are_shared(name: str) -> None:
    exp, one = run(name, typical(name).build(), target=[2, 0, 1])[0], plain(name, 2)
    shares = traits_of(make(name, typical(name).build())).shares_targets
    assert shares == (exp.meta.get("shared_by_targets") == 3)
    assert shares or method_info(name).needs == "gradient" or name in {*NO_CLASS, "neuron_feature_ablation"}
    assert exp.meta["forward_passes"] == one.meta["forward_passes"]
    factor = 3 if shares else 1
    assert exp.meta["backward_passes"] == one.meta["backward_passes"] * factor


# -- ways of asking for the score of class 1 -------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    """An output that is a dataclass."""

    loss: float
    logits: Tensor


class Wrapped(nn.Module):
    """The model with its output, or its input, in another form."""

    def __init__(self, net: nn.Module, out: Callable[[Tensor], Any] = lambda t: t) -> None:
        super().__init__()
        self.net, self.out = net, out

    def forward(self, image: Tensor, *, twice: Tensor | float = 1.0) -> Any:
        return self.out(self.net(image) * twice)


class TakesDict(Wrapped):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return self.net(batch["picture"])


def wrapped(cls: type, out: Callable[[Tensor], Any], inputs: str = "", **more: Any) -> Callable[..., Explanation]:
    def ask(name: str, problem: Problem) -> Explanation:
        model = cls(problem.model, out)
        given = {inputs: problem.inputs} if inputs else None
        return run(name, problem, model, given, **{"target": 1, **more})[0]

    return ask


def asked(target: Any, **more: Any) -> Callable[..., Explanation]:
    return lambda name, problem: run(name, problem, target=target, **more)[0]


def weight(n: int) -> Tensor:
    return torch.linspace(0.5, 1.5, n, dtype=torch.float64)[:, None]


WAYS: dict[str, Callable[..., Explanation]] = {
    "tensor of indices": asked(torch.tensor([1, 1, 1])),
    "label": asked("b", input_spec=InputSpec(vocab=("a", "b", "c"))),
    "function": asked(lambda out: out[:, 1]),
    "target object": asked(Index((1,))),
    "output that is a tuple": wrapped(Wrapped, lambda t: (t.sum(), t), output=1),
    "output that is a dict": wrapped(Wrapped, lambda t: {"logits": t, "hidden": 2 * t}, output="logits"),
    "output that is a dataclass": wrapped(Wrapped, lambda t: Answer(0.0, t), output="logits"),
    "output that is an object": wrapped(Wrapped, lambda t: SimpleNamespace(logits=t), output="logits"),
    "output by a function": wrapped(Wrapped, lambda t: [t, 1], output=lambda found: found[0]),
    "keyword argument": wrapped(Wrapped, lambda t: t, forward_kwargs={"twice": 1.0}),
    "inputs by name": wrapped(Wrapped, lambda t: t, "image"),
    "inputs in a dict": wrapped(TakesDict, lambda t: t, "picture"),
    "segmentation": wrapped(Wrapped, lambda t: t[:, :, None, None].expand(-1, -1, 2, 2), target=(1, 0, 1)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", list_methods())
def test_ways_of_asking_for_one_class_give_one_map(name: str, way: str) -> None:
    if name in COMPARES_CLASSES and way == "function":  # it must know which class is compared with the others
        with pytest.raises(TargetError, match="class"):
            WAYS[way](name, typical(name).build())
        return
    same(WAYS[way](name, typical(name).build()), plain(name, 1))


# -- kinds of outputs ------------------------------------------------------------------------------------------

SCALARS: dict[str, Callable[[Tensor], Tensor]] = {
    "contrast": lambda out: out[:, 1] - out[:, 0],
    "probability": lambda out: out.softmax(1)[:, 1],
}
TARGETS = {"contrast": Contrast(1, 0), "probability": Probability(1)}


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("name", [n for n in list_methods() if n not in COMPARES_CLASSES])
def test_contrast_and_probability_are_the_functions_that_they_name(name: str, kind: str) -> None:
    same(run(name, typical(name).build(), target=TARGETS[kind])[0],
         run(name, typical(name).build(), target=SCALARS[kind])[0])  # fmt: skip


@pytest.mark.parametrize("name", list_methods())
def test_regression_and_labels_that_do_not_exclude_each_other(name: str) -> None:
    problem = typical(name).build()
    several = run(name, problem, activation=torch.sigmoid, threshold=0.0)  # every label is predicted
    assert sorted(e.target[0] for e in several) == [0, 1, 2]
    for exp in several:
        same(exp, plain(name, exp.target[0]))
    amounts = run(name, problem, activation=lambda out: None)  # three outputs of a regression
    assert [e.target for e in amounts] == [(i,) * 3 for i in range(3)] and amounts[0].prediction is None
    same(amounts[2], plain(name, 2))
    if name not in COMPARES_CLASSES:
        whole = run(name, problem, Wrapped(problem.model, lambda t: t[:, 1]))[0]  # one output, without an axis
        same(whole, plain(name, 1))


@pytest.mark.parametrize("name", list_methods())
def test_keyword_arguments_follow_their_samples(name: str) -> None:
    problem = typical(name).build()
    model = Wrapped(problem.model)
    together = run(name, problem, model, target=1, forward_kwargs={"twice": weight(3)})[0]
    by_hand = run(name, problem, model, target=1, additional_forward_args=None, forward_kwargs={"twice": weight(3)},
                  batch_size=2)[0]  # fmt: skip
    same(together, by_hand)
    if name not in {*NO_CLASS, "feature_permutation", "layer_feature_permutation"}:
        assert any(float((a - b).abs().max()) > 0 for a, b in
                   zip(leaves(together.attributions), leaves(plain(name, 1).attributions))) or \
            method_info(name).site == "neuron" or method_info(name).applies_to == "transformer" or \
            name in ("score_cam", "sobol", "hsic", "ablation_cam", "attention_rollout")  # fmt: skip


# -- the pieces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_methods())
def test_explanation_comes_back_from_its_file_as_it_was(name: str, tmp_path: Path) -> None:
    exp = plain(name, 1)
    again = Explanation.load(exp.save(tmp_path / "one.safetensors"))
    same(exp, again, 0)
    assert (again.method, again.target, again.layer, again.seed) == (exp.method, exp.target, exp.layer, exp.seed)
    assert dict(again.params) == dict(exp.params)


def test_the_page_of_conformance_is_current() -> None:
    from tests.conformance.table import page

    here = Path(__file__).parents[2] / "docs" / "dev" / "conformance.md"
    assert here.read_text(encoding="utf-8") == page(), (
        "run: python -m tests.conformance.table > docs/dev/conformance.md"
    )


def test_all_classes_of_a_segmentation_are_the_regions_that_are_predicted() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * 0 + 0.5, x[:, 0], -x[:, 0], x[:, 0] * 0 - 9], 1)

    x = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
    found = explain(Net(), x, "saliency", target=AllClasses())
    assert [e.target_label for e in found] == [(0,), (1,), (2,)]
    assert found[1].attribution.tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]


def test_a_class_called_all_is_that_class() -> None:
    net = nn.Linear(2, 2)
    found = explain(net, torch.ones(1, 2), "saliency", target="all", input_spec=InputSpec(vocab=("some", "all")))
    assert [e.target for e in found] == [(1,)]


def test_all_classes_of_other_outputs_are_refused() -> None:
    with pytest.raises(TargetError, match=r"\(N, C\).*shape \(2, 3, 1\)"):
        explain(lambda x: x[:, :, None], torch.ones(2, 3), "saliency", target="all")


def test_parts_of_several_targets() -> None:
    flat, apart = torch.arange(12.0).reshape(6, 2), torch.arange(12.0).reshape(3, 2, 2)
    assert part_of(flat, 1, 2, 3).tolist() == flat[1::2].tolist()
    assert part_of(apart, 1, 2, 3).tolist() == apart[:, 1].tolist()
    folded = torch.arange(12.0)  # three samples, two targets, two entries each
    assert part_of(folded, 1, 2, 3).tolist() == [2, 3, 6, 7, 10, 11]
    assert part_of({"a": (flat, 5), "b": "word"}, 0, 2, 3)["a"][0].tolist() == flat[0::2].tolist()
    assert part_of(torch.ones(()), 0, 2, 3).ndim == 0
    two = MultiTarget((Index((0,)), Index((1,))))
    assert two(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]] and two.count == 2 and two.describe(0) == "0; 1"


def test_inputs_by_name_are_checked() -> None:
    class Net(nn.Module):
        def forward(self, image: Tensor, table: Tensor | None = None) -> Tensor:
            return image if table is None else image + 2 * table

    x = {"image": torch.ones(2, 3), "table": torch.ones(2, 3)}
    found = explain(Net(), x, "ig", target=0, baselines={"table": 0.5})[0]
    assert {k: v[0, 0].item() for k, v in found.by_input.items()} == pytest.approx({"image": 1.0, "table": 1.0})
    with pytest.raises(InputError, match="no parameter 'tabel'"):
        explain(Net(), {"image": x["image"], "tabel": x["table"]}, "ig", target=0)
    with pytest.raises(InputError, match="baselines has an entry 'tab'"):
        explain(Net(), x, "ig", target=0, baselines={"tab": 0})
    with pytest.raises(InputError, match="at least one entry"):
        explain(Net(), {}, "ig", target=0)


def test_the_table_is_about_three_classes() -> None:
    assert all(isinstance(typical(n), Case) and typical(n).n == 3 for n in list_methods())

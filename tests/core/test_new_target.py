"""A new kind of target is one class: `explain`, lists, contrasts, probabilities and methods take it as their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import InputSpec, explain
from interp_plugins.attr import NoiseTunnel, Saliency
from interp_plugins.core.detection import Detection
from interp_plugins.core.errors import TargetError
from interp_plugins.core.literals import literals, map_literals
from interp_plugins.core.multi_target import AllClasses
from interp_plugins.core.prediction import Prediction
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.target import Asked, Contrast, FromPrediction, Index, Predicted, Probability, Target, as_target

NAMES = InputSpec(vocab=("cat", "dog", "bear"))


class Margin(Target):
    """Class 0 above the best of the others: what is selected, and no more."""

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, 0] - output[:, 1:].amax(1)


@dataclass(frozen=True)
class Twice(Target):
    """Two times another target, whatever that is."""

    of: Any

    def map(self, function: Callable[[Any], Any]) -> Target:
        return Twice(function(self.of))

    def at(self, rows: Tensor | None) -> Target:
        return Twice(self.of.at(rows))

    def __call__(self, output: Tensor) -> Tensor:
        return 2 * self.of(output)

    def describe(self, i: int) -> str | None:
        return f"twice {self.of.describe(i)}"


class RunnerUp(FromPrediction):
    """The second class of every sample, as the clean prediction has it."""

    def resolve(self, prediction: Prediction, spec: InputSpec, n: int) -> Asked:
        return Asked.of_classes(prediction.output.argsort(1)[:, -2].tolist(), spec)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gradient(net: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(net(x)).sum(), x)[0]


def second(output: Tensor) -> Tensor:
    return output.gather(1, output.detach().argsort(1)[:, -2:-1])[:, 0]


SCORES: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "alone": (Margin(), Margin()),
    "of an index": (Twice(1), lambda o: 2 * o[:, 1]),
    "of a name": (Twice("dog"), lambda o: 2 * o[:, 1]),
    "of one index per sample": (Twice([0, 1, 2, 1, 0]), lambda o: 2 * o[range(5), [0, 1, 2, 1, 0]]),
    "of the prediction": (Twice(None), lambda o: 2 * o.amax(1)),
    "of itself": (Twice(Twice(Margin())), lambda o: 4 * Margin()(o)),
    "by the prediction": (RunnerUp(), second),
    "of one by the prediction": (Twice(RunnerUp()), lambda o: 2 * second(o)),
    "in a contrast": (Contrast(None, RunnerUp()), lambda o: o.amax(1) - second(o)),
    "on both sides": (Contrast(Margin(), Twice("cat")), lambda o: Margin()(o) - 2 * o[:, 0]),
    "as a probability": (Probability(Margin()), lambda o: Margin()(o.softmax(1))),
    "as a probability by the prediction": (Probability(RunnerUp()), lambda o: second(o.softmax(1))),
}


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "feature_ablation", "noise_tunnel"])
@pytest.mark.parametrize("case", SCORES)
def test_a_new_target_is_explained_like_the_function_that_it_is(
    case: str, method: str, net: nn.Module, x: Tensor
) -> None:
    target, score = SCORES[case]
    (exp,) = explain(net, x, method, target=target, input_spec=NAMES, progress=False)
    torch.testing.assert_close(exp.score, score(net(x)).detach())
    if method == "saliency":
        torch.testing.assert_close(exp.attribution, gradient(net, x, score).abs())
    if method == "feature_ablation":
        torch.testing.assert_close(exp.attribution[:, 1], score(net(x)) - score(net(x * torch.tensor([1, 0, 1, 1]))))


def test_its_words_are_its_own_and_those_of_what_it_is_made_of(net: nn.Module, x: Tensor) -> None:
    asked = [Margin(), Twice("dog"), RunnerUp(), Contrast("dog", RunnerUp()), Probability(RunnerUp())]
    exps = explain(net, x, "saliency", target=asked, input_spec=NAMES)
    runner = [NAMES.label(int(c)) for c in net(x).argsort(1)[:, -2]]
    assert exps[0].target_label == ("output",) * 5 and exps[1].target_label == ("twice 1",) * 5
    assert exps[2].target_label == tuple(runner) and exps[2].target is not None and exps[2].probability is not None
    assert exps[3].target_label == tuple(f"dog rather than {name}" for name in runner)
    assert exps[4].target_label == tuple(f"p({name})" for name in runner)


def test_several_share_their_passes(net: nn.Module, x: Tensor) -> None:
    asked = [Margin(), Twice("dog"), RunnerUp(), 2]
    together = explain(net, x, "integrated_gradients", target=asked, input_spec=NAMES, n_steps=8)
    for exp, target in zip(together, asked, strict=True):
        assert exp.meta["shared_by_targets"] == 4
        (alone,) = explain(net, x, "integrated_gradients", target=target, input_spec=NAMES, n_steps=8)
        torch.testing.assert_close(exp.attribution, alone.attribution)
        assert exp.meta["forward_passes"] == alone.meta["forward_passes"]


@pytest.mark.parametrize("target", [Contrast(1, 0), Twice([0, 1, 2, 1, 0]), Contrast(Margin(), torch.tensor(1))])
def test_a_method_translates_what_it_is_made_of(target: Target, net: nn.Module, x: Tensor) -> None:
    fixed = as_target(target, 5)
    torch.testing.assert_close(Saliency(net).attribute(x, target), gradient(net, x, fixed).abs())
    noisy = NoiseTunnel(Saliency(net)).attribute(x, target=target, nt_samples=3, stdevs=0.0)
    torch.testing.assert_close(noisy, gradient(net, x, fixed).abs())


def test_a_target_without_literals_stays_the_object_that_it_is() -> None:
    fixed = Contrast(Index((1,)), Twice(Index((0,))))
    assert as_target(fixed, 5) is fixed and as_target(Contrast(1, 0), 5) == Contrast(Index((1,)), Index((0,)))


def test_literals_are_found_wherever_they_stand() -> None:
    target = ["label", Contrast("label", Twice(3)), Probability(None), Margin(), RunnerUp(), [ClassRegion("dog")]]
    assert literals(target) == ["label", "label", 3, None]
    found = map_literals(target, lambda one: 7 if one == "label" else one)
    assert found[:3] == [7, Contrast(7, Twice(3)), Probability(None)] and found[3:] == target[3:]


@pytest.mark.parametrize("target", [RunnerUp(), ClassRegion("dog"), Detection(), AllClasses(), Predicted()])
def test_what_only_the_prediction_makes_a_target_is_refused_by_a_method(
    target: Target, net: nn.Module, x: Tensor
) -> None:
    with pytest.raises(TargetError, match=r"depends on the model's clean prediction.*Call explain\(\.\.\.\)"):
        Saliency(net).attribute(x, target)


def test_what_leaves_several_values_is_refused_in_the_words_of_the_user(net: nn.Module, x: Tensor) -> None:
    wide = nn.Sequential(net, nn.Unflatten(1, (3, 1)), nn.Upsample(scale_factor=2))
    for target, said in ((1, "1"), (torch.tensor([0, 1, 0, 1, 2]), r"\[0, 1, 0, 1, 2\]")):
        with pytest.raises(TargetError, match=rf"The target {said} leaves values of shape \(5, 2\) for 5 samples"):
            explain(wide, x, "saliency", target=target)
    with pytest.raises(TargetError, match=r"AllClasses\(\) is several targets"):
        explain(net, x, "saliency", target=Contrast(AllClasses(), 0))

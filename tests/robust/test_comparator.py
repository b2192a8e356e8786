"""AttackComparator: Captum's results, and means that weigh samples."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import captum.robust as theirs
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InterpError, InterpWarning
from interp_plugins.robust import FGSM, AttackComparator, Perturbation

Both = namedtuple("Both", ["accuracy", "margin"])


class Darker(Perturbation):
    def perturb(self, inputs: Any, by: float = 1.0, target: Any = None) -> Any:
        return inputs - by


def accuracy(out: Tensor, target: Tensor) -> Tensor:
    return (out.argmax(1) == target).double()


def both(out: Tensor, target: Tensor) -> Both:
    return Both(accuracy(out, target), (out[:, 0] - out[:, 1]).mean().item())


def noise(inputs: Tensor) -> Tensor:
    return inputs + torch.randn_like(inputs)


def compared(cls: Any, net: nn.Module, metric: Any) -> Any:
    found = cls(net, metric, preproc_fn=lambda v: v * 2)
    found.add_attack(Darker(), attack_kwargs={"by": 0.5}, additional_attack_arg_names=["target"])
    found.add_attack(noise, "noise", num_attempts=3, apply_before_preproc=False)
    return found


@pytest.mark.parametrize("metric", [accuracy, both])
@pytest.mark.parametrize("at_once", [1, 2, 10])
def test_results_of_a_batch_and_means_of_equal_batches_are_captums(metric: Any, at_once: int) -> None:
    net, x, y = nn.Linear(4, 2).double().eval(), torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1] * 3)
    ours, peer = compared(AttackComparator, net, metric), compared(theirs.AttackComparator, net, metric)
    for part in (slice(0, 3), slice(3, 6)):
        torch.manual_seed(1)
        mine = ours.evaluate(x[part], target=y[part], perturbations_per_eval=at_once)
        torch.manual_seed(1)
        assert same(mine, peer.evaluate(x[part], target=y[part], perturbations_per_eval=at_once))
    assert same(ours.summary(), peer.summary())
    ours.reset()
    assert ours.summary() == {} and set(ours.attacks) == {"Darker", "noise"}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return getattr(a, "_fields", None) == getattr(b, "_fields", None) and all(map(same, a, b))
    return torch.allclose(torch.as_tensor(a).double(), torch.as_tensor(b).double())


def test_means_weigh_every_sample_alike() -> None:
    net, x = nn.Linear(4, 2).eval(), torch.randn(11, 4)
    y = net(x).argmax(1)
    y[10] = 1 - y[10]  # the only wrong one, alone in its batch
    found = AttackComparator(net, accuracy)
    for part in (slice(0, 10), slice(10, 11)):
        found.evaluate(x[part], target=y[part])
    assert float(found.summary()["Original"]["mean"]) == pytest.approx(10 / 11)


def test_no_graph_is_kept_and_gradient_attacks_work_all_the_same() -> None:
    net = nn.Linear(4, 2)
    found = AttackComparator(net, lambda out, target: out[:, 0])
    found.add_attack(FGSM(net), attack_kwargs={"epsilon": 0.5}, additional_attack_arg_names=["target"])
    result = found.evaluate(torch.randn(3, 4), target=0)
    assert not result["Original"].requires_grad and not result["FGSM"]["mean"].requires_grad
    assert bool((result["FGSM"]["mean"] < result["Original"]).all())


def test_further_arguments_of_the_model_go_along() -> None:
    found = AttackComparator(lambda x, scale: x * scale, lambda out: out)
    found.add_attack(lambda v: v + 1, "one more")
    for at_once in (1, 2):
        result = found.evaluate(torch.ones(2, 1), torch.tensor([[2.0], [3.0]]), at_once)
        assert result["one more"]["mean"].tolist() == [[4.0], [6.0]]


def test_wrong_calls_say_what_to_do() -> None:
    found = AttackComparator(nn.Linear(4, 2), lambda out: out[:, 0])
    found.add_attack(noise, "noise", additional_attack_arg_names=["target"])
    for name in ("noise", "Original"):
        with pytest.raises(InterpError, match="give this one another name="):
            found.add_attack(noise, name)
    with pytest.raises(InterpError, match="a Perturbation or a function"):
        found.add_attack("fgsm")
    with pytest.raises(InterpError, match="num_attempts must be a positive int"):
        found.add_attack(noise, "other", num_attempts=0)
    with pytest.warns(InterpWarning, match="'noise' takes target from evaluate"):
        found.evaluate(torch.zeros(1, 4))
    with pytest.raises(InterpError, match="joins batches of tensors"):
        AttackComparatorOfText().evaluate("a", perturbations_per_eval=2)
    with pytest.raises(InterpError, match="perturbations_per_eval must be a positive int"):
        found.evaluate(torch.zeros(1, 4), target=0, perturbations_per_eval=0)
    with pytest.raises(NotImplementedError, match="Perturbation has no perturb"):
        Perturbation()()


class AttackComparatorOfText(AttackComparator):
    def __init__(self) -> None:
        super().__init__(lambda text: torch.zeros(1, 2), lambda out: out)
        self.add_attack(lambda text: text + "b", "longer")

"""MinParamPerturbation: the first value of a grid that turns the model, the same by both searches."""

from __future__ import annotations

import math
from typing import Any

import captum.robust as theirs
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InputError, InterpError, InterpWarning
from interp_plugins.robust import FGSM, MinParamPerturbation
from tests.thorough import times


def shift(inputs: Tensor, by: float) -> Tensor:
    return inputs + by


class Above(nn.Module):
    """Class 1 where the first number is above a threshold."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold, self.rows = threshold, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return torch.stack([torch.full_like(x[:, 0], self.threshold), x[:, 0]], 1)


ZERO = torch.zeros(1, 1, dtype=torch.float64)


def test_both_searches_find_the_first_of_the_grid_that_turns_the_model() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(times(300, 3000)):
        low, step = float(torch.rand(1, generator=draw)) - 0.5, 0.02 + float(torch.rand(1, generator=draw)) / 5
        high = low + step + float(torch.rand(1, generator=draw))
        model = Above(low + float(torch.rand(1, generator=draw)) * (high - low) * 1.1)
        found = {
            mode: MinParamPerturbation(model, shift, "by", low, high, step, mode=mode).evaluate(ZERO, target=0)[1]
            for mode in ("linear", "binary")
        }
        k = next((k for k in range(1000) if low + k * step > model.threshold), 1000)
        expected = low + k * step if low + k * step < high - 1e-9 * step else None
        assert found["linear"] == found["binary"] == expected


def test_the_last_value_of_the_grid_is_found_by_a_binary_search() -> None:
    search = MinParamPerturbation(Above(0.85), shift, "by", 0.0, 1.0, 0.1, mode="binary")
    moved, value = search.evaluate(ZERO, target=0)
    assert value == pytest.approx(0.9) and torch.allclose(moved, ZERO + 0.9) and len(search.values) == 10


def test_the_grid_ends_below_arg_max_however_its_steps_are_rounded() -> None:
    for mode, of_captum in (("linear", 0.9999999999999999), ("binary", None)):  # ten times 0.1, added up, is below 1
        peer = theirs.MinParamPerturbation(Above(0.95), shift, "by", 0.0, 1.0, 0.1, mode=mode)
        assert peer.evaluate(ZERO, target=0)[1] == of_captum
        assert MinParamPerturbation(Above(0.95), shift, "by", 0.0, 1.0, 0.1, mode).evaluate(ZERO, target=0)[1] is None


def test_linear_search_is_captums() -> None:
    for threshold in (-1.0, 0.0, 0.31, 0.999, 2.0):
        ours = MinParamPerturbation(Above(threshold), shift, "by", 0, 1, 0.25).evaluate(ZERO, target=0)
        peer = theirs.MinParamPerturbation(Above(threshold), shift, "by", 0, 1, 0.25).evaluate(ZERO, target=0)
        assert ours[1] == peer[1] and (ours[0] is None) == (peer[0] is None)


def test_several_values_share_a_pass() -> None:
    for at_once in (1, 3, 50):
        model = Above(0.55)
        search = MinParamPerturbation(model, shift, "by", 0.0, 1.0, 0.1)
        moved, value = search.evaluate(ZERO.repeat(2, 1), target=[0, 0], perturbations_per_eval=at_once)
        assert value == pytest.approx(0.6) and torch.allclose(moved, ZERO.repeat(2, 1) + 0.6)
    assert model.rows == 20


def test_each_sample_has_a_value_of_its_own() -> None:
    x = torch.tensor([[0.0], [0.25], [-5.0]], dtype=torch.float64)
    for mode in ("linear", "binary"):
        search = MinParamPerturbation(Above(0.55), shift, "by", 0.0, 1.0, 0.1, mode=mode)
        moved, values = search.evaluate(x, target=[0, 0, 0], per_sample=True)
        assert torch.allclose(values[:2], torch.tensor([0.6, 0.4], dtype=torch.float64)) and bool(values[2].isnan())
        assert torch.allclose(moved[:, 0], torch.tensor([0.6, 0.65, -5.0], dtype=torch.float64))
    search = MinParamPerturbation(Above(0.55), shift, "by", 0.0, 1.0, 0.1)
    assert search.evaluate(x, target=[0, 0, 0])[1] == pytest.approx(0.4)  # of the batch: the first sample that turns


def test_arguments_of_samples_follow_them() -> None:
    net = nn.Linear(3, 2).double().eval()
    x = torch.randn(4, 3, dtype=torch.float64)
    y = net(x).argmax(1)
    search = MinParamPerturbation(net, FGSM(net), "epsilon", 0.0, 20.0, 0.05, mode="binary")
    _, values = search.evaluate(x, target=y, attack_kwargs={"target": y}, per_sample=True)
    z = net(x).detach()
    exact = (z.max(1).values - z.min(1).values) / (net.weight[0] - net.weight[1]).abs().sum().detach()
    assert torch.allclose(values, torch.ceil(exact / 0.05) * 0.05)


def test_an_attack_that_is_weaker_with_a_larger_value_is_told() -> None:
    bump = lambda inputs, by: inputs + (1.0 if 0.3 < by < 0.7 else 0.0)  # noqa: E731
    with pytest.warns(InterpWarning, match="the larger 0.9 does not"):
        MinParamPerturbation(Above(0.5), bump, "by", 0.0, 1.0, 0.1, mode="binary").evaluate(ZERO, target=0)


def test_attempts_are_made_until_one_turns_the_model_and_leave_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)  # threads of earlier tests
    noise = lambda inputs, std: inputs + std * torch.randn_like(inputs)  # noqa: E731
    state = torch.get_rng_state()
    once = MinParamPerturbation(Above(1.5), noise, "std", 0.0, 2.0, 0.1, num_attempts=1).evaluate(ZERO, target=0)[1]
    often = MinParamPerturbation(Above(1.5), noise, "std", 0.0, 2.0, 0.1, num_attempts=20).evaluate(ZERO, target=0)[1]
    assert often is not None and (once is None or often <= once) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("before", [False, True])
def test_the_attack_comes_before_or_after_the_preprocessing(before: bool) -> None:
    search = MinParamPerturbation(
        Above(1.05), shift, "by", 0, 3, 0.5, preproc_fn=lambda v: v * 2, apply_before_preproc=before
    )
    moved, value = search.evaluate(ZERO, target=0)
    assert value == (1.0 if before else 1.5) and float(moved) == value


def test_a_rule_of_the_users_own_says_what_is_right() -> None:
    correct = lambda out, limit: bool((out[:, 1] < limit).all())  # noqa: E731
    search = MinParamPerturbation(Above(0.0), shift, "by", 0, 5, 1, correct_fn=correct)
    assert search.evaluate(ZERO, correct_fn_kwargs={"limit": 2.5})[1] == 3


BAD: list[tuple[dict[str, Any], str]] = [
    ({"arg_step": 2.0}, "at most arg_max - arg_min"),
    ({"arg_step": 0.0}, "arg_step must be above 0"),
    ({"arg_max": math.inf}, "arg_max must be a finite number"),
    ({"mode": "quick"}, "'linear' or 'binary'"),
    ({"num_attempts": 0}, "num_attempts must be a positive int"),
    ({"attack": "fgsm"}, "a Perturbation or a function"),
]


@pytest.mark.parametrize(("wrong", "text"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_constructions_are_refused(wrong: dict[str, Any], text: str) -> None:
    right = {"attack": shift, "arg_name": "by", "arg_min": 0.0, "arg_max": 1.0, "arg_step": 0.1}
    with pytest.raises(InterpError, match=text):
        MinParamPerturbation(Above(0.5), **{**right, **wrong})


def test_wrong_calls_are_refused() -> None:
    search = MinParamPerturbation(Above(0.5), shift, "by", 0, 1, 0.1)
    with pytest.raises(InputError, match="target, the right class, is needed"):
        search.evaluate(ZERO)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="perturbations_per_eval must be a positive int"):
            search.evaluate(ZERO, target=0, perturbations_per_eval=wrong)
    with pytest.raises(InterpError, match="per_sample needs tensors"):
        search.evaluate("text", target=0, per_sample=True)
    with pytest.raises(InterpError, match="scores of classes"):
        MinParamPerturbation(lambda v: v[:, 0], shift, "by", 0, 1, 0.1).evaluate(ZERO, target=0)

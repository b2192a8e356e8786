"""`infidelity` against Captum's: the same numbers under one seed, and what is different on purpose."""

from __future__ import annotations

import inspect
import warnings

import captum.metrics as theirs
import pytest
import torch
from torch import Tensor, nn

from interp_plugins import metrics as ours
from interp_plugins.core.errors import InputError, InterpWarning


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return (self.left(a).tanh() + self.right(b).tanh()) * scale


NET = Two().double()
X = tuple(torch.randn(4, k, generator=torch.Generator().manual_seed(k)).double() for k in (4, 5))
A = tuple(torch.randn(4, k, generator=torch.Generator().manual_seed(k + 9)).double() for k in (4, 5))


def noisy(inputs, baselines=None):
    many = inputs if isinstance(inputs, tuple) else (inputs,)
    noise = tuple(0.1 * torch.randn_like(x) for x in many)
    moved = tuple(x - n for x, n in zip(many, noise))
    return (noise, moved) if isinstance(inputs, tuple) else (noise[0], moved[0])


def both(*args, **kwargs) -> tuple[Tensor, Tensor]:
    found = []
    for lib in (theirs, ours):
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(lib.infidelity(*args, **kwargs))
    return found[0], found[1]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("most", [None, 1, 9, 100])
@pytest.mark.parametrize("n", [1, 7])
def test_numbers_are_captums_under_one_seed(normalize: bool, most: int | None, n: int) -> None:
    options = {"n_perturb_samples": n, "max_examples_per_batch": most, "normalize": normalize}
    scale = torch.rand(4, 1).double()
    for target in (1, [0, 2, 1, 1], torch.tensor([0, 2, 1, 1])):
        a, b = both(NET, noisy, X, A, target=target, additional_forward_args=scale, **options)
        assert a.shape == b.shape == (4,) and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    single, x = nn.Linear(4, 2).double(), X[0]
    torch.testing.assert_close(*both(single, noisy, x, A[0], baselines=torch.zeros(4, 4), target=0, **options))


@pytest.mark.parametrize("multiply", [False, True])
def test_decorated_functions_are_captums(multiply: bool) -> None:
    def perturb(inputs, baselines=None):
        return inputs * (torch.rand_like(inputs) > 0.5)

    linear, x = nn.Linear(4, 2).double(), X[0]
    for base in (None, 0.5, torch.randn(4, 4).double()):
        found = []
        for lib in (theirs, ours):
            torch.manual_seed(5)
            decorated = lib.infidelity_perturb_func_decorator(multiply)(perturb)
            found.append(lib.infidelity(linear, decorated, x, A[0], base, target=1))
        torch.testing.assert_close(*found)


def test_signatures_are_captums_and_more() -> None:
    for name in ("infidelity", "infidelity_perturb_func_decorator"):
        a, b = (inspect.signature(getattr(lib, name)).parameters for lib in (theirs, ours))
        shared = [p for p in b.values() if p.kind is not p.KEYWORD_ONLY]
        assert [(p.name, p.default) for p in a.values()] == [(p.name, p.default) for p in shared]


def test_infidelity_freezes_the_model_and_leaves_the_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_plugins.core.global_random.others_run", lambda: False)  # threads of earlier tests
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double().train()
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first, again = (ours.infidelity(model, noisy, X[0], A[0], target=1) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), rng) and model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    theirs.infidelity(model, noisy, X[0], A[0], target=1)
    assert not torch.equal(model[1].running_mean, state["1.running_mean"])


def test_infidelity_takes_a_seed_and_waits_for_futures() -> None:
    linear = nn.Linear(4, 2).double()

    def later(x: Tensor) -> torch.futures.Future:
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(linear(x))
        return future

    a = ours.infidelity(linear, noisy, X[0], A[0], target=1, seed=3)
    assert torch.equal(a, ours.infidelity(later, noisy, X[0], A[0], target=1, seed=3))
    assert not torch.equal(a, ours.infidelity(linear, noisy, X[0], A[0], target=1, seed=4))
    with pytest.raises(TypeError):
        theirs.infidelity(later, noisy, X[0], A[0], target=1)


def test_infidelity_asks_for_the_clean_score_once() -> None:
    rows = []
    linear = nn.Linear(4, 2).double()
    linear.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    from interp_plugins import row_probe

    with row_probe(False):
        ours.infidelity(linear, noisy, X[0], A[0], target=1, max_examples_per_batch=8)
    mine = sum(rows)
    rows.clear()
    theirs.infidelity(linear, noisy, X[0], A[0], target=1, max_examples_per_batch=8)
    assert mine == 4 * 11 and sum(rows) == 4 * 15


def test_what_is_wrong_is_said() -> None:
    linear = nn.Linear(4, 2).double()
    with pytest.raises(InputError, match="n_perturb_samples must be a positive int, got 0"):
        ours.infidelity(linear, noisy, X[0], A[0], target=1, n_perturb_samples=0)
    with pytest.raises(InputError, match="needs @infidelity_perturb_func_decorator"):
        ours.infidelity(linear, lambda x: x, X[0], A[0], target=1)
    with pytest.raises(InputError, match=r"perturbed inputs have \[\(40, 3\)\], expected \[\(40, 4\)\]"):
        ours.infidelity(linear, lambda x: (x, x[:, :3]), X[0], A[0], target=1)
    with pytest.raises(AssertionError, match="must have matching shapes"):
        ours.infidelity(linear, noisy, X[0], A[0][:, :3], target=1)
    with pytest.warns(InterpWarning, match="max_examples_per_batch is 2"):
        ours.infidelity(linear, noisy, X[0], A[0], target=1, max_examples_per_batch=2)


def test_a_zero_element_has_no_share_to_lose_and_a_warning_says_so() -> None:
    x, w = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]])

    @ours.infidelity_perturb_func_decorator(True)
    def plus_one(inputs):
        return inputs + 1

    with pytest.warns(InterpWarning, match="elements that equal their baseline"):
        found = ours.infidelity(lambda v: (v * w).sum(1), plus_one, x, x * w)
    assert found.item() == 4  # as Captum's, though the map is exact

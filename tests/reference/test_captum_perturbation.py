"""Captum 0.9 beside our perturbation methods where the table of `test_captum.py` cannot put them side by side.

Lime agrees to 1e-6 (Captum rounds the coefficients to float32), KernelShap to 1e-5 (Captum weighs the two ends by 1e6,
which is a constraint here). Both draw the same numbers under one `torch.manual_seed`, sample by sample.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import captum.attr as theirs
import pytest
import torch
from torch import Tensor

import interp_plugins.attr as ours
from tests.conformance.cases import BY_NAME, Problem, distance
from tests.reference.oracle import SEED, double, rolled


def one_by_one(method: Any, problem: Problem, **arguments: Any) -> Tensor:
    """Captum's maps sample by sample, each from the same seed."""
    found = []
    for i in range(problem.case.n):
        target = problem.case.target
        torch.manual_seed(SEED)
        found.append(
            method.attribute(
                problem.inputs[i : i + 1],
                target=[target[i]] if isinstance(target, list) else target,
                **arguments,
            )
        )
    return torch.cat(found)


@pytest.mark.parametrize("return_input_shape", [True, False])
@pytest.mark.parametrize("case", ["int", "list", "conv"])
@pytest.mark.parametrize(("name", "tolerance"), [("Lime", 1e-6), ("KernelShap", 1e-5)])
def test_regressions_agree(name: str, tolerance: float, case: str, return_input_shape: bool) -> None:
    problem = BY_NAME[case].build()
    # Captum counts the ids that a mask leaves out as features, and draws for them, too.
    mask = problem.case.mask() if problem.case.mask else None
    if mask is not None:
        mask = torch.unique(mask, return_inverse=True)[1]
    known = {"feature_mask": mask, "n_samples": 7, "baselines": 0.3, "return_input_shape": return_input_shape}
    with double(), torch.random.fork_rng(devices=[]):
        mine = getattr(ours, name)(problem.model).attribute(
            problem.inputs, target=problem.case.target, seed=SEED, **known
        )
        captums = one_by_one(getattr(theirs, name)(problem.model), problem, **known)
    assert mine.shape == captums.shape
    assert distance(mine, captums) <= tolerance * float(captums.abs().max())


def test_model_with_one_value_per_batch_agrees() -> None:
    problem = BY_NAME["int"].build()

    def total(x: Tensor) -> Tensor:
        return problem.model(x)[:, 0].sum()

    with double(), torch.random.fork_rng(devices=[]):
        for name in ("Lime", "KernelShap"):
            torch.manual_seed(SEED)
            captums = getattr(theirs, name)(total).attribute(problem.inputs, n_samples=9)
            mine = getattr(ours, name)(total).attribute(problem.inputs, n_samples=9, seed=SEED)
            assert distance(mine, captums) <= 1e-5 * float(captums.abs().max())
        for name in ("ShapleyValues", "ShapleyValueSampling"):
            more = {} if name == "ShapleyValues" else {"seed": SEED}
            torch.manual_seed(SEED)
            captums = getattr(theirs, name)(total).attribute(problem.inputs)
            assert distance(getattr(ours, name)(total).attribute(problem.inputs, **more), captums) <= 1e-10


def test_shapley_sampling_draws_captums_orders_under_one_manual_seed() -> None:
    problem = BY_NAME["conv"].build()
    known = {"target": 1, "n_samples": 4, "feature_mask": problem.case.mask()}
    with double(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        captums = theirs.ShapleyValueSampling(problem.model).attribute(problem.inputs, **known)
        torch.manual_seed(SEED)
        mine = ours.ShapleyValueSampling(problem.model).attribute(problem.inputs, **known)
    assert distance(mine, captums) <= 1e-10


def test_layer_permutation_agrees_for_a_given_shuffle() -> None:
    """Without a target: Captum applies it twice, see docs/differences.md."""
    given = [mock.patch.object(lib.FeaturePermutation.__init__, "__defaults__", (rolled,)) for lib in (ours, theirs)]
    with double(), given[0], given[1]:
        for case in ("conv", "int", "two inputs"):
            problem = BY_NAME[case].build()
            mine, captums = (
                lib.LayerFeaturePermutation(problem.model, problem.layer).attribute(problem.inputs)
                for lib in (ours, theirs)
            )
            assert distance(mine, captums) <= 1e-10


def test_permutation_follows_the_distribution_of_captums() -> None:
    """Means over 60 shuffles agree within four standard errors of their difference."""
    problem = BY_NAME["int"].build()
    with double(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        captums = torch.stack(
            [theirs.FeaturePermutation(problem.model).attribute(problem.inputs, target=1) for _ in range(60)]
        )
        mine = torch.stack(
            [ours.FeaturePermutation(problem.model).attribute(problem.inputs, target=1, seed=s) for s in range(60)]
        )
    error = ((captums.var(0) + mine.var(0)) / 60).sqrt()
    assert bool(((captums.mean(0) - mine.mean(0)).abs() <= 4 * error + 1e-12).all())

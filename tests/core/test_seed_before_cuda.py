"""Private draws leave alone the seed with which CUDA will begin, where CUDA is not in use yet."""

from __future__ import annotations

from typing import Any

import torch

from interp_plugins import explain
from interp_plugins.core.global_random import preserved_rng, seed_torch


def test_a_cuda_device_not_in_use_keeps_the_seed_it_was_given(monkeypatch: Any) -> None:
    noted: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", noted.append)
    net = torch.nn.Linear(4, 3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    explain(net, torch.ones(2, 4), ("gradient_shap", "feature_permutation"), seed=3)
    assert noted == [11] and torch.equal(torch.get_rng_state(), before)


def test_the_seed_is_that_of_torch_elsewhere() -> None:
    with preserved_rng():
        seed_torch(5)
        mine = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(3), mine)

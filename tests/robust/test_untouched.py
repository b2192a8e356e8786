"""Every verb of `robust` beside another thread and after Ctrl-C: all of the user's stays as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.spec import InputSpec
from interp_plugins.robust import (
    attack,
    certify,
    corruptions,
    counterfactual,
    explanation_robustness,
    one_feature_margins,
    robustness,
    smallest_flip,
)

SPEC = InputSpec("image", mean=(0.5,), std=(0.25,))
ROWS = torch.randn(20, 64, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Normalised over the batch, with dropout; may be interrupted at a pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
        )
        self.left = -1

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        found: Tensor = self.body(x.reshape(len(x), 1, 8, 8))
        return found


Call = Callable[[nn.Module, Tensor], Any]
VERBS: dict[str, Call] = {
    "pgd": lambda net, x: attack(net, x, eps=0.05, restarts=2, steps=3, input_spec=SPEC),
    "fmn": lambda net, x: attack(net, x, "fmn", norm="L2", restarts=2, steps=3, input_spec=SPEC),
    "robustness": lambda net, x: robustness(net, x, eps=(0.05,), steps=2, methods="noise_tunnel", input_spec=SPEC),
    "maps": lambda net, x: explanation_robustness(
        net, x, ["noise_tunnel", "occlusion"], n_random=2, steps=2, keep=2.0, sliding_window_shapes=(1, 4, 4),
        input_spec=SPEC,
    ),
    "visible": lambda net, x: counterfactual(net, x, steps=4, input_spec=SPEC),
    "regions": lambda net, x: smallest_flip(net, x, baselines="uniform", input_spec=SPEC),
    "row": lambda net, x: counterfactual(net, ROWS[:2], data=ROWS, kind="row", n=2),
    "margins": lambda net, x: one_feature_margins(net, ROWS[:1], ROWS, features=["x0", "x1"]),
    "corruptions": lambda net, x: corruptions(
        net, x, names=["gaussian_noise", "elastic"], severities=(3,), input_spec=SPEC
    ),
    "certify": lambda net, x: certify(net, x, sigma=0.1, n0=5, n=20, input_spec=SPEC),
}  # fmt: skip


def draws() -> list[Any]:
    return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002


@pytest.mark.filterwarnings("ignore::interp_plugins.core.errors.InterpWarning")
@pytest.mark.usefixtures("another_thread")
@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "ctrl-c"])
def test_a_verb_leaves_everything_as_it_was(name: str, stopped: bool) -> None:
    net = Net().train()
    net.body[0].weight.requires_grad_(False)
    net.body[1].eval()
    x = SPEC.normalise(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    before, given = {k: v.clone() for k, v in net.state_dict().items()}, x.clone()
    modes = [m.training for m in net.modules()]
    grads, states = [p.requires_grad for p in net.parameters()], draws()
    net.left = 4 if stopped else -1
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            VERBS[name](net, x)
    else:
        VERBS[name](net, x)
    assert draws() == states and [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and torch.equal(x, given)
    assert [p.requires_grad for p in net.parameters()] == grads and all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

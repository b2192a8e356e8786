"""Training with the callback and without it gives the same weights, to the last bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

CHEAP = {"integrated_gradients": {"n_steps": 4}, "noise_tunnel": {"nt_samples": 2, "n_steps": 3}, "occlusion": {}}


def seed_everything() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that training uses
    torch.manual_seed(1)


def fit(make_net, make_loader, trainer: Any, prepare: Any = None) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Weights, buffers and gradients after training, and the generators' states."""
    net = make_net()
    if prepare is not None:
        prepare(net)
    seed_everything()
    trainer.fit(net, make_loader(8, 2, shuffle=True), make_loader(4, 2, seed=1, shuffle=True))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state |= {f"grad of {n}": p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return state, [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002


def assert_equal(left: tuple[dict[str, torch.Tensor], list[Any]], right: tuple[dict[str, torch.Tensor], list[Any]]):
    assert left[0].keys() == right[0].keys()
    assert [k for k in left[0] if not torch.equal(left[0][k], right[0][k])] == []
    assert left[1] == right[1]


def frozen_bn(net: nn.Module) -> None:
    net.body[1].eval()
    net.on_train_epoch_start = lambda: net.body[1].eval()


def frozen_layer(net: nn.Module) -> None:
    net.body[0].requires_grad_(False)


def compiled(net: nn.Module) -> None:
    net.compile(backend="eager")


CASES = {
    "plain": ({"max_epochs": 2, "num_sanity_val_steps": 0}, None),
    "sanity check": ({"max_epochs": 2, "num_sanity_val_steps": 2}, None),
    "accumulate, validate within the epoch": ({"accumulate_grad_batches": 4, "val_check_interval": 2}, None),
    "accumulate, one step left open": ({"accumulate_grad_batches": 3, "val_check_interval": 1}, None),
    "bf16-mixed": ({"precision": "bf16-mixed"}, None),
    "64-true": ({"precision": "64-true"}, None),
    "frozen batch norm": ({"max_epochs": 2}, frozen_bn),
    "frozen layer": ({"max_epochs": 2}, frozen_layer),
    "compiled": ({"max_epochs": 2}, compiled),
}


BOTH = ("plain", "accumulate, one step left open", "frozen batch norm", "64-true")
PAIRS = [(case, "validate") for case in CASES] + [(case, "train") for case in BOTH]


@pytest.mark.parametrize(("case", "stage"), PAIRS)
def test_L4_training_is_bit_identical(case, stage, make_net, make_loader, make_trainer, make_callback) -> None:
    options, prepare = CASES[case]
    without = fit(make_net, make_loader, make_trainer(**options), prepare)
    callback = make_callback(CHEAP, stages=(stage,), n_samples=1)
    with_it = fit(make_net, make_loader, make_trainer(callback, **options), prepare)
    assert callback.n_runs >= 1 and len(callback.last) == 3
    assert_equal(without, with_it)


@pytest.mark.parametrize("method", ["gradient_shap", "gradcam", "saliency", "feature_ablation", "layer_conductance"])
def test_L4_training_is_bit_identical_for_other_methods(
    method, make_net, make_loader, make_trainer, make_callback
) -> None:
    options = {"accumulate_grad_batches": 4, "val_check_interval": 2}
    layer = "body.0" if "layer" in method else None
    without = fit(make_net, make_loader, make_trainer(**options))
    callback = make_callback(method, layer=layer)
    assert_equal(without, fit(make_net, make_loader, make_trainer(callback, **options)))
    assert callback.n_runs == 2


def failing(output: torch.Tensor) -> torch.Tensor:
    """A target that draws random numbers and then fails."""
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    raise ValueError("no such thing as a target")


def test_L5_training_goes_on_unchanged_after_an_error(
    make_net, make_loader, make_trainer, make_callback, warned
) -> None:
    without = fit(make_net, make_loader, make_trainer())
    callback = make_callback(target=failing, on_error="warn")
    with warned("ValueError: no such thing as a target"):
        with_it = fit(make_net, make_loader, make_trainer(callback))
    assert_equal(without, with_it)
    assert callback.n_runs == 0 and len(callback.last) == 0


def test_L5_an_error_is_raised_where_that_is_asked_for(make_net, make_loader, make_trainer, make_callback) -> None:
    net = make_net()
    with pytest.raises(ValueError, match="no such thing"):
        make_trainer(make_callback(target=failing)).fit(net, make_loader(), make_loader())
    assert not net.body[0]._forward_hooks


def greedy(batch: Any) -> torch.Tensor:
    """An input function that works in place."""
    return batch[0].mul_(0).add_(1)


@pytest.mark.parametrize("entry", ["fit", "validate", "test"])
@pytest.mark.parametrize("input_fn", [None, greedy], ids=["plain", "input_fn works in place"])
def test_L2_the_batch_stays_as_it_was(
    entry, input_fn, net_class, make_net, make_loader, make_trainer, make_callback
) -> None:
    seen = []

    class Watching(net_class):
        def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append((batch[0].requires_grad, batch[0].clone()))

        on_test_batch_end = on_validation_batch_end

    net, callback = make_net(Watching), make_callback("ig", stages=("validate", "test"), input_fn=input_fn)
    data = make_loader()
    trainer = make_trainer(callback, num_sanity_val_steps=0)
    trainer.fit(net, data, data) if entry == "fit" else getattr(trainer, entry)(net, data, verbose=False)
    assert callback.n_runs == 1
    assert not any(requires_grad for requires_grad, _ in seen)
    assert torch.equal(torch.cat([x for _, x in seen]), data.dataset.tensors[0])


def test_L25_no_hooks_are_left_after_some_epochs(make_net, make_loader, make_trainer, make_callback) -> None:
    net = make_net()
    make_trainer(make_callback(["gradcam", "layer_conductance"], layer="body.0"), max_epochs=3).fit(
        net, make_loader(), make_loader()
    )
    hooks = [len(h) for m in net.modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
    assert sum(hooks) == 0

"""Training with the callback and without it gives the same weights, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger
from torch import nn

METHODS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 4},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 3},
    "gradient_shap": {"n_samples": 2},
    "grad_cam": {},
    "occlusion": {},
}


def seed_everything() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that training uses
    torch.manual_seed(1)


class Memory(Logger):
    """Keeps what it is given."""

    name, version = "memory", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Found(NamedTuple):
    """Everything that training leaves behind."""

    tensors: dict[str, torch.Tensor]
    logged: list[tuple[int | None, dict[str, float]]]
    draws: list[float]


def fit(make_net, make_loader, trainer: Any, prepare: Any = None) -> Found:
    """Weights, buffers, gradients, the optimizer's state, logged losses, and what the generators give next."""
    net = make_net()
    if prepare is not None:
        prepare(net)
    memory = Memory()
    trainer.loggers = [memory]

    def step_and_log(name: str, step: Any) -> Any:
        def logging_step(batch: Any, batch_idx: int) -> Any:
            loss = net.step(batch)
            net.log(name, loss.double(), on_step=name == "loss", on_epoch=True)
            return step(batch, batch_idx)

        return logging_step

    net.training_step = step_and_log("loss", net.training_step)
    net.validation_step = step_and_log("val_loss", net.validation_step)
    seed_everything()
    trainer.fit(net, make_loader(8, 2, shuffle=True), make_loader(4, 2, seed=1, shuffle=True))
    tensors = dict(net.state_dict())
    tensors |= {f"grad of {n}": p.grad for n, p in net.named_parameters() if p.grad is not None}
    for i, optimizer in enumerate(trainer.optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer {i}, {k} of {j}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
    losses = [(step, {k: v for k, v in row.items() if "loss" in k}) for step, row in memory.rows]
    draws = [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002
    return Found({k: v.detach().clone() for k, v in tensors.items()}, [row for row in losses if row[1]], draws)


def assert_equal(left: Found, right: Found) -> None:
    """To the last bit."""
    assert any("momentum" in name for name in left.tensors) and len(left.logged) > 1
    assert left.tensors.keys() == right.tensors.keys()
    assert [k for k in left.tensors if not torch.equal(left.tensors[k], right.tensors[k])] == []
    assert left.logged == right.logged
    assert left.draws == right.draws


def frozen_bn(net: nn.Module) -> None:
    net.body[1].eval()
    net.on_train_epoch_start = lambda: net.body[1].eval()


def frozen_layer(net: nn.Module) -> None:
    net.body[0].requires_grad_(False)


def compiled(net: nn.Module) -> None:
    net.compile(backend="eager")


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({"max_epochs": 2, "num_sanity_val_steps": 0}, None),
    "sanity check": ({"max_epochs": 2, "num_sanity_val_steps": 2}, None),
    "accumulate, validate within the epoch": ({"accumulate_grad_batches": 4, "val_check_interval": 2}, None),
    "accumulate, one step left open": ({"accumulate_grad_batches": 3, "val_check_interval": 1}, None),
    "bf16-mixed": ({"precision": "bf16-mixed"}, None),
    "64-true": ({"precision": "64-true"}, None),
    "frozen batch norm": ({"max_epochs": 2}, frozen_bn),
    "frozen layer": ({"max_epochs": 2}, frozen_layer),
    "compiled": ({"max_epochs": 2}, compiled),
    "averaged weights": ({"max_epochs": 2, "averaging": 0.5}, None),
    "clipped gradients": ({"max_epochs": 2, "gradient_clip_val": 0.05}, None),
}


@pytest.fixture(scope="module")
def without() -> dict[str, Found]:
    """Training without the callback, once for each case."""
    return {}


@pytest.fixture
def unchanged(without, make_net, make_loader, make_trainer) -> Callable[..., None]:
    """Train a case with a callback, and compare."""

    def run(case: str, callback: Any) -> None:
        options, prepare = CASES[case]
        options = {"log_every_n_steps": 1, **options}
        averaging = options.pop("averaging", None)

        def trained(*callbacks: Any) -> Found:
            averages = [] if averaging is None else [EMAWeightAveraging(decay=averaging)]
            return fit(make_net, make_loader, make_trainer(*callbacks, *averages, **options), prepare)

        if case not in without:
            without[case] = trained()
        assert_equal(without[case], trained(callback))
        assert callback.n_runs >= 1

    return run


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_L4_training_is_bit_identical(case, method, unchanged, make_callback) -> None:
    unchanged(case, make_callback({method: METHODS[method]}, n_samples=1))


@pytest.mark.parametrize("case", ["plain", "accumulate, one step left open", "frozen batch norm", "64-true"])
def test_L4_training_is_bit_identical_when_training_batches_are_explained(case, unchanged, make_callback) -> None:
    unchanged(case, make_callback(METHODS, n_samples=1, stages=("train",)))


@pytest.mark.parametrize("method", ["saliency", "feature_ablation", "layer_conductance"])
def test_L4_training_is_bit_identical_for_other_methods(method, unchanged, make_callback) -> None:
    layer = "body.0" if "layer" in method else None
    unchanged("accumulate, validate within the epoch", make_callback(method, layer=layer))


def test_L4_training_is_bit_identical_while_pictures_and_numbers_are_logged(unchanged, make_callback, tmp_path) -> None:
    unchanged("plain", make_callback(METHODS, n_samples=1, loggers="both", dirpath=str(tmp_path / "p")))
    assert len(list((tmp_path / "p").iterdir())) == 2 * len(METHODS)  # a picture per method after each epoch


def test_L4_a_change_of_training_would_be_seen(without, unchanged, make_callback) -> None:
    class Drawing(type(make_callback())):
        def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_validation_batch_end(*args, **kwargs)
            torch.rand(1)

    with pytest.raises(AssertionError):
        unchanged("plain", Drawing("saliency", loggers="none"))


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

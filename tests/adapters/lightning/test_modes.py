"""Gradient modes, precisions, averaged weights, compiled modules: where the callback is called and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, WeightAveraging
from torch import nn

from interp_plugins.lightning import explain


@pytest.mark.parametrize("entry", ["fit", "validate", "test"])
def test_L1_works_in_every_stage(entry, make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback(["ig", "noise_tunnel", "occlusion", "gradcam"], stages=("validate", "test", "train"))
    trainer = make_trainer(callback, num_sanity_val_steps=0)
    net = make_net()
    if entry == "fit":
        trainer.fit(net, make_loader(), make_loader())
    else:
        getattr(trainer, entry)(net, make_loader(), verbose=False)
    assert callback.n_runs == (2 if entry == "fit" else 1)
    for exp in callback.last:
        assert type(exp.attribution) is torch.Tensor and not exp.attribution.is_inference()
        assert not exp.input.is_inference() and bool(exp.attribution.isfinite().all())


def test_L1_predicting_does_nothing(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback(stages=("validate", "test", "train"))
    make_trainer(callback).predict(make_net(), make_loader())
    assert callback.n_runs == 0


def test_L1_maps_are_those_of_the_core(make_net, make_loader, make_trainer, make_callback) -> None:
    net, data = make_net(), make_loader()
    callback = make_callback(["ig", "noise_tunnel"], n_samples=3, seed=5)
    make_trainer(callback).validate(net, data, verbose=False)
    again = explain(net, data.dataset.tensors[0][:3], ["ig", "noise_tunnel"], seed=5)
    for one, other in zip(callback.last, again):
        assert torch.equal(one.attribution, other.attribution)


class Caching(nn.Module):
    """Makes a table in the first forward and keeps it."""

    def __init__(self, as_buffer: bool):
        super().__init__()
        self.as_buffer = as_buffer
        if as_buffer:
            self.register_buffer("table", None)
        else:
            self.table = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, x.shape[-1]) * 1.0
        return x * self.table


def caching_body(as_buffer: bool) -> nn.Module:
    return nn.Sequential(Caching(as_buffer), nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2))


def test_L3_a_buffer_made_in_inference_mode_works(make_net, make_loader, make_trainer, make_callback) -> None:
    callback = make_callback("ig")
    make_trainer(callback).validate(make_net(body=caching_body(True)), make_loader(), verbose=False)
    assert callback.n_runs == 1


def test_L3_a_cache_made_in_inference_mode_has_a_clear_message(
    make_net, make_loader, make_trainer, make_callback, warned
) -> None:
    net = make_net(body=caching_body(False))
    with warned(r"Trainer\(inference_mode=False\)"):
        make_trainer(make_callback("ig", on_error="warn")).validate(net, make_loader(), verbose=False)
    callback = make_callback("ig")
    make_trainer(callback, inference_mode=False).validate(
        make_net(body=caching_body(False)), make_loader(), verbose=False
    )
    assert callback.n_runs == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "16-true", "64-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("autocast", [False, True])
def test_L6_every_precision_gives_finite_maps(
    precision, autocast, make_net, make_loader, make_trainer, make_callback
) -> None:
    callback = make_callback(["ig", "noise_tunnel", "occlusion"], autocast=autocast)
    make_trainer(callback, precision=precision).fit(make_net(), make_loader(), make_loader())
    for exp in callback.last:
        assert bool(exp.attribution.isfinite().all()) and float(exp.attribution.float().abs().sum()) > 0
        assert np.isfinite(exp.heatmap(0)).all()
        exp.plot()


def test_L6_autocast_gives_the_logits_of_the_step(
    net_class, make_net, make_loader, make_trainer, make_callback
) -> None:
    steps = []

    class Recording(net_class):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            steps.append(self(batch[0]).float())

    scores = {}
    for autocast in (True, False):
        callback = make_callback(n_samples=4, target=1, autocast=autocast)
        steps.clear()
        make_trainer(callback, precision="bf16-mixed").validate(make_net(Recording), make_loader(), verbose=False)
        scores[autocast] = callback.last[0].score.float()
        expected = steps[0][:, 1].clone()
        assert torch.allclose(scores[autocast], expected, atol=2e-2)
        assert torch.equal(scores[autocast], expected) == autocast


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("kind", [lambda: EMAWeightAveraging(decay=0.5), WeightAveraging], ids=["EMA", "mean"])
def test_L9_maps_are_of_the_averaged_weights(kind, order, make_net, make_loader, make_trainer, make_callback) -> None:
    callback, averaging = make_callback(target=0), kind()
    callbacks = (averaging, callback) if order == "first" else (callback, averaging)
    trainer = make_trainer(*callbacks, num_sanity_val_steps=0)
    net, data = make_net(), make_loader()
    weights_during = {}
    original = net.validation_step

    def validation_step(batch, batch_idx, dataloader_idx=0):
        weights_during["now"] = {k: v.clone() for k, v in net.state_dict().items()}
        return original(batch, batch_idx)

    net.validation_step = validation_step
    trainer.fit(net, data, data)
    averaged = make_net()
    averaged.load_state_dict(weights_during["now"])
    expected = explain(averaged, data.dataset.tensors[0][:2], "saliency", target=0)[0]
    assert torch.equal(callback.last[0].attribution, expected.attribution)


def test_L16_a_compiled_module_is_explained_after_it_has_run(
    make_net, make_loader, make_trainer, make_callback
) -> None:
    net, data = make_net(), make_loader()
    expected = explain(net, data.dataset.tensors[0][:2], ["gradcam", "ig"], layer=None)
    net.compile(backend="eager")
    callback = make_callback(["gradcam", "ig"], every_n_epochs=1)
    make_trainer(callback).validate(net, data, verbose=False)
    for one, other in zip(callback.last, expected):
        assert torch.allclose(one.attribution, other.attribution, atol=1e-6)


def test_L16_a_module_wrapped_by_torch_compile(make_net, make_loader, make_trainer, make_callback) -> None:
    net = torch.compile(make_net(), backend="eager")
    callback = make_callback(["gradcam"], layer="body.0")
    make_trainer(callback, max_epochs=2).fit(net, make_loader(), make_loader())
    assert callback.n_runs == 2 and callback.last[0].layer == "body.0"

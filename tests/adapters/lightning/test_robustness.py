"""Robustness of a LightningModule, and a callback that changes nothing of the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp_plugins.core.errors import InterpError
from interp_plugins.core.spec import InputSpec
from interp_plugins.lightning import (
    RobustnessCallback,
    certify,
    corruptions,
    counterfactual,
    explanation_robustness,
    robustness,
)
from interp_plugins.lightning.robustness import ModuleData
from interp_plugins.robust import certify as core_certify
from interp_plugins.robust import robustness as core_robustness
from tests.adapters.lightning.test_training_unchanged import assert_equal, fit

WIDE = ModuleData(input_spec=InputSpec("image", value_range=(-6.0, 6.0)))


def test_a_module_and_its_loader_are_asked_as_the_core_is(make_net: Any, make_loader: Any) -> None:
    net, loader = make_net().train(), make_loader(10)
    found = robustness(net, loader, eps=(0.05, 0.5), n=7, steps=3, check=False, read=WIDE)
    x, y = (torch.stack(column) for column in zip(*loader.dataset, strict=True))
    plain = core_robustness(net, x[:7], labels=y[:7], eps=(0.05, 0.5), steps=3, check=False, bounds=(-6.0, 6.0))
    assert torch.equal(found.right, plain.right) and found.labelled and net.training and len(found) == 7


def test_what_is_certain_of_a_module_is_what_the_core_says(make_net: Any, make_loader: Any) -> None:
    net, loader = make_net().train(), make_loader(10)
    x = torch.stack([pair[0] for pair in loader.dataset])
    asked: dict[str, Any] = {"sigma": 0.2, "n": 60, "n0": 20}
    found = certify(net, [(x[:3], torch.zeros(3))], **asked, n_samples=2, read=WIDE)
    plain = core_certify(net, x[:2], **asked, input_spec=WIDE.input_spec)
    assert torch.equal(found.radius, plain.radius) and found.prediction == plain.prediction and net.training
    several = certify(net, loader, n_samples=None, **asked, read=WIDE)
    assert len(several.to_df()) == 10 and torch.equal(several.radius[:2], plain.radius)
    with pytest.raises(InterpError, match="hold no sample"):
        certify(net, [], read=WIDE)


def test_maps_counterfactuals_and_corruptions_know_the_names(make_net: Any, make_loader: Any) -> None:
    net = make_net()
    read = ModuleData(class_names=["a", "b", "c"], mean=[0.5], std=[0.25])
    pictures = [(torch.rand(4, 1, 8, 8) * 4 - 2, torch.tensor([0, 1, 2, 0]))]
    maps = explanation_robustness(net, pictures, "saliency", n=2, read=read, n_random=2, steps=2, keep=1.0)
    assert len(maps) == 2 and set(maps.before[0].target_label or ()) <= {"a", "b", "c"} and maps.spec.normalised
    gone = counterfactual(net, pictures, kind="regions", n_samples=1, read=read)
    assert gone.prediction[0] in ("a", "b", "c") and len(gone) == 1
    worse = corruptions(net, pictures, ["fog", "jpeg"], severities=(2,), read=read)
    assert worse.names == ("clean", "fog", "jpeg") and worse.labelled
    with pytest.raises(InterpError, match="not both"):
        ModuleData(input_spec=maps.spec, class_names=["a"])


def test_L4_training_is_bit_identical_and_the_numbers_can_be_monitored(
    make_net: Any, make_loader: Any, make_trainer: Any
) -> None:
    watch = RobustnessCallback(3, eps=("2/255", 0.3), steps=2, explanations="saliency", read=WIDE, on_error="raise")
    options = {"max_epochs": 2, "num_sanity_val_steps": 2}
    plain = fit(make_net, make_loader, make_trainer(**options))
    trainer = make_trainer(watch, **options)
    watched = fit(make_net, make_loader, trainer)
    assert_equal(plain, watched)
    assert [row["epoch"] for row in watch.history] == [0, 1] and len(watch.to_df()) == 2
    assert {"robust_acc@0", "robust_acc@2/255", "robust_acc@0.3", "map_stability"} <= set(trainer.callback_metrics)
    assert float(trainer.callback_metrics["robust_acc@0.3"]) == pytest.approx(watch.history[-1]["robust_acc@0.3"])


def test_every_other_validation_and_wrong_arguments(make_net: Any, make_loader: Any, make_trainer: Any) -> None:
    watch = RobustnessCallback(2, steps=1, every_n_epochs=2, min_norm=False, read=WIDE, on_error="raise")
    make_trainer(watch, max_epochs=3).fit(make_net(), make_loader(4), make_loader(4))
    assert [row["epoch"] for row in watch.history] == [0, 2] and "median_l2" not in watch.history[0]
    with pytest.raises(InterpError, match="eps are several sizes"):
        RobustnessCallback(eps=0.1)

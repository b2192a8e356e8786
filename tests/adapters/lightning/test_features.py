"""`visualize` and `dataset_examples` for a LightningModule: the core's results, with the module's own data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from interp_plugins import InputSpec, optim
from interp_plugins import dataset_examples as core_examples
from interp_plugins import visualize as core_visualize
from interp_plugins.core.errors import InputError, LayerError
from interp_plugins.lightning import (
    NeuronCallback,
    accentuate,
    atlas,
    caricature,
    dataset_examples,
    invert,
    visualize,
)

X = torch.rand(18, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_module_and_its_loader(make_net: Callable[[], nn.Module]) -> None:
    net = make_net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layer = next(n for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    loader = DataLoader(TensorDataset(X, torch.arange(18) % 3), batch_size=5, shuffle=True)
    how = {"channel": 1, "steps": 10, "progress": False}
    found = visualize(net, layer, loader, mean=[0.5], std=[0.25], class_names=["a", "b", "c"], **how)
    spec = InputSpec("image", mean=(0.5,), std=(0.25,), vocab=("a", "b", "c"))
    plain = core_visualize(net, layer, data=TensorDataset(X, torch.arange(18) % 3), input_spec=spec, **how)
    assert torch.equal(found.images, plain.images) and torch.equal(found.scores["ratio"], plain.scores["ratio"])
    assert found.examples is not None and set(found.examples.label[0]) <= set("abc")
    some = dataset_examples(net, loader, layer, channel=[0, 1], k=4)
    assert torch.equal(some.index, core_examples(net, X, layer, channel=[0, 1], k=4).index)
    assert net.training and all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    alone = visualize(net, layer, like=X[:1], channel=0, steps=2, progress=False, mean=[0.5], std=[0.5])
    assert alone.examples is None and alone.spec.normalised
    with pytest.raises(InputError, match="give a loader"):
        dataset_examples(net, None, layer)
    with pytest.raises(InputError, match="not both"):
        visualize(net, layer, loader, mean=[0.5], std=[0.5], input_spec=spec, channel=0)


def test_a_layer_of_a_module(make_net: Callable[[], nn.Module]) -> None:
    net = make_net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layer = next(n for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    how = {"mean": [0.5], "std": [0.25], "steps": 4, "progress": False}
    core = {"input_spec": InputSpec("image", mean=(0.5,), std=(0.25,)), "steps": 4, "progress": False}
    for own, theirs in ((caricature, optim.caricature), (invert, optim.invert)):
        assert torch.equal(own(net, X[:1], layer, **how).images, theirs(net, X[:1], layer, **core).images)
    named = accentuate(net, X[:1], target="b", class_names=["a", "b", "c"], **how)
    assert named.names == ("b",) and named.images.shape == X[:1].shape
    loader = DataLoader(TensorDataset(X, torch.arange(18) % 3), batch_size=5)
    found = atlas(net, loader, layer, grid=(2, 2), min_count=1, embed="pca", size=8, **how)
    assert found.seen == 18 and found.spec.normalised
    with pytest.raises(InputError, match="give a loader"):
        atlas(net, None, layer)
    assert net.training and all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_L4_training_is_bit_identical_while_units_are_shown(
    make_net: Callable[[], nn.Module], make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    def fit(*callbacks: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        net = make_net()
        trainer = make_trainer(*callbacks, max_epochs=3)
        trainer.fit(net, make_loader(8, 2, shuffle=True), make_loader(4, 2, seed=1))
        return {**net.state_dict(), "draw": torch.rand(3)}

    layer = next(n for n, m in make_net().named_modules() if isinstance(m, nn.Conv2d))
    watch = NeuronCallback(layer, channel=[0, 1], every_n_epochs=2, steps=4, dirpath=str(tmp_path))
    before, after = fit(), fit(watch)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert [epoch for epoch, _ in watch.history] == [0, 2] and len(list(tmp_path.glob("neurons-*.png"))) == 2
    assert watch.plot()[1].shape == (2, 2) and watch.history[0][1].examples is not None
    with pytest.raises(InputError, match="looks at a layer's channels"):
        NeuronCallback()
    with pytest.raises(InputError, match="Did you mean 'diversity'"):
        NeuronCallback("0", diversty=1.0)  # said here, not after the first epoch
    with pytest.raises(LayerError, match="No layer named"):
        fit(NeuronCallback("no such layer", steps=2, loggers="none", on_error="raise"))

"""Models of real packages, explained as their users call them; a training with explanations in it is bit-identical.

Each test imports the package that it is about, since some take seconds.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins as ip
from interp_plugins.attr import IntegratedGradients, Saliency
from interp_plugins.core.errors import InterpWarning
from interp_plugins.core.region import ClassRegion
from interp_plugins.core.tensors import as_tuple

pytestmark = pytest.mark.slow


def same_training(make: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], explain: Any) -> bool:
    """Whether two steps give the same losses, weights, buffers and generators with an explanation after each."""
    found = []
    for explained in (False, True):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        model = make().train()
        opt, seen = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05), []
        for _ in range(2):
            value = loss(model)
            opt.zero_grad()
            value.backward()
            opt.step()
            seen.append(value.detach())
            if explained:
                explain(model)
        assert all(m.training for m in model.modules())
        drawn = [torch.rand(1), torch.tensor(np.random.random()), torch.tensor(random.random())]  # noqa: NPY002
        found.append([*seen, *(v.detach() for v in model.state_dict().values()), *drawn])
    return len(found[0]) == len(found[1]) and all(map(torch.equal, *found))


# -- PEFT ------------------------------------------------------------------------------------------------------------

IDS = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
ON_IDS: dict[str, Any] = {"target": 1, "output": "logits"}


def lora(*names: str) -> Any:
    """A small BERT with adapters, whose both matrices are random, beside a new classifier."""
    import peft
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_labels": 3,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.BertConfig(vocab_size=50, **sizes)
    options: dict[str, Any] = {"r": 2, "target_modules": ["query", "value"], "init_lora_weights": False}
    adapter = peft.LoraConfig(task_type="SEQ_CLS", lora_dropout=0.1, **options)
    model = peft.get_peft_model(transformers.BertForSequenceClassification(config), adapter)
    for name in names:
        model.add_adapter(name, adapter)
    return model


def maps(model: nn.Module, method: str) -> Tensor:
    return ip.explain(model, {"input_ids": IDS}, method, **ON_IDS)[0].attribution


@pytest.mark.parametrize("method", ["saliency", "ig", "lrp", "deep_lift", "feature_ablation"])
def test_adapters_are_explained_as_the_merged_model_is(method: str) -> None:
    model = lora("other").eval()
    plain = maps(deepcopy(model).unload(), method)
    found = []
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        needs = [p.requires_grad for p in model.parameters()]
        found.append(maps(model, method))
        assert [p.requires_grad for p in model.parameters()] == needs and not all(needs) and any(needs)
        merged = deepcopy(model).merge_and_unload()
        torch.testing.assert_close(found[-1], maps(merged, method), rtol=1e-3, atol=1e-6)
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1], rtol=1e-2)
    with model.disable_adapter():
        torch.testing.assert_close(maps(model, method), plain, rtol=1e-3, atol=1e-6)
    assert torch.equal(maps(model, method), found[0])


def test_adapters_train_the_same() -> None:
    def loss(m: nn.Module) -> Tensor:
        return m(input_ids=IDS, labels=torch.tensor([0, 2])).loss

    def explain(m: nn.Module) -> None:
        ip.explain(m, {"input_ids": IDS}, ("saliency", "ig", "lrp", "feature_ablation"), **ON_IDS)

    assert same_training(lora, loss, explain)


# -- MONAI -----------------------------------------------------------------------------------------------------------


def dense_net() -> nn.Module:
    from monai.networks.nets import DenseNet121

    torch.manual_seed(0)
    return DenseNet121(spatial_dims=3, in_channels=1, out_channels=2, init_features=4, growth_rate=2,
                       block_config=(2, 2))  # fmt: skip


def unet() -> nn.Module:
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    return UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,), num_res_units=1)


VOLUME = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_volumes_of_monai() -> None:
    """One test, since the import takes longer than both parts."""
    classified()
    segmented()


def classified() -> None:
    exps = ip.explain(dense_net().eval(), VOLUME, ("saliency", "gradcam", "deep_lift", "guided_backprop"), target=1)
    assert exps["saliency"].attributions.shape == VOLUME.shape and exps["gradcam"].attributions.ndim == 5
    assert exps["deep_lift"].relative_delta is not None and exps["deep_lift"].relative_delta.max() < 1e-3
    assert same_training(
        dense_net, lambda m: m(VOLUME).square().mean(), lambda m: ip.explain(m, VOLUME, ("ig", "gradcam"), target=1)
    )


def segmented() -> None:
    net, window = unet().eval(), (1, 8, 8, 8)
    exps = ip.explain(net, VOLUME, ("saliency", "occlusion", "ig"), target=ClassRegion(1),
                      sliding_window_shapes=window, baselines=VOLUME.flip(0))  # fmt: skip
    region = net(VOLUME).argmax(1) == 1
    leaf = VOLUME.clone().requires_grad_()
    (slope,) = torch.autograd.grad((net(leaf)[:, 1] * region).sum(), leaf)
    torch.testing.assert_close(exps["saliency"].attributions, slope.abs(), rtol=1e-3, atol=1e-5)
    # From another volume: at zero an instance norm has no deviation, and jumps.
    assert exps["ig"].relative_delta is not None and exps["ig"].relative_delta.max() < 0.05
    assert all(e.attributions.shape == VOLUME.shape for e in exps)
    assert same_training(
        unet,
        lambda m: m(VOLUME).square().mean(),
        lambda m: ip.explain(m, VOLUME, ("ig", "gradcam"), target=ClassRegion(1)),
    )


# -- PyTorch Geometric -----------------------------------------------------------------------------------------------

NODES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
NODE = 2


def graph_net() -> nn.Module:
    from torch_geometric.nn import GCNConv

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = GCNConv(4, 8), GCNConv(8, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.two(self.one(x, edges).relu(), edges)

    torch.manual_seed(0)
    return Net()


def by_hand(x: Tensor, weights: Tensor, net: nn.Module) -> Tensor:
    """Scores (nodes, 3): normalised adjacency with loops, of which only the values of given edges are scaled."""
    adjacency = torch.zeros(5, 5).index_put((EDGES[1], EDGES[0]), torch.ones(6)) + torch.eye(5)
    scale = adjacency.sum(1).rsqrt()
    mask = torch.eye(5).index_put((EDGES[1], EDGES[0]), weights)
    passed = scale[:, None] * adjacency * scale * mask
    hidden = (passed @ net.one.lin(x) + net.one.bias).relu()
    return passed @ net.two.lin(hidden) + net.two.bias


def problem(mask: str, net: nn.Module) -> tuple[Any, tuple[Tensor, ...], tuple[Any, ...], Callable[..., Tensor]]:
    """The wrapped model, its inputs and arguments, and its score for class 1 of a node as a function of the inputs."""
    from torch_geometric.nn import to_captum_model

    ones = torch.ones(1, 6)
    folded = to_captum_model(net, mask_type=mask, output_idx=NODE)
    if mask == "node":
        return folded, (NODES[None],), (EDGES,), lambda x: by_hand(x[0], ones[0], net)[NODE, 1]
    if mask == "edge":
        return folded, (ones,), (NODES, EDGES), lambda w: by_hand(NODES, w[0], net)[NODE, 1]
    return folded, (NODES[None], ones), (EDGES,), lambda x, w: by_hand(x[0], w[0], net)[NODE, 1]


def ablated(score: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    found = [torch.zeros_like(x) for x in inputs]
    for k, x in enumerate(inputs):
        for i in range(x.numel()):
            without = [v.clone() for v in inputs]
            without[k].view(-1)[i] = 0
            found[k].view(-1)[i] = (score(*inputs) - score(*without)).detach()
    return found


def integrated(score: Callable[..., Tensor], inputs: tuple[Tensor, ...], steps: int = 2000) -> list[Tensor]:
    total = [torch.zeros_like(x) for x in inputs]
    for a in (torch.arange(steps) + 0.5) / steps:
        leaves = [(a * x).requires_grad_() for x in inputs]
        for t, g in zip(total, torch.autograd.grad(score(*leaves), leaves)):
            t += g / steps
    return [t * x for t, x in zip(total, inputs)]


@pytest.mark.parametrize("mask", ["node", "edge", "node_and_edge"])
def test_to_captum_model_folds_a_graph_into_one_row(mask: str) -> None:
    net = graph_net().eval()
    folded, inputs, args, score = problem(mask, net)
    torch.testing.assert_close(folded(*inputs, *args)[0, 1], score(*inputs))
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = {
        "saliency": [g.abs() for g in torch.autograd.grad(score(*leaves), leaves)],
        "ig": integrated(score, inputs),
        "feature_ablation": ablated(score, inputs),
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InterpWarning)
        exps = ip.explain(folded, inputs, list(expected), target=1, additional_forward_args=args, n_steps=200)
        ip.explain(folded, inputs, "ig", target=1, additional_forward_args=args)
    (once,) = said
    assert re.match(r"The model takes one row at a time \(.*Dimension 0 of input should be 1", str(once.message))
    for exp, wanted in zip(exps, expected.values()):
        for found, right in zip(as_tuple(exp.attributions), wanted):
            torch.testing.assert_close(found, right, rtol=1e-2, atol=1e-3)
    rules = ip.explain(folded, inputs, "deep_lift", target=1, additional_forward_args=args)[0]
    assert rules.relative_delta is not None and rules.relative_delta.max() < 1e-4
    assert not any(getattr(m, "explain", None) or getattr(m, "_edge_mask", None) is not None for m in net.modules())


def test_who_asks_for_one_row_is_not_told_that_the_model_takes_one() -> None:
    """Captum's own call of a wrapped graph: nothing more than a row is ever sent."""
    folded, inputs, args, score = problem("node", graph_net().eval())
    leaf = NODES[None].clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saliency = Saliency(folded).attribute(inputs[0], target=1, additional_forward_args=args, abs=False)
        found, delta = IntegratedGradients(folded).attribute(
            inputs[0], target=1, additional_forward_args=args, internal_batch_size=1, return_convergence_delta=True
        )
    torch.testing.assert_close(saliency, torch.autograd.grad(score(leaf), leaf)[0])
    torch.testing.assert_close(found, integrated(score, inputs)[0], rtol=1e-2, atol=1e-3)
    assert float(delta.abs().max()) < 0.02


@pytest.mark.parametrize("target", [1, (NODE, 1)], ids=str)
def test_a_graph_as_it_is(target: Any) -> None:
    net = graph_net().eval()

    def score(x: Tensor) -> Tensor:
        found = by_hand(x, torch.ones(6), net)
        return found[NODE, 1] if isinstance(target, tuple) else found[:, 1].sum()

    methods = ["ig", "feature_ablation", "saliency", "deep_lift"]
    exps = ip.explain(net, NODES, methods, target=target, additional_forward_args=(EDGES,), nodes=True, n_steps=200)
    leaf = NODES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(leaf), leaf)
    right = [integrated(score, (NODES,))[0], ablated(score, (NODES,))[0], slope.abs()]
    for exp, expected in zip(exps, right):
        torch.testing.assert_close(exp.attributions, expected[None], rtol=1e-2, atol=1e-3)
    assert exps["deep_lift"].relative_delta is not None and exps["deep_lift"].relative_delta.max() < 1e-4


@pytest.mark.filterwarnings("ignore:The model takes one row at a time")
def test_graphs_train_the_same() -> None:
    def explain(net: nn.Module) -> None:
        for mask in ("node", "edge", "node_and_edge"):
            folded, inputs, args, _ = problem(mask, net)
            ip.explain(folded, inputs, ("ig", "feature_ablation"), target=1, additional_forward_args=args)
        ip.explain(net, NODES, ("ig", "deep_lift"), target=1, additional_forward_args=(EDGES,), nodes=True)

    assert same_training(graph_net, lambda m: m(NODES, EDGES).square().mean(), explain)


# -- timm, torchvision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_timm_trains_the_same_with_checkpoints(name: str) -> None:
    import timm

    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def make(checkpoints: bool = True) -> nn.Module:
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=3, **({"img_size": 64} if "vit" in name else {}))
        net.set_grad_checkpointing(checkpoints)
        return net

    methods = ("saliency", "ig", "lrp", "gradcam")
    plain = ip.explain(make(False).eval(), x, methods, target=1)
    for a, b in zip(plain, ip.explain(make().eval(), x, methods, target=1)):
        torch.testing.assert_close(a.attributions, b.attributions, rtol=1e-4, atol=1e-6)
    assert same_training(make, lambda m: m(x).square().mean(), lambda m: ip.explain(m, x, methods, target=1))


def test_a_detection_model_of_torchvision() -> None:
    from torchvision.models import detection

    torch.manual_seed(0)
    net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    x = torch.rand(1, 3, 96, 96)
    exp = ip.explain(
        net, x, "feature_ablation", target=lambda o: o[:, 0, 4],
        feature_mask=(torch.arange(96) // 48)[:, None].expand(1, 3, 96, 96),
    )[0]  # fmt: skip
    assert exp.attributions.shape == x.shape

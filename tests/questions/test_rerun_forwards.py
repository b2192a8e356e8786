"""Forwards that run lazily or again: gradient checkpointing, heads that write into their own values, hooks."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import interp_plugins as ip
from interp_plugins.attr import LayerIntegratedGradients, Saliency
from interp_plugins.core.errors import ModelError
from interp_plugins.core.guard import frozen
from tests.conformance.cases import VARIANTS, attribute, distance, typical


def checkpointed(model: nn.Module, reentrant: bool) -> nn.Module:
    """The model with each of its parts checkpointed, as `set_grad_checkpointing` of many libraries does it."""
    for part in model.children():
        part.forward = functools.partial(checkpoint, part.forward, use_reentrant=reentrant)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:.* met no rectifier")
def test_every_method_takes_a_checkpointed_model(variant: str) -> None:
    """The maps are those of the model without checkpointing, with both of torch's ways."""
    case = typical(variant)
    right = attribute(variant, case.build())
    for reentrant in (False, True):
        problem = case.build()
        checkpointed(problem.model, reentrant)
        assert distance(attribute(variant, problem), right) < 1e-12


class Net(nn.Module):
    """A small CNN that calls its body in the way that is given."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.call = call
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.call(self.body, x))


def decorated(body: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Keyword arguments and a context around the pass, as selective checkpointing has them."""

    def part(scale: float, *, x: Tensor) -> Tensor:
        return body(x * scale)

    return checkpoint(part, 1.0, x=x, use_reentrant=False, determinism_check="none", preserve_rng_state=False)


WAYS: dict[str, Callable[..., Tensor]] = {
    "nested": lambda body, x: checkpoint(
        lambda y: checkpoint(body[2:], checkpoint(body[:2], y, use_reentrant=False), use_reentrant=True),
        x,
        use_reentrant=False,
    ),
    "sequential": lambda body, x: checkpoint_sequential(body, 2, x, use_reentrant=True),
    "keywords": decorated,
}
SOME = ("saliency", "ig", "deep_lift", "lrp", "guided_backprop", "gradcam", "occlusion")


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_checkpoint(way: str) -> None:
    x = torch.randn(2, 1, 8, 8)
    right = ip.explain(Net(lambda body, x: body(x)), x, SOME, target=1)
    for one, other in zip(ip.explain(Net(WAYS[way]), x, SOME, target=1), right, strict=True):
        assert torch.allclose(one.attributions, other.attributions, atol=1e-6), one.method


def test_a_layer_inside_a_checkpointed_part() -> None:
    """What is put in at a layer stays there: a second run of the part would begin with the layer's own values."""
    x = torch.randn(2, 1, 8, 8)
    net, plain = Net(lambda body, x: checkpoint(body, x, use_reentrant=False)), Net(lambda body, x: body(x))
    one, other = (LayerIntegratedGradients(m, m.body[0]).attribute(x, target=1) for m in (net, plain))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("vit_tiny_patch16_224", 64)])
def test_models_of_timm(name: str, size: int) -> None:
    net = timm.create_model(name, num_classes=5, **({"img_size": size} if "vit" in name else {})).eval()
    methods = ("saliency", "deep_lift", "attention_relevance" if "vit" in name else "guided_backprop")
    x = torch.randn(1, 3, size, size)
    right = ip.explain(net, x, methods, target=1)
    net.set_grad_checkpointing(True)
    for one, other in zip(ip.explain(net, x, methods, target=1), right, strict=True):
        assert torch.allclose(one.attributions, other.attributions, atol=1e-5), one.method


def test_checkpoints_work_elsewhere_and_afterwards() -> None:
    """A training in another thread goes on saving memory, and torch is as it was afterwards."""
    before = dict(vars(torch.utils.checkpoint))
    runs = {"here": 0, "there": 0, "model": 0}

    def part(where: str, x: Tensor) -> Tensor:
        runs[where] += 1
        return x.sin()

    def train() -> None:
        for reentrant in (False, True):
            leaf = torch.randn(3, requires_grad=True)
            checkpoint(part, "there", leaf, use_reentrant=reentrant).sum().backward()
            assert leaf.grad is not None

    def model(x: Tensor) -> Tensor:
        runs["model"] += 1
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        return checkpoint(part, "here", x, use_reentrant=False)

    Saliency(model).attribute(torch.randn(2, 3), target=1)
    assert runs["there"] == 4 * runs["model"] and runs["here"] == runs["model"]
    assert dict(vars(torch.utils.checkpoint)) == before
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert dict(vars(torch.utils.checkpoint)) == before


def test_training_with_checkpoints_after_an_explanation_is_bit_identical() -> None:
    def losses(explained: bool) -> list[float]:
        net, x = checkpointed(Net(lambda body, x: body(x)), True), torch.randn(4, 1, 8, 8, generator=torch.Generator())
        opt, found = torch.optim.SGD(net.parameters(), 0.1), []
        for _ in range(3):
            loss = net(x.requires_grad_()).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            found.append(float(loss.detach()))
            if explained:
                ip.explain(net, x.detach(), ("saliency", "deep_lift"), target=1)
        return found

    assert losses(True) == losses(False)


class Head(nn.Module):
    """A detector's head in eval mode: boxes and confidences by place, written into the sigmoid that made them."""

    def __init__(self, write: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.h, self.write = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 7, 1), write

    def forward(self, x: Tensor) -> Tensor:
        y = self.h(torch.relu(self.c(x))).permute(0, 2, 3, 1).sigmoid()
        if self.write is None:
            y = torch.cat([(y[..., 0:2] * 2 - 0.5) * 4, y[..., 2:]], -1)
        else:
            y = self.write(y)
        return y.flatten(1, 2)


def by_index(y: Tensor) -> Tensor:
    y[..., 0:2] = (y[..., 0:2] * 2 - 0.5) * 4
    return y


def by_view(y: Tensor) -> Tensor:
    y[..., 0:2].mul_(2).sub_(0.5).mul_(4)
    return y


def by_copy(y: Tensor) -> Tensor:
    y.narrow(-1, 0, 2).copy_((y[..., :2] * 2 - 0.5) * 4)
    return y


def confidence(output: Tensor) -> Tensor:
    return output[:, :, 5].amax(1) + output[:, :, 0].amax(1)


WRITTEN_OVER = (
    *("saliency", "ig", "guided_ig", "gradient_shap", "gradcam", "layercam", "guided_backprop", "deep_lift", "lrp"),
    *("full_grad", "noise_tunnel", "occlusion"),
)


@pytest.mark.parametrize("write", [by_index, by_view, by_copy])
def test_heads_that_write_over_what_their_gradient_needs(write: Callable[[Tensor], Tensor]) -> None:
    net, plain, x = Head(write).eval(), Head(None).eval(), torch.rand(2, 3, 8, 8)
    given = x.clone()
    right = ip.explain(plain, x, WRITTEN_OVER, target=confidence, n_steps=7)
    for one, other in zip(ip.explain(net, x, WRITTEN_OVER, target=confidence, n_steps=7), right, strict=True):
        assert torch.allclose(one.attributions, other.attributions, atol=1e-5), one.method
    assert torch.equal(x, given)
    weights = [p.requires_grad for p in net.parameters()]
    assert all(weights) and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("variant", ["saliency", "integrated_gradients", "internal_influence", "layer_conductance",
                                     "neuron_conductance", "layer_lrp", "extremal_perturbation"])  # fmt: skip
def test_more_methods_on_written_values(variant: str) -> None:
    """Those with a backward pass of their own, on a net that writes over an exponential."""
    case = typical(variant)

    def over(net: nn.Module, write: bool) -> nn.Module:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            y = output.exp()
            if not write:
                return y * torch.tensor([2.0, 1.0, 1.0], dtype=y.dtype)
            y[:, 0] *= 2
            return y

        net.fc.register_forward_hook(hook)
        return net

    right, problem = case.build(), case.build()
    over(right.model, False), over(problem.model, True)
    assert distance(attribute(variant, problem), attribute(variant, right)) < 1e-10


def test_what_cannot_be_kept_is_told() -> None:
    """A function of the user's own that writes over what it saved: the text says so, and what to do."""

    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            raise RuntimeError("this part has no backward pass")

    with pytest.raises(ModelError, match=r"backward pass fails: this part.*perturbation method"):
        ip.explain(lambda x: Careless.apply(x), torch.randn(2, 3), "saliency", target=1)


def test_hooks_of_the_user_run_and_stay() -> None:
    """Hooks that change values take part, those that save them see tensors, and both stay."""
    net, x = Net(lambda body, x: body(x)).eval(), torch.randn(2, 1, 8, 8)
    seen: list[tuple[int, ...]] = []
    net.body[0].register_forward_hook(lambda m, i, o: o * 2)
    net.body[1].register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    net.body[1].register_full_backward_hook(lambda m, gi, go: None)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    exps = ip.explain(
        net, x, ("saliency", "deep_lift", "gradcam", "occlusion"), target=1, sliding_window_shapes=(1, 4, 4)
    )
    assert torch.allclose(exps["saliency"].attributions, expected.abs(), atol=1e-6)
    assert exps["deep_lift"].relative_delta is not None and exps["deep_lift"].relative_delta.max() < 1e-4
    assert seen and [len(m._forward_hooks) for m in net.body[:2]] == [1, 1] and len(net.body[1]._backward_hooks) == 1


@pytest.mark.parametrize("method", ["saliency", "ig", "deep_lift", "lrp", "guided_backprop", "occlusion"])
def test_functional_calls(method: str) -> None:
    """A model called with other weights than its own."""
    net, other, x = (*(Net(lambda body, x: body(x)).eval() for _ in range(2)), torch.randn(2, 1, 8, 8))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1 * torch.randn_like(p))
    weights = {k: v.detach().clone() for k, v in other.named_parameters()}

    def called(x: Tensor) -> Tensor:
        return torch.func.functional_call(net, weights, (x,))

    right = ip.explain(other, x, method, target=1)[0].attributions
    assert torch.allclose(ip.explain(called, x, method, target=1)[0].attributions, right, atol=1e-5)

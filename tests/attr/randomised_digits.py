"""The randomisation check on networks that a test can train: all weights drawn anew, for every method with a class.

    python -m tests.attr.randomised_digits [method ...]      prints DIGITS of interp_plugins/attr/evidence/randomised.py

A CNN, and for the methods about attention a vision transformer (four layers, four heads, 16 patches and a class token),
learn scikit-learn's digits. Digits that they have not seen (6, or 48 for the transformer, whose maps have 16 places)
are explained at their true class; then three new networks of the same make explain them, each with other random draws.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import list_methods, method_info
from interp_plugins.metrics import spearman_correlation

FEW = {"n_steps": 10, "n_samples": 60, "sliding_window_shapes": (1, 2, 2), "progress": False}
OWN: dict[str, dict[str, Any]] = {
    "extremal_perturbation": {"n_steps": 150},
    "shapley_value_sampling": {"n_samples": 10},
    "owen": {"n_samples": 2},
    "sobol": {"n_samples": 16},
}
SQUARES = {"shapley_values": 3, "shapley_value_sampling": 6, "owen": 6, "sobol": 6}  # features per side
NO_CLASS = {"layer_activation"}  # what the layer computes, not what the network concludes from it
CHECKED = [name for name in list_methods() if name not in NO_CLASS]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 12, 12) and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return nn.functional.interpolate(x, (12, 12), mode="bilinear"), torch.tensor(data.target)


def fresh(kind: str, seed: int) -> nn.Module:
    """A new network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "vit":
            import timm

            net: nn.Module = timm.create_model(
                "vit_tiny_patch16_224", img_size=12, patch_size=3, in_chans=1, embed_dim=32, depth=4, num_heads=4,
                num_classes=10,
            )  # fmt: skip
            return net.eval()
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10),
        ).eval()  # fmt: skip


@cache
def trained(kind: str) -> nn.Module:
    """A network that knows the digits; nine in ten, or better."""
    net, (x, y) = fresh(kind, 0), digits()
    steps, rate = (400, 7e-3) if kind == "vit" else (150, 6e-3)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(1500, (64,), generator=generator)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    for p in net.parameters():
        p.grad = None
    accuracy = float((net(x[1500:]).argmax(1) == y[1500:]).float().mean())
    assert accuracy > 0.85, f"{kind}: {accuracy}"
    return net


def kind_for(name: str) -> str:
    """Which network a method is measured on."""
    return "vit" if method_info(name).applies_to == "transformer" else "cnn"


def absolute_maps(net: nn.Module, name: str, seed: int) -> Tensor:
    """(digits, elements): at the last convolution for a layer, of the class's own logit for a neuron."""
    count = 48 if kind_for(name) == "vit" else 6
    x, y = (t[1500 : 1500 + count] for t in digits())
    info = method_info(name)
    takes = inspect.signature(info.cls.attribute).parameters
    more = {k: v for k, v in {**FEW, **OWN.get(name, {})}.items() if k in takes}
    if name in SQUARES:
        row = torch.arange(12) * SQUARES[name] // 12
        more["feature_mask"] = (row[:, None] * SQUARES[name] + row)[None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if info.site == "neuron":
            found = [explain(net, x[i : i + 1], name, layer="8", neuron_selector=int(y[i]), seed=seed, **more)[0]
                     for i in range(count)]  # fmt: skip
        else:
            layer = "6" if info.site == "layer" else None
            found = [explain(net, x, name, target=y, layer=layer, seed=seed, **more)[0]]
    return torch.cat([exp.attribution for exp in found]).float().sum(1).flatten(1).abs()


def measured(name: str) -> tuple[float, float]:
    """Rank correlation with the maps of three new networks: mean and standard deviation."""
    kind = kind_for(name)
    own = absolute_maps(trained(kind), name, 0)
    each = [spearman_correlation(own, absolute_maps(fresh(kind, k), name, k)).nan_to_num(0).mean() for k in (1, 2, 3)]
    return float(torch.stack(each).mean()), float(torch.stack(each).std())


if __name__ == "__main__":
    for method in sys.argv[1:] or CHECKED:
        print(f'    "{method}": ({", ".join(f"{v:.2f}" for v in measured(method))}),', flush=True)

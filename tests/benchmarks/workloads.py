"""The workloads that are compared with Captum 0.9; random weights, since speed does not depend on training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr as theirs
import torch
from torch import Tensor, nn

import interp_plugins
import interp_plugins.attr as ours
from tests.benchmarks.harness import Runs


def network(name: str, device: str) -> nn.Module:
    """A torchvision network with seeded random weights."""
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)().eval().to(device)


def picture(size: int, device: str, n: int = 1) -> Tensor:
    """Noise: what is in a picture does not change what it costs."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)


def superpixels(size: int, cells: int, device: str) -> Tensor:
    """cells x cells square segments, (1, 1, size, size)."""
    step = torch.arange(size) * cells // size
    return (step[:, None] * cells + step)[None, None].to(device)


def path(net: nn.Module, x: Tensor, n_steps: int, settings: tuple[int, ...], default: bool = True) -> Runs:
    """Integrated Gradients."""
    ig = theirs.IntegratedGradients(net)
    return Runs(
        ours=lambda: ours.IntegratedGradients(net).attribute(x, target=3, n_steps=n_steps, progress=False),
        default=(lambda: ig.attribute(x, target=3, n_steps=n_steps)) if default else None,
        settings={
            f"internal_batch_size={k}": lambda k=k: ig.attribute(x, target=3, n_steps=n_steps, internal_batch_size=k)
            for k in settings
        },
    )


def w1(device: str) -> Runs:
    """Integrated Gradients, resnet34, 224, 50 steps, one picture."""
    return path(network("resnet34", device), picture(224, device), 50, (4, 8, 16, 25))


def w1m(device: str) -> Runs:
    """The same, eight pictures (Captum's default holds 400 pictures' activations at once)."""
    runs = path(network("resnet34", device), picture(224, device, 8), 50, (8, 16))
    runs.default_rounds = 1
    return runs


def w2(device: str) -> Runs:
    """NoiseTunnel over Integrated Gradients, 10 x 50, resnet34."""
    net, x = network("resnet34", device), picture(224, device)
    kwargs: dict[str, Any] = {"target": 3, "nt_samples": 10, "n_steps": 50, "stdevs": 0.0}  # no noise: maps compare
    tunnel = theirs.NoiseTunnel(theirs.IntegratedGradients(net))
    mine = ours.NoiseTunnel(ours.IntegratedGradients(net))
    return Runs(
        ours=lambda: mine.attribute(x, progress=False, **kwargs),
        default=lambda: tunnel.attribute(x, **kwargs),
        settings={
            f"nt_samples_batch_size=1, internal_batch_size={k}": lambda k=k: tunnel.attribute(
                x, nt_samples_batch_size=1, internal_batch_size=k, **kwargs
            )
            for k in (16,)
        },
        default_rounds=1,
    )


def occlusion(net: nn.Module, x: Tensor, window: int, strides: tuple[int, int, int], evals: tuple[int, ...]) -> Runs:
    """Occlusion with square windows, the same windows on both sides."""
    shared: dict[str, Any] = {"target": 3, "sliding_window_shapes": (3, window, window), "strides": strides}
    theirs_ = theirs.Occlusion(net)
    return Runs(
        ours=lambda: ours.Occlusion(net).attribute(x, border="clip", progress=False, **shared),
        default=lambda: theirs_.attribute(x, **shared),
        settings={
            f"perturbations_per_eval={k}": lambda k=k: theirs_.attribute(x, perturbations_per_eval=k, **shared)
            for k in evals
        },
    )


def w3(device: str) -> Runs:
    """Occlusion 15/8, resnet34, 224 (784 windows)."""
    return occlusion(network("resnet34", device), picture(224, device), 15, (3, 8, 8), (2, 4, 8, 16))


def w3b(device: str) -> Runs:
    """Occlusion 8/4, resnet18, 384: every second window each way (2,304 of 9,025), on both sides."""
    return occlusion(network("resnet18", device), picture(384, device), 8, (3, 8, 8), (2, 4, 8))


def masked(method: str, device: str, evals: tuple[int, ...] = (4, 8, 16), **kwargs: Any) -> Runs:
    """A perturbation method over 64 square superpixels, resnet18, 224."""
    net, x = network("resnet18", device), picture(224, device)
    shared = {"target": 3, "feature_mask": superpixels(224, 8, device), **kwargs}

    def seeded(run: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(0)
        return run()

    their_method, my_method = getattr(theirs, method)(net), getattr(ours, method)(net)
    return Runs(
        ours=lambda: seeded(lambda: my_method.attribute(x, progress=False, **shared)),
        default=lambda: seeded(lambda: their_method.attribute(x, **shared)),
        settings={
            f"perturbations_per_eval={k}": lambda k=k: seeded(
                lambda: their_method.attribute(x, perturbations_per_eval=k, **shared)
            )
            for k in evals
        },
    )


def w4_ablation(device: str) -> Runs:
    """FeatureAblation over 64 superpixels, resnet18, 224."""
    return masked("FeatureAblation", device)


def w4_kernel_shap(device: str) -> Runs:
    """KernelShap, 200 coalitions of 64 superpixels, resnet18, 224."""
    return masked("KernelShap", device, n_samples=200)


def w4_lime(device: str) -> Runs:
    """Lime, 200 samples of 64 superpixels, resnet18, 224."""
    return masked("Lime", device, n_samples=200)


def w4_shapley(device: str) -> Runs:
    """ShapleyValueSampling, 4 permutations of 64 superpixels, resnet18, 224."""
    return masked("ShapleyValueSampling", device, n_samples=4)


def w5_vit(device: str) -> Runs:
    """Integrated Gradients, ViT-small, 224, 50 steps."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model("vit_small_patch16_224").eval().to(device)
    return path(net, picture(224, device), 50, (4, 8, 16, 25))


def w5_mlp(device: str) -> Runs:
    """Integrated Gradients of 10,000 table rows, MLP 64-128-128-10, 50 steps."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    net = nn.Sequential(*layers).eval().to(device)
    rows = torch.randn(10_000, 64, generator=torch.Generator().manual_seed(1)).to(device)
    # Captum takes its batch of 500,000 scores apart one by one: its default does not end in a minute.
    return path(net, rows, 50, (10_000, 20_000), default=False)


class Encoder(nn.Module):
    """A BERT-like encoder of 12 layers: tokens -> two classes."""

    def __init__(self, width: int = 256, heads: int = 4, layers: int = 12):
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (N, 2)."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def encoder(device: str) -> tuple[Encoder, Tensor, Tensor]:
    """The encoder, 128 token ids and a reference of zeros."""
    torch.manual_seed(0)
    ids = torch.randint(1, 1000, (1, 128), generator=torch.Generator().manual_seed(1)).to(device)
    return Encoder().eval().to(device), ids, torch.zeros_like(ids)


def w6(device: str) -> Runs:
    """LayerIntegratedGradients on each of the 12 layers of a BERT-like encoder, 128 tokens, 50 steps."""
    net, ids, reference = encoder(device)

    def all_layers(lib: Any, **kwargs: Any) -> Tensor:
        maps = [
            lib.LayerIntegratedGradients(net, layer).attribute(ids, reference, target=1, **kwargs)
            for layer in net.layers
        ]
        return torch.stack([m[0] if isinstance(m, tuple) else m for m in maps])

    return Runs(
        ours=lambda: all_layers(ours, progress=False),
        default=lambda: all_layers(theirs),
        settings={
            f"internal_batch_size={k}": lambda k=k: all_layers(theirs, internal_batch_size=k) for k in (4, 8, 16)
        },
    )


class Embedded(nn.Module):
    """The encoder from its embedding on."""

    def __init__(self, net: Encoder):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 2)."""
        for layer in self.net.layers:
            x = layer(x)
        return self.net.head(x.mean(1))


def w6_conductance(device: str) -> Runs:
    """LayerConductance on all 12 layers: one run here, one per layer in Captum."""
    net, ids, _ = encoder(device)
    model, x = Embedded(net), net.embed(ids).detach()
    layers = list(net.layers)
    # From another text: from zeros all of the change lies in the first step, which Captum leaves out.
    kwargs: dict[str, Any] = {"target": 1, "n_steps": 20, "baselines": x.flip(1)}

    def one_by_one(**more: Any) -> Tensor:
        return torch.stack([theirs.LayerConductance(model, m).attribute(x, **kwargs, **more) for m in layers])

    return Runs(
        ours=lambda: torch.stack(ours.LayerConductance(model, layers).attribute(x, progress=False, **kwargs)),
        default=one_by_one,
        settings={f"internal_batch_size={k}": lambda k=k: one_by_one(internal_batch_size=k) for k in (4, 8, 21)},
    )


def w7(device: str, images: int = 100) -> Runs:
    """Integrated Gradients, 32 steps, of 100 images 64 x 64, resnet18: a loop over images, and batches made by hand."""
    net, x = network("resnet18", device), picture(64, device, images)
    ig = theirs.IntegratedGradients(net)

    def batches(size: int) -> Tensor:
        return torch.cat([ig.attribute(b, target=3, n_steps=32, internal_batch_size=2 * size) for b in x.split(size)])

    return Runs(
        ours=lambda: ours.IntegratedGradients(net).attribute(x, target=3, n_steps=32, progress=False),
        default=lambda: torch.cat([ig.attribute(image, target=3, n_steps=32) for image in x.split(1)]),
        settings={f"batches of {k}, internal_batch_size={2 * k}": lambda k=k: batches(k) for k in (25, 50, 100)},
    )


def w8(device: str) -> Runs:
    """The tutorial: IG 200, NoiseTunnel 10 x 50 and Occlusion 15/8 of one picture, resnet34; here one `explain`."""
    net, x = network("resnet34", device), picture(224, device)
    window = {"sliding_window_shapes": (3, 15, 15), "strides": (3, 8, 8)}
    methods: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"n_steps": 200},
        "noise_tunnel": {"nt_samples": 10, "n_steps": 50, "stdevs": 0.0, "nt_type": "smoothgrad"},
        "occlusion": {**window, "border": "clip"},
    }

    def here() -> Tensor:
        exps = interp_plugins.explain(net, x, methods, target=3, baselines="zero", progress=False)
        return torch.stack([e.attributions for e in exps])

    def there(ig: dict[str, Any], nt: dict[str, Any], occlusion: dict[str, Any]) -> Tensor:
        method = theirs.IntegratedGradients(net)
        return torch.stack(
            [
                method.attribute(x, target=3, n_steps=200, **ig),
                theirs.NoiseTunnel(method).attribute(x, target=3, nt_samples=10, n_steps=50, stdevs=0.0, **nt),
                theirs.Occlusion(net).attribute(x, target=3, **window, **occlusion),
            ]
        )

    best = {
        f"internal_batch_size={k}, nt_samples_batch_size=1, perturbations_per_eval={p}": lambda k=k, p=p: there(
            {"internal_batch_size": k},
            {"internal_batch_size": k, "nt_samples_batch_size": 1},
            {"perturbations_per_eval": p},
        )
        for k, p in ((16, 4),)
    }
    return Runs(ours=here, default=lambda: there({}, {}, {}), settings=best, default_rounds=1)


WORKLOADS: dict[str, Callable[[str], Runs]] = {
    "W1": w1,
    "W1m": w1m,
    "W2": w2,
    "W3": w3,
    "W3b": w3b,
    "W4-ablation": w4_ablation,
    "W4-kernel-shap": w4_kernel_shap,
    "W4-lime": w4_lime,
    "W4-shapley": w4_shapley,
    "W5-vit": w5_vit,
    "W5-mlp": w5_mlp,
    "W6": w6,
    "W6-conductance": w6_conductance,
    "W7": w7,
    "W8": w8,
}

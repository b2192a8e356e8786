"""The randomisation check on a large trained network: cascading, as in Adebayo et al., NeurIPS 2018, arXiv:1810.03292.

    python -m tests.benchmarks.bench_randomisation [method ...]             what attr/evidence/randomised.py holds
    python -m tests.benchmarks.bench_randomisation --draws 3 saliency       means over three draws, and their spread
    python -m tests.benchmarks.bench_randomisation --words [method ...]     on MiniLM (`minilm_pairs.py`)
    python -m tests.benchmarks.bench_randomisation --answers [method ...]   on SmolLM2 (`smollm2_answers.py`)

EfficientNet-Lite0 with its ImageNet weights sees three photographs, 128 x 128, at the class it predicts. Its layers
are drawn anew from the classifier downwards, five stages, each on top of the one before; after each a method's absolute
map is compared with that of the trained network: Spearman's rank correlation and SSIM (window 7, maps scaled to
[0, 1]), the means over the pictures. Maps over a layer are taken at `blocks.4` (8 x 8 places). The processor of two
cores takes about half an hour for all methods; sampling methods see 64 squares of 16 x 16 as features, and draw
anew for each network, so that maps share no noise. `spread` is the standard deviation, over the draws of the weights,
of the mean over the first three stages, which is the number that a method passes or fails by.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import time
import warnings
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import arguments_of, list_methods, method_info
from interp_plugins.attr import IntegratedGradients
from interp_plugins.attr.evidence.randomised import TRANSFORMER
from interp_plugins.attr.language.asking import differentiating, perturbing
from interp_plugins.core.spec import InputSpec
from interp_plugins.demo.network import MEAN, STD, lite0
from interp_plugins.demo.photographs import save_photographs
from interp_plugins.metrics import spearman_correlation
from tests.benchmarks import minilm_pairs, smollm2_answers

SIZE, LAYER = 128, "blocks.4"
STAGES = (
    ("classifier",),
    ("bn2", "conv_head", "blocks.6"),
    ("blocks.5", "blocks.4"),
    ("blocks.3", "blocks.2"),
    ("blocks.1", "blocks.0", "bn1", "conv_stem"),
)
PICTURES = ("chelsea", "coffee", "camera")
FEW = {
    "n_steps": 15, "n_samples": 150, "nt_samples": 8, "max_evals": 300, "perturbations_per_eval": 16,
    "sliding_window_shapes": (3, 16, 16), "strides": (3, 8, 8), "progress": False,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "extremal_perturbation": {"n_steps": 60},
    "gradient_shap": {"n_samples": 15, "stdevs": 0.1},
    "layer_gradient_shap": {"n_samples": 15},
    "sobol": {"n_samples": 8},
    "shapley_value_sampling": {"n_samples": 4},
    "rise": {"n_samples": 400},
}
NO_CLASS = {"layer_activation"}  # what the layer computes, not what the network concludes from it


@cache
def pictures() -> Tensor:
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for path in save_photographs(Path(folder), PICTURES):
            image = Image.open(path)
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            rows.append(torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 255)
    return (torch.stack(rows) - MEAN[0]) / STD[0]


def drawn_anew(net: nn.Module, stages: int, seed: int) -> nn.Module:
    """A copy whose upper stages have the weights that a new network has."""
    copy = deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in (n for stage in STAGES[:stages] for n in stage):
            for module in copy.get_submodule(name).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return copy.eval()


def squares(cells: int) -> Tensor:
    """Feature numbers of cells x cells squares, all channels together."""
    row = torch.arange(SIZE) * cells // SIZE
    return (row[:, None] * cells + row)[None, None]


def absolute_maps(net: nn.Module, name: str, target: Tensor, seed: int) -> Tensor:
    info = method_info(name)
    takes = arguments_of(info.cls(net, LAYER) if info.site == "layer" else _plain(info.cls, net))
    more = {k: v for k, v in {**FEW, **OWN.get(name, {})}.items() if k in takes}
    if "feature_mask" in takes:
        more["feature_mask"] = squares(3 if name == "shapley_values" else 8)
    if "layer_mask" in takes:
        more["layer_mask"] = torch.arange(64).reshape(1, 1, 8, 8)
    exp = explain(net, pictures(), name, target=target, layer=LAYER if info.site == "layer" else None, seed=seed,
                  baselines=pictures().mean((0, 2, 3), keepdim=True).expand_as(pictures()[:1])
                  if info.baselines == "distribution" else None,
                  input_spec=InputSpec(kind="image", mean=MEAN, std=STD), **more)[0]  # fmt: skip
    return exp.attribution.float().sum(1).abs()


def _plain(cls: Any, net: nn.Module) -> Any:
    takes = inspect.signature(cls).parameters
    if "attribution_method" in takes:
        return cls(IntegratedGradients(net))
    return cls(net, LAYER) if "layer" in takes else cls(net)


def ssim(a: Tensor, b: Tensor) -> float:
    from skimage.metrics import structural_similarity

    found = []
    for one, two in zip(a.numpy(), b.numpy()):
        pair = [(m - m.min()) / max(float(m.max() - m.min()), 1e-30) for m in (one, two)]
        found.append(structural_similarity(*pair, data_range=1.0, win_size=7))
    return float(np.mean(found))


def measure(name: str, net: nn.Module, draws: int = 1) -> dict[str, Any]:
    """Rank correlation (draws, stages) and SSIM of the same shape to the trained network's maps."""
    with torch.no_grad():
        target = net(pictures()).argmax(1)
    own = absolute_maps(net, name, target, 0)
    ranks, alike = torch.zeros(2, draws, len(STAGES))
    for draw in range(draws):
        for stages in range(1, len(STAGES) + 1):
            seed = stages + 10 * draw
            other = absolute_maps(drawn_anew(net, stages, seed), name, target, seed)
            ranks[draw, stages - 1] = spearman_correlation(own.flatten(1), other.flatten(1)).nan_to_num(0).mean()
            alike[draw, stages - 1] = ssim(own, other)
    return {"rank": ranks, "ssim": alike}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What `randomised.py` holds: means over the draws, and how far the draws lie apart."""
    ranks = found["rank"]
    means = {k: [round(float(v), 2) for v in t.mean(0)] for k, t in found.items() if t is not None}
    apart = round(float(ranks[:, :3].mean(1).std()), 3) if len(ranks) > 1 else None
    return {**means, "spread": apart}


def measurable() -> list[str]:
    """All methods but those of a neuron, about attention, or without a class."""
    return [n for n in list_methods() if n not in NO_CLASS and method_info(n).site != "neuron"
            and method_info(n).applies_to != "transformer"]  # fmt: skip


def main(where: str, draws: int, names: list[str]) -> None:
    """Print a line of JSON per method."""
    known = {"words": list(TRANSFORMER), "answers": [*perturbing(), *differentiating()], "photographs": measurable()}
    for name in names or known[where]:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {
                "words": minilm_pairs.measure,
                "answers": smollm2_answers.measure,
                "photographs": lambda name, draws: measure(name, lite0(), draws),
            }[where](name, draws)
        line = {"method": name, **summary(found), "seconds": round(time.perf_counter() - begin)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", dest="where", action="store_const", const="words", default="photographs")
    parser.add_argument("--answers", dest="where", action="store_const", const="answers")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("methods", nargs="*")
    given = parser.parse_args()
    main(given.where, given.draws, given.methods)

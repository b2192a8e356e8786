"""Pictures whose ground truth is known: a red square and a green disc on grey noise, alone or together."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed
from PIL import Image
from torch import nn

SIZE = 32
CODES = ["background", "square", "disc"]


def draw(folder: Path, n: int = 64) -> pd.DataFrame:
    """Write pictures and masks; a row each: file, mask, labels, the square's x, y and brightness, the first label."""
    rng = np.random.default_rng(0)
    rows = []
    (folder / "pictures").mkdir()
    (folder / "masks").mkdir()
    grid = np.mgrid[:SIZE, :SIZE]
    for i in range(n):
        pixels = rng.integers(40, 110, (SIZE, SIZE, 3))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        kinds = (["square"], ["disc"], ["square", "disc"])[i % 3]
        brightness = int(rng.integers(120, 256))
        side = rng.permutation([0, 1])  # left and right half: the two do not overlap
        centres = {}
        for kind, half in zip(["square", "disc"], side):
            x, y = rng.integers(5, 11) + half * SIZE // 2, rng.integers(6, SIZE - 6)
            centres[kind] = (x, y)
            if kind not in kinds:
                continue
            inside = np.abs(grid - np.array([y, x])[:, None, None])
            here = inside.max(0) <= 4 if kind == "square" else (inside**2).sum(0) <= 20
            pixels[here] = (brightness, 20, 20) if kind == "square" else (20, 220, 20)
            mask[here] = CODES.index(kind)
        name = f"{i:02}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
        x, y = centres["square"]
        rows.append(
            {
                "file": str(folder / "pictures" / name),
                "mask": str(folder / "masks" / name),
                "labels": " ".join(kinds),
                "kind": kinds[0],
                "x": float(x),
                "y": float(y),
                "brightness": brightness / 255,
            }
        )
    return pd.DataFrame(rows)


def conv_net(outputs: int, pool: bool = True, channels: int = 3) -> nn.Sequential:
    """A body of two convolutions and a head; without pooling the head knows where things are."""
    set_seed(0)
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
    )  # fmt: skip
    if pool:
        return nn.Sequential(body, nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, outputs)))
    return nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(16 * (SIZE // 4) ** 2, outputs)))


def mask_of(row: Any, kind: str) -> torch.Tensor:
    """Where the thing is, bool (H, W)."""
    return torch.from_numpy(np.array(Image.open(row["mask"])) == CODES.index(kind))

"""Small networks and coloured squares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("red", "green", '<script>alert("x")</script>')


class Squares(nn.Module):
    """Its scores are sums of one colour channel each, so every map is known."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3)) / 50


class Broken(nn.Module):
    """Works on clean data, fails as soon as it is explained."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("the third layer has no GPU")
        return x.sum((2, 3))


def squares(n: int, size: int = 16) -> Tensor:
    """n black pictures with a coloured square; picture i has it in channel i mod 3."""
    x = torch.zeros(n, 3, size, size)
    for i in range(n):
        x[i, i % 3, 4:8, 4:8] = 1
    return x

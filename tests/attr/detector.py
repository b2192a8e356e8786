"""A small object detector, trained in seconds on squares and discs, with the outputs of torchvision's detectors.

Every cell of an 8 x 8 grid says whether an object's centre lies in it, which class it is, and its box (as YOLO does);
`forward` gives a dict of boxes, labels and scores per picture, after non-maximum suppression.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

SIZE, CELLS, STRIDE = 64, 8, 8
SQUARE, DISC = 1, 2


def scene(generator: torch.Generator, objects: int = 2) -> tuple[Tensor, list[tuple[Tensor, int]]]:
    """A noisy picture (3, 64, 64) and its objects: box (4,) and class. One is in the left half, one in the right."""
    picture = torch.rand(3, SIZE, SIZE, generator=generator) * 0.3
    found = []
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for k in range(objects):
        side = int(torch.randint(12, 19, (), generator=generator))
        left = k * SIZE // 2 + int(torch.randint(2, SIZE // 2 - side - 1, (), generator=generator))
        top = int(torch.randint(2, SIZE - side - 1, (), generator=generator))
        kind = int(torch.randint(1, 3, (), generator=generator))
        inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        if kind == DISC:
            inside = (x - left - side / 2 + 0.5) ** 2 + (y - top - side / 2 + 0.5) ** 2 < (side / 2) ** 2
        colour = 0.5 + 0.5 * torch.rand(3, 1, generator=generator)  # says nothing about the class
        picture[:, inside] = colour
        found.append((torch.tensor([left, top, left + side, top + side]).float(), kind))
    return picture, found


class Detector(nn.Module):
    """Five convolutions; 1 + 2 + 4 numbers per cell: object, class, box."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, stride in ((3, 12, 2), (12, 24, 2), (24, 40, 2), (40, 40, 1)):
            layers += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Conv2d(40, 7, 3, padding=1)
        self.threshold = 0.3

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Object logits (R, 64), class logits (R, 64, 2), boxes (R, 64, 4)."""
        out = self.head(self.body(x)).flatten(2).transpose(1, 2)
        k = torch.arange(CELLS * CELLS, device=x.device)
        centre = torch.stack([k % CELLS, k // CELLS], 1) * STRIDE + STRIDE / 2
        middle, half = centre + STRIDE * out[..., 3:5].tanh(), 8 * out[..., 5:7].exp()
        return out[..., 0], out[..., 1:3], torch.cat([middle - half, middle + half], 2)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for thing, kind, boxes in zip(*self.cells(x)):
            scores, labels = (thing.sigmoid()[:, None] * kind.softmax(1)).max(1)
            keep = (scores > self.threshold).nonzero().flatten()
            keep = keep[batched_nms(boxes[keep].detach(), scores[keep].detach(), labels[keep], 0.4)]
            found.append({"boxes": boxes[keep], "labels": labels[keep] + 1, "scores": scores[keep]})
        return found


@cache
def trained_detector(steps: int = 220) -> Detector:
    """The trained detector, in eval mode.

    Trained in float64: in float32 each kind of processor rounds its own way to another net.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Detector().double().train()
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    scenes = [scene(generator) for _ in range(512)]
    pictures = torch.stack([picture for picture, _ in scenes]).double()
    boxes = torch.stack([torch.stack([box for box, _ in objects]) for _, objects in scenes]).double()  # (512, 2, 4)
    labels = torch.tensor([[label - 1 for _, label in objects] for _, objects in scenes])
    place = ((boxes[..., :2] + boxes[..., 2:]) / 2 // STRIDE).long()
    cell = place[..., 1] * CELLS + place[..., 0]
    for step in range(steps):
        rows = torch.randint(len(scenes), (24,), generator=generator)
        thing, kind, found = net.cells(pictures[rows])
        here = (torch.arange(24)[:, None], cell[rows])
        wanted = torch.zeros_like(thing)
        wanted[here] = 1
        loss = 8 * F.binary_cross_entropy_with_logits(thing, wanted)
        loss = loss + F.cross_entropy(kind[here].flatten(0, 1), labels[rows].flatten())
        loss = loss + F.smooth_l1_loss(found[here], boxes[rows])
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        for p, g in zip(net.parameters(), grads):
            p.grad = g
        optimiser.step()
    return net.float().eval()

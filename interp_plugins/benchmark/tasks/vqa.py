"""Questions about pictures: three shapes of any colours, and what colour one of them has.

Made in code, so that three shapes stand in one picture and the question alone says which of them decides: a map has
to follow the question, and what strikes in the picture is right a third of the time. The net answers all its questions
at once; a target is a question and an answer to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import verify
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 3, "small": 12, "full": 60}
SIDE, _CELL, _SIZE = 24, 12, 9  # pixels of the picture, of a cell, of a shape
COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
QUESTIONS = (
    "what colour is the disc",
    "which colour does the square have",
    "tell me the colour of the cross",
)
_WORDS = sorted({word for one in QUESTIONS for word in one.split()})
_TRAIN = {"tiny": (1200, 13), "small": (3000, 12), "full": (6000, 12)}  # pictures, epochs
_TEST = {"tiny": 100, "small": 200, "full": 400}


class Answers(nn.Module):
    """Pictures (N, 3, H, W) to answers to every question (N, questions * colours).

    What is seen, the largest value of each feature over the picture, times what is asked, a sum of a question's words.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.words = nn.Linear(len(_WORDS), width, bias=False)
        self.answer = nn.Linear(width, len(COLOURS))
        asked = [[one.split().count(word) for word in _WORDS] for one in QUESTIONS]
        self.register_buffer("asked", torch.tensor(asked, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the whole net."""
        together = self.see(x)[:, None] * self.words(self.asked)
        return self.answer(together).flatten(1)


class _ByQuestion(nn.Module):
    """The same net in training: (N, colours, questions), as a cross entropy of all questions takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Answers()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found.reshape(len(x), len(QUESTIONS), -1).transpose(1, 2)


@dataclass(frozen=True)
class _Scene:
    """What pictures are drawn of.

    Attributes:
        colour: (N, 3), the colour of the disc, the square and the cross.
        cell: (N, 3), which of four cells each lies in.
        at: (N, 3, 2), where in its cell.
        ground: (N, 3, 24, 24).
    """

    colour: Tensor
    cell: Tensor
    at: Tensor
    ground: Tensor

    def where(self) -> Tensor:
        """Pixels of each shape, bool (N, 3, 24, 24)."""
        found = torch.zeros(len(self.cell), len(QUESTIONS), SIDE, SIDE, dtype=torch.bool)
        corners = torch.stack([self.cell // 2, self.cell % 2], 2) * _CELL + self.at
        for one, several in zip(found, corners.tolist(), strict=True):
            for pixels, shape, (row, column) in zip(one, _shapes(), several, strict=True):
                pixels[row : row + _SIZE, column : column + _SIZE] = shape
        return found

    def drawn(self) -> Tensor:
        """Pictures (N, 3, 24, 24)."""
        found = self.ground.clone()
        for shape, colour in zip(self.where().unbind(1), self.colour.unbind(1), strict=True):
            found = torch.where(shape[:, None], COLOURS[colour][:, :, None, None], found)
        return found


def _shapes() -> Tensor:
    """A disc, a square and a cross, bool (3, 9, 9)."""
    row, column = torch.meshgrid(torch.arange(_SIZE) - 4, torch.arange(_SIZE) - 4, indexing="ij")
    disc = row**2 + column**2 <= 18
    square = (row.abs() <= 3) & (column.abs() <= 3)
    cross = (row.abs() <= 1) | (column.abs() <= 1)
    return torch.stack([disc, square, cross])


def _scenes(n: int, seed: int) -> _Scene:
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(len(COLOURS), (n, 3), generator=generator)
    cell = torch.rand(n, 4, generator=generator).argsort(1)[:, :3]
    at = torch.randint(_CELL - _SIZE + 1, (n, 3, 2), generator=generator)
    return _Scene(colour, cell, at, 0.35 * torch.rand(n, 3, SIDE, SIDE, generator=generator))


def _elsewhere(scene: _Scene, asked: Tensor) -> _Scene:
    """Other scenes with the asked shape as it is: the others have other colours and places, on another ground."""
    n = len(asked)
    other = _scenes(n, 7)
    own = torch.arange(3) == asked[:, None]
    order = torch.rand(n, 4, generator=torch.Generator().manual_seed(8))
    mine = scene.cell.gather(1, asked[:, None])
    order.scatter_(1, mine, 2.0)  # its cell is taken
    cell = torch.where(own, scene.cell, order.argsort(1)[:, :3])
    colour = torch.where(own, scene.colour, (scene.colour + 1) % len(COLOURS))
    return replace(other, colour=colour, cell=cell, at=torch.where(own[..., None], scene.at, other.at))


@register_task(
    "vqa.colour",
    truth_kind="mask",
    kind="image",
    samples=SAMPLES,
    says="what colour one of three shapes has: the question says which shape decides",
    seconds=12,
)
def build(seed: int, size: str) -> Problem:
    """The colour of the shape that a question names.

    Args:
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    (count, epochs), n = _TRAIN[size], _TEST[size]
    train, test = _scenes(count, 1), _scenes(n, 2)
    net = fit(_ByQuestion(), train.drawn(), train.colour, epochs=epochs, lr=4e-3).net
    asked = torch.arange(n) % len(QUESTIONS)

    def answers(x: Tensor) -> Tensor:
        return net(x).reshape(n, len(QUESTIONS), -1)[torch.arange(n), asked]

    x, label = test.drawn(), test.colour.gather(1, asked[:, None])[:, 0]
    right = verify.accuracy(answers, x, label, 0.97)
    own = torch.arange(3) == asked[:, None]
    turned = replace(test, colour=torch.where(own, (test.colour + 1) % len(COLOURS), test.colour))
    good, facts = verify.planted(answers, x, turned.drawn(), _elsewhere(test, asked).drawn())
    good &= answers(x).argmax(1) == label
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        x[picked],
        asked[picked] * len(COLOURS) + label[picked],
        "mask",
        test.where()[picked, asked[picked]],
        "image",
        facts={"accuracy": right, **facts},
    )

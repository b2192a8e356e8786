"""Sentences in which one word judges, read by MiniLM, a trained language model, with a linear head.

The head has never seen the words that judge in the samples: it knows them by what the language model makes of them.
That the word decides is checked by exchanging it, and by exchanging all words around it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from interp_plugins.benchmark import sentences, verify
from interp_plugins.benchmark.problem import Problem
from interp_plugins.benchmark.registry import register_task
from interp_plugins.benchmark.training import fit

SAMPLES = {"tiny": 2, "small": 12, "full": 64}
_TRAIN = {"tiny": 400, "small": 1000, "full": 3000}  # sentences
_TEST = {"tiny": 50, "small": 150, "full": 400}
_NEUTRAL = ("film", "story", "actor", "scene", "music", "plot", "book", "room", "street", "table", "house", "train")
_FRAMES = (  # three things, and a word that judges
    ("the", "{}", "in", "the", "{}", "with", "the", "{}", "was", "!"),
    ("the", "!", "{}", "in", "the", "{}", "with", "the", "{}", "again"),
    ("in", "the", "{}", "with", "the", "{}", "a", "!", "{}", "again"),
)
_SEEN = (("good", "great", "excellent", "brilliant"), ("bad", "awful", "horrible", "boring"))
_UNSEEN = (("wonderful", "superb"), ("terrible", "dreadful"))


@dataclass(frozen=True)
class _Sentences:
    """What sentences are written of.

    Attributes:
        things: (N, 3) numbers of neutral words.
        judge: (N,) numbers of words that judge.
        frame: (N,) numbers of frames.
        label: (N,) 0 or 1, for and against.
    """

    things: Tensor
    judge: Tensor
    frame: Tensor
    label: Tensor

    def written(self, words: tuple[tuple[str, ...], ...]) -> Tensor:
        """Ids (N, 12), the words that judge from these two lists."""
        found = []
        for named, one, frame, side in zip(*(v.tolist() for v in vars(self).values()), strict=True):
            fill, judge = (_NEUTRAL[i] for i in named), words[side][one]
            found.append([next(fill) if w == "{}" else judge if w == "!" else w for w in _FRAMES[frame]])
        return sentences.ids_of(found)

    def where(self) -> Tensor:
        """Where the word that judges stands, bool (N, 12)."""
        places = torch.tensor([one.index("!") + 1 for one in _FRAMES])  # behind what begins a sentence
        return torch.arange(len(_FRAMES[0]) + 2) == places[self.frame][:, None]


def _drawn(n: int, words: int, seed: int) -> _Sentences:
    """N sentences, half of them for."""
    generator = torch.Generator().manual_seed(seed)
    things = torch.randint(len(_NEUTRAL), (n, 3), generator=generator)
    judge = torch.randint(words, (n,), generator=generator)
    return _Sentences(things, judge, torch.randint(len(_FRAMES), (n,), generator=generator), torch.arange(n) % 2)


@register_task(
    "text.minilm",
    truth_kind="mask",
    kind="text",
    samples=SAMPLES,
    trained=False,
    says="a trained language model with a linear head: a word that the head has not seen says good or bad",
    needs=sentences.NEEDS,
    license=sentences.LICENSE,
    seconds=9,
)
def build(seed: int, size: str) -> Problem:
    """Whether a sentence judges well or badly.

    Args:
        seed: of no effect: only the head is trained, and always finds the same.
        size: "tiny", "small" or "full".
    """
    train, test = _drawn(_TRAIN[size], len(_SEEN[0]), 1), _drawn(_TEST[size], len(_UNSEEN[0]), 2)
    net = sentences.SentenceNet(sentences.minilm(), nn.Linear(sentences.WIDTH, 2))
    with torch.no_grad():
        features = net.vectors(train.written(_SEEN))
    fit(net.head, features, train.label, epochs=40, lr=1e-2)
    net = net.eval().requires_grad_(False)
    ids, label = test.written(_UNSEEN), test.label
    right = verify.accuracy(net, ids, label, 0.97)
    turned = replace(test, label=1 - label)
    rest = replace(test, things=_drawn(len(label), 1, 3).things)
    good, facts = verify.planted(net, ids, turned.written(_UNSEEN), rest.written(_UNSEEN))
    picked = good.nonzero()[: SAMPLES[size], 0]
    return Problem(
        net,
        ids[picked],
        label[picked],
        "mask",
        test.where()[picked],
        "text",
        baselines=0,
        facts={"accuracy": right, **facts},
    )

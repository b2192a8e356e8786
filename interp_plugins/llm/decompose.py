"""`direct_logits`: a logit as the sum of what the embedding, each attention and each MLP writes towards it.

The last norm is linear once its scale is held: logit = sum over parts c of norm(c) . w, plus the norm's bias. So the
sum is exact (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021), but only direct ways count:
what a part does through later parts is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.attr.language.tokens import home_of
from interp_plugins.core.errors import ModelError
from interp_plugins.core.guard import frozen
from interp_plugins.core.hooks import hooked
from interp_plugins.llm.blocks import Blocks, Stream, first_tensor, one_token, prompt_ids
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, new_figure


@dataclass(frozen=True)
class DirectLogits:
    """A logit (or the difference of two) in parts that add up.

    Attributes:
        names: the parts: "embedding", "3.self_attn", "3.mlp", with heads "3.self_attn.head 2", and "bias".
        values: what each writes towards the token, (parts,).
        logit: the model's own, before a soft cap.
        error: what the parts' sum misses of it, absolute.
    """

    names: tuple[str, ...]
    values: Tensor
    logit: float
    error: float

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The parts of the largest |value|."""
        order = self.values.abs().argsort(descending=True)[:k].tolist()
        return [(self.names[i], float(self.values[i])) for i in order]

    def plot(self, k: int = 30) -> Plot:
        """A bar for each of the k largest parts, in the model's order."""
        chosen = sorted(self.values.abs().argsort(descending=True)[:k].tolist())
        figure = new_figure(5.5, 0.7 + 0.19 * len(chosen))
        ax: Any = figure.add_subplot()
        values = self.values[chosen].numpy()
        shades = [colour.POSITIVE_COLOUR if v >= 0 else colour.NEGATIVE_COLOUR for v in values]
        ax.barh(range(len(chosen)), values, color=shades)
        ax.set_yticks(range(len(chosen)), [self.names[i] for i in chosen], fontsize=7)
        ax.invert_yaxis()
        ax.axvline(0, color=colour.FAINT_INK, linewidth=0.8)
        ax.set_xlabel(f"written towards the logit {self.logit:.2f}", fontsize=8)
        return Plot(figure, np.array([[ax]]))


def direct_logits(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, str]],
    output: str | int | None = None,
    against: str | int | None = None,
    *,
    heads: bool = False,
    bos: bool | None = None,
) -> DirectLogits:
    """What each part of the model writes directly towards the next token.

    Args:
        model: causal language model with Hugging Face's `forward`.
        tokenizer: its fast tokenizer.
        prompt: a text, or messages for the chat template.
        output: the token (the first of a text, or an id); None: the likeliest one.
        against: another token: the difference of the two logits is taken apart.
        heads: attention head by head.
        bos: whether the text begins with the begin-of-text token; None: as the tokenizer does it.

    Raises:
        ModelError: no blocks, no head, or a block that does not add two parts to the stream.
    """
    ids, _ = prompt_ids(tokenizer, prompt, home_of(model), bos=bos)
    with frozen(model), torch.no_grad():
        blocks = Blocks(model)
        stream, inner = _read(blocks, ids)
        end = stream.states[-1][0, -1]
        towards = _Towards(blocks, stream.tail, end)
        said = blocks.head(towards.normed(end))
        token = int(said.argmax()) if output is None else one_token(tokenizer, output)
        other = None if against is None else one_token(tokenizer, against)
        parts = _parts(blocks, stream, inner, heads)
        values = torch.stack([towards(state, token, other) for _, state in parts] + [towards.bias(token, other)])
        logit = float(said[token]) - (0.0 if other is None else float(said[other]))
    names = (*(name for name, _ in parts), "bias")
    values = values.double().cpu()
    return DirectLogits(names, values, logit, abs(float(values.sum()) - logit))


def _read(blocks: Blocks, ids: Tensor) -> tuple[Stream, dict[nn.Module, Tensor]]:
    """The stream with its parts, and what went into each linear layer at the last position."""
    inner: dict[nn.Module, Tensor] = {}
    with hooked() as hooks:
        for block in blocks.blocks:
            for module in block.modules():
                if getattr(module, "weight", None) is not None and module.weight.ndim == 2:
                    hooks.before(module, lambda m, a: inner.update({m: a[0][0, -1]}) if a else None)
        stream = blocks.read(ids, parts=True)
    lacking = [k for k, found in enumerate(stream.parts) if not found]
    if lacking:
        raise ModelError(f"Block {lacking[0]} of {blocks.name} does not add two of its parts to the stream.")
    return stream, inner


class _Towards:
    """How far a vector of the stream goes towards a token, with the last norm's scale held."""

    def __init__(self, blocks: Blocks, tail: Sequence[nn.Module], end: Tensor):
        if len(tail) > 1:
            raise ModelError(f"{len(tail)} modules stand between the last block and the head; one norm was expected.")
        self.head, self.norm, self.end = blocks.head, tail[0] if tail else None, end
        self.zero = torch.zeros_like(end)
        self.centred = (
            self.norm is not None
            and torch.allclose(  # a layer norm takes the mean away, an RMS norm does not
                self.normed(end + end.abs().mean()), self.normed(end), rtol=1e-3, atol=1e-4
            )
        )
        self.shift = self.normed(self.zero) if self.norm is not None else self.zero
        self.by = self._gain()

    def normed(self, state: Tensor) -> Tensor:
        """A state behind the last norm."""
        return state if self.norm is None else first_tensor(self.norm(state[None, None]))[0, 0]

    def _gain(self) -> Tensor:
        """What the norm multiplies each number by, at the stream's end."""
        moved = self.end - self.end.mean() if self.centred else self.end
        gain = (self.normed(self.end) - self.shift) / torch.where(moved == 0, torch.ones_like(moved), moved)
        return torch.where(moved == 0, torch.zeros_like(gain), gain)

    def _weight(self, token: int, other: int | None) -> Tensor:
        weight: Tensor = self.head.weight[token]
        return weight if other is None else weight - self.head.weight[other]

    def __call__(self, state: Tensor, token: int, other: int | None) -> Tensor:
        """The logit that a part writes."""
        moved = state - state.mean() if self.centred else state
        return (moved * self.by) @ self._weight(token, other)

    def bias(self, token: int, other: int | None) -> Tensor:
        """What norm and head add of their own."""
        own = self.shift @ self._weight(token, other)
        bias = getattr(self.head, "bias", None)
        return own if bias is None else own + bias[token] - (bias[other] if other is not None else 0)


def _parts(blocks: Blocks, stream: Stream, inner: Mapping[nn.Module, Tensor], heads: bool) -> list[tuple[str, Tensor]]:
    """(name, vector at the last position) of everything that is added to the stream."""
    out = [("embedding", stream.states[0][0, -1])]
    count = int(getattr(getattr(blocks.model, "config", None), "num_attention_heads", 0) or 0)
    for k, found in enumerate(stream.parts):
        for place, (name, module, added) in enumerate(found):
            vector = added[0, -1]
            split = _by_head(module, inner, vector, count) if heads and place == 0 else None
            out += [(f"{k}.{name}", vector)] if split is None else [(f"{k}.{name}.{what}", v) for what, v in split]
    return out


def _by_head(
    module: nn.Module, inner: Mapping[nn.Module, Tensor], whole: Tensor, count: int
) -> list[tuple[str, Tensor]] | None:
    """Attention's output head by head: through the columns of its last linear layer; None where it has none."""
    for linear in reversed([m for m in module.modules() if m in inner]):
        given = inner[linear]
        if not count or given.numel() % count:
            continue
        bias = linear(torch.zeros_like(given)[None, None])[0, 0]
        if not torch.allclose(linear(given[None, None])[0, 0], whole, rtol=1e-3, atol=1e-4):
            continue
        size = given.numel() // count
        alone = torch.zeros(count, given.numel(), dtype=given.dtype, device=given.device)
        for h in range(count):
            alone[h, h * size : (h + 1) * size] = given[h * size : (h + 1) * size]
        each = linear(alone[None])[0] - bias
        return [*((f"head {h}", each[h]) for h in range(count)), ("bias", bias)]
    return None

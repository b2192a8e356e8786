"""`patch`: where inside the model the difference between two prompts decides the answer.

Activation patching runs the corrupt prompt and puts the clean prompt's activations in at one place; what of the answer
comes back is the place's share:

    (m(patched) - m(corrupt)) / (m(clean) - m(corrupt))

(Vig et al. 2020; Meng et al., ROME, 2022, arXiv:2202.05262.) Attribution patching (Nanda 2023) is its first order: the
difference of activations times the gradient on the corrupt prompt, for all places by two forward passes and a backward
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp_plugins.attr.language.scoring import log_probs, parameters_of
from interp_plugins.attr.language.tokens import home_of, logits_of
from interp_plugins.core.batching import progress_bar
from interp_plugins.core.differentiate import no_gradient_text, without_gradient
from interp_plugins.core.errors import InputError, ModelError, unknown
from interp_plugins.core.guard import frozen
from interp_plugins.core.hooks import hooked
from interp_plugins.llm.blocks import (
    Blocks,
    first_tensor,
    given_states,
    one_token,
    prompt_ids,
    with_first,
    with_given,
)
from interp_plugins.viz import colour
from interp_plugins.viz.figure import Plot, add_colorbar, new_figure
from interp_plugins.viz.scale import ScaleRule

SITES = ("resid", "attn", "mlp", "heads")
_METHODS = ("activation", "attribution")
_ROWS = 1024  # tokens that go through together

Put = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PatchMap:
    """How much of the answer each place brings back.

    Attributes:
        values: shares, (L, P) for layers and positions; (L, H) for heads.
        whole: shares of all positions of a layer (all heads) together, (L,); None for attribution patching.
        columns: the positions' tokens of the clean prompt, or the heads.
        corrupt_columns: the tokens of the corrupt prompt.
        site: "resid" (what goes into a block), "attn", "mlp" (what they add) or "heads".
        method: "activation" or "attribution".
        clean: the metric m on the clean prompt: the log probability of the output, or its difference to `against`.
        corrupt: on the corrupt one.
    """

    values: Tensor
    whole: Tensor | None
    columns: tuple[str, ...]
    corrupt_columns: tuple[str, ...]
    site: str
    method: str
    clean: float
    corrupt: float

    def top(self, k: int = 5) -> list[tuple[int, str, float]]:
        """The k places of the largest share: (layer, token or head, share)."""
        flat = self.values.flatten().argsort(descending=True)[:k].tolist()
        width = self.values.shape[1]
        return [(i // width, self.columns[i % width], float(self.values.flatten()[i])) for i in flat]

    def plot(self) -> Plot:
        """Layers from below to above, positions or heads from left to right; orange: brings the clean answer back."""
        count, width = self.values.shape
        scale = ScaleRule("max").fit(self.values.numpy(), signed=True)
        figure = new_figure(2.2 + 0.3 * width, 1.4 + 0.13 * count)
        ax: Any = figure.add_subplot()
        data = scale.unit(self.values.numpy())
        ax.imshow(data, cmap=colour.DIVERGING, vmin=-1, vmax=1, aspect="auto", origin="lower")
        names = [a if a == b else f"{a.strip()} | {b.strip()}" for a, b in zip(self.columns, self.corrupt_columns)]
        ax.set_xticks(range(width), [n.strip() or repr(n)[1:-1] for n in names], rotation=90, fontsize=7)
        ax.set_ylabel("layer", fontsize=8)
        ax.tick_params(length=0, labelsize=7)
        ax.set_title(f"{self.method} patching, {self.site}", fontsize=9)
        add_colorbar(ax, scale.mappable(), scale, label=False)
        ax.set_xlabel("share of the clean answer that comes back", fontsize=8)
        return Plot(figure, np.array([[ax]]))


def patch(
    model: Any,
    tokenizer: Any,
    clean: str | Sequence[Mapping[str, str]],
    corrupt: str | Sequence[Mapping[str, str]],
    output: str | int,
    against: str | int | None = None,
    *,
    site: str = "resid",
    method: str = "activation",
    bos: bool | None = None,
    progress: bool | None = None,
) -> PatchMap:
    """Where the difference between two prompts decides the next token.

    Args:
        model: causal language model with Hugging Face's `forward`.
        tokenizer: its fast tokenizer.
        clean: the prompt with the answer.
        corrupt: the same with something else in it, of as many tokens.
        output: the clean answer: the first token of a text, or an id.
        against: the corrupt answer: the metric is then the difference of log probabilities.
        site: "resid" (what goes into a block), "attn" or "mlp" (what they add to the stream), "heads" (at all
            positions).
        method: "activation" (a row per place), or "attribution" (first order: two passes forward, one back).
        bos: whether texts begin with the begin-of-text token; None: as the tokenizer does it.
        progress: None = a bar for long work, True, False.

    Raises:
        InputError: prompts of different lengths, or prompts that give the same answer.
        ModelError: no blocks, or parts of them, can be found.
    """
    if site not in SITES:
        raise unknown("site", site, SITES)
    if method not in _METHODS:
        raise unknown("method", method, _METHODS)
    device = home_of(model)
    ids, names = prompt_ids(tokenizer, clean, device, bos=bos)
    other, other_names = prompt_ids(tokenizer, corrupt, device, bos=bos)
    if ids.shape != other.shape:
        raise InputError(
            f"The clean prompt has {ids.shape[1]} tokens and the corrupt one {other.shape[1]}; places can only be "
            "exchanged between prompts of one length. Choose words of as many tokens."
        )
    wanted = (one_token(tokenizer, output), None if against is None else one_token(tokenizer, against))
    with frozen(model):
        work = _Patching(Blocks(model), ids, other, wanted, site)
        values, whole = work.attribution() if method == "attribution" else work.activation(progress)
    heads = tuple(f"head {h}" for h in range(values.shape[1]))
    columns = (heads, heads) if site == "heads" else (tuple(names), tuple(other_names))
    return PatchMap(values.cpu(), whole, *columns, site, method, work.clean, work.corrupt)


class _Patching:
    """Both prompts' activations at a site, and the corrupt prompt with some of the clean ones put in."""

    def __init__(self, blocks: Blocks, ids: Tensor, other: Tensor, wanted: tuple[int, int | None], site: str):
        self.blocks, self.other, self.wanted, self.site = blocks, other, wanted, site
        self.few = {"logits_to_keep": 1} if "logits_to_keep" in parameters_of(blocks.model) else {}
        with torch.no_grad():
            self.places = self._places(ids)
            self.states, clean = self._read(ids)
            self.corrupt_states, corrupt = self._read(other)
        self.clean, self.corrupt = float(clean), float(corrupt)
        if abs(self.clean - self.corrupt) < 1e3 * torch.finfo(clean.dtype).eps * (1 + abs(self.clean)):
            raise InputError(
                f"The metric is {self.clean:.4g} on both prompts, so there is nothing to bring back; choose prompts "
                "with different answers."
            )
        self.heads = int(getattr(getattr(blocks.model, "config", None), "num_attention_heads", 0) or 0)

    def _places(self, ids: Tensor) -> list[nn.Module]:
        """The module of every layer whose input or output is exchanged."""
        if self.site == "resid":
            return self.blocks.blocks
        stream = self.blocks.read(ids, parts=True)
        found = stream.parts
        if not all(found):
            raise ModelError(f"The blocks of {self.blocks.name} do not add two of their parts to the stream.")
        if self.site != "heads":
            return [parts[("attn", "mlp").index(self.site)][1] for parts in found]
        mixers = [m for m in stream.mixers if m is not None]
        if len(mixers) < len(found):
            raise ModelError("Attention has no linear layer behind its heads; take site='attn'.")
        return mixers

    def _put(self, hooks: Any, module: nn.Module, new: Put) -> None:
        """Let what goes into a module (its output, of "attn" and "mlp") be another."""
        if self.site in ("attn", "mlp"):
            hooks.behind(module, lambda m, a, out: with_first(out, new(first_tensor(out))))
        else:
            hooks.before(module, lambda m, a, k: with_given(a, k, new(given_states(a, k))), with_kwargs=True)

    def _read(self, ids: Tensor, leaf: bool = False) -> tuple[list[Tensor], Tensor]:
        kept: list[Tensor] = []

        def keep(state: Tensor) -> Tensor:
            if leaf and not kept and not state.requires_grad:
                state = state.detach().requires_grad_()
            kept.append(state)
            return state

        with hooked() as hooks:
            for module in self.places:
                self._put(hooks, module, keep)
            metric = self._metric(ids)[0]
        return kept, metric

    def _metric(self, ids: Tensor) -> Tensor:
        """The metric of each row."""
        logits = logits_of(self.blocks.model(input_ids=ids, use_cache=False, **self.few))[:, -1:]
        this, that = self.wanted
        found = log_probs(logits, torch.full((len(ids), 1), this))[:, 0]
        return found if that is None else found - log_probs(logits, torch.full((len(ids), 1), that))[:, 0]

    def _share(self, metric: Tensor) -> Tensor:
        return (metric.double().cpu() - self.corrupt) / (self.clean - self.corrupt)

    def activation(self, progress: bool | None) -> tuple[Tensor, Tensor]:
        """A row for each place of each layer, and one for all places of it."""
        found = []
        with torch.no_grad(), progress_bar(len(self.places), "patching", progress) as bar:
            for layer, module in enumerate(self.places):
                found.append(self._share(self._layer(module, self.states[layer])))
                bar.update(1)
        table = torch.stack(found)
        return table[:, :-1], table[:, -1]

    def _layer(self, module: nn.Module, clean: Tensor) -> Tensor:
        """The metric with each place of one layer exchanged, and with all."""
        masks = self._masks(clean)
        size = max(1, _ROWS // self.other.shape[1])
        out = []
        for start in range(0, len(masks), size):
            mask = masks[start : start + size]
            with hooked() as hooks:
                self._put(hooks, module, lambda now, mask=mask: torch.where(mask, clean.to(now), now))  # type: ignore[misc]
                out.append(self._metric(self.other.expand(len(mask), -1)))
        return torch.cat(out)

    def _masks(self, like: Tensor) -> Tensor:
        """Which numbers of a layer's tensor are exchanged in each row: (places + 1, P or 1, width or 1)."""
        if self.site != "heads":
            each = torch.eye(like.shape[1], dtype=torch.bool, device=like.device)[:, :, None]
            return torch.cat([each, torch.ones_like(each[:1])])
        if not self.heads or like.shape[-1] % self.heads:
            raise ModelError("No num_attention_heads of the config divides what attention gives; take site='attn'.")
        which = torch.arange(like.shape[-1], device=like.device) // (like.shape[-1] // self.heads)
        rows = which[None] == torch.arange(self.heads, device=like.device)[:, None]
        return torch.cat([rows, torch.ones_like(rows[:1])])[:, None]

    def attribution(self) -> tuple[Tensor, None]:
        """First order at every place, from one pass each way."""
        states, metric = self._read(self.other, leaf=True)
        if without_gradient([metric]):
            raise ModelError(no_gradient_text("places"))
        grads = torch.autograd.grad(metric, states)
        found = []
        for clean, now, grad in zip(self.states, states, grads, strict=True):
            moved = ((clean - now.detach()) * grad)[0].double()
            if self.site == "heads":
                found.append(moved.sum(0).reshape(self.heads, -1).sum(1))
            else:
                found.append(moved.sum(-1))
        return torch.stack(found) / (self.clean - self.corrupt), None

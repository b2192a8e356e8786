"""Gradient attribution of language models: each output token, at the embedding of the input.

One forward pass over the prompt and the output scores all output tokens, and each has a backward pass of its own: a
causal model's token feels none that comes later, so the numbers are those of one pass per growing text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp_plugins.attr.backward.lrp import LayerLRP
from interp_plugins.attr.gradient.activation import LayerGradientXActivation
from interp_plugins.attr.gradient.layers import LayerGradientShap, LayerIntegratedGradients
from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.language.interpretable import InterpretableInput, TextTokenInput
from interp_plugins.attr.language.llm import LanguageAttribution
from interp_plugins.attr.language.llm_result import LLMAttributionResult
from interp_plugins.attr.language.quantised import check_gradients, quantised
from interp_plugins.attr.language.scoring import OutputScorer, is_encoder_decoder
from interp_plugins.core.guard import frozen
from interp_plugins.core.layers import AtLayer
from interp_plugins.core.multi_target import MultiTarget
from interp_plugins.core.rows import INDEPENDENT
from interp_plugins.core.target import Index
from interp_plugins.core.tensors import as_tuple
from interp_plugins.core.wrapper import Wrapper

_GRAPH_BYTES = 2**30  # that the passes of a path may keep for the way back
_KEPT = 4  # tensors that a graph keeps for each output of a linear layer, roughly


class _AtOutput(Wrapper):
    """The log probabilities of the output's tokens as a function of switches, or of token ids."""

    known_rows = INDEPENDENT  # a language model's texts feel each other's company nowhere but in rounding

    def __init__(self, scorer: OutputScorer, inp: TextTokenInput | None):
        self.scorer, self.inp = scorer, inp

    def wrapped_callables(self) -> list[Any]:
        """The callables inside (for the guard)."""
        return [self.scorer.model]

    def layer_values(self, at: AtLayer, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """The embedding of switches or ids, without a pass through the model; None: another layer is read."""
        layer, model = at.layers[0], self.scorer.model
        own: Any = getattr(model, "get_input_embeddings", _none)()
        plain = isinstance(own, nn.Embedding) and layer.module is own and layer.io == "output"
        if len(at.layers) != 1 or not plain or own._forward_hooks or is_encoder_decoder(model):
            return None
        at.counts, at.calls = [1], [1]
        with torch.no_grad():
            return (own(self.scorer.read_by_model(self._ids(inputs[0]))),)

    def _ids(self, given: Tensor) -> Tensor:
        return (given if self.inp is None else self.inp.to_model_input(given)).to(self.scorer.device)

    def __call__(self, given: Tensor) -> Tensor:
        ids = self._ids(given)
        return self.scorer.in_graph(ids)


def _none() -> None:
    """What a model without a head says of it."""


def _lead(inp: TextTokenInput) -> int:
    """How many tokens stand before the first one that is explained."""
    return 0 if inp.itp_mask is None else int(inp.itp_mask[0].int().argmax())


def rows_of_a_path(model: Any, tokens: int) -> int | None:
    """How many texts of so many tokens go each way together, by what their graph would keep; None where unknown."""
    if not isinstance(model, nn.Module):
        return None
    head = getattr(model, "get_output_embeddings", _none)()
    wide: list[Any] = [m for m in model.modules() if hasattr(m, "out_features") and m is not head]
    size = sum(int(m.out_features) for m in wide) * _KEPT * 4 * tokens
    return max(1, _GRAPH_BYTES // size) if size else None


class LLMGradientAttribution(LanguageAttribution):
    """Gradient attribution of a causal language model's output, at its embedding.

    Args:
        attr_method: LayerIntegratedGradients, LayerGradientXActivation, LayerGradientShap or LayerLRP on the model and
            its embedding (`model.get_input_embeddings()`). Relevance is that of the output tokens' logits, all others
            explain their log probabilities.
        tokenizer: the model's tokenizer.
    """

    SUPPORTED_METHODS = (LayerGradientShap, LayerGradientXActivation, LayerIntegratedGradients, LayerLRP)
    SUPPORTED_INPUTS = (TextTokenInput, ChatInput)

    def attribute(
        self,
        inp: InterpretableInput,
        target: str | Tensor | None = None,
        gen_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """Attributions of the input's tokens to each output token, summed over the embedding's dimensions.

        Args:
            inp: a `TextTokenInput` or `ChatInput`; its baseline token is the baseline of path methods.
            target: the output, text or token ids; None: what the model generates.
            gen_args: arguments of `generate`; None: 25 tokens, greedily.
            **kwargs: the method's own arguments (n_steps, seed; baselines of LayerGradientShap as switches (n, tokens),
                1 where the token stays, by default all 0: the baseline token everywhere).
        """
        tokens = self.target_tokens(inp, target, gen_args)
        given = inp.of_tokens() if isinstance(inp, ChatInput) else inp
        assert isinstance(given, TextTokenInput)
        ids = given.to_model_input().to(self.device)
        scorer = self.output_scorer(inp, tokens)
        with frozen(self.model):
            logs = scorer([ids[0]])[0]
            lead = scorer.share(ids, logs, _lead(given)) if isinstance(inp, ChatInput) else 0
        if lead:
            assert given.itp_mask is not None
            given = TextTokenInput.of_ids(
                given.inp_tensor[:, lead:], self.tokenizer, given.baselines, given.itp_mask[0, lead:]
            )
        attr = self._maps(given, scorer, ids[:, lead:], kwargs)
        if given.itp_mask is not None:
            attr = attr[:, given.itp_mask[0].to(attr.device)]
        if isinstance(inp, ChatInput):
            attr = inp.by_feature(attr)
        return LLMAttributionResult(
            seq_attr=attr.sum(0),
            token_attr=attr,
            input_tokens=inp.values,
            output_tokens=self.output_names(tokens),
            output_probs=logs.exp(),
            inp=inp,
            notes=tuple(scorer.notes),
        )

    def _maps(self, inp: TextTokenInput, scorer: OutputScorer, ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Attributions (T, P) of the prompt's tokens to each output token."""
        length, given = ids.shape[1], dict(kwargs)
        inputs = inp.to_tensor().to(self.device, torch.float32)  # switches: whole numbers would pass for ids
        layer = getattr(self.model, "get_input_embeddings", _none)()
        if isinstance(layer, nn.Module) and quantised(self.model):
            check_gradients(self.model, layer, lambda: scorer.in_graph(ids[:1]))
        scorer.raw = isinstance(self.attr_method, LayerLRP)  # as Achtibat et al. 2024, not behind another softmax
        self.attr_method.forward_func = _AtOutput(scorer, inp)
        if isinstance(self.attr_method, LayerGradientShap):  # a switch is on or off; embeddings have a way between
            self.attr_method.forward_func = _AtOutput(scorer, None)
            (pool,) = as_tuple(kwargs.get("baselines", torch.zeros_like(inp.to_tensor())))
            given["baselines"], inputs = inp.to_model_input(pool).to(self.device), ids
        asked = "internal_batch_size" if isinstance(self.attr_method, LayerIntegratedGradients) else "batch_size"
        if not isinstance(self.attr_method, (LayerGradientXActivation, LayerLRP)) and not {asked, "batch_size"} & set(
            given
        ):
            given[asked] = rows_of_a_path(self.model, length + len(scorer.output))
        given["target"] = MultiTarget(tuple(Index((k,)) for k in range(len(scorer.output))))
        if not scorer.raw:
            return self.attr_method.attribute(inputs, **given).detach()[:, :length].sum(-1)
        found, lost = self.attr_method.attribute(inputs, return_convergence_delta=True, **given)
        arrived = float(found.sum())
        scorer.notes.append(
            f"relevance of the output's logits, {arrived + float(lost.sum()):.3g} in sum, of which {arrived:.3g} "
            "arrives at the embedding"
        )
        return found.detach()[:, :length].sum(-1)

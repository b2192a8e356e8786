"""`context_cite`: which sentences of a context an answer rests on (Cohen-Wang et al. 2024, arXiv:2409.00729).

Sentences are dropped at random, each with probability 1/2; the logit of the whole answer's probability is fitted by a
lasso of who was there. How well the fit foretells contexts it has not seen is told beside it (the linear datamodeling
score: rank correlation on held-out draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.asking import asked_by
from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.perturbation.surrogate import SkLearnLasso
from interp_plugins.core.errors import InputError
from interp_plugins.core.random import check_seed
from interp_plugins.llm.explain import framed
from interp_plugins.llm.result import TextExplanation
from interp_plugins.metrics.similarity import spearman_correlation

_PROMPT = "Context: {context}\n\nQuestion: {query}"
_HELD_OUT = 2  # one held-out draw for so many that are fitted


def context_cite(
    model: Any,
    tokenizer: Any,
    context: str | Sequence[str],
    query: str,
    output: str | None = None,
    *,
    n_samples: int = 32,
    alpha: float = 0.01,
    template: str = _PROMPT,
    gen_args: dict[str, Any] | None = None,
    seed: int = 0,
) -> TextExplanation:
    """Which sentences of a context an answer rests on.

    Args:
        model: language model with Hugging Face's `forward`, or a `RemoteLLMProvider`.
        tokenizer: its fast tokenizer; with a chat template, the prompt is a user's message.
        context: a text, or its sentences.
        query: what is asked of it.
        output: the answer; None: what the model generates.
        n_samples: contexts that the lasso is fitted to; half as many more are held out.
        alpha: the lasso's penalty; 0.01 as in the paper.
        template: the prompt, with {context} and {query}.
        gen_args: arguments of `generate`; None: 25 tokens, greedily.
        seed: of the draws.

    Returns:
        A `TextExplanation` by sentence; its score is the logit of the answer's probability. `notes` tell the rank
        correlation on held-out draws: below 0.5 the numbers say little.

    Raises:
        InputError: fewer than two sentences, or a template without {context} or {query}.
    """
    check_seed(seed)
    if "{context}" not in template or "{query}" not in template:
        raise InputError(f"template must hold {{context}} and {{query}}, got {template!r}.")
    text = context if isinstance(context, str) else " ".join(s.strip() for s in context)
    prompt: Any = template.format(context=text, query=query)
    if getattr(tokenizer, "chat_template", None):
        prompt = [{"role": "user", "content": prompt}]
    inp = ChatInput(prompt, tokenizer, "sentence", absence="remove")
    at = inp.text.find(text)
    inp = inp.within(at, at + len(text))
    if inp.n_itp_features < 2:
        raise InputError(f"The context has {inp.n_itp_features} sentence; at least two are needed to tell them apart.")
    asked = asked_by(model, tokenizer, "generation", seed)
    tokens = asked.output(inp, output, gen_args)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(n_samples + max(4, n_samples // _HELD_OUT), inp.n_itp_features, generator=generator) < 0.5
    ends = torch.stack([torch.ones(inp.n_itp_features), torch.zeros(inp.n_itp_features)])
    scores = logit(asked.scores(inp, tokens, torch.cat([ends, rows.float()])).double().cpu())
    weights, foretold = _fitted(rows.double(), scores[2:], n_samples, alpha)
    frame = framed(asked, inp, tokens, None, seed, {"n_samples": n_samples, "alpha": alpha})
    fit = f"rank correlation with {len(rows) - n_samples} held-out contexts: {foretold:.2f}"
    known: dict[str, Any] = {"score": float(scores[0]), "empty": float(scores[1]), "notes": (fit,)}
    return replace(frame, method="context_cite", seq_attr=weights.float(), **known)


def logit(logs: Tensor) -> Tensor:
    """Log p - log(1 - p) of log probabilities, exact also near 1."""
    return logs - torch.log(-torch.expm1(logs.clamp(max=-1e-12)))


def _fitted(rows: Tensor, scores: Tensor, count: int, alpha: float) -> tuple[Tensor, float]:
    """The lasso's weights, and its rank correlation with the scores of the draws behind the first `count`."""
    model = SkLearnLasso(alpha=alpha)
    spread = float(scores[:count].std()) or 1.0  # the penalty is for scores of size one
    centre = float(scores[:count].mean())
    known: Any = [(rows[:count], (scores[:count] - centre) / spread, torch.ones(count, dtype=rows.dtype))]
    model.fit(known)
    weights = model.representation()[0] * spread
    foretold = spearman_correlation((rows[count:] @ weights)[None], scores[count:][None])
    return weights, float(foretold.nan_to_num(0.0))

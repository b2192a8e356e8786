"""`explain_text`: one call from a language model and a prompt to an explained answer."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.asking import AskedModel, asked_by, check_method
from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.language.llm import DEFAULT_METHOD
from interp_plugins.attr.language.spans import parts
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.random import check_seed
from interp_plugins.core.target import RatherThan
from interp_plugins.llm.result import TextExplanation, TextExplanations

_TASKS = ("generation", "classification")
_SINK = 1 / 3  # share of the first feature that is worth a word
_APART = 0.05  # error of a path's sum that is


def explain_text(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, str]],
    output: Any = None,
    method: str | Sequence[str] = DEFAULT_METHOD,
    *,
    against: Any = None,
    level: str = "word",
    task: str = "generation",
    absence: str | None = None,
    baseline: int | str | None = None,
    keep: Sequence[str] = ("system",),
    bos: bool | None = None,
    gen_args: dict[str, Any] | None = None,
    seed: int = 0,
    stream: bool = False,
    **params: Any,
) -> Any:
    """Explain what a language model answers by the words of its prompt.

    The score is the log probability of the output after the prompt, the sum of those of its tokens, under the model's
    own logits: temperatures and penalties of a sampler change what is drawn, not what is explained.

    Args:
        model: causal or encoder-decoder language model with Hugging Face's `forward`; a `transformers` pipeline, whose
            tokenizer is taken; or a `RemoteLLMProvider`. Perturbation methods ask for `forward` alone, so quantised
            models, and models spread over devices, will do.
        tokenizer: its fast tokenizer.
        prompt: a text, or a list of messages {"role": ..., "content": ...}, which the chat template makes a prompt of.
            What the template writes is never a feature.
        output: what is explained: a text or token ids; `RatherThan(" Rome", " London")`; None: what the model
            generates. Of a classifier: a class by name or index; None: the predicted one.
        method: "feature_ablation" (the default), "shapley_values", "shapley_value_sampling", "kernel_shap", "lime";
            with gradients "integrated_gradients", "input_x_gradient", "gradient_shap", and "lrp": relevance of the
            output's logits by the rules for transformers, "attn_lrp" (`composite` has others). Several give several
            results.
        against: why `output` rather than this one? The score is the difference of the two log probabilities.
        level: the features: "token", "word", "sentence" or "turn".
        task: "generation" or "classification" (a model of sequences, such as AutoModelForSequenceClassification).
        absence: "remove" or "baseline"; see `ChatInput`. Gradient methods always take the baseline.
        baseline: the token that stands for nothing; see `ChatInput`.
        keep: roles that are not explained.
        bos: whether a text begins with the begin-of-text token; None: as the tokenizer does it.
        gen_args: arguments of `generate`; None: 25 tokens, greedily. Sampling is seeded by `seed`.
        seed: of whatever is random.
        stream: give an iterator of explanations, one per output token as they come, each of the output so far.
        **params: the method's own (n_samples, n_steps, ...).

    Returns:
        A `TextExplanation`; `TextExplanations` for several methods; an iterator of the former with `stream`.

    Raises:
        InputError: nothing to explain, a model that cannot answer, or tokens whose places are not known.
        UnknownNameError: an unknown method, level, task or absence.
    """
    check_seed(seed)
    if task not in _TASKS:
        raise unknown("task", task, _TASKS)
    names = (method,) if isinstance(method, str) else tuple(method)
    for name in names:
        check_method(name)
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError("No tokenizer came; give the model's own, or a transformers pipeline as the model.")
    if isinstance(output, RatherThan):
        output, against = output.this, output.that
    inp = ChatInput(prompt, tokenizer, level, absence=absence, baseline=baseline, keep=keep, bos=bos)
    asked = asked_by(model, tokenizer, task, seed)
    tokens = asked.output(inp, output, gen_args)
    other = None if against is None else asked.output(inp, against, None)
    if stream:
        if len(names) > 1 or other is not None:
            raise InputError("stream=True explains one output by one method; leave against out, or stream.")
        return _streamed(asked, inp, tokens, names[0], seed, params)
    found = TextExplanations(_one(asked, inp, tokens, other, name, seed, params) for name in names)
    return found[0] if isinstance(method, str) else found


def _one(
    asked: AskedModel,
    inp: ChatInput,
    tokens: Tensor,
    other: Tensor | None,
    name: str,
    seed: int,
    params: dict[str, Any],
) -> TextExplanation:
    """The explanation by one method, with its notes."""
    found = asked.attributed(name, inp, tokens, params)
    seq, per_token = found.seq_attr, found.token_attr
    contrasted = other is not None and (len(tokens) != len(other) or bool((tokens != other).any()))
    if other is not None:
        if not contrasted:
            raise InputError("output and against are the same tokens, so there is no difference to explain.")
        seq = seq - asked.attributed(name, inp, other, params).seq_attr
        per_token = None
    frame = framed(asked, inp, tokens, name, seed, params)
    ask = functools.partial(_scores, asked, inp, tokens, other)
    path = asked.is_path(name)
    lacks = asked.has_absence(name)
    anything_left = path or inp.absence == "baseline" or bool((inp.feature_of_token < 0).any())
    ends = torch.stack([torch.ones(inp.n_itp_features), torch.zeros(inp.n_itp_features)])
    scores = ask(ends if anything_left and lacks else ends[:1], baseline=path)
    result = replace(
        frame,
        seq_attr=seq.detach().float().cpu(),
        token_attr=None if per_token is None else per_token.detach().float().cpu(),
        score=float(scores[0]),
        empty=float(scores[1]) if len(scores) > 1 else None,
        against=None if other is None else "".join(asked.pieces(other)),
        notes=tuple(dict.fromkeys(found.notes)),
        ask=functools.partial(_later, asked, inp, tokens, other),
    )
    return replace(result, notes=(*result.notes, *_beware(result, inp, asked)))


def _scores(
    asked: AskedModel, inp: ChatInput, tokens: Tensor, other: Tensor | None, switches: Tensor, baseline: bool = False
) -> Tensor:
    """The explained score for each row of switches."""
    scores = asked.scores(inp, tokens, switches, baseline)
    return scores if other is None else scores - asked.scores(inp, other, switches, baseline)


def _later(asked: AskedModel, inp: ChatInput, tokens: Tensor, other: Tensor | None, switches: Tensor) -> Tensor:
    """The same once the explanation is there: nothing is kept of the model, which may have been trained since."""
    asked.scorers.clear()
    return _scores(asked, inp, tokens, other, switches)


def _sentences(inp: ChatInput) -> Iterator[tuple[int, int]]:
    """The sentences that hold features."""
    for stretch in inp.stretches:
        for a, b in parts(inp.text, stretch, "sentence"):
            if any(a <= s < b for s, _ in inp.spans):
                yield a, b


def _beware(result: TextExplanation, inp: ChatInput, asked: AskedModel) -> list[str]:
    """What a reader should know before trusting the colours."""
    out = []
    if int(inp.feature_of_token[0]) >= 0 and result.first_share > _SINK and len(result.inputs) > 2:
        out.append(
            f"the first {result.level} has {result.first_share:.0%} of all attribution: language models rest on the "
            "first position, whatever stands there; bos=True puts the begin-of-text token before it"
        )
    known = result.completeness
    apart = known.get("error", 0.0)
    missed = abs(known["sum"] - known.get("change", known["sum"])) / max(float(result.seq_attr.abs().sum()), 1e-12)
    if "n_steps" in asked.takes(result.method) and min(apart, missed) > _APART:  # the change may be next to nothing
        first = int(inp.feature_of_token[0]) >= 0
        out.append(
            f"the steps of the path miss the change of the score by {apart:.0%}: take more n_steps"
            + (", or bos=True (a path that moves the first position is steep)" if first else "")
        )
    return out


def _streamed(
    asked: AskedModel, inp: ChatInput, tokens: Tensor, name: str, seed: int, params: dict[str, Any]
) -> Iterator[TextExplanation]:
    """The explanation of ever longer beginnings of the output; only the token that is new is worked on."""
    so_far: list[Tensor] = []
    for stop in range(1, len(tokens) + 1):
        found = asked.attributed(name, inp, tokens[:stop], params, first=stop - 1)
        so_far.append(found.seq_attr.detach().float().cpu())
        token_attr = torch.stack(so_far)
        whole = replace(
            framed(asked, inp, tokens[:stop], name, seed, params),
            seq_attr=token_attr.sum(0),
            token_attr=token_attr,
            notes=tuple(dict.fromkeys(found.notes)),
        )
        yield whole


def _absence(asked: AskedModel, name: str | None, inp: ChatInput) -> str:
    """How a method makes a feature miss; "none" where it takes none away."""
    if name is None or not asked.is_path(name):
        return inp.absence
    return "baseline" if asked.has_absence(name) else "none"


def framed(
    asked: AskedModel, inp: ChatInput, tokens: Tensor, name: str | None, seed: int, params: dict[str, Any]
) -> TextExplanation:
    """An explanation by a method of that name, without its attributions: all zero."""
    n = inp.n_itp_features
    logs = asked.token_scores(inp, tokens, torch.ones(1, n))[0]
    return TextExplanation(
        text=inp.text,
        spans=tuple(inp.spans),
        sentences=tuple(_sentences(inp)),
        inputs=tuple(inp.values),
        outputs=tuple(asked.pieces(tokens)),
        seq_attr=torch.zeros(n),
        token_attr=None,
        output_probs=logs.exp().float().cpu(),
        score=float(logs.sum()),
        empty=None,
        method="" if name is None else asked.name(name),
        level=inp.level,
        absence=_absence(asked, name, inp),
        params={**params, "seed": seed},
        ask=functools.partial(_later, asked, inp, tokens, None),
    )

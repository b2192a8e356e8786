"""Attribution of language models: which part of the input made the model say this.

The score of an output is its log probability given the input, token by token (teacher forcing: one forward pass scores
all tokens of the output). `LLMAttribution` switches readable features off and follows the score of the whole output and
of each token; `LLMGradientAttribution` (`llm_gradient.py`) explains each output token at the embedding. Any model with
Hugging Face's `forward(input_ids)` -> `.logits` (and `generate`, where no target is given) and any tokenizer with
encode and decode. How many prompts are scored in few passes stands in `scoring.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.language.interpretable import (
    ImageMaskInput,
    InterpretableInput,
    TextTemplateInput,
    TextTokenInput,
)
from interp_plugins.attr.language.llm_result import LLMAttributionResult
from interp_plugins.attr.language.remote import RemoteLLMProvider
from interp_plugins.attr.language.scoring import OutputScorer, log_probs
from interp_plugins.attr.language.tokens import decoded, home_of, logits_of, readable_tokens, token_ids
from interp_plugins.attr.perturbation.ablation import FeatureAblation
from interp_plugins.attr.perturbation.kernel_shap import KernelShap
from interp_plugins.attr.perturbation.lime import Lime
from interp_plugins.attr.perturbation.shapley import ShapleyValues, ShapleyValueSampling
from interp_plugins.attr.shared.base import Attribution
from interp_plugins.core.errors import InputError, InputTypeError, unknown
from interp_plugins.core.guard import frozen
from interp_plugins.core.random import make_generator
from interp_plugins.core.registry import contract_of
from interp_plugins.core.rows import INDEPENDENT
from interp_plugins.core.tensors import describe
from interp_plugins.core.wrapper import Wrapper

DEFAULT_METHOD = "feature_ablation"
DEFAULT_GEN_ARGS: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}
_TARGETS = ("log_prob", "prob")


def score_tokens(model: Any, model_input: Mapping[str, Any], target: Tensor) -> Tensor:
    """Log probabilities of the target tokens (rows, T) after inputs of one length, in one forward pass."""
    ids = model_input["input_ids"]
    after = target.to(ids.device).expand(len(ids), -1)
    more = {k: v for k, v in model_input.items() if k != "input_ids"}
    if isinstance(more.get("attention_mask"), Tensor):
        more["attention_mask"] = torch.cat([more["attention_mask"], more["attention_mask"].new_ones(after.shape)], 1)
    logits = logits_of(model(input_ids=torch.cat([ids, after], 1), **more))
    if logits.ndim == 4:  # several heads: the first predicts the next token
        logits = logits[:, 0]
    # Pictures may expand to more positions than ids, so positions are counted from the end.
    return log_probs(logits[:, -len(target) - 1 : -1] if len(target) else logits[:, :0], after)


class LanguageAttribution(Attribution):
    """What both kinds share: the model, the tokenizer, the target's tokens."""

    SUPPORTED_METHODS: tuple[type, ...] = ()
    SUPPORTED_INPUTS: tuple[type, ...] = ()

    def __init__(self, attr_method: Any, tokenizer: Any):
        method: Any = attr_method  # isinstance with a tuple of classes would narrow it to object
        if not isinstance(attr_method, self.SUPPORTED_METHODS):
            raise InputTypeError(
                f"{type(self).__name__} does not support {type(attr_method).__name__}; use one of "
                f"{', '.join(c.__name__ for c in self.SUPPORTED_METHODS)}."
            )
        super().__init__(method.forward_func)
        self.model, self.tokenizer = method.forward_func, tokenizer
        self.attr_method: Any = copy(method)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the input embedding's device; the CPU where the model does not say."""
        return home_of(self.model)

    def _check_input(self, inp: Any) -> None:
        if not isinstance(inp, self.SUPPORTED_INPUTS):
            raise InputTypeError(
                f"{type(self).__name__} does not support input type {describe(inp)}; use one of "
                f"{', '.join(c.__name__ for c in self.SUPPORTED_INPUTS)}."
            )

    def target_tokens(self, inp: InterpretableInput, target: Any, gen_args: dict[str, Any] | None) -> Tensor:
        """The output's token ids (T,): given, or generated."""
        self._check_input(inp)
        if target is None:
            return self._generated(inp, gen_args or DEFAULT_GEN_ARGS)
        if gen_args is not None:
            raise InputError("gen_args must be None when target is given: nothing is generated then.")
        if isinstance(target, str):
            target = token_ids(self.tokenizer, target, add_special_tokens=False)
        if not isinstance(target, Tensor):
            raise InputTypeError(f"target must either be str or Tensor, but it is {describe(target)}.")
        if not target.numel():
            raise InputError("target has no tokens; give at least one word.")
        return target.reshape(-1)

    def _generated(self, inp: InterpretableInput, gen_args: dict[str, Any]) -> Tensor:
        if not callable(getattr(self.model, "generate", None)):
            raise InputError(
                "The model does not have recognizable generate function. Target must be given for attribution."
            )
        given = self._model_input(inp.to_model_input())
        with frozen(self.model), torch.no_grad():
            made = self.model.generate(**given, **gen_args)
        tokens: Tensor = made[0][given["input_ids"].shape[1] :].detach().cpu()
        if not tokens.numel():
            raise InputError("The model generated no token; give target=, or other gen_args.")
        return tokens

    def output_scorer(self, inp: InterpretableInput, target: Tensor) -> Any:
        """What scores an output's tokens after many prompts."""
        reference = self._model_input(inp.to_model_input())["input_ids"][0]
        return OutputScorer(self.model, target, self.device, reference)

    def output_names(self, target: Tensor) -> list[str]:
        """The output's tokens, as they are shown."""
        return readable_tokens(target, self.tokenizer)

    def _model_input(self, value: Any) -> dict[str, Any]:
        """Keyword arguments of the model, from a text, token ids or a processor's output."""
        if isinstance(value, str):
            value = token_ids(self.tokenizer, value)
        if isinstance(value, Tensor):
            return {"input_ids": value.to(self.device)}
        if not isinstance(value, Mapping) or "input_ids" not in value:
            raise InputTypeError(
                f"The model's input must be a text, token ids or a mapping with input_ids; got {describe(value)}."
            )
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in value.items()}


class _Scorer(Wrapper):
    """The score as a function of switches (rows, features): (rows,), or (rows, 1 + T) with each token's."""

    known_rows = INDEPENDENT  # a row is a prompt of its own; what shares a pass is checked where it is shared

    def __init__(self, owner: LLMAttribution, inp: InterpretableInput, target: Tensor, inspect_forward: Any):
        self.owner, self.inp, self.target, self.inspect_forward = owner, inp, target, inspect_forward
        self.scorer = owner.scorer_of(inp, target)

    def wrapped_callables(self) -> list[Any]:
        """The callables inside (for the guard)."""
        return [self.owner.model]

    def __call__(self, switches: Tensor) -> Tensor:
        found = torch.stack(self.owner.token_scores(self.inp, self.target, switches, self.scorer))
        total = found.sum(1)
        scores = torch.cat([total[:, None], found], 1) if self.owner.include_per_token_attr else total
        if self.inspect_forward is not None:
            for row, logs in zip(switches, scores):
                value = self.inp.to_model_input(row[None])
                prompt = value if isinstance(value, str) else self.owner.prompt_text(value)
                self.inspect_forward(
                    prompt, decoded(self.owner.tokenizer, self.target), logs.exp().reshape(-1).tolist()
                )
        return scores if self.owner.attr_target == "log_prob" else scores.exp()


class LLMAttribution(LanguageAttribution):
    """Perturbation attribution of a causal language model's output.

    Args:
        attr_method: FeatureAblation, ShapleyValueSampling, ShapleyValues, Lime or KernelShap on the model. The last two
            explain the whole output only.
        tokenizer: the model's tokenizer.
        attr_target: "log_prob" (log probability, summed over the output) or "prob".
    """

    SUPPORTED_METHODS = (FeatureAblation, ShapleyValueSampling, ShapleyValues, Lime, KernelShap)
    SUPPORTED_PER_TOKEN_ATTR_METHODS = (FeatureAblation, ShapleyValueSampling, ShapleyValues)
    SUPPORTED_INPUTS = (TextTemplateInput, TextTokenInput, ImageMaskInput, ChatInput)

    def __init__(self, attr_method: Any, tokenizer: Any, attr_target: str = "log_prob"):
        super().__init__(attr_method, tokenizer)
        if attr_target not in _TARGETS:
            raise unknown("attr_target", attr_target, _TARGETS)
        self.attr_target = attr_target
        self.include_per_token_attr = isinstance(attr_method, self.SUPPORTED_PER_TOKEN_ATTR_METHODS)
        self.scorers: dict[Any, Any] | None = None  # those of one question, where its asker keeps them

    def attribute(
        self,
        inp: InterpretableInput,
        target: str | Tensor | None = None,
        num_trials: int = 1,
        gen_args: dict[str, Any] | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Callable[[str, str, list[float]], None] | None = None,
        forward_in_tokens: bool = True,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """Attributions of the input's features to the output.

        Args:
            inp: a `TextTemplateInput`, `TextTokenInput`, `ChatInput` or `ImageMaskInput`.
            target: the output, text or token ids; None: what the model generates.
            num_trials: runs to average over (for random baselines or methods); each draws anew.
            gen_args: arguments of `generate`; None: 25 tokens, greedily.
            use_cached_outputs: accepted for Captum's sake; all output tokens are scored in one forward pass.
            _inspect_forward: called as (prompt, output, probabilities) for each perturbation.
            forward_in_tokens: accepted for Captum's sake; the numbers are the same with and without.
            **kwargs: the method's own arguments (n_samples, seed, batch_size, tol).

        Raises:
            InputError: an unsupported input, no generate and no target, or an empty target.
        """
        tokens = self.target_tokens(inp, target, gen_args)
        scorer = _Scorer(self, inp, tokens, _inspect_forward)
        self.attr_method.forward_func = scorer
        kwargs = self._with_stream(kwargs)
        rows: list[Tensor] = []
        with frozen(self.model):
            ones = inp.to_tensor().to(self.device)
            for trial in range(num_trials):
                if trial:  # the method puts the generators back, so random baselines would repeat themselves
                    random.seed(random.randrange(2**62) + trial)
                found = self.attr_method.attribute(ones, **kwargs)
                rows.append(found.detach().reshape(-1, inp.n_itp_features))
            with torch.no_grad():
                probs = self.token_scores(inp, tokens, ones, scorer.scorer)[0].exp()
        attr = inp.format_attr(torch.stack(rows).mean(0))
        return LLMAttributionResult(
            seq_attr=attr[0],
            token_attr=attr[1:] if self.include_per_token_attr else None,
            input_tokens=inp.values,
            output_tokens=self.output_names(tokens),
            output_probs=probs,
            inp=inp,
            notes=tuple(getattr(scorer.scorer, "notes", ())),
        )

    def _with_stream(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """One stream of random numbers for all trials."""
        if "generator" not in contract_of(self.attr_method).takes or "generator" in kwargs:
            return kwargs
        seed = kwargs.get("seed")
        return {**{k: v for k, v in kwargs.items() if k != "seed"}, "generator": make_generator(seed)}

    def scorer_of(self, inp: InterpretableInput, target: Tensor) -> Any:
        """What scores the output after many prompts; None where prompts are more than token ids."""
        if isinstance(inp, ImageMaskInput) or set(self._model_input(inp.to_model_input())) != {"input_ids"}:
            return None
        if self.scorers is None:
            return self.output_scorer(inp, target)
        key = (tuple(target.tolist()), tuple(self._model_input(inp.to_model_input())["input_ids"][0].tolist()))
        if key not in self.scorers:
            self.scorers[key] = self.output_scorer(inp, target)
        return self.scorers[key]

    def token_scores(
        self, inp: InterpretableInput, target: Tensor, switches: Tensor, scorer: OutputScorer | None = None
    ) -> list[Tensor]:
        """Log probabilities (T,) of the target's tokens for each row of switches, in as few passes as fit."""
        prepared = [self._model_input(inp.to_model_input(row[None])) for row in switches]
        plain = [i for i, one in enumerate(prepared) if set(one) == {"input_ids"}]  # a processor may give anything
        found: dict[int, Tensor] = {}
        if plain:
            scorer = scorer or OutputScorer(self.model, target, self.device)
            found.update(zip(plain, scorer([prepared[i]["input_ids"][0] for i in plain])))
        for i in set(range(len(prepared))) - set(plain):
            found[i] = score_tokens(self.model, prepared[i], target)[0]
        return [found[i] for i in range(len(prepared))]

    def prompt_text(self, value: Any) -> str:
        """The text of a model input."""
        return decoded(self.tokenizer, self._model_input(value)["input_ids"][0])


def _nothing(*args: Any, **kwargs: Any) -> int:
    return 0


class RemoteLLMAttribution(LLMAttribution):
    """Perturbation attribution of a language model behind a server.

    Args:
        attr_method: as for `LLMAttribution`; its model is not used (`RemoteLLMAttribution.placeholder_model` will do).
        tokenizer: the served model's tokenizer.
        provider: the server, such as `VLLMProvider`.
        attr_target: "log_prob" or "prob".
    """

    @staticmethod
    def placeholder_model(*args: Any, **kwargs: Any) -> int:
        """A model for the method's constructor; it is never asked."""
        return _nothing(*args, **kwargs)

    def __init__(self, attr_method: Any, tokenizer: Any, provider: RemoteLLMProvider, attr_target: str = "log_prob"):
        super().__init__(attr_method, tokenizer, attr_target)
        self.provider = provider

    def _generated(self, inp: InterpretableInput, gen_args: dict[str, Any]) -> Tensor:
        text = self.provider.generate(self._text(inp.to_model_input()), **gen_args)
        return token_ids(self.tokenizer, text, add_special_tokens=False)[0]

    def _text(self, value: Any) -> str:
        return decoded(self.tokenizer, value.flatten()) if isinstance(value, Tensor) else str(value)

    def prompt_text(self, value: Any) -> str:
        """The text of a model input."""
        return self._text(value)

    def scorer_of(self, inp: InterpretableInput, target: Tensor) -> None:
        """None: the server scores."""

    def token_scores(
        self, inp: InterpretableInput, target: Tensor, switches: Tensor, scorer: OutputScorer | None = None
    ) -> list[Tensor]:
        """Log probabilities of the target's tokens, from the server, row by row."""
        output, found = decoded(self.tokenizer, target), []
        for row in switches:
            logs = self.provider.get_logprobs(self._text(inp.to_model_input(row[None])), output, self.tokenizer)
            if len(logs) != len(target):
                raise InputError(
                    f"Number of token logprobs from provider ({len(logs)}) does not match expected target token length "
                    f"({len(target)}); give the served model's own tokenizer."
                )
            found.append(torch.tensor(logs))
        return found

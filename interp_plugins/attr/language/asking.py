"""Methods by name for a language model: what is asked of it is the same, whatever method, task or place it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.attr.language.classifier import ClassifierAttribution, ClassifierGradientAttribution
from interp_plugins.attr.language.llm import LLMAttribution, RemoteLLMAttribution
from interp_plugins.attr.language.llm_gradient import LLMGradientAttribution
from interp_plugins.attr.language.llm_result import LLMAttributionResult
from interp_plugins.attr.language.remote import RemoteLLMProvider
from interp_plugins.attr.language.tokens import decoded
from interp_plugins.core.errors import InputError, unknown
from interp_plugins.core.global_random import preserved_rng, seed_torch
from interp_plugins.core.guard import frozen
from interp_plugins.core.registry import MethodInfo, canonical_name, info_of, list_methods, method_info

_OURS = {"inputs", "target", "additional_forward_args", "feature_mask", "return_convergence_delta", "grad_kwargs"}
_OURS |= {"attribute_to_layer_input"}  # with the others, what is given by the prompt and the output
ATTN_LRP = "attn_lrp"  # relevance by the rules for transformers: a composite, and another name of the method here


def _infos(classes: tuple[type, ...]) -> dict[str, MethodInfo]:
    found = [info for info in map(info_of, classes) if info is not None]
    return {info.variant_of or info.name: info for info in found}


def perturbing() -> dict[str, MethodInfo]:
    """Methods that remove or replace features, by name."""
    return _infos(LLMAttribution.SUPPORTED_METHODS)


def differentiating() -> dict[str, MethodInfo]:
    """Methods that differentiate at the embedding, by the name they have at an input."""
    return _infos(LLMGradientAttribution.SUPPORTED_METHODS)


def check_method(name: Any) -> str:
    """A method's canonical name, of those that explain texts.

    Raises:
        UnknownNameError: another method.
    """
    known = {**perturbing(), **differentiating()}
    if name == ATTN_LRP:
        return "lrp"
    found = canonical_name(name, default=str(name)) if isinstance(name, str) else str(name)
    if found in list_methods() and method_info(found).variant_of in known:
        found = str(method_info(found).variant_of)
    if found not in known:
        raise unknown("method", name, tuple(known), "These are the methods that explain texts.")
    return found


class AskedModel:
    """A model and how it is asked.

    Args:
        model: language model, classifier, pipeline or provider.
        tokenizer: its tokenizer.
        seed: of what is drawn.
    """

    perturbed: type[LLMAttribution] = LLMAttribution
    graded: type[LLMGradientAttribution] = LLMGradientAttribution

    def __init__(self, model: Any, tokenizer: Any, seed: int):
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        simple = next(iter(perturbing().values())).cls(model)
        self.scorers: dict[Any, Any] = {}
        self.owner: LLMAttribution = self._perturbed(simple)

    def _perturbed(self, method: Any) -> LLMAttribution:
        found = self.perturbed(method, self.tokenizer)
        found.scorers = self.scorers
        return found

    def name(self, name: str) -> str:
        """The canonical name of a method."""
        return check_method(name)

    def is_path(self, name: str) -> bool:
        """Whether a method differentiates, and so takes the baseline token."""
        return check_method(name) in differentiating()

    def has_absence(self, name: str) -> bool:
        """Whether a method asks what the score is without features; relevance does not."""
        return check_method(name) != "lrp"

    def takes(self, name: str) -> frozenset[str]:
        """The parameters of a method."""
        return {**perturbing(), **differentiating()}[check_method(name)].takes

    def output(self, inp: ChatInput, given: Any, gen_args: dict[str, Any] | None) -> Tensor:
        """The output's token ids (T,): given, or generated under the seed."""
        with preserved_rng():
            seed_torch(self.seed)
            tokens = self.owner.target_tokens(inp, given, gen_args)
        if given is not None:
            return tokens
        ends = {getattr(self.tokenizer, "eos_token_id", None), getattr(self.tokenizer, "pad_token_id", None)}
        while len(tokens) > 1 and int(tokens[-1]) in ends:  # that a text ends is no part of it
            tokens = tokens[:-1]
        return tokens

    def pieces(self, tokens: Tensor) -> list[str]:
        """The output's tokens as texts that join to the whole."""
        whole, out = "", []
        for stop in range(1, len(tokens) + 1):
            now = decoded(self.tokenizer, tokens[:stop])
            complete = now.rstrip("\ufffd") if stop < len(tokens) else now
            out.append(
                complete[len(whole) :]
                if complete.startswith(whole)
                else decoded(self.tokenizer, tokens[stop - 1 : stop])
            )
            whole = complete
        return out

    def attributed(
        self, name: str, inp: ChatInput, tokens: Tensor, params: dict[str, Any], first: int | None = None
    ) -> LLMAttributionResult:
        """Attributions of a method by name; from output token `first` on, those before it being part of the prompt."""
        if first:
            inp, tokens = inp.followed_by(tokens[:first]), tokens[first:]
        known = check_method(name)
        if known in differentiating():
            cls, rules = differentiating()[known].cls, {}
            if known == "lrp":
                params = {"composite": ATTN_LRP, **params}
                rules = {"composite": params.pop("composite")}
            owner: LLMAttribution | LLMGradientAttribution = self.graded(
                cls(self.model, self.embedding(), **rules), self.tokenizer
            )
        else:
            owner = self._perturbed(perturbing()[known].cls(self.model))
        takes = set((info_of(type(owner.attr_method)) or method_info(known)).takes) - _OURS
        given = {"seed": self.seed, **params} if "seed" in takes else dict(params)
        strange = sorted(set(params) - takes)
        if strange:
            more = {"composite"} if known == "lrp" else set()
            raise InputError(f"{known} has no parameter {strange[0]!r}; it takes {', '.join(sorted(takes | more))}.")
        return owner.attribute(inp, tokens, **given)

    def embedding(self) -> Any:
        """The module that makes vectors of token ids.

        Raises:
            InputError: the model does not name one.
        """
        inner = getattr(self.model, "get_encoder", None) if self._encodes() else None
        owner = inner() if callable(inner) else self.model
        find = getattr(owner, "get_input_embeddings", None)
        layer = find() if callable(find) else None
        if layer is None:
            raise InputError(
                f"{type(self.model).__name__} has no get_input_embeddings(), which gradient methods start at; take "
                f"one that asks for forward alone: {', '.join(perturbing())}."
            )
        return layer

    def _encodes(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def token_scores(self, inp: ChatInput, tokens: Tensor, switches: Tensor, baseline: bool = False) -> Tensor:
        """Log probabilities (rows, T) of the output for rows of switches."""
        asked = inp.with_absence("baseline") if baseline else inp
        with frozen(self.model), torch.no_grad():
            scorer = self.owner.scorer_of(inp, tokens)
            return torch.stack(self.owner.token_scores(asked, tokens, switches, scorer))

    def scores(self, inp: ChatInput, tokens: Tensor, switches: Tensor, baseline: bool = False) -> Tensor:
        """The score of the whole output for each row of switches."""
        return self.token_scores(inp, tokens, switches, baseline).sum(1)


class _Classifier(AskedModel):
    """A classifier of texts: the output is a class."""

    perturbed, graded = ClassifierAttribution, ClassifierGradientAttribution

    def pieces(self, tokens: Tensor) -> list[str]:
        """The class's name, as the one piece of the output."""
        return self.owner.output_names(tokens)


class _Remote(AskedModel):
    """A model behind a server, which takes no gradients."""

    def _perturbed(self, method: Any) -> LLMAttribution:
        method.forward_func = RemoteLLMAttribution.placeholder_model
        return RemoteLLMAttribution(method, self.tokenizer, self.model)

    def output(self, inp: ChatInput, given: Any, gen_args: dict[str, Any] | None) -> Tensor:
        """The output's token ids (T,): given, or written by the server."""
        return self.owner.target_tokens(inp, given, gen_args)

    def embedding(self) -> Any:
        """Refused: a server gives no gradients."""
        raise InputError(
            f"A model behind a server has no gradients; take a method that asks for scores: {', '.join(perturbing())}."
        )


def asked_by(model: Any, tokenizer: Any, task: str, seed: int) -> AskedModel:
    """How a model is asked for a task.

    Args:
        model: language model, classifier, `transformers` pipeline (its model is taken) or provider.
        tokenizer: the tokenizer.
        task: "generation" or "classification".
        seed: of what is drawn.

    Raises:
        InputError: a model that cannot do the task.
    """
    if isinstance(model, RemoteLLMProvider):
        if task != "generation":
            raise InputError("A RemoteLLMProvider scores what it writes, so task='generation' is all it can.")
        return _Remote(model, tokenizer, seed)
    if not isinstance(model, torch.nn.Module) and isinstance(getattr(model, "model", None), torch.nn.Module):
        model = model.model
    if task == "classification":
        return _Classifier(model, tokenizer, seed)
    writes = getattr(model, "can_generate", None)
    if callable(writes) and not writes():
        raise InputError(
            f"{type(model).__name__} does not write texts (can_generate() is False). A classifier is explained by "
            "task='classification'; for texts take a model such as AutoModelForCausalLM gives."
        )
    return AskedModel(model, tokenizer, seed)

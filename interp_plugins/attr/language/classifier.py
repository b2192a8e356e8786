"""Classifiers of texts on the same engine: the output is a class, its score the log probability (or the one logit)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.interpretable import InterpretableInput
from interp_plugins.attr.language.llm import LLMAttribution
from interp_plugins.attr.language.llm_gradient import LLMGradientAttribution
from interp_plugins.attr.language.scoring import NO_TOKEN, parameters_of
from interp_plugins.core.batching import chunks
from interp_plugins.core.errors import InputError, InputTypeError, ModelError, TargetError, unknown
from interp_plugins.core.guard import frozen
from interp_plugins.core.tensors import accumulation_dtype, describe

_TOKENS = 4096  # that go through together at most
_ROUNDING = {torch.float64: 1e-7, torch.float32: 1e-3}
_COARSE = 0.1


def class_logits(output: Any, rows: int) -> Tensor:
    """The logits (rows, classes) of what a classifier returned.

    Raises:
        ModelError: there are none.
    """
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", output)
    if isinstance(logits, (tuple, list)) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != rows:
        raise ModelError(
            f"A classifier of texts gives logits (rows, classes), got {describe(logits)}. A model that writes texts is "
            "explained by task='generation'."
        )
    return logits


def class_scores(logits: Tensor, which: Tensor, raw: bool = False) -> Tensor:
    """Log probabilities (rows, K) of some classes in float32 at least; of a single output, or `raw`, the logits."""
    wide = logits.to(accumulation_dtype(logits.dtype))
    return (wide if raw or logits.shape[1] == 1 else wide.log_softmax(1))[:, which.to(logits.device)]


class ClassScorer:
    """The score of classes for any texts; texts of different lengths stand behind a mask, if rows agree with it.

    Args:
        model: classifier with Hugging Face's `forward`.
        output: the classes, (K,).
        device: where texts go.
        pad: the token that fills up.

    Attributes:
        notes: why texts of different lengths did not share a pass, if so.
        raw: let `in_graph` give logits instead of log probabilities.
    """

    raw = False

    def __init__(self, model: Any, output: Tensor, device: torch.device, pad: int):
        self.model, self.output, self.device, self.pad = model, output, device, pad
        self.notes: list[str] = []
        self._masks = "attention_mask" in parameters_of(model)
        self._checked = False

    def __call__(self, prompts: Sequence[Tensor]) -> Tensor:
        """Scores (rows, K), without gradient, of token ids (P,) each."""
        if any(not len(p) for p in prompts):
            raise ModelError(NO_TOKEN)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        longest = max(len(p) for p in prompts)

        def work(start: int, stop: int) -> Tensor:
            return self._rows([prompts[i].to(self.device) for i in order[start:stop]])

        with torch.no_grad():
            parts = [found for _, _, found in chunks(len(order), max(1, _TOKENS // max(longest, 1)), work)]
        found = torch.cat(parts)
        return found[torch.tensor(order).argsort().to(found.device)]

    def _rows(self, rows: list[Tensor]) -> Tensor:
        """Sorted rows: together behind a mask, or those of one length."""
        mixed = len(rows[0]) != len(rows[-1])
        if mixed and self._masks:
            found = self._pass(rows)
            if self._checked:
                return found
            self._checked = True
            alone, error = self._pass(rows[:1])[0], 0.0
            error = float((alone - found[0]).abs().mean())
            if error <= _ROUNDING.get(getattr(self.model, "dtype", alone.dtype), _COARSE) * (
                1 + float(alone.abs().mean())
            ):
                return found
            self._masks = False
            self.notes.append(f"texts of one length per pass: a row differs by {error:.2g} from itself alone")
        if not mixed:
            return self._pass(rows)
        lengths = sorted({len(row) for row in rows})
        return torch.cat([self._pass([row for row in rows if len(row) == n]) for n in lengths])

    def _pass(self, rows: list[Tensor]) -> Tensor:
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.pad, dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for r, row in enumerate(rows):
            ids[r, : len(row)], mask[r, : len(row)] = row, 1
        known = {"attention_mask": mask} if "attention_mask" in parameters_of(self.model) else {}
        return class_scores(class_logits(self.model(input_ids=ids, **known), len(rows)), self.output)

    def share(self, ids: Tensor, logs: Tensor, lead: int) -> int:
        """0: a classifier reads the whole text anew."""
        return 0

    def read_by_model(self, ids: Tensor) -> Tensor:
        """What the model's embedding reads for texts (rows, P): these."""
        return ids

    def in_graph(self, ids: Tensor) -> Tensor:
        """Token ids (rows, P) of texts of one length -> scores (rows, K), in the graph of the model."""
        known = {"attention_mask": torch.ones_like(ids)} if "attention_mask" in parameters_of(self.model) else {}
        return class_scores(class_logits(self.model(input_ids=ids, **known), len(ids)), self.output, self.raw)


class _Classes:
    """What both kinds of attribution ask of a classifier."""

    model: Any
    tokenizer: Any
    device: torch.device

    def output_scorer(self, inp: InterpretableInput, target: Tensor) -> ClassScorer:
        """What scores classes of many texts."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        return ClassScorer(self.model, target.reshape(-1), self.device, int(pad or 0))

    def output_names(self, target: Tensor) -> list[str]:
        """The classes' names, of the model's config."""
        names = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        return [str(names.get(int(c), int(c))) for c in target.reshape(-1)]

    def target_tokens(self, inp: InterpretableInput, target: Any, gen_args: dict[str, Any] | None) -> Tensor:
        """The class (1,): given by index or name, or predicted.

        Raises:
            TargetError: no such class.
            InputError: gen_args, which only a text has.
        """
        if gen_args is not None:
            raise InputError("gen_args belong to texts that are generated; a classifier takes none.")
        ids: Any = inp.to_model_input()
        ids = ids.to(self.device)
        known = {"attention_mask": torch.ones_like(ids)} if "attention_mask" in parameters_of(self.model) else {}
        with frozen(self.model), torch.no_grad():
            logits = class_logits(self.model(input_ids=ids, **known), 1)[0]
        if target is None:
            return logits.argmax().reshape(1).cpu()
        if isinstance(target, str):
            names = self.output_names(torch.arange(len(logits)))
            if target not in names:
                raise unknown("output", target, names, "These are the classes of the model's config.")
            target = names.index(target)
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)
        if isinstance(target, bool) or not isinstance(target, int):
            raise InputTypeError(f"A class is a name or an index, got {describe(target)}.")
        if not -len(logits) <= target < len(logits):
            raise TargetError(f"Class {target} is out of range: the model has {len(logits)} classes.")
        return torch.tensor([target % len(logits)])


class ClassifierAttribution(_Classes, LLMAttribution):
    """Perturbation attribution of a classifier of texts; the "output token" is the class.

    Args:
        attr_method: as for `LLMAttribution`, on the classifier.
        tokenizer: its tokenizer.
    """


class ClassifierGradientAttribution(_Classes, LLMGradientAttribution):
    """Gradient attribution of a classifier of texts, at its embedding.

    Args:
        attr_method: as for `LLMGradientAttribution`, on the classifier and its embedding.
        tokenizer: its tokenizer.
    """

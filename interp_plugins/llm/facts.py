"""What is known of an explained answer: prompt, output, and how much each part of the one counts for the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from interp_plugins.attr.language.spans import Span

FORMAT = 1
KIND = "text generation"


@dataclass(frozen=True)
class TextFacts:
    """An output of a language model, explained by the features of its prompt, in numbers.

    Attributes:
        text: the prompt as the model got it, with what a chat template writes.
        spans: where the features lie in it, (start, stop) each.
        sentences: where the explained sentences lie in it.
        inputs: the features, one text each (F).
        outputs: the output's tokens, one text each (T), spaces included; of a classifier the class.
        seq_attr: attribution of the whole output, (F,).
        token_attr: attributions of each output token, (T, F); None for methods that explain the whole alone.
        output_probs: the model's probability of each output token, (T,); of a contrast those of `this` output.
        score: what is explained: the output's log probability, its difference to that of `against`, or a class's.
        empty: the same with every feature absent; None where it was not asked for.
        method: the method's name.
        level: what the features are.
        absence: how a missing feature was made: "remove", "baseline", or "none" where the method takes none away.
        against: the output that this one is compared with.
        notes: what was shared, what fell back and why, what to beware of.
        params: the method's parameters, and the seed.
    """

    text: str
    spans: tuple[Span, ...]
    sentences: tuple[Span, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seq_attr: Tensor
    token_attr: Tensor | None
    output_probs: Tensor | None
    score: float
    empty: float | None
    method: str
    level: str
    absence: str
    against: str | None = None
    notes: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    ask: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The features of the prompt; the same as `inputs`."""
        return self.inputs

    @property
    def output(self) -> str:
        """The explained output as one text."""
        return "".join(self.outputs)

    @property
    def first_share(self) -> float:
        """Share of the first feature in the sum of all |attributions|: models rest much on the first position."""
        total = float(self.seq_attr.abs().sum())
        return float(self.seq_attr[0].abs()) / total if total else 0.0

    @property
    def completeness(self) -> dict[str, float]:
        """What the attributions sum to ("sum"), the change of the score without any feature ("change"), and "error".

        The error is their difference relative to the change. Shapley values and integrated gradients have none, up to
        sampling and steps; features that are removed one at a time need not add up.
        """
        total = float(self.seq_attr.double().sum())
        if self.empty is None:
            return {"sum": total}
        change = self.score - self.empty
        return {"sum": total, "change": change, "error": abs(total - change) / max(abs(change), 1e-12)}

    def by_sentence(self) -> list[tuple[str, float]]:
        """Each sentence of the prompt with the sum of its features' attributions."""
        found = []
        for a, b in self.sentences:
            inside = [k for k, (s, _) in enumerate(self.spans) if a <= s < b]
            found.append((self.text[a:b].strip(), float(self.seq_attr[inside].double().sum())))
        return found

    def to_record(self) -> dict[str, Any]:
        """Everything but the model, as JSON can hold it; `from_record` reads it."""
        out: dict[str, Any] = {"kind": KIND, "format": FORMAT}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "ask":
                out[one.name] = value.tolist() if isinstance(value, Tensor) else value
        kept: dict[str, Any] = json.loads(json.dumps(out, default=str))
        return kept

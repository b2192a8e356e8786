"""What an explained answer is: prompt, output, and how much each part of the one counts for each token of the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_plugins.attr.language.spans import Span
from interp_plugins.core import files
from interp_plugins.core.errors import InputError

_FORMAT = 1
_KIND = "text generation"


@dataclass(frozen=True)
class TextExplanation:
    """An output of a language model, explained by the features of its prompt.

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
        absence: how a missing feature was made.
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

    def faithfulness(self, k: Sequence[int] = (1, 5), draws: int = 8, seed: int = 0) -> dict[int, dict[str, float]]:
        """How far the score falls without the k features of the largest attribution, and without k random ones.

        Args:
            k: numbers of features.
            draws: random choices whose mean falls "random".
            seed: of these choices.

        Returns:
            For each k that there are features for {"top": fall, "random": mean fall}. A faithful explanation has
            "top" well above "random".

        Raises:
            InputError: an explanation that was read from a file has no model to ask.
        """
        if self.ask is None:
            raise InputError("This explanation was read from a file, so there is no model to ask; explain again.")
        generator = torch.Generator().manual_seed(seed)
        n, rows, sizes = len(self.inputs), [torch.ones(len(self.inputs))], [m for m in k if m <= len(self.inputs)]
        for size in sizes:
            chosen = [self.seq_attr.argsort(descending=True)[:size].cpu()]
            chosen += [torch.randperm(n, generator=generator)[:size] for _ in range(draws)]
            rows += [torch.ones(n).index_fill_(0, which, 0.0) for which in chosen]
        scores = self.ask(torch.stack(rows)).double()
        falls = (scores[0] - scores[1:]).reshape(len(sizes), draws + 1)
        return {m: {"top": float(f[0]), "random": float(f[1:].mean())} for m, f in zip(sizes, falls)}

    def to_record(self) -> dict[str, Any]:
        """Everything but the model, as JSON can hold it; `from_record` reads it."""
        out: dict[str, Any] = {"kind": _KIND, "format": _FORMAT}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "ask":
                out[one.name] = value.tolist() if isinstance(value, Tensor) else value
        kept: dict[str, Any] = json.loads(json.dumps(out, default=str))
        return kept

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TextExplanation:
        """The explanation of a record.

        Raises:
            InputError: a record of another kind or format, or one that lacks something.
        """
        if record.get("kind") != _KIND or record.get("format") != _FORMAT:
            raise InputError(
                f"The record is of kind {record.get('kind')!r}, format {record.get('format')!r}; expected "
                f"{_KIND!r}, format {_FORMAT}."
            )
        given: dict[str, Any] = {one.name: record.get(one.name) for one in fields(cls) if one.name != "ask"}
        lacking = [n for n in ("text", "spans", "inputs", "outputs", "seq_attr", "score", "method") if given[n] is None]
        if lacking:
            raise InputError(f"The record has no {', '.join(lacking)}.")
        for name in ("seq_attr", "token_attr", "output_probs"):
            given[name] = None if given[name] is None else torch.tensor(given[name])
        for name in ("spans", "sentences"):
            given[name] = tuple((int(a), int(b)) for a, b in given[name] or ())
        for name in ("inputs", "outputs", "notes"):
            given[name] = tuple(map(str, given[name] or ()))
        return cls(**given)

    def save(self, path: str | Path) -> Path:
        """Write the record to a JSON file, whole or not at all."""
        return files.write(path, json.dumps(self.to_record(), ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> TextExplanation:
        """Read what `save` wrote; without a model, `faithfulness` cannot be asked."""
        return cls.from_record(json.loads(Path(path).read_text(encoding="utf-8")))

    def plot(self) -> Any:
        """The map of output tokens and features as a `Plot` (figure, axes)."""
        from interp_plugins.llm.picture import draw_map

        return draw_map(self)

    def to_html(self, path: str | Path | None = None, title: str = "Explained answer") -> Any:
        """One self-contained page.

        Args:
            path: where to write it; None: only return it.
            title: its heading.

        Returns:
            The HTML text, or the path.
        """
        return TextExplanations((self,)).to_html(path, title)

    def show(self) -> Any:
        """Show it: the coloured prompt in a notebook, elsewhere the map of output and prompt."""
        from interp_plugins.viz.figure import in_notebook

        return self if in_notebook() else self.plot()

    def _repr_html_(self) -> str:
        from interp_plugins.llm.page import fragment

        return fragment(self)

    def __str__(self) -> str:
        best = self.seq_attr.abs().argsort(descending=True)[:3].tolist()
        said = ", ".join(f"{self.inputs[i]!r} {float(self.seq_attr[i]):+.3g}" for i in best)
        of = f"{self.method} of {self.output[:40]!r} (score {self.score:.3g})"
        return f"{of} by {len(self.inputs)} {self.level}s: {said}"


class TextExplanations(tuple[TextExplanation, ...]):
    """Several explained outputs, shown on one page."""

    def to_html(self, path: str | Path | None = None, title: str = "Explained answers") -> Any:
        """One self-contained page with all of them; see `TextExplanation.to_html`."""
        from interp_plugins.llm.page import page

        text = page(self, title)
        return text if path is None else files.write(path, text)

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self)

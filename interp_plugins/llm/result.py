"""An explained answer: its numbers, asked again, saved and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from interp_plugins.core import files
from interp_plugins.core.errors import InputError
from interp_plugins.llm.facts import FORMAT, KIND, TextFacts
from interp_plugins.llm.page import fragment, page
from interp_plugins.llm.picture import draw_map
from interp_plugins.viz.figure import in_notebook


@dataclass(frozen=True)
class TextExplanation(TextFacts):
    """An output of a language model, explained by the features of its prompt.

    What it knows are the attributes of `TextFacts`: the prompt's text, features and sentences, the output's tokens and
    probabilities, the attributions, the score, and notes on how they came about.
    """

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

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TextExplanation:
        """The explanation of a record.

        Raises:
            InputError: a record of another kind or format, or one that lacks something.
        """
        if record.get("kind") != KIND or record.get("format") != FORMAT:
            raise InputError(
                f"The record is of kind {record.get('kind')!r}, format {record.get('format')!r}; expected "
                f"{KIND!r}, format {FORMAT}."
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
        return self if in_notebook() else self.plot()

    def _repr_html_(self) -> str:
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
        text = page(self, title).html()
        return text if path is None else files.write(path, text)

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self)

"""`make demo-llm`: three answers of SmolLM2 explained on one page, and a look inside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from interp_plugins.core.files import write
from interp_plugins.demo.language_model import smollm2
from interp_plugins.llm import TextExplanation, TextExplanations, direct_logits, explain_text, lens, patch
from interp_plugins.viz.figure import png_of_figure

QUESTION = "What is the capital of France?"
MEETING = "The meeting is on Friday at the office. Please bring your laptop. On which day is the meeting?"
CITIES = "Alice lives in Rome. Bob lives in Paris. Every day Alice walks in the city of"
CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"


def answers(model: Any, tokenizer: Any) -> Iterator[TextExplanation]:
    """A question, a text that has the answer, and a contrast."""
    gen = {"max_new_tokens": 8, "do_sample": False}
    yield explain_text(model, tokenizer, [{"role": "user", "content": QUESTION}], gen_args=gen)
    yield explain_text(model, tokenizer, [{"role": "user", "content": MEETING}], gen_args=gen)
    yield explain_text(model, tokenizer, CITIES, " Rome", against=" Paris")


def inside(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Figures of the model's blocks on one fact."""
    return {
        "lens": lens(model, tokenizer, CLEAN, " Paris").plot().fig,
        "patching": patch(model, tokenizer, CLEAN, CORRUPT, " Paris", " Rome", progress=False).plot().fig,
        "direct-logits": direct_logits(model, tokenizer, CLEAN, " Paris", " Rome", heads=True).plot().fig,
    }


def run(out: str | Path, say: Callable[[str], Any] = print) -> Path:
    """Explain them and write `answers.html` and three pictures into a folder; returns the page's path."""
    out, begin = Path(out), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = smollm2()
    say(f"SmolLM2 is loaded, after {time.perf_counter() - begin:.0f} s")
    found: list[TextExplanation] = []
    for one in answers(model, tokenizer):
        found.append(one)
        page: Path = TextExplanations(found).to_html(out / "answers.html", "Three answers of SmolLM2")
        say(f"  {one}\n  {page}, after {time.perf_counter() - begin:.0f} s")
    for name, figure in inside(model, tokenizer).items():
        say(f"  {write(out / f'{name}.png', png_of_figure(figure))}")
    return out / "answers.html"


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else "demo_out/llm")

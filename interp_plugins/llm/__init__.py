"""Language models: which words of a prompt made the model answer as it did.

    from interp_plugins.llm import explain_text
    explain_text(model, tokenizer, [{"role": "user", "content": "Name the capital of France."}]).to_html("answer.html")

Any causal or encoder-decoder model with Hugging Face's `forward`, classifiers of texts, and models behind a server.
"""

from interp_plugins.attr.language.chat import ChatInput
from interp_plugins.llm.context import context_cite
from interp_plugins.llm.decompose import DirectLogits, direct_logits
from interp_plugins.llm.explain import explain_text
from interp_plugins.llm.lens import Lens, lens
from interp_plugins.llm.patching import PatchMap, patch
from interp_plugins.llm.result import TextExplanation, TextExplanations

__all__ = [
    "ChatInput",
    "DirectLogits",
    "Lens",
    "PatchMap",
    "TextExplanation",
    "TextExplanations",
    "context_cite",
    "direct_logits",
    "explain_text",
    "lens",
    "patch",
]

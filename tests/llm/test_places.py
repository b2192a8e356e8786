"""Models that are spread, offloaded or quantised: the same numbers, or a clear refusal."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import ModelError
from interp_plugins.llm import explain_text, patch

from .language_models import model, tokenizer

TEXT, OUTPUT = "the cat sat on a big red mat", "Rome is"
METHODS = ("feature_ablation", "integrated_gradients", "lrp")


@pytest.fixture
def net() -> Any:
    return copy.deepcopy(model("llama")).float()


def maps(net: Any, methods: tuple[str, ...] = METHODS) -> Tensor:
    return torch.stack([explain_text(net, tokenizer(), TEXT, OUTPUT, name).seq_attr for name in methods])


class IntegerLinear(nn.Module):
    """Weights in eight bits, made floats for each product: a gradient goes through."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.step = linear.weight.abs().amax(1, keepdim=True).detach() / 127
        self.register_buffer("weight", (linear.weight / self.step).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.to(x.dtype) * self.step).mT


@pytest.fixture
def dynamic(net: Any) -> Iterator[Any]:
    """Weights and activations in eight bits, as torch.ao does it; the head stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(net.model, {nn.Linear}, dtype=torch.qint8, inplace=True)
        yield net


@pytest.mark.parametrize("how", ["spread", "offloaded"])
def test_hooks_of_a_device_map_change_no_number(net: Any, how: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    expected = maps(net)
    if how == "spread":
        parts = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
        net = accelerate.dispatch_model(net, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    else:
        net = accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
        assert net.get_input_embeddings().weight.device.type == "meta"
    assert torch.equal(maps(net), expected)
    shares = patch(net, tokenizer(), TEXT, TEXT.replace("cat", "dog"), "Rome", progress=False)
    assert torch.isfinite(shares.values).all()


def test_weights_in_eight_bits_with_a_way_back_are_explained_by_every_method(net: Any) -> None:
    expected = maps(net)
    for block in net.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block.mlp, name, IntegerLinear(getattr(block.mlp, name)))
    assert torch.allclose(maps(net), expected, atol=0.3) and not torch.equal(maps(net), expected)


def test_layers_without_a_way_back_are_refused(dynamic: Any) -> None:
    for name in METHODS[1:]:
        with pytest.raises(ModelError, match=r"q_proj \(Linear\) lets no gradient through"):
            explain_text(dynamic, tokenizer(), TEXT, OUTPUT, name)
    with pytest.raises(ModelError, match="has no gradient: a layer of a quantized model"):
        patch(dynamic, tokenizer(), TEXT, TEXT.replace("cat", "dog"), "Rome", method="attribution")


def test_rows_that_are_quantised_by_their_company_go_alone(dynamic: Any) -> None:
    found = explain_text(dynamic, tokenizer(), TEXT, OUTPUT, level="token")
    assert "a prompt per pass, in full: the model is quantised by what goes together" in found.notes[0]
    ids = torch.tensor(tokenizer().encode(TEXT, add_special_tokens=False))
    output = torch.tensor(tokenizer().encode(OUTPUT, add_special_tokens=False))

    def alone(prompt: Tensor) -> float:
        with torch.no_grad():
            logits = dynamic(torch.cat([prompt, output[:-1]])[None]).logits[0, -len(output) :]
        return float(logits.log_softmax(-1).gather(1, output[:, None]).sum())

    quiet = 0  # the tokenizer's unknown token
    gone = [alone(torch.where(torch.arange(len(ids)) == k, quiet, ids)) for k in range(len(ids))]
    assert torch.allclose(found.seq_attr, alone(ids) - torch.tensor(gone), atol=1e-4)

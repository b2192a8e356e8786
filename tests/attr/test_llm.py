"""Language models: a small random GPT-2 with a tokenizer of words, beside Captum and a server on this machine."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import captum.attr as theirs
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import interp_plugins.attr as ours
from interp_plugins.core.errors import InputError, ModelError

WORDS = ["<pad>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "under", "big", "red", "house", "and", "saw"]
WORDS += ["bird", "."]


class WordTokenizer:
    """One token per word, with the methods that attribution asks for."""

    def encode(self, text: str, return_tensors: str | None = None, add_special_tokens: bool = True) -> Any:
        ids = [WORDS.index(w) for w in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any) -> str:
        return " ".join(WORDS[int(i)] for i in (ids.flatten() if isinstance(ids, Tensor) else ids))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [WORDS[i] for i in ids]

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [WORDS.index(t) for t in tokens]

    def __call__(self, text: str, **kwargs: Any) -> dict[str, Any]:
        offsets, start = [], 0
        for word in text.split():
            offsets.append((start, start + len(word)))
            start += len(word) + 1
        return {"input_ids": self.encode(text), "offset_mapping": offsets}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(  # type: ignore[call-arg]  # of the base class
        vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval()


TOKENIZER = WordTokenizer()
TEXT, TARGET = "the big dog ran", "and saw a bird"
TEMPLATE = ("the {} dog {} under the {}", ["big", "ran", "red house"])


def inputs(lib: Any) -> dict[str, Any]:
    return {
        "tokens": lib.TextTokenInput(TEXT, TOKENIZER, skip_tokens=["the"]),
        "template": lib.TextTemplateInput(*TEMPLATE, baselines=["red", "sat", "house"]),
    }


@pytest.mark.parametrize("kind", ["tokens", "template"])
@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling"])
@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
def test_perturbation_agrees_with_captum(model: nn.Module, name: str, kind: str, attr_target: str) -> None:
    found = []
    for lib in (ours, theirs):
        torch.manual_seed(2)
        method = lib.LLMAttribution(getattr(lib, name)(model), TOKENIZER, attr_target)
        more = {} if lib is ours else {"use_cached_outputs": False}
        found.append(method.attribute(inputs(lib)[kind], TARGET, **more))
    mine, captums = found
    assert mine.input_tokens == captums.input_tokens and mine.output_tokens == captums.output_tokens
    assert torch.allclose(mine.seq_attr.float(), captums.seq_attr.float(), atol=1e-5)
    assert torch.allclose(mine.token_attr.float(), captums.token_attr.float(), atol=1e-5)
    assert mine.seq_attr_dict == pytest.approx(captums.seq_attr_dict, abs=1e-5)


def test_captums_cache_changes_its_numbers(model: nn.Module) -> None:
    def captums(**more: Any) -> Tensor:
        method = theirs.LLMAttribution(theirs.FeatureAblation(model), TOKENIZER)
        return method.attribute(inputs(theirs)["tokens"], TARGET, **more).token_attr.double()

    mine = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER).attribute(inputs(ours)["tokens"], TARGET)
    assert mine.token_attr is not None
    for more in ({"use_cached_outputs": False}, {"forward_in_tokens": False}):
        assert torch.allclose(mine.token_attr.double(), captums(**more), atol=1e-5)
    assert float((captums() - captums(use_cached_outputs=False)).abs().max()) > 0.01


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_regressions_explain_the_whole_output(model: nn.Module, name: str) -> None:
    more = {"n_samples": 64, "seed": 0}
    result = ours.LLMAttribution(getattr(ours, name)(model), TOKENIZER).attribute(
        inputs(ours)["template"], TARGET, **more
    )
    assert result.token_attr is None and result.seq_attr.shape == (3,)
    if name == "KernelShap":  # all 8 coalitions: exact
        exact = ours.LLMAttribution(ours.ShapleyValues(model), TOKENIZER).attribute(inputs(ours)["template"], TARGET)
        assert torch.allclose(result.seq_attr, exact.seq_attr)
    with pytest.raises(InputError, match=r"token_attr is None .* please use plot_seq_attr instead"):
        result.plot_token_attr()


@pytest.mark.parametrize("name", ["LayerIntegratedGradients", "LayerGradientXActivation"])
def test_gradients_agree_with_captum(model: nn.Module, name: str) -> None:
    found = []
    for lib in (ours, theirs):
        method = getattr(lib, name)(model, model.get_input_embeddings())
        found.append(lib.LLMGradientAttribution(method, TOKENIZER).attribute(inputs(lib)["tokens"], TARGET))
    assert torch.allclose(found[0].token_attr, found[1].token_attr, atol=1e-5)
    assert torch.allclose(found[0].seq_attr, found[1].seq_attr, atol=1e-5)


def test_path_gradients_of_tokens_are_complete(model: nn.Module) -> None:
    inp = ours.TextTokenInput(TEXT, TOKENIZER, baselines="<pad>")
    method = ours.LayerIntegratedGradients(model, model.get_input_embeddings())
    result = ours.LLMGradientAttribution(method, TOKENIZER).attribute(inp, TARGET, n_steps=300)
    target = torch.tensor(TOKENIZER.encode(TARGET))

    def logs(ids: Tensor) -> Tensor:
        whole = torch.cat([ids, target[None]], 1)
        return model(whole).logits[0, -5:-1].log_softmax(-1).gather(1, target[:, None])[:, 0]

    change = logs(inp.inp_tensor) - logs(torch.zeros_like(inp.inp_tensor))
    assert torch.allclose(result.token_attr.sum(1), change, atol=2e-2)
    assert torch.allclose(result.output_probs, logs(inp.inp_tensor).exp())


def test_expected_gradients_of_tokens_tend_to_integrated_gradients(model: nn.Module) -> None:
    """One baseline, no noise: the same path, its points drawn. A path of switches would jump to the baseline tokens."""
    inp = ours.TextTokenInput(TEXT, TOKENIZER, skip_tokens=["big"], baselines="<pad>")
    layer = model.get_input_embeddings()

    def run(name: str, **more: Any) -> Tensor:
        method = ours.LLMGradientAttribution(getattr(ours, name)(model, layer), TOKENIZER)
        found = method.attribute(inp, "and saw", **more).token_attr
        assert found is not None and found.shape == (2, 3)
        return found

    exact = run("LayerIntegratedGradients", n_steps=200)
    drawn = run("LayerGradientShap", n_samples=200, stratified=True, seed=0)
    assert float((drawn - exact).norm() / exact.norm()) < 0.01
    kept = run("LayerGradientShap", baselines=torch.tensor([[0, 1, 0]]), seed=0)  # the second token stays
    assert not kept[:, 1].any() and kept[:, 0].all()


def test_generated_target_is_the_models_own_and_nothing_of_the_model_changes(model: nn.Module) -> None:
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER).attribute(
        inputs(ours)["tokens"], gen_args={"max_new_tokens": 3, "do_sample": False}
    )
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        made = model.generate(TOKENIZER.encode(TEXT, "pt"), max_new_tokens=3, do_sample=False)
    assert result.output_tokens == TOKENIZER.convert_ids_to_tokens(made[0, 4:].tolist())


def test_trials_draw_new_baselines(model: nn.Module) -> None:
    values = ours.ProductBaselines([["red", "big"], ["sat", "saw"], ["house", "mat"]])
    inp = ours.TextTemplateInput(*TEMPLATE, baselines=values)
    method = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER)
    state = random.getstate()
    prompts: list[str] = []
    method.attribute(inp, TARGET, num_trials=8, _inspect_forward=lambda prompt, output, probs: prompts.append(prompt))
    assert random.getstate() == state
    # Each trial: the text as it is, and one text per missing value with a drawn one.
    assert {p for p in prompts if "ran under the red house" in p} >= {"the big dog ran under the red house"}
    assert {p.split()[4 - 1] for p in prompts} >= {"ran", "sat", "saw"}


def test_inputs_of_different_lengths_score_as_they_do_alone(model: nn.Module) -> None:
    method = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER)
    inp, target = inputs(ours)["template"], torch.tensor(TOKENIZER.encode(TARGET))
    switches = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]])
    together = method.token_scores(inp, target, switches)
    for row, found in zip(switches, together):
        assert torch.allclose(method.token_scores(inp, target, row[None])[0], found)


class Viewer(nn.Module):
    """A model of pictures and text, with Hugging Face's call."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.embed, self.head = nn.Linear(3, 8), nn.Embedding(len(WORDS), 8), nn.Linear(8, len(WORDS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Any:
        assert attention_mask.shape == input_ids.shape
        seen = torch.tanh(self.see(pixel_values.mean((2, 3))))[:, None]

        class Output:
            logits = self.head(self.embed(input_ids).cumsum(1) + 3 * seen)

        return Output()


def test_segments_of_a_picture(tmp_path: Path) -> None:
    torch.manual_seed(1)
    viewer = Viewer()
    pixels = np.full((8, 12, 3), 255, dtype=np.uint8)
    pixels[:, :4] = (200, 30, 30)

    def processed(image: Image.Image) -> dict[str, Tensor]:
        values = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
        ids = TOKENIZER.encode("the red", "pt")
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}

    mask = (torch.arange(12) // 4).expand(8, 12)
    inp = ours.ImageMaskInput(Image.fromarray(pixels), mask, processor_fn=processed)
    result = ours.LLMAttribution(ours.ShapleyValues(viewer), TOKENIZER).attribute(inp, "house and")
    assert abs(float(result.seq_attr[0])) > 1e-3 and float(result.seq_attr[1:].abs().max()) < 1e-6  # white is white
    for figure, _ in (
        result.plot_image_heatmap(),
        result.plot_image_heatmap(target_token_pos=1),
        result.plot_image_heatmap(target_token_pos=(0, 2), border_width=0, show_legends=False),
        inp.plot_mask_overlay(border_width=1),
        result.plot_token_attr(),
        result.plot_seq_attr(),
    ):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 2000
    assert result.plot_seq_attr(show=True) is None
    plt.close("all")


def test_errors_say_what_to_do(model: nn.Module) -> None:
    with pytest.raises(AssertionError, match="LLMAttribution does not support Occlusion; use one of FeatureAblation"):
        ours.LLMAttribution(ours.Occlusion(model), TOKENIZER)
    method = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER)
    with pytest.raises(AssertionError, match="does not support input type str"):
        method.attribute("the dog", TARGET)
    with pytest.raises(AssertionError, match="gen_args must be None when target is given"):
        method.attribute(inputs(ours)["tokens"], TARGET, gen_args={"max_new_tokens": 1})
    with pytest.raises(TypeError, match="target must either be str or Tensor"):
        method.attribute(inputs(ours)["tokens"], 3)
    with pytest.raises(InputError, match="target has no tokens"):
        method.attribute(inputs(ours)["tokens"], "")
    with pytest.raises(InputError, match=r"Unknown attr_target 'logprob'\. Did you mean 'log_prob'"):
        ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER, "logprob")
    with pytest.raises(AssertionError, match="does not have recognizable generate function"):
        ours.LLMAttribution(ours.FeatureAblation(Viewer()), TOKENIZER).attribute(inputs(ours)["tokens"])
    with pytest.raises(InputError, match="has no tokens to explain"):
        ours.TextTokenInput("the the", TOKENIZER, skip_tokens=["the"])
    with pytest.raises(AssertionError, match=r"seq_attr must have shape \(input_tokens,\) = \(2,\), got \(3,\)"):
        ours.LLMAttributionResult(input_tokens=["a", "b"], output_tokens=["c"], seq_attr=[1.0, 2.0, 3.0])


# -- a server ----------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    """OpenAI's completions over the module's model."""

    model: Any
    broken = ""
    seen: list[dict[str, Any]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer({"data": [] if self.broken == "models" else [{"id": "words"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(asked)
        if self.broken == "status":
            self._answer({"error": "too busy"}, 503)
            return
        ids = torch.tensor([TOKENIZER.encode(asked["prompt"])])
        with torch.no_grad():
            if "prompt_logprobs" not in asked:
                made = self.model.generate(ids, max_new_tokens=asked["max_tokens"], do_sample=False)
                self._answer({"choices": [{"text": TOKENIZER.decode(made[0, ids.shape[1] :])}]})
                return
            logs = self.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found = [None, *({str(int(i)): {"logprob": float(v)}} for i, v in zip(ids[0, 1:], logs))]
        self._answer({"choices": [{"text": "", "prompt_logprobs": None if self.broken == "logs" else found}]})


@pytest.fixture
def server(model: nn.Module) -> Iterator[str]:
    _Handler.model, _Handler.broken, _Handler.seen = model, "", []
    with HTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            httpd.shutdown()
            thread.join()


class Spaced(ours.VLLMProvider):
    """Prompt and target of this tokenizer are parted by a space."""

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        return super().get_logprobs(input_prompt + " ", target_str, tokenizer)


def test_server_gives_what_the_model_gives(server: str, model: nn.Module) -> None:
    provider = Spaced(server)
    assert provider.model_name == "words"
    remote = ours.RemoteLLMAttribution(
        ours.FeatureAblation(ours.RemoteLLMAttribution.placeholder_model), TOKENIZER, provider
    )
    local = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER)
    for kind, target in (("template", TARGET), ("tokens", None)):
        gen_args = None if target else {"max_new_tokens": 2, "do_sample": False, "temperature": None}
        mine, expected = (m.attribute(inputs(ours)[kind], target, gen_args=gen_args) for m in (remote, local))
        assert torch.allclose(mine.token_attr.float(), expected.token_attr.float(), atol=1e-5)
        assert mine.output_tokens == expected.output_tokens
    generating = next(asked for asked in _Handler.seen if "prompt_logprobs" not in asked)
    assert generating == {"model": "words", "prompt": TEXT, "max_tokens": 2, "temperature": 0.0}


def test_server_that_does_not_answer_as_it_should(server: str) -> None:
    provider = ours.VLLMProvider(server, "words")
    _Handler.broken = "logs"
    with pytest.raises(ModelError, match="API response missing 'prompt_logprobs' data"):
        provider.get_logprobs("the ", "dog", TOKENIZER)
    _Handler.broken = "status"
    with pytest.raises(ConnectionError, match=r"completions answered 503: .*too busy"):
        provider.generate("the")
    _Handler.broken = "models"
    with pytest.raises(InputError, match="No models available"):
        ours.VLLMProvider(server)
    with pytest.raises(InputError, match="Tokenizer is required"):
        provider.get_logprobs("the", "dog")
    with pytest.raises(InputError, match="Target string cannot be empty"):
        provider.get_logprobs("the", "", TOKENIZER)
    with pytest.raises(ValueError, match="API URL is required"):
        ours.VLLMProvider(" ")
    with pytest.raises(ValueError, match="must start with http:// or https://, got 'file:///etc'"):
        ours.VLLMProvider("file:///etc")
    with pytest.raises(ConnectionError, match=r"Failed to connect to vLLM API at http://127\.0\.0\.1:9"):
        ours.VLLMProvider("http://127.0.0.1:9/v1", timeout=2)


def test_client_may_be_another_and_what_it_lacks_is_an_error_as_in_captum() -> None:
    from types import SimpleNamespace

    provider = ours.VLLMProvider("http://nowhere", "words")
    asked: list[dict[str, Any]] = []

    def answering(*choices: Any) -> Any:
        def create(**body: Any) -> Any:
            asked.append(body)
            return SimpleNamespace(choices=list(choices))

        return SimpleNamespace(completions=SimpleNamespace(create=create))

    provider.client = answering(SimpleNamespace(text="dog", prompt_logprobs=[None, {"7": {"logprob": -0.5}}]))
    assert provider.generate("the", max_new_tokens=3) == "dog"
    assert provider.get_logprobs("the ", "dog", TOKENIZER) == [-0.5]
    assert asked[0] == {"model": "words", "prompt": "the", "max_tokens": 3}
    assert asked[1]["extra_body"] == {"prompt_logprobs": 0}
    for logs, kind, text in (
        (None, KeyError, "missing 'prompt_logprobs'"),
        ([{}], ValueError, "Empty probability data"),
        ([{"7": {"rank": 1}}], IndexError, "Unexpected format"),
    ):
        provider.client = answering(SimpleNamespace(text="", prompt_logprobs=logs))
        with pytest.raises(kind, match=text):
            provider.get_logprobs("the ", "dog", TOKENIZER)
    provider.client = answering()
    with pytest.raises(KeyError, match="missing expected 'choices'"):
        provider.generate("the")


class Lists:
    """A tokenizer that gives lists alone, and reads tensors alone."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return TOKENIZER.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Tensor) -> str:
        return TOKENIZER.decode(ids.tolist()) if ids.ndim else TOKENIZER.decode([int(ids)])

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return TOKENIZER.convert_ids_to_tokens(ids)


class Tupled(nn.Module):
    """A model that returns a tuple or a mapping instead of an object with logits."""

    def __init__(self, model: nn.Module, form: str):
        super().__init__()
        self.model, self.form = model, form

    def forward(self, input_ids: Tensor) -> Any:
        logits = self.model(input_ids=input_ids).logits
        return (logits, None) if self.form == "tuple" else {"logits": logits}


@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_tokenizers_of_lists_and_outputs_without_names(model: nn.Module, form: str) -> None:
    expected = ours.LLMAttribution(ours.FeatureAblation(model), TOKENIZER).attribute(inputs(ours)["template"], TARGET)
    wrapped = ours.LLMAttribution(ours.FeatureAblation(Tupled(model, form)), Lists())
    mine = wrapped.attribute(inputs(ours)["template"], TARGET)
    torch.testing.assert_close(mine.token_attr, expected.token_attr)
    assert mine.output_tokens == expected.output_tokens
    tokens = ours.TextTokenInput(TEXT, Lists())
    assert wrapped.attribute(tokens, TARGET).seq_attr.shape == (tokens.n_itp_features,)
    with pytest.raises(ModelError, match="expected logits"):
        ours.LLMAttribution(ours.FeatureAblation(model.transformer), TOKENIZER).attribute(tokens, TARGET)

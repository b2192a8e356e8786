"""Scores of one output after many prompts: padded, behind a shared prefix and one by one they are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins.attr.language import scoring
from interp_plugins.attr.language.scoring import OutputScorer, Prefix, log_probs
from interp_plugins.core.errors import ModelError
from tests.llm.language_models import ids, model, slow_scores, tokenizer

CPU = torch.device("cpu")
TEXT, OUTPUT = "the big dog sat on a red mat and the cat saw a bird", "under the house"
KINDS = ["llama", "gpt2", "gemma2", "t5"]


@pytest.fixture
def share_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass more costs nothing, so that even short prompts share what they can."""
    monkeypatch.setattr(scoring, "_PASS", 0)


def without(text: Tensor, *places: int) -> Tensor:
    return torch.tensor([int(v) for k, v in enumerate(text) if k not in places])


def prompts() -> list[Tensor]:
    text = ids(TEXT)
    rows = [without(text, k) for k in range(len(text))] + [without(text, 2, 3, 4, 9), text[:5], text]
    replaced = text.clone()
    replaced[7] = 0
    return [*rows, replaced, text[-3:]]


@pytest.mark.usefixtures("share_always")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_any_length_score_as_they_do_alone_token_by_token(kind: str) -> None:
    net, output = model(kind), ids(OUTPUT)
    expected = torch.stack([slow_scores(net, row, output) for row in prompts()])
    scorer = OutputScorer(net, output, CPU, ids(TEXT))
    torch.testing.assert_close(scorer(prompts()), expected)
    torch.testing.assert_close(OutputScorer(net, output, CPU)(prompts()), expected)  # nothing shared
    assert bool(scorer.notes) == (kind in ("llama", "gpt2"))  # sliding windows and encoders have no prefix to share
    torch.testing.assert_close(scorer(prompts()), expected)  # nothing was written into the prefix


@pytest.mark.usefixtures("share_always")
def test_prefix_saves_tokens_and_the_head_runs_where_it_is_needed() -> None:
    net, text, output = model("llama"), ids(f"{TEXT} " * 3), ids(OUTPUT)
    tokens: list[int] = []
    logits: list[tuple[int, ...]] = []
    inner = net.model.register_forward_hook(lambda m, a, k, o: tokens.append(o[0].shape[:2].numel()), with_kwargs=True)
    outer = net.lm_head.register_forward_hook(lambda m, a, o: logits.append(tuple(o.shape[:2])))
    try:
        rows = [torch.where(torch.arange(len(text)) == k, 0, text) for k in range(len(text))]
        OutputScorer(net, output, CPU, text)(rows)
    finally:
        inner.remove()
        outer.remove()
    whole = (len(text) + len(output)) * len(text)
    assert sum(tokens) < 0.7 * whole  # with the reference and the row of the check
    assert max(length for _, length in logits) == len(output)


def test_a_cut_of_the_cache_is_not_grown() -> None:
    net, text = model("gpt2"), ids(TEXT)
    prefix = Prefix.of(net, text)
    assert prefix is not None and prefix.bytes_per_token == 2 * 2 * 16 * 8
    for _ in range(2):
        cache = prefix.cut(5, 3)
        assert cache.get_seq_length() == 5
        with torch.no_grad():
            after = net(input_ids=text[5:][None].expand(3, -1), past_key_values=cache).logits
            whole = net(input_ids=text[None]).logits[:, 5:].expand(3, -1, -1)
        torch.testing.assert_close(after, whole)


class Company(nn.Module):
    """A model whose rows feel each other's padding: no row may stand with longer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(30, 8), nn.Linear(8, 30)

    def forward(self, input_ids: Tensor) -> Any:
        hidden = self.embed(input_ids)
        return (self.head(hidden + hidden.mean(1, keepdim=True)),)


@pytest.mark.usefixtures("share_always")
def test_a_model_that_disagrees_gets_one_length_per_pass() -> None:
    torch.manual_seed(0)
    net, output = Company().double(), ids("house")
    scorer = OutputScorer(net, output, CPU, ids(TEXT))
    alone = torch.stack([OutputScorer(net, output, CPU)([row])[0] for row in prompts()])
    torch.testing.assert_close(scorer(prompts()), alone)
    (note,) = scorer.notes
    assert note.startswith("prompts of one length per pass, in full: a row differs by ")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_precision_keeps_what_one_feature_changes(kind: str) -> None:
    net, output = model(kind), ids("the cat saw a bird and ran under the big red house . " * 3)
    rows, wide = prompts(), OutputScorer(net, output, CPU)(prompts()).sum(1)
    half = type(net)(net.config)
    half.load_state_dict(net.state_dict())
    found = OutputScorer(half.bfloat16().eval(), output, CPU, ids(TEXT))(rows)
    assert found.dtype == torch.float32
    changes = torch.stack([(wide[-3] - wide).float(), (found.sum(1)[-3] - found.sum(1))])
    assert float(torch.corrcoef(changes)[0, 1]) > 0.99
    with torch.no_grad():
        exact = log_probs(half(ids(TEXT)[None]).logits[:, :1], ids("the"))
    assert exact.dtype == torch.float32 and float(exact) != float(exact.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absence", ["baseline", "template"])
def test_ablation_of_every_kind_is_the_difference_of_slow_scores(kind: str, absence: str) -> None:
    net, output = model(kind), ids(OUTPUT)
    words = TEXT.split()
    inp: Any = ours.TextTokenInput(TEXT, tokenizer(), baselines="<unk>")
    if absence == "template":
        inp = ours.TextTemplateInput(" ".join("{}" for _ in words), list(words))
    result = ours.LLMAttribution(ours.FeatureAblation(net), tokenizer()).attribute(inp, OUTPUT)
    gone = [["<unk>" if k == j else w for k, w in enumerate(words)] for j in range(len(words))]
    if absence == "template":
        gone = [[w for k, w in enumerate(words) if k != j] for j in range(len(words))]
    full = slow_scores(net, ids(TEXT), output)
    expected = torch.stack([full - slow_scores(net, ids(" ".join(g)), output) for g in gone], 1)
    assert result.token_attr is not None
    torch.testing.assert_close(result.token_attr.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_path_gradients_of_all_output_tokens_share_a_forward_pass(kind: str) -> None:
    net = model(kind)
    inp = ours.TextTokenInput(TEXT, tokenizer(), baselines="<unk>")
    layer, calls = net.get_input_embeddings(), []
    method = ours.LLMGradientAttribution(ours.LayerIntegratedGradients(net, layer), tokenizer())
    hook = net.register_forward_hook(lambda m, a, o: calls.append(len(o.logits)))
    try:
        together = method.attribute(inp, OUTPUT, n_steps=6)
    finally:
        hook.remove()
    assert sum(calls) == 6 + 1  # the path, and the probabilities; the embedding is read without the model
    words = OUTPUT.split()
    for t in range(len(words)):
        before = ours.TextTokenInput(" ".join([TEXT, *words[:t]]), tokenizer(), baselines="<unk>")
        before.baselines = 0
        ids_of = before.inp_tensor

        def growing(given: Tensor, fixed: Tensor = ids_of, token: int = int(ids(words[t]))) -> Tensor:
            row = torch.cat([given, fixed[:, given.shape[1] :].expand(len(given), -1)], 1)
            return net(input_ids=row).logits[:, -1].log_softmax(-1)[:, token]

        alone = ours.LayerIntegratedGradients(growing, layer)
        found = alone.attribute(ids(TEXT)[None], torch.zeros_like(ids(TEXT))[None], n_steps=6)
        assert together.token_attr is not None
        torch.testing.assert_close(together.token_attr[t], found[0, : len(TEXT.split())].sum(-1))


def test_wrong_models_say_so() -> None:
    with pytest.raises(ModelError, match="no token left"):
        OutputScorer(model("llama"), ids(OUTPUT), CPU)([ids("the"), torch.tensor([], dtype=torch.long)])
    net = model("t5")
    begin, net.config.decoder_start_token_id = net.config.decoder_start_token_id, None
    try:
        with pytest.raises(ModelError, match="decoder_start_token_id"):
            OutputScorer(net, ids(OUTPUT), CPU)([ids("the")])
    finally:
        net.config.decoder_start_token_id = begin


class Older(nn.Module):
    """A model whose forward takes ids alone and gives logits at every position."""

    def __init__(self, net: Any):
        super().__init__()
        self.net, self.config = net, net.config

    def get_output_embeddings(self) -> Any:
        return self.net.get_output_embeddings()

    def forward(self, input_ids: Tensor) -> Any:
        return self.net(input_ids=input_ids)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_the_head_runs_at_the_outputs_positions_alone(kind: str, older: bool) -> None:
    net, output = model(kind), ids("Rome is in")
    rows = [ids("the cat sat on a mat"), ids("the cat sat"), ids("a big red house and a bird")]
    asked = Older(net) if older else net
    seen: list[tuple[int, ...]] = []
    handle = net.get_output_embeddings().register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[:2])))
    try:
        found = OutputScorer(asked, output, torch.device("cpu"))(rows)
    finally:
        handle.remove()
    assert seen[0] == (3, 3)  # rows of three lengths, and three tokens
    bound = 1e-6 if kind == "gemma2" else 1e-9  # Gemma 2 works in float32 within, whatever its weights are
    for row, values in zip(rows, found):
        torch.testing.assert_close(values, slow_scores(net, row, output), atol=bound, rtol=bound)

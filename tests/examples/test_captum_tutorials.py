"""The calls of Captum's tutorials, on small stand-ins: they run here with `captum` in the imports replaced alone.

Each function is written for Captum. Its source is compiled once more with the first part of the imported paths changed,
and runs. What the tutorials download is made: small networks, tables, pictures, texts.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp_plugins.core.errors import InterpWarning

TUTORIALS: dict[str, Callable[[], None]] = {}


def tutorial(function: Callable[[], None]) -> Callable[[], None]:
    TUTORIALS[function.__name__] = function
    return function


class Picture(nn.Module):
    """A network for pictures (3, 16, 16) with 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.conv1(x))).flatten(1))


class Table(nn.Module):
    """A network for rows of numbers."""

    def __init__(self, columns: int, outputs: int):
        super().__init__()
        self.lin1, self.sigmoid1, self.lin2 = nn.Linear(columns, 12), nn.Sigmoid(), nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.sigmoid1(self.lin1(x)))


class Words(nn.Module):
    """A classifier of texts: embedding, convolution, pooling."""

    def __init__(self, vocabulary: int = 20):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 6)
        self.conv, self.fc = nn.Conv1d(6, 8, 3), nn.Linear(8, 1)

    def forward(self, text: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(self.embedding(text).transpose(1, 2))).amax(2))


def picture() -> Tensor:
    return torch.rand(1, 3, 16, 16)


@tutorial
def titanic() -> None:
    from captum.attr import IntegratedGradients, LayerConductance, NeuronConductance

    net, rows = nn.Sequential(Table(9, 2), nn.Softmax(1)), torch.randn(30, 9).requires_grad_()
    attr, delta = IntegratedGradients(net).attribute(rows, target=1, return_convergence_delta=True)
    assert attr.detach().numpy().mean(0).shape == (9,) and delta.abs().max() < 1e-3
    cond = LayerConductance(net, net[0].sigmoid1).attribute(rows, target=1)
    assert cond.detach().numpy().shape == (30, 12)
    assert NeuronConductance(net, net[0].sigmoid1).attribute(rows, neuron_selector=10, target=1).shape == (30, 9)


@tutorial
def cifar() -> None:
    from captum.attr import DeepLift, IntegratedGradients, NoiseTunnel, Saliency
    from captum.attr import visualization as viz

    net, x = Picture(), picture().requires_grad_()

    def attribute_image_features(algorithm: Any, inputs: Tensor, **kwargs: Any) -> Tensor:
        net.zero_grad()
        return algorithm.attribute(inputs, target=2, **kwargs)

    grads = np.transpose(Saliency(net).attribute(x, target=2).squeeze().cpu().detach().numpy(), (1, 2, 0))
    ig = IntegratedGradients(net)
    attr_ig, delta = attribute_image_features(ig, x, baselines=x * 0, return_convergence_delta=True)
    assert delta.abs() < 1e-2
    attr_nt = attribute_image_features(
        NoiseTunnel(ig), x, baselines=x * 0, nt_type="smoothgrad_sq", nt_samples=4, n_steps=5, stdevs=0.2
    )
    attr_dl = attribute_image_features(DeepLift(net), x, baselines=x * 0)
    original = np.transpose(x[0].detach().numpy(), (1, 2, 0))
    viz.visualize_image_attr(original, original, method="original_image", title="Original Image")
    for maps in (attr_ig, attr_nt, attr_dl):
        shown = np.transpose(maps.squeeze(0).cpu().detach().numpy(), (1, 2, 0))
        viz.visualize_image_attr(
            shown, original, method="blended_heat_map", sign="all", show_colorbar=True, title="Overlayed"
        )
    viz.visualize_image_attr(grads, original, method="blended_heat_map", sign="absolute_value", show_colorbar=True)


@tutorial
def resnet() -> None:
    from captum.attr import GradientShap, IntegratedGradients, NoiseTunnel, Occlusion
    from captum.attr import visualization as viz
    from matplotlib.colors import LinearSegmentedColormap

    model, x = Picture().eval(), picture()
    _, label = torch.topk(torch.softmax(model(x), 1), 1)
    label.squeeze_()
    blue = LinearSegmentedColormap.from_list("custom blue", [(0, "#ffffff"), (0.25, "#000000"), (1, "#000000")], N=256)
    ig = IntegratedGradients(model)
    maps = ig.attribute(x, target=label, n_steps=20)
    shown = [np.transpose(t.squeeze().cpu().detach().numpy(), (1, 2, 0)) for t in (maps, x)]
    viz.visualize_image_attr(*shown, method="heat_map", cmap=blue, show_colorbar=True, sign="positive", outlier_perc=1)
    NoiseTunnel(ig).attribute(x, nt_samples=3, nt_type="smoothgrad_sq", target=label, n_steps=5)
    torch.manual_seed(0)
    rand_img_dist = torch.cat([x * 0, x * 1])
    GradientShap(model).attribute(x, n_samples=10, stdevs=0.0001, baselines=rand_img_dist, target=label)
    maps = Occlusion(model).attribute(x, strides=(3, 4, 4), target=label, sliding_window_shapes=(3, 8, 8), baselines=0)
    shown[0] = np.transpose(maps.squeeze().cpu().detach().numpy(), (1, 2, 0))
    viz.visualize_image_attr_multiple(
        *shown, ["original_image", "heat_map"], ["all", "positive"], show_colorbar=True, outlier_perc=2
    )
    assert plt.gcf().axes


@tutorial
def ablation() -> None:
    from captum.attr import FeatureAblation
    from captum.attr import visualization as viz

    model, x = Picture().eval(), picture()
    feature_mask = torch.arange(16).reshape(1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)
    ablator = FeatureAblation(model)
    maps = ablator.attribute(x, target=3, feature_mask=feature_mask.unsqueeze(0), show_progress=True)
    assert maps.shape == x.shape and len(maps[0, 0].unique()) <= 16
    shown = maps[0, 0].unsqueeze(-1).expand(16, 16, 3).numpy()
    _ = viz.visualize_image_attr(shown, x[0].permute(1, 2, 0).numpy(), method="masked_image", sign="absolute_value")
    assert ablator.attribute(x, target=3, perturbations_per_eval=8, feature_mask=feature_mask).shape == x.shape


@tutorial
def imdb() -> None:
    from captum.attr import LayerIntegratedGradients, TokenReferenceBase, visualization

    model, pad = Words(), 1
    reference = TokenReferenceBase(reference_token_idx=pad)
    lig = LayerIntegratedGradients(model, model.embedding)
    records = []
    for ids in (torch.tensor([[4, 5, 6, 7]]), torch.tensor([[8, 2, 9, 1]])):
        pred = torch.sigmoid(model(ids)).item()
        given = reference.generate_reference(4, device="cpu").unsqueeze(0)
        maps, delta = lig.attribute(ids, given, n_steps=20, return_convergence_delta=True)
        maps = maps.sum(dim=2).squeeze(0)
        maps = (maps / torch.norm(maps)).cpu().detach().numpy()
        assert maps.shape == (4,) and abs(delta) < 0.1
        records.append(
            visualization.VisualizationDataRecord(maps, pred, "pos", "pos", "pos", maps.sum(), list("abcd"), delta)
        )
    assert "<table" in visualization.visualize_text(records).data


@tutorial
def bert_squad() -> None:
    from captum.attr import LayerIntegratedGradients
    from transformers import BertConfig, BertForQuestionAnswering

    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    model = BertForQuestionAnswering(config).eval()
    ids, ref = torch.tensor([[2, 7, 8, 3, 9, 10, 3]]), torch.tensor([[2, 0, 0, 3, 0, 0, 3]])
    types, mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1]]), torch.ones(1, 7)
    places = torch.arange(7)[None]

    def squad_pos_forward_func(
        inputs: Tensor,
        token_type_ids: Any = None,
        position_ids: Any = None,
        attention_mask: Any = None,
        position: int = 0,
    ) -> Tensor:
        pred = model(inputs, token_type_ids=token_type_ids, position_ids=position_ids, attention_mask=attention_mask)
        return (pred.start_logits, pred.end_logits)[position].max(1).values

    lig = LayerIntegratedGradients(squad_pos_forward_func, model.bert.embeddings)
    for position in (0, 1):
        maps, delta = lig.attribute(
            inputs=ids,
            baselines=ref,
            additional_forward_args=(types, places, mask, position),
            n_steps=10,
            return_convergence_delta=True,
        )
        assert maps.sum(dim=-1).squeeze(0).shape == (7,) and delta.shape == (1,)
    tables = [model.bert.embeddings.word_embeddings, model.bert.embeddings.token_type_embeddings]
    tables.append(model.bert.embeddings.position_embeddings)
    lig2 = LayerIntegratedGradients(squad_pos_forward_func, tables)
    maps = lig2.attribute(
        inputs=(ids, types, places),
        baselines=(ref, types * 0, places * 0),
        additional_forward_args=(mask, 0),
        n_steps=5,
    )
    assert [tuple(m.shape) for m in maps] == [(1, 7, 16)] * 3


@tutorial
def bert_layers() -> None:
    from captum.attr import (
        LayerConductance,
        LayerIntegratedGradients,
        configure_interpretable_embedding_layer,
        remove_interpretable_embedding_layer,
    )
    from transformers import BertConfig, BertForQuestionAnswering

    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    model = BertForQuestionAnswering(config).eval()
    ids, ref = torch.tensor([[2, 7, 8, 3, 9, 10, 3]]), torch.tensor([[2, 0, 0, 3, 0, 0, 3]])

    def squad_pos_forward_func(inputs: Any = None, inputs_embeds: Any = None, position: int = 0) -> Tensor:
        pred = model(input_ids=inputs, inputs_embeds=inputs_embeds)
        return (pred.start_logits, pred.end_logits)[position].max(1).values

    def squad_pos_forward_func2(input_emb: Tensor, position: int = 0) -> Tensor:
        return squad_pos_forward_func(inputs=None, inputs_embeds=input_emb, position=position)

    interpretable_embedding = configure_interpretable_embedding_layer(model, "bert.embeddings.word_embeddings")
    with torch.no_grad():
        emb, ref_emb = (interpretable_embedding.indices_to_embeddings(t) for t in (ids, ref))
    for layer in model.bert.encoder.layer:
        lc = LayerConductance(squad_pos_forward_func2, layer)
        maps = lc.attribute(inputs=emb, baselines=ref_emb, additional_forward_args=(0,), n_steps=5)
        maps = maps[0] if isinstance(maps, tuple) else maps
        assert maps.shape[-2:] == (7, 16)
    remove_interpretable_embedding_layer(model, interpretable_embedding)
    lig = LayerIntegratedGradients(squad_pos_forward_func, model.bert.embeddings)
    assert lig.attribute(ids, ref, additional_forward_args=(None, 1), n_steps=3).shape == (1, 7, 16)


@tutorial
def house_prices() -> None:
    from captum.attr import DeepLift, FeatureAblation, GradientShap, IntegratedGradients, LayerConductance, NoiseTunnel

    model, train, test = Table(6, 1), torch.randn(40, 6), torch.randn(10, 6)
    ig = IntegratedGradients(model)
    found = [
        ig.attribute(test, n_steps=20),
        NoiseTunnel(ig).attribute(test),
        DeepLift(model).attribute(test),
        GradientShap(model).attribute(test, train),
        FeatureAblation(model).attribute(test),
    ]
    sums = [maps.detach().numpy().sum(0) for maps in found]
    assert all(s.shape == (6,) and np.isfinite(s / np.linalg.norm(s, ord=1)).all() for s in sums)
    lc = LayerConductance(model, model.lin1)
    assert lc.attribute(test, n_steps=20, attribute_to_layer_input=True).detach().numpy().shape == (10, 6)


@tutorial
def segmentation() -> None:
    from captum.attr import FeatureAblation, LayerAttribution, LayerGradCam
    from captum.attr import visualization as viz

    fcn, x = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval(), picture()
    fcn = nn.Sequential(fcn, nn.Upsample(size=(16, 16), mode="bilinear"))
    out_max = torch.argmax(fcn(x), dim=1, keepdim=True)

    def agg_segmentation_wrapper(inp: Tensor) -> Tensor:
        model_out = fcn(inp)
        selected_inds = torch.zeros_like(model_out[0:1]).scatter_(1, out_max, 1)
        return (model_out * selected_inds).sum(dim=(2, 3))

    target = int(out_max.flatten()[0])
    maps = LayerGradCam(agg_segmentation_wrapper, fcn[0][1]).attribute(x, target=target)
    upsampled = LayerAttribution.interpolate(maps, (16, 16))
    assert upsampled.shape == (1, 1, 16, 16)
    shown = upsampled[0].cpu().permute(1, 2, 0).detach().numpy()
    original = x[0].permute(1, 2, 0).numpy()
    viz.visualize_image_attr_multiple(
        shown, original_image=original, signs=["all", "positive", "negative"],
        methods=["original_image", "blended_heat_map", "blended_heat_map"],
    )  # fmt: skip
    fa = FeatureAblation(agg_segmentation_wrapper)
    maps = fa.attribute(x, feature_mask=out_max, perturbations_per_eval=2, target=target)
    assert maps[:, 0].shape == (1, 16, 16)


@tutorial
def lime() -> None:
    import torch.nn.functional as F
    from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression
    from captum.attr import Lime, LimeBase
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    resnet, x = Picture().eval(), picture()
    seg = torch.arange(16).reshape(1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)
    exp_eucl_distance = get_exp_kernel_similarity_function("euclidean", kernel_width=1000)
    lr_lime = Lime(resnet, interpretable_model=SkLearnLinearRegression(), similarity_func=exp_eucl_distance)
    maps = lr_lime.attribute(
        x, target=2, feature_mask=seg.unsqueeze(0), n_samples=40, perturbations_per_eval=16, show_progress=True
    ).squeeze(0)
    assert maps.shape == (3, 16, 16)

    embedding, fc = nn.EmbeddingBag(20, 6), nn.Linear(6, 4)

    def forward_func(text: Tensor, offsets: Tensor) -> Tensor:
        return F.softmax(fc(embedding(text.squeeze(0), offsets)), dim=1)

    def exp_embedding_cosine_distance(original_inp: Tensor, perturbed_inp: Tensor, _: Any, **kwargs: Any) -> Tensor:
        one, two = embedding(original_inp, None), embedding(perturbed_inp, None)
        return torch.exp(-1 * ((1 - F.cosine_similarity(one, two, dim=1)) ** 2) / 2)

    def bernoulli_perturb(text: Tensor, **kwargs: Any) -> Tensor:
        return torch.bernoulli(torch.ones_like(text) * 0.5).long()

    def interp_to_input(interp_sample: Tensor, original_input: Tensor, **kwargs: Any) -> Tensor:
        return original_input[interp_sample.bool()].view(original_input.size(0), -1)

    lasso_lime_base = LimeBase(
        forward_func,
        interpretable_model=SkLearnLasso(alpha=0.00008),
        similarity_func=exp_embedding_cosine_distance,
        perturb_func=bernoulli_perturb,
        perturb_interpretable_space=True,
        from_interp_rep_transform=interp_to_input,
        to_interp_rep_transform=None,
    )
    text = torch.tensor([[3, 4, 5, 6, 7, 8, 9]]).float().long()
    maps = lasso_lime_base.attribute(
        text, target=1, additional_forward_args=(torch.tensor([0]),), n_samples=30, show_progress=True
    ).squeeze(0)
    assert maps.shape == (7,)


@tutorial
def visual_questions() -> None:
    from captum.attr import LayerIntegratedGradients, TokenReferenceBase
    from captum.attr._utils.input_layer_wrapper import ModelInputWrapper

    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.text, self.fc = Picture(), nn.Module(), nn.Linear(11, 3)
            self.text.embedding = nn.Embedding(20, 6)

        def forward(self, v: Tensor, q: Tensor, q_len: Tensor) -> Tensor:
            words = self.text.embedding(q).sum(1) / q_len[:, None]
            return self.fc(torch.cat([self.see(v), words], 1))

    vqa = ModelInputWrapper(Answers().eval())
    reference = TokenReferenceBase(reference_token_idx=0)
    v, q, q_len = picture(), torch.tensor([[3, 4, 5]]), torch.tensor([3.0])
    ref = reference.generate_reference(3, device="cpu").unsqueeze(0)
    attr = LayerIntegratedGradients(vqa, [vqa.input_maps["v"], vqa.module.text.embedding])
    maps = attr.attribute(
        inputs=(v, q), baselines=(v * 0, ref), target=torch.tensor(1), additional_forward_args=q_len, n_steps=10
    )
    assert maps[0].shape == v.shape and maps[1].sum(dim=2).shape == (1, 3)


@tutorial
def language_model() -> None:
    from captum.attr import (
        FeatureAblation,
        LayerIntegratedGradients,
        LLMAttribution,
        LLMGradientAttribution,
        ProductBaselines,
        ShapleyValueSampling,
        TextTemplateInput,
        TextTokenInput,
    )
    from transformers import GPT2Config, GPT2LMHeadModel

    words = ["<s>", "Dave", "Sarah", "lives", "in", "Palm", "Coast", "and", "is", "a", "lawyer", "plays", "golf", "."]

    class Tokenizer:
        def encode(self, text: str, return_tensors: Any = None, add_special_tokens: bool = True) -> Any:
            ids = [0] * add_special_tokens + [words.index(w) for w in text.split()]
            return torch.tensor([ids]) if return_tensors else ids

        def decode(self, ids: Any) -> str:
            return " ".join(words[int(i)] for i in ids)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [words[i] for i in ids]

        def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
            return [words.index(t) for t in tokens]

        def __call__(self, text: str, **kwargs: Any) -> dict[str, Any]:
            spans = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
            return {"input_ids": self.encode(text, None, False), "offset_mapping": spans}

    config = GPT2Config(vocab_size=len(words), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    model, tokenizer = GPT2LMHeadModel(config).eval(), Tokenizer()
    inp = TextTemplateInput(template="{} lives in {} and is a {}", values=["Dave", "Palm Coast", "lawyer"])
    llm_attr = LLMAttribution(FeatureAblation(model), tokenizer)
    found = llm_attr.attribute(inp, target="plays golf .", use_cached_outputs=False)
    found.plot_token_attr(show=True)
    found.plot_seq_attr(show=True)
    inp = TextTemplateInput(
        template="{name} lives in {city} and is a {job}",
        values={"name": "Dave", "city": "Palm Coast", "job": "lawyer"},
        baselines=ProductBaselines({("name", "city"): [("Sarah", "Coast"), ("Dave", "Palm")], "job": ["golf"]}),
        mask={"name": 0, "city": 0, "job": 1},
    )
    found = LLMAttribution(ShapleyValueSampling(model), tokenizer).attribute(
        inp, target="plays golf", num_trials=2, use_cached_outputs=False
    )
    assert found.seq_attr_dict.keys() == {"Dave", "Palm Coast", "lawyer"}
    lig = LayerIntegratedGradients(model, model.transformer.wte)
    text = TextTokenInput("Dave lives in Palm Coast", tokenizer, skip_tokens=[0])
    found = LLMGradientAttribution(lig, tokenizer).attribute(text, target="and is", n_steps=5)
    assert found.token_attr.shape == (2, 5)


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs_with_its_imports_changed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = textwrap.dedent(inspect.getsource(TUTORIALS[name])).replace("@tutorial\n", "")
    moved = re.sub(r"^(\s*from )captum\b", r"\1interp_plugins", source, flags=re.M)
    assert moved != source and "captum" not in moved
    torch.manual_seed(0)
    names = {**globals()}
    exec(compile(moved, f"<{name}>", "exec"), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpWarning)  # what a reader of the tutorial sees as well
        names[name]()
    plt.close("all")


def test_the_viewers_tutorial_runs_with_its_imports_changed() -> None:
    pytest.importorskip("anywidget")
    from interp_plugins.insights import AttributionVisualizer, Batch
    from interp_plugins.insights.attr_vis.features import ImageFeature

    def batches() -> Any:
        while True:
            yield Batch(inputs=torch.rand(2, 3, 16, 16), labels=torch.tensor([0, 3]))

    visualizer = AttributionVisualizer(
        models=[Picture().eval()],
        score_func=lambda o: nn.functional.softmax(o, 1),
        classes=["plane", "car", "bird", "cat", "deer"],
        features=[
            ImageFeature("Photo", baseline_transforms=[lambda x: x * 0], input_transforms=[lambda x: (x - 0.5) * 2])
        ],
        dataset=batches(),
    )
    assert visualizer is not None

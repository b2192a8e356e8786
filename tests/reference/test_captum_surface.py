"""Captum's whole surface: every public name, with its parameters; the helpers beside Captum's on the same data."""

from __future__ import annotations

import inspect
import random
from typing import Any

import captum.attr as theirs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import interp_plugins.attr as ours
from interp_plugins.core.errors import InterpWarning

NAMES = sorted(theirs.__all__)
INNER = {"attribute_future", "satisfies_attribute_criteria", "multiply_gradient_acts"}  # of no use to callers
DIFFERENT = {"visualization", "StatValue"}  # a module and a type


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, default and kind of the parameters that Captum's callers can use."""
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.name in ("self", "__", "_") or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        default = "function" if callable(p.default) and p.default is not p.empty else p.default
        found.append((p.name, default, p.kind))
    return found


def without_extras(mine: list[Any], captums: list[Any]) -> list[Any]:
    known = {name for name, _, _ in captums}
    return [p for p in mine if p[0] in known or p[2] is not inspect.Parameter.KEYWORD_ONLY]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_here_with_captums_parameters(name: str) -> None:
    assert name in vars(ours)["__all__"]
    mine, captums = getattr(ours, name), getattr(theirs, name)
    if name in DIFFERENT:
        return
    pairs = [(mine, captums)]
    for method, function in vars(captums).items() if inspect.isclass(captums) else ():
        if method.startswith("_") or method in INNER or not callable(function):
            continue
        if isinstance(inspect.getattr_static(captums, method), property):
            continue
        assert hasattr(mine, method), f"{name}.{method}"
        pairs.append((getattr(mine, method), getattr(captums, method)))
    for one, two in pairs:
        assert without_extras(parameters(one), parameters(two)) == parameters(two), one


def test_visualization_has_captums_functions() -> None:
    for name, function in vars(theirs.visualization).items():
        public = getattr(function, "__module__", "") == theirs.visualization.__name__ and not name.startswith("_")
        if not public:
            continue
        mine = getattr(ours.visualization, name)
        if inspect.isclass(function) and hasattr(function, "__members__"):
            assert dict(mine.__members__).keys() == dict(function.__members__).keys()
        else:
            assert parameters(mine) == parameters(function), name
    with pytest.raises(AttributeError, match="no attribute 'visualize_imag'"):
        ours.visualization.visualize_imag  # noqa: B018


class Later(nn.Module):
    """A model that answers by a future, as one on another machine would."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.asked = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), 0

    def forward(self, x: Tensor) -> Any:
        self.asked += 1
        answer: torch.futures.Future[Tensor] = torch.futures.Future()
        answer.set_result(self.net(x))
        return answer


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling", "ShapleyValues", "FeaturePermutation"])
def test_models_that_answer_later_agree(name: str) -> None:
    x, model = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), Later()
    known: dict[str, Any] = {"target": 1, "feature_mask": torch.tensor([[0, 0, 1, 2]])}
    found = []
    for lib in (ours, theirs):
        more = {"perm_func": lambda t, mask: torch.where(mask, t.flip(0), t)} if name == "FeaturePermutation" else {}
        torch.manual_seed(0)
        found.append(getattr(lib, name)(model, **more).attribute_future(x, **known).wait())
    assert torch.allclose(*found, atol=1e-6)
    if name != "FeaturePermutation":
        torch.manual_seed(0)
        assert torch.equal(getattr(ours, name)(model).attribute(x, **known), found[0])  # `attribute` waits as well
    assert model.asked > 2


@pytest.mark.parametrize("name", NAMES)
def test_methods_without_a_future_say_so(name: str) -> None:
    """Where Captum raises, so do we, but for methods that only evaluate the model: they have it here."""
    mine, captums = getattr(ours, name), getattr(theirs, name)
    if not hasattr(captums, "attribute_future"):
        return
    bare = mine.__new__(mine)
    if issubclass(mine, ours.PerturbationAttribution):
        assert mine.attribute_future is not ours.Attribution.attribute_future
        return
    with pytest.raises(NotImplementedError, match=f"not implemented for {name}: .*Use attribute"):
        bare.attribute_future()


# -- statistics ------------------------------------------------------------------------------------------------


def equal(mine: Any, captums: Any) -> bool:
    if isinstance(captums, dict):
        return mine.keys() == captums.keys() and all(equal(mine[k], captums[k]) for k in captums)
    if isinstance(captums, list):
        return len(mine) == len(captums) and all(map(equal, mine, captums))
    if isinstance(captums, Tensor):
        return mine.dtype == captums.dtype and torch.allclose(mine, captums, rtol=1e-6, atol=1e-7)
    return bool(mine == captums)


def every_stat(lib: Any) -> list[Any]:
    return [lib.Count(), lib.Mean(), lib.MSE(), lib.Var(), lib.Var(order=1), lib.StdDev(), lib.StdDev(order=1),
            lib.Min(), lib.Max(), lib.Sum(), lib.Mean("middle")]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("layout", ["tensor", "tuple", "float", "int"])
def test_summaries_agree(count: int, layout: str) -> None:
    g = torch.Generator().manual_seed(0)
    series: list[Any] = [torch.randn(3, 2, generator=g) for _ in range(count)]
    if layout == "tuple":
        series = [(x, x[0]) for x in series]
    elif layout == "float":
        series = [float(x[0, 0]) for x in series]
    elif layout == "int":
        series = [(x * 10).long() for x in series]
    found = []
    for lib in (ours, theirs):
        stats = every_stat(lib)[:-1]  # Captum takes equal statistics for one, whatever they are called
        if layout == "int":
            stats = (
                [s for s in stats if s.name not in ("mse", "sample_variance", "sample_std_dev")]
                if count == 1
                else stats
            )
        summarizer = lib.Summarizer(stats)
        assert summarizer.summary is None
        for x in series:
            summarizer.update(x)
        found.append(summarizer.summary)
    assert equal(*found)


def test_common_stats_and_classes_agree() -> None:
    x, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), [0, 1, 1, 2, 0, 1]
    found = []
    for lib in (ours, theirs):
        summarizer = lib.ClassSummarizer(lib.CommonStats())
        summarizer.update(x, labels)
        summarizer.update((x * 2,), 7)
        found.append((summarizer.class_summaries, summarizer.summary))
        with pytest.raises(AssertionError, match="batch size does not equal amount of labels"):
            summarizer.update(x, [1, 2])
    assert equal(found[0][0], found[1][0]) and equal(found[0][1], found[1][1])
    one = ours.Summarizer([ours.Mean()])
    one.update(x)
    with pytest.raises(AssertionError, match=r"began with 1 tensor\(s\); got tuple"):
        one.update((x,))


# -- data sets -------------------------------------------------------------------------------------------------


def loader(*tensors: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=4)


@pytest.mark.parametrize("per_pass", [1, 3, 100])
def test_metric_of_a_data_set_agrees(per_pass: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    x, extra = torch.randn(10, 5), torch.randn(10, 5)
    labels = net(x).argmax(1)

    def forward(a: Tensor, b: Tensor) -> Tensor:
        return net(a + 0.1 * b)

    def reduce(state: Any, output: Tensor, inputs: Any) -> Any:
        return (0 if state is None else state) + (output.argmax(1) == inputs[2]).sum()

    known: dict[str, Any] = {
        "input_roles": (0, 0, 2),
        "baselines": (0.0, torch.ones(1, 5)),
        "feature_mask": (torch.tensor([[0, 0, 1, 2, 2]]), torch.tensor([[3, 3, 3, 1, 1]])),
        "reduce": reduce,
        "to_metric": lambda total: total.float() / 10,
        "perturbations_per_pass": per_pass,
    }
    for shape in (True, False):
        mine, captums = (
            lib.DataLoaderAttribution(lib.FeatureAblation(forward)).attribute(
                loader(x, extra, labels), **known, return_input_shape=shape
            )
            for lib in (ours, theirs)
        )
        for a, b in zip(mine if shape else (mine,), captums if shape else (captums,)):
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-6)
    exact = ours.DataLoaderAttribution(ours.ShapleyValues(forward)).attribute(loader(x, extra, labels), **known)
    ends = [1.0, float((forward(x * 0, x * 0 + 1).argmax(1) == labels).float().mean())]
    total = exact[0][0, [0, 2, 3]].sum() + exact[1][0, 0]
    assert float(total) == pytest.approx(float((forward(x, extra).argmax(1) == labels).float().mean()) - ends[1])


def test_outputs_of_a_data_set_agree_where_nothing_is_reduced() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(4, 2), torch.randn(6, 4)
    mine, captums = (
        lib.DataLoaderAttribution(lib.FeatureAblation(net)).attribute(loader(x), return_input_shape=False)
        for lib in (ours, theirs)
    )
    assert torch.allclose(mine.reshape(captums.shape), captums, atol=1e-6)
    plain = DataLoader(x, batch_size=4)  # batches that are tensors, not lists
    alone = ours.DataLoaderAttribution(ours.FeatureAblation(net)).attribute(plain)
    assert isinstance(alone, Tensor) and torch.equal(alone, mine.reshape(alone.shape))


# -- interpretable inputs ----------------------------------------------------------------------------------------


def test_template_inputs_agree() -> None:
    values = {"who": "cat", "where": "mat", "what": "sat"}
    for more in (
        {},
        {"baselines": {"who": "dog", "where": "sofa", "what": "lay"}},
        {"mask": {"who": 0, "where": 0, "what": 1}, "baselines": {"who": "dog", "where": "sofa", "what": "lay"}},
    ):
        one, two = (lib.TextTemplateInput("a {who} {what} on a {where}", values, **more) for lib in (ours, theirs))
        assert one.n_itp_features == two.n_itp_features and one.values == two.values
        assert torch.equal(one.to_tensor(), two.to_tensor())
        for k in range(one.n_itp_features):
            row = torch.ones(1, one.n_itp_features)
            row[0, k] = 0
            assert one.to_model_input(row) == two.to_model_input(row)
        attr = torch.randn(2, one.n_itp_features)
        assert torch.equal(one.format_attr(attr), two.format_attr(attr))
        assert one.to_model_input() == "a cat sat on a mat"
    listed = [lib.TextTemplateInput(lambda *v: "-".join(v), ["a", "b"], ["x", "y"]) for lib in (ours, theirs)]
    row = torch.tensor([[0.0, 1.0]])
    assert listed[0].to_model_input(row) == listed[1].to_model_input(row) == "x-b"


def test_product_baselines_agree_under_one_seed() -> None:
    for values in ([["a", "b"], ["c", "d", "e"]], {"x": [1, 2], ("y", "z"): [(3, 4), (5, 6)]}):
        found = []
        for lib in (ours, theirs):
            random.seed(3)
            found.append([lib.ProductBaselines(values)() for _ in range(5)])
        assert found[0] == found[1]
        one, two = (ours.ProductBaselines(values, seed=1) for _ in range(2))
        assert [one() for _ in range(5)] == [two() for _ in range(5)]


def test_image_inputs_agree() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    mask = torch.arange(48).reshape(6, 8) // 16 * 5
    overlapping = [mask == 0, mask <= 5, mask == 10]
    for more in ({}, {"mask": mask}, {"mask_list": overlapping}):
        one, two = (
            lib.ImageMaskInput(Image.fromarray(pixels), **more, baseline=(9, 8, 7), processor_fn=np.asarray)
            for lib in (ours, theirs)
        )
        assert one.values == two.values and one.mask_id_to_idx == two.mask_id_to_idx
        row = torch.ones(1, one.n_itp_features)
        row[0, -1] = 0
        assert np.array_equal(one.to_model_input(row), two.to_model_input(row))
        assert np.array_equal(one.to_model_input(), two.to_model_input())
        attr = torch.randn(2, one.n_itp_features)
        assert torch.allclose(one.format_pixel_attr(attr), two.format_pixel_attr(attr))
    with pytest.raises(AssertionError, match=r"mask shape \(2, 2\) must match image shape \(6, 8\)"):
        ours.ImageMaskInput(Image.fromarray(pixels), mask=torch.zeros(2, 2))


# -- embeddings ------------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.embedding = nn.Embedding(9, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, ids: Tensor, scale: float = 1.0) -> Tensor:
        return self.fc(self.body.embedding(ids).mean(1) * scale)


def test_embedding_is_swapped_and_put_back() -> None:
    model, ids = Words(), torch.tensor([[1, 2, 3]])
    before, names, expected = model.body.embedding, list(model.state_dict()), model(ids)
    with pytest.warns(InterpWarning, match="'body.embedding' now takes vectors instead of ids"):
        layer = ours.configure_interpretable_embedding_layer(model, "body.embedding")
    vectors = layer.indices_to_embeddings(ids)
    assert torch.equal(model(vectors), expected) and layer.embedding_dim == 4
    with pytest.raises(AssertionError, match=r"has already been configured for layer body\.embedding"):
        ours.configure_interpretable_embedding_layer(model, "body.embedding")
    ours.remove_interpretable_embedding_layer(model, layer)
    assert model.body.embedding is before and list(model.state_dict()) == names
    ours.remove_interpretable_embedding_layer(model, layer)  # twice does no harm
    model.body.embedding = nn.Identity()
    with pytest.raises(AssertionError, match="is Identity, not the interpretable layer of this call"):
        ours.remove_interpretable_embedding_layer(model, layer)
    model.body.embedding = before
    with pytest.raises(ZeroDivisionError), ours.interpretable_embedding_layer(model, "body.embedding"):
        1 / 0  # noqa: B018
    assert model.body.embedding is before
    with pytest.raises(AssertionError, match=r"No layer named 'body\.embeding'\. Did you mean 'body\.embedding'"):
        ours.configure_interpretable_embedding_layer(model, "body.embeding")
    reference = ours.TokenReferenceBase(5).generate_reference(3, torch.device("cpu"))
    assert torch.equal(reference, theirs.TokenReferenceBase(5).generate_reference(3, torch.device("cpu")))


def test_arguments_become_layers() -> None:
    model = nn.Bilinear(3, 3, 1)
    wrapper = ours.ModelInputWrapper(model)
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(wrapper(a, b), model(a, b)) and torch.equal(wrapper(a, input2=b), model(a, b))
    found = ours.LayerIntegratedGradients(wrapper, wrapper.input_maps["input2"]).attribute((a, b), target=0)
    plain = ours.IntegratedGradients(model).attribute((a, b), (a, torch.zeros_like(b)), target=0)[1]
    assert found.shape == b.shape and bool(torch.isfinite(plain).all())

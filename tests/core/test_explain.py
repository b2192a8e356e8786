"""explain(): whatever the user names becomes an Explanation with the right target, scores and deltas."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import interp_plugins
from interp_plugins import Explanation, Explanations, InputSpec, explain
from interp_plugins.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Occlusion, Saliency
from interp_plugins.core.errors import ConvergenceWarning, InputError, InputTypeError, ModelError, TargetError
from interp_plugins.core.layers import Layer
from interp_plugins.core.region import Region
from interp_plugins.core.target import Contrast, Index, Probability


class Net(nn.Module):
    """A classifier of small pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Linear(64, 3)

    def forward(self, x: Tensor, shift: Any = 0.0) -> Tensor:
        return self.fc(self.act(self.conv(x)).flatten(1)) + shift


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


SPEC = InputSpec("image", vocab=("beagle", "Tabby", "pug"))


# -- methods ---------------------------------------------------------------------------------------------------


def test_default_is_three_methods_for_the_predicted_class(net: Net, x: Tensor) -> None:
    exps = explain(net, x)
    assert isinstance(exps, Explanations)
    assert exps.methods == ["integrated_gradients", "noise_tunnel", "occlusion"]
    predicted = tuple(net(x).argmax(1).tolist())
    for exp in exps:
        assert isinstance(exp, Explanation) and exp.target == exp.prediction == predicted
        assert exp.attribution.shape == x.shape and not exp.attribution.requires_grad


@pytest.mark.parametrize(
    "methods",
    ["ig", "IG", "Integrated-Gradients", ["integrated_gradients"], ("IntegratedGradients",), {"ig": None}, {"ig": {}}],
)
def test_method_may_be_named_in_any_way(net: Net, x: Tensor, methods: Any) -> None:
    exps = explain(net, x, methods)
    assert exps.methods == ["integrated_gradients"]
    assert exps["ig"] is exps["IntegratedGradients"] is exps[0] is exps["Integrated Gradients"]


def test_object_is_run_as_it_is(net: Net, x: Tensor) -> None:
    exps = explain(net, x, [IntegratedGradients(net, multiply_by_inputs=False), Saliency(net)], target=1, n_steps=5)
    assert exps.methods == ["integrated_gradients", "saliency"]
    expected = IntegratedGradients(net, multiply_by_inputs=False).attribute(x, target=1, n_steps=5)
    assert torch.allclose(exps[0].attribution, expected)


@pytest.mark.parametrize("cls", ["IntegratedGradients", "Saliency", "DeepLift", "GradientShap"])
def test_captums_objects_work(net: Net, x: Tensor, cls: str) -> None:
    exp = explain(net, x[:1], getattr(captum.attr, cls)(net), target=1)[0]
    assert exp.method == cls and exp.target == (1,) and exp.attribution.shape == x[:1].shape
    if cls == "IntegratedGradients":
        assert torch.allclose(exp.attribution, explain(net, x[:1], "ig", target=1)[0].attribution, atol=1e-6)
        assert exp.relative_delta is not None and exp.relative_delta.max() < 1e-3


def test_captums_noise_tunnel_works(net: Net, x: Tensor) -> None:
    nt = captum.attr.NoiseTunnel(captum.attr.Saliency(net))
    assert explain(net, x, nt, nt_samples=2, stdevs=0.1)[0].attribution.shape == x.shape


class Mine:
    """A method of the user's own."""

    def attribute(self, inputs: Tensor, target: Any = None, strength: float = 1.0) -> Tensor:
        return inputs * strength


def test_users_own_class_works(net: Net, x: Tensor) -> None:
    exp = explain(net, x, Mine(), strength=2.0)[0]
    assert exp.method == exp.title == "Mine" and torch.equal(exp.attribution, x * 2) and exp.params == {"strength": 2.0}


def test_users_own_class_that_returns_something_else_is_refused(net: Net, x: Tensor) -> None:
    with pytest.raises(InputError, match=r"returned a ndarray; expected a tensor or tuple"):
        explain(net, x, SimpleNamespace(attribute=lambda inputs, target=None: np.zeros(3)))


def test_mapping_gives_each_method_its_parameters(net: Net, x: Tensor) -> None:
    exps = explain(
        net, x, {"ig": {"n_steps": 7}, "occlusion": {"sliding_window_shapes": (3, 2, 2), "strides": (3, 2, 2)}}
    )
    assert exps["ig"].params["n_steps"] == 7
    assert exps["occlusion"].params["sliding_window_shapes"] == (3, 2, 2)
    assert exps["occlusion"].meta["forward_passes"] == 3 * 4  # the clean pass is the prediction's


def test_parameters_go_to_those_that_take_them(net: Net, x: Tensor) -> None:
    exps = explain(net, x, ("ig", "occlusion", "nt"), n_steps=4, nt_samples=2)
    assert exps["ig"].params["n_steps"] == exps["nt"].params["n_steps"] == 4
    assert "n_steps" not in exps["occlusion"].params
    assert exps["nt"].params["nt_samples"] == 2


@pytest.mark.parametrize(
    ("methods", "wrong", "says"),
    [
        (("ig", "occlusion"), {"n_stepz": 4}, "unexpected keyword argument 'n_stepz'. Did you mean 'n_steps'"),
        ({"occlusion": {"strid": 2}}, {}, "occlusion has no parameter 'strid'. Did you mean 'strides'"),
        ("saliency", {"n_steps": 4}, "unexpected keyword argument 'n_steps'"),
        ({"ig": 5}, {}, "must be a mapping of parameters, got int 5"),
        (5, {}, "methods must be a name, a method object"),
        ([5], {}, "A method must be a name or an object with `attribute`"),
    ],
)
def test_parameters_and_methods_that_nobody_takes_are_refused(
    net: Net, x: Tensor, methods: Any, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError) as caught:
        explain(net, x, methods, **wrong)
    assert says in str(caught.value) and isinstance(caught.value, InputTypeError)


# -- targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "indices"),
    [
        (2, (2, 2, 2)),
        (-1, (2, 2, 2)),
        (np.int64(1), (1, 1, 1)),
        (torch.tensor([2, 0, 1]), (2, 0, 1)),
        (np.array([2, 0, 1]), (2, 0, 1)),
        (torch.tensor([-1, 0, 1]), (2, 0, 1)),
        ("pug", (2, 2, 2)),
        ("TABBY", (1, 1, 1)),
        (np.str_("pug"), (2, 2, 2)),
        (("label", "pug"), (2, 2, 2)),
        ((1,), (1, 1, 1)),
    ],
    ids=repr,
)
def test_target_becomes_an_index_and_a_name_per_sample(
    net: Net, x: Tensor, target: Any, indices: tuple[int, ...]
) -> None:
    exp = explain(net, x, "saliency", target=target, input_spec=SPEC)[0]
    assert exp.target == indices
    assert exp.target_label == tuple(SPEC.vocab[i] for i in indices)
    out = net(x).detach()
    rows = torch.arange(3)
    assert torch.allclose(exp.score, out[rows, list(indices)])
    assert torch.allclose(exp.probability.double(), out.softmax(1)[rows, list(indices)], atol=1e-6)


def test_bool_label_is_looked_up_by_type() -> None:
    model = nn.Linear(2, 2)
    spec = InputSpec(vocab=(False, True))
    x = torch.randn(2, 2)
    assert explain(model, x, "saliency", target=True, input_spec=spec)[0].target == (1, 1)
    assert explain(model, x, "saliency", target=False, input_spec=spec)[0].target_label == (False, False)
    assert explain(model, x, "saliency", target=1, input_spec=InputSpec(vocab=(1, 0)))[0].target == (1, 1)
    assert explain(model, x, "saliency", target=("label", 1), input_spec=InputSpec(vocab=(1, 0)))[0].target == (0, 0)


def test_list_gives_several_explanations(net: Net, x: Tensor) -> None:
    exps = explain(net, x, ("saliency", "ixg"), target=[0, "pug", None], input_spec=SPEC)
    assert exps.methods == ["saliency"] * 3 + ["input_x_gradient"] * 3
    predicted = tuple(net(x).argmax(1).tolist())
    assert [e.target for e in exps] == [(0,) * 3, (2,) * 3, predicted] * 2


@pytest.mark.parametrize(
    ("target", "expected", "text"),
    [
        (lambda out: out[:, 0] ** 2, lambda out: out[:, 0] ** 2, "<lambda>"),
        (Contrast(Index((1,)), Index((0,))), lambda out: out[:, 1] - out[:, 0], "1 rather than 0"),
        (Probability(Index((1,))), lambda out: out.softmax(1)[:, 1], "p(1)"),
    ],
    ids=["function", "contrast", "probability"],
)
def test_functions_and_target_objects_are_explained(net: Net, x: Tensor, target: Any, expected: Any, text: str) -> None:
    exp = explain(net, x, "ig", target=target, n_steps=30)[0]
    assert torch.allclose(exp.score, expected(net(x)).detach())
    assert exp.target is None and exp.probability is None and exp.target_label == (text,) * 3
    difference = (expected(net(x)) - expected(net(x * 0))).detach()
    assert torch.allclose(exp.attribution.flatten(1).sum(1), difference, atol=1e-6)
    assert exp.relative_delta.max() < 1e-5


def test_region_of_a_segmentation_is_explained(x: Tensor) -> None:
    model = nn.Conv2d(3, 5, 1).double()
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[1, 2:] = mask[2, :, 1] = True
    exp = explain(model, x, "ixg", target=Region(2, mask))[0]
    assert torch.equal(exp.attribution != 0, mask[:, None].expand(3, 3, 4, 4))
    assert exp.target_label == ("region of class 2",) * 3


def test_tuple_target_of_a_dense_output(x: Tensor) -> None:
    model = nn.Conv2d(3, 5, 1).double()
    exp = explain(model, x, "ixg", target=(2, 1, 3))[0]
    assert torch.equal((exp.attribution != 0).nonzero()[:, 2:].unique(dim=0), torch.tensor([[1, 3]]))
    assert torch.allclose(exp.score, model(x)[:, 2, 1, 3].detach())


@pytest.mark.parametrize("methods", ["saliency", "occlusion"])
@pytest.mark.parametrize("target", [2, (2, slice(None), 1), lambda out: out[:, 0]])
def test_target_that_leaves_several_values_is_refused_before_any_work(x: Tensor, methods: str, target: Any) -> None:
    with pytest.raises(TargetError, match="one scalar per sample"):
        explain(nn.Conv2d(3, 5, 1).double(), x, methods, target=target)


def test_dense_output_has_no_default_target(x: Tensor) -> None:
    with pytest.raises(TargetError, match=r"No default target for an output of shape \(3, 5, 4, 4\).*Region"):
        explain(nn.Conv2d(3, 5, 1).double(), x, "saliency")


@pytest.mark.parametrize("last", [lambda y: y[:, 0], lambda y: y[:, :1], lambda y: y[:, :1, None]])
def test_single_output_needs_no_target(net: Net, x: Tensor, last: Any) -> None:
    exp = explain(lambda v: last(net(v)), x, "ig")[0]
    assert exp.target is None and exp.target_label == ("output",) * 3 and exp.prediction is None
    assert torch.allclose(exp.score, net(x)[:, 0].detach())


# -- outputs and arguments -------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "logits state")


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda y: {"logits": y, "loss": 3}, "logits"),
        (lambda y: (None, y), 1),
        (lambda y: [y], 0),
        (lambda y: Pair(y, None), "logits"),
        (lambda y: Pair(y, None), 0),
        (lambda y: SimpleNamespace(logits=y), "logits"),
        (lambda y: {"a": {"b": y}}, lambda out: out["a"]["b"]),
        (lambda y: y, lambda out: out * 1),
    ],
)
def test_part_of_the_output_is_selected(net: Net, x: Tensor, wrap: Any, output: Any) -> None:
    for method in ("saliency", "occlusion", "grad_cam"):
        exp = explain(lambda v: wrap(net(v)), x, method, output=output, target=1)[0]
        assert torch.allclose(exp.attribution, explain(net, x, method, target=1)[0].attribution)


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda y: {"logits": y}, "output='logits'"),
        (lambda y: (y, y), "output=0"),
        (lambda y: SimpleNamespace(a=1, logits=y), "output='logits'"),
        (lambda y: None, "return a tensor"),
    ],
)
def test_output_that_is_no_tensor_says_how_to_choose(net: Net, x: Tensor, wrap: Any, says: str) -> None:
    with pytest.raises(ModelError, match="The model returned a") as caught:
        explain(lambda v: wrap(net(v)), x, "saliency")
    assert says in str(caught.value)


def test_keyword_arguments_follow_their_samples(net: Net, x: Tensor) -> None:
    shift = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    for method in ("ig", "occlusion", "grad_cam", "neuron_gradient"):
        needs = {"neuron_selector": (0, 1, 1), "layer": "conv"} if method.startswith("neuron") else {}
        a = explain(net, x, method, target=1, forward_kwargs={"shift": shift}, batch_size=2, **needs)[0]
        b = explain(net, x, method, target=1, additional_forward_args=shift, **needs)[0]
        assert torch.allclose(a.attribution, b.attribution)
        assert torch.allclose(a.score, (net(x, shift)[:, 1]).detach()) and torch.equal(a.score, b.score)


def test_several_inputs_keep_their_layout() -> None:
    model = nn.Bilinear(3, 2, 4).double()
    xs = (torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
    exp = explain(model, xs, "ig", target=1, baselines=(0.5, xs[1] * 2))[0]
    assert [a.shape for a in exp.attributions] == [x.shape for x in xs] == [b.shape for b in exp.baselines]
    assert torch.allclose(exp.baseline_score, model(torch.full_like(xs[0], 0.5), xs[1] * 2)[:, 1].detach())


# -- layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv", Layer("conv"), lambda m: m.conv])
def test_layer_turns_a_method_into_its_layer_variant(net: Net, x: Tensor, layer: Any) -> None:
    exps = explain(net, x, ("ig", "grad_cam", "feature_ablation"), layer=layer, n_steps=4)
    assert exps.methods == ["layer_integrated_gradients", "grad_cam", "layer_feature_ablation"]
    assert [e.layer for e in exps] == ["conv"] * 3
    assert exps["ig"] is exps[0] and exps["feature_ablation"] is exps[2]
    assert exps[0].attribution.shape == (3, 4, 4, 4) and exps[1].attribution.shape == (3, 1, 4, 4)
    assert exps[1].attribution.min() >= 0


def test_noise_tunnel_at_a_layer(net: Net, x: Tensor) -> None:
    exp = explain(net, x, "nt", layer="conv", nt_samples=2, n_steps=3)[0]
    assert exp.attribution.shape == (3, 4, 4, 4) and exp.layer == "conv"


def test_default_layer_is_the_last_spatial_one(net: Net, x: Tensor) -> None:
    assert explain(net, x, "grad_cam")[0].layer == "act"
    assert explain(net, x, LayerGradCam(net, "conv"))[0].layer == "conv"


def test_methods_without_a_layer_variant_say_so(net: Net, x: Tensor) -> None:
    with pytest.raises(InputError, match=r"'occlusion' explains the input and has no layer variant.*grad_cam"):
        explain(net, x, "occlusion", layer="conv")


# -- numbers ---------------------------------------------------------------------------------------------------


def test_scores_probabilities_and_deltas_are_the_models(net: Net, x: Tensor) -> None:
    exp = explain(net, x, "ig", target=1, baselines="mean", n_steps=3, method="riemann_left")[0]
    base = x.mean((2, 3), keepdim=True).expand_as(x)
    score, base_score = net(x)[:, 1].detach(), net(base)[:, 1].detach()
    assert torch.allclose(exp.baselines, base)
    assert torch.allclose(exp.score, score) and torch.allclose(exp.baseline_score, base_score)
    delta = exp.attribution.flatten(1).sum(1) - (score - base_score)
    assert torch.allclose(exp.convergence_delta, delta)
    assert torch.allclose(exp.relative_delta, delta.abs() / (score - base_score).abs())
    assert exp.prediction == tuple(net(x).argmax(1).tolist())


def test_outputs_that_are_probabilities_already_are_not_squashed_again(net: Net, x: Tensor) -> None:
    exp = explain(lambda v: net(v).softmax(1), x, "saliency", target=0)[0]
    assert torch.allclose(exp.probability.double(), net(x).softmax(1)[:, 0].detach(), atol=1e-6)
    exp = explain(net, x, "saliency", target=0, activation=torch.sigmoid)[0]
    assert torch.allclose(exp.probability.double(), net(x)[:, 0].sigmoid().detach(), atol=1e-6)


def test_result_does_not_depend_on_the_batch_size_or_the_global_seed(net: Net, x: Tensor) -> None:
    methods = ("ig", "nt", "occlusion", "gradient_shap")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = explain(net, x, methods, baselines="uniform", n_steps=4)
        torch.manual_seed(2)
        for a, b in zip(one, explain(net, x, methods, baselines="uniform", n_steps=4, batch_size=2)):
            assert torch.allclose(a.attribution, b.attribution, atol=1e-12), a.method
    other = explain(net, x, methods, baselines="uniform", n_steps=4, seed=1)
    assert not any(torch.allclose(a.attribution, b.attribution) for a, b in zip(one, other))


def test_feature_mask_groups_elements(net: Net, x: Tensor) -> None:
    exp = explain(net, x, "feature_ablation", target=0, feature_mask=torch.tensor([[[[0]], [[1]], [[1]]]]))[0]
    assert exp.attribution.flatten(2).std(2).max() < 1e-12
    assert torch.equal(exp.attribution[:, 1], exp.attribution[:, 2])
    assert torch.allclose(
        exp.attribution[:, 0, 0, 0], (net(x) - net(torch.cat([x[:, :1] * 0, x[:, 1:]], 1)))[:, 0].detach()
    )


def test_meta_says_what_was_done(net: Net, x: Tensor) -> None:
    exp = explain(net, x, "ig", n_steps=7)[0]
    assert exp.meta["backward_passes"] == 21 and exp.meta["forward_passes"] == 21 + 3  # F(x) is known
    assert exp.meta["versions"]["interp_plugins"] == interp_plugins.__version__
    assert exp.meta["model"] == "Net" and exp.seed == 0 and exp.seconds > 0
    same, changed = explain(net, x, "saliency")[0], Net().double()
    assert same.meta["fingerprint"] == exp.meta["fingerprint"] != explain(changed, x, "saliency")[0].meta["fingerprint"]


def test_tolerance_reports_what_it_reached_per_sample(net: Net, x: Tensor) -> None:
    exp = explain(net, x, "ig", tol=0.05)[0]
    reached = exp.meta["per_sample"]
    assert len(reached["map_error"]) == 3 and max(reached["map_error"]) <= 0.05
    assert sum(reached["n_gradients"]) == exp.meta["backward_passes"]
    assert exp[1].meta["per_sample"]["n_gradients"] == reached["n_gradients"][1:2]
    noisy = explain(net, x, "nt", tol=0.3)[0].meta["per_sample"]  # the tunnel's own tolerance, on its mean map
    assert set(noisy) == {"n_draws", "map_error"} and max(noisy["map_error"]) <= 0.3
    with pytest.warns(ConvergenceWarning):
        explain(net, x, "ig", tol=1e-9, max_steps=9)


def test_method_objects_are_methods(net: Net, x: Tensor) -> None:
    exp = explain(net, x, Occlusion(net), sliding_window_shapes=(3, 2, 2), target=1)[0]
    assert isinstance(exp, Explanation) and exp.method == "occlusion"
    assert explain(net, x, NoiseTunnel(Saliency(net)), nt_samples=2)[0].title == "SmoothGrad of Saliency"


def test_inputs_on_display_are_plain_copies(net: Net, x: Tensor) -> None:
    class Picture(Tensor):
        pass

    marked = x.clone().as_subclass(Picture).requires_grad_()
    exp = explain(net, marked, "saliency")[0]
    assert type(exp.inputs) is Tensor and type(exp.attribution) is Tensor and torch.equal(exp.inputs, x)
    assert exp.inputs.data_ptr() != marked.data_ptr()


@pytest.mark.parametrize("kind", ["sparse", "complex", "bool", "a part of another", "channels last", "half"])
def test_weights_of_every_kind_have_a_fingerprint(kind: str, net: Net, x: Tensor) -> None:
    table = torch.arange(48.0).reshape(2, 3, 2, 4)
    held = {
        "sparse": table[0, 0].to_sparse(),
        "complex": torch.view_as_complex(table.reshape(-1, 2)),
        "bool": table > 3,
        "a part of another": table.reshape(-1)[1:],
        "channels last": table.contiguous(memory_format=torch.channels_last),
        "half": table.half(),
    }[kind]
    net.register_buffer("held", held)
    first = explain(net, x, "saliency")[0].meta["fingerprint"]
    net.held = held.clone()
    assert explain(net, x, "saliency")[0].meta["fingerprint"] == first
    net.held = held.to_dense() * 0 if kind == "sparse" else torch.zeros_like(held)
    assert explain(net, x, "saliency")[0].meta["fingerprint"] != first

"""Bad input: the error's type, a text saying what came, what was expected and what to do, and nothing left changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import explain
from interp_plugins.attr import (
    FeatureAblation,
    GradientShap,
    IntegratedGradients,
    LayerActivation,
    LayerGradientShap,
    LayerIntegratedGradients,
    NeuronGradient,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from interp_plugins.core.errors import (
    InputError,
    InputTypeError,
    InterpError,
    InterpWarning,
    LayerError,
    ModelError,
    TargetError,
    UnknownNameError,
)
from interp_plugins.core.spec import InputSpec


class Net(nn.Module):
    """A classifier of four numbers, with a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.spare = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


@dataclass
class Bad:
    """A wrong call and what it has to say."""

    name: str
    call: Callable[[Net, Tensor], Any]
    error: type[InterpError]
    also: tuple[type[BaseException], ...]
    says: tuple[str, ...]


def with_nan(x: Tensor) -> Tensor:
    y = x.clone()
    y[1, 2] = float("nan")
    return y


ARGUMENT = (ValueError, AssertionError)
TYPE = (TypeError, AssertionError)
MODEL = (RuntimeError,)

TABLE = [
    # inputs
    Bad(
        "no batch dimension",
        lambda m, x: Saliency(m).attribute(torch.tensor(1.0), target=0),
        InputError,
        ARGUMENT,
        ("inputs[0] is a 0-d tensor", "first dimension must be the batch", "x[None]"),
    ),
    Bad(
        "list as inputs",
        lambda m, x: Saliency(m).attribute([x], target=0),
        InputTypeError,
        TYPE,
        ("`inputs` must be a torch.Tensor or a tuple[torch.Tensor] but found: list of 1 (Tensor)", "Give a tensor"),
    ),
    Bad(
        "dict as inputs",
        lambda m, x: Saliency(m).attribute({"x": x}, target=0),
        InputTypeError,
        TYPE,
        ("found: dict with keys ['x']",),
    ),
    Bad(
        "dict without names",
        lambda m, x: explain(m, {3: x}, "saliency"),
        InputError,
        ARGUMENT,
        ("must be a dict name -> tensor", "got dict with keys [3]"),
    ),
    Bad(
        "number inside the tuple",
        lambda m, x: Saliency(m).attribute((x, 3), target=0),
        InputTypeError,
        TYPE,
        ("inputs[1] must be a torch.Tensor but found: int 3", "additional_forward_args"),
    ),
    Bad(
        "empty tuple",
        lambda m, x: Saliency(m).attribute((), target=0),
        InputError,
        ARGUMENT,
        ("empty tuple", "at least one tensor"),
    ),
    Bad(
        "integer input to a gradient method",
        lambda m, x: IntegratedGradients(m).attribute(x.long(), target=0),
        InputTypeError,
        TYPE,
        ("inputs[0] is int64", "x.float()", "embedding", "additional_forward_args"),
    ),
    Bad(
        "integer input to a random layer method",
        lambda m, x: LayerGradientShap(m, "fc1").attribute(x.long(), x.long(), target=0),
        InputTypeError,
        TYPE,
        ("inputs[0] is int64", "embedding"),
    ),
    Bad(
        "empty batch",
        lambda m, x: Saliency(m).attribute(x[:0], target=0),
        InputError,
        ARGUMENT,
        ("inputs[0] has an empty batch: shape (0, 4)", "at least one sample"),
    ),
    Bad(
        "batches that differ",
        lambda m, x: Saliency(m).attribute((x, x[:2]), target=0),
        InputError,
        ARGUMENT,
        ("inputs[1] has 2 samples (shape (2, 4)), inputs[0] has 3", "same batch"),
    ),
    Bad(
        "NaN in the input",
        lambda m, x: Saliency(m).attribute(with_nan(x), target=0),
        InputError,
        ARGUMENT,
        ("inputs[0] of shape (3, 4) contains NaN in sample(s) [1]", "nan_to_num"),
    ),
    # targets
    Bad(
        "target out of range",
        lambda m, x: Saliency(m).attribute(x, target=3),
        TargetError,
        (*ARGUMENT, IndexError),
        ("Target index 3 is out of range", "(3, 3)", "0 to 2"),
    ),
    Bad(
        "one target of a list out of range",
        lambda m, x: Saliency(m).attribute(x, target=[0, 7, 1]),
        TargetError,
        (*ARGUMENT, IndexError),
        ("Target index 7 is out of range", "0 to 2"),
    ),
    Bad(
        "target out of range in explain",
        lambda m, x: explain(m, x, "occlusion", target=9),
        TargetError,
        (*ARGUMENT, IndexError),
        ("Target index 9 is out of range", "0 to 2"),
    ),
    Bad(
        "too many targets",
        lambda m, x: Saliency(m).attribute(x, target=[0, 1]),
        TargetError,
        ARGUMENT,
        ("Target list length does not match output", "2 targets came for 3 samples"),
    ),
    Bad(
        "too many indices",
        lambda m, x: Saliency(m).attribute(x, target=(0, 1)),
        TargetError,
        ARGUMENT,
        ("Cannot choose target column with output shape (3, 3)", "2 indices", "one index"),
    ),
    Bad(
        "index for a scalar output",
        lambda m, x: Saliency(lambda v: m(v)[:, 0]).attribute(x, target=0),
        TargetError,
        ARGUMENT,
        ("output shape (3,)", "target=None"),
    ),
    Bad(
        "float target",
        lambda m, x: Saliency(m).attribute(x, target=torch.ones(3)),
        TargetError,
        ARGUMENT,
        ("integer indices", "float32"),
    ),
    Bad(
        "text target",
        lambda m, x: Saliency(m).attribute(x, target="cat"),
        TargetError,
        ARGUMENT,
        ("'cat'", "is not valid", "Use an int"),
    ),
    Bad(
        "missing target",
        lambda m, x: Saliency(m).attribute(x),
        InputError,
        ARGUMENT,
        (
            "Target not provided when necessary, cannot take gradient with respect to multiple outputs",
            "3 values per example",
            "class index",
        ),
    ),
    Bad(
        "unknown label",
        lambda m, x: explain(m, x, "saliency", target="tabbi", input_spec=InputSpec(vocab=("beagle", "tabby", "pug"))),
        TargetError,
        ARGUMENT,
        ("Unknown label 'tabbi'", "Did you mean 'tabby'?", "3 classes"),
    ),
    Bad(
        "label without names",
        lambda m, x: explain(m, x, "saliency", target="tabby"),
        TargetError,
        ARGUMENT,
        ("no class names are known", "InputSpec(vocab="),
    ),
    Bad(
        "empty list of targets",
        lambda m, x: explain(m, x, "saliency", target=[]),
        TargetError,
        ARGUMENT,
        ("empty list", "None for the predicted class"),
    ),
    # names
    Bad(
        "unknown method",
        lambda m, x: explain(m, x, "integrated_gradient"),
        UnknownNameError,
        (*ARGUMENT, LookupError),
        ("Unknown method 'integrated_gradient'", "Did you mean 'integrated_gradients'", "Known:"),
    ),
    Bad("no method", lambda m, x: explain(m, x, ()), InputError, ARGUMENT, ("methods is empty", "saliency")),
    Bad(
        "unknown parameter",
        lambda m, x: explain(m, x, "ig", n_step=3),
        InputTypeError,
        TYPE,
        ("unexpected keyword argument 'n_step'", "Did you mean 'n_steps'", "integrated_gradients"),
    ),
    Bad(
        "unknown parameter in a mapping",
        lambda m, x: explain(m, x, {"ig": {"n_step": 3}}),
        InputTypeError,
        TYPE,
        ("integrated_gradients has no parameter 'n_step'", "Did you mean 'n_steps'"),
    ),
    Bad(
        "unknown rule",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, method="gauslegendre"),
        UnknownNameError,
        ARGUMENT,
        ("Unknown integration method 'gauslegendre'", "Did you mean 'gausslegendre'?"),
    ),
    Bad(
        "unknown baseline",
        lambda m, x: explain(m, x, "ig", baselines="blak"),
        UnknownNameError,
        ARGUMENT,
        ("Unknown baseline 'blak'", "Did you mean 'black'?"),
    ),
    Bad(
        "unknown layer",
        lambda m, x: LayerActivation(m, "fc3").attribute(x),
        LayerError,
        (RuntimeError, AssertionError),
        ("No layer named 'fc3'", "Did you mean", "'fc2'", "dict(model.named_modules())"),
    ),
    Bad(
        "layer that does not run",
        lambda m, x: LayerActivation(m, m.spare).attribute(x),
        LayerError,
        (RuntimeError, AssertionError),
        ("Forward hook did not obtain any outputs", "'spare'", "did not run"),
    ),
    Bad(
        "number as layer",
        lambda m, x: LayerActivation(m, 3).attribute(x),
        LayerError,
        (RuntimeError, AssertionError),
        ("A layer must be an nn.Module or its dotted name", "int 3"),
    ),
    Bad(
        "unknown kind of noise",
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, nt_type="smoothgrad_q", target=0),
        UnknownNameError,
        ARGUMENT,
        ("Unknown nt_type", "Did you mean", "'smoothgrad_sq'"),
    ),
    # baselines, masks, windows
    Bad(
        "baseline of wrong shape",
        lambda m, x: IntegratedGradients(m).attribute(x, torch.zeros(3, 5), target=0),
        InputError,
        ARGUMENT,
        ("baselines[0] has shape (3, 5), the input (3, 4)", "expected (3, 4), (1, 4) or what broadcasts"),
    ),
    Bad(
        "one baseline for two inputs",
        lambda m, x: IntegratedGradients(lambda a, b: m(a + b)).attribute((x, x), x, target=0),
        InputError,
        ARGUMENT,
        ("for 2 inputs", "one per input"),
    ),
    Bad(
        "baseline of wrong type",
        lambda m, x: IntegratedGradients(m).attribute(x, [0.0], target=0),
        InputTypeError,
        TYPE,
        ("baselines[0] must be None, a number, a tensor, a name", "list of 1 (float)"),
    ),
    Bad(
        "number as distribution",
        lambda m, x: GradientShap(m).attribute(x, 0, target=0),
        InputTypeError,
        TYPE,
        ("Baselines distribution has to be provided in a form of a torch.Tensor", "int 0", "(n_baselines, ...)"),
    ),
    Bad(
        "distribution of wrong shape",
        lambda m, x: GradientShap(m).attribute(x, x[0], target=0),
        InputError,
        ARGUMENT,
        ("baselines[0] has shape (4,)", "(n_baselines, 4)"),
    ),
    Bad(
        "feature mask of wrong shape",
        lambda m, x: FeatureAblation(m).attribute(x, target=0, feature_mask=torch.tensor([[0, 1, 2]])),
        InputError,
        ARGUMENT,
        ("feature_mask[0] of shape (1, 3)", "shape (3, 4)"),
    ),
    Bad(
        "feature mask of floats",
        lambda m, x: FeatureAblation(m).attribute(x, target=0, feature_mask=x),
        InputTypeError,
        TYPE,
        ("feature_mask[0] must be an integer tensor", "float32"),
    ),
    Bad(
        "feature masks for another number of inputs",
        lambda m, x: FeatureAblation(m).attribute(x, target=0, feature_mask=(x.long(), x.long())),
        InputError,
        ARGUMENT,
        ("feature_mask has 2 tensors for 1 inputs", "one per input"),
    ),
    Bad(
        "window larger than the input",
        lambda m, x: Occlusion(m).attribute(x, (5,), target=0),
        InputError,
        ARGUMENT,
        ("sliding_window_shapes[0] = (5,) does not fit the input of shape (3, 4)", "dimension 0", "no batch dimension"),
    ),
    Bad(
        "window with a batch dimension",
        lambda m, x: Occlusion(m).attribute(x, (1, 2), target=0),
        InputError,
        ARGUMENT,
        ("sliding_window_shapes[0] = (1, 2) must have 1 ints", "after the batch"),
    ),
    Bad(
        "window as a list",
        lambda m, x: Occlusion(m).attribute(x, [2], target=0),
        InputTypeError,
        TYPE,
        ("sliding_window_shapes must be a tuple", "(3, 15, 15)"),
    ),
    Bad(
        "stride larger than the window",
        lambda m, x: Occlusion(m).attribute(x, (2,), 3, target=0),
        InputError,
        ARGUMENT,
        ("Stride dimension 3 cannot be larger than sliding window shape dimension 2", "never be occluded"),
    ),
    Bad(
        "stride of zero",
        lambda m, x: Occlusion(m).attribute(x, (2,), 0, target=0),
        InputError,
        ARGUMENT,
        ("Stride dimension 0",),
    ),
    Bad(
        "strides of another length",
        lambda m, x: Occlusion(m).attribute(x, (2,), (1, 1), target=0),
        InputError,
        ARGUMENT,
        ("strides[0] = (1, 1) must have 1 entries",),
    ),
    Bad(
        "unknown border",
        lambda m, x: Occlusion(m).attribute(x, (2,), target=0, border="wrap"),
        InputError,
        ARGUMENT,
        ("border must be 'shift' or 'clip'", "'wrap'"),
    ),
    # numbers
    Bad(
        "no steps",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, n_steps=0),
        InputError,
        ARGUMENT,
        ("n_steps must be an int of at least 1", "got 0"),
    ),
    Bad(
        "one step of a trapezoid",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, n_steps=1, method="riemann_trapezoid"),
        InputError,
        ARGUMENT,
        ("n_steps must be an int of at least 2 for riemann_trapezoid",),
    ),
    Bad(
        "no draws",
        lambda m, x: GradientShap(m).attribute(x, x, 0, target=0),
        InputError,
        ARGUMENT,
        ("n_samples must be a positive int", "got 0"),
    ),
    Bad(
        "negative stdevs",
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, stdevs=-0.1, target=0),
        InputError,
        ARGUMENT,
        ("stdevs are standard deviations, finite and not negative", "-0.1"),
    ),
    Bad(
        "stdevs as text",
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, stdevs="0.1", target=0),
        InputTypeError,
        TYPE,
        ("stdevs must be type float", "str '0.1'"),
    ),
    Bad(
        "stdevs for another number of inputs",
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, stdevs=(0.1, 0.2), target=0),
        InputError,
        ARGUMENT,
        ("The number of input tensors in 1 must be equal to the number of stdevs values 2",),
    ),
    Bad(
        "batch size of zero",
        lambda m, x: explain(m, x, "ig", batch_size=0),
        InputError,
        ARGUMENT,
        ("batch_size must be a positive int or None", "got 0"),
    ),
    Bad(
        "chunk as text",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, internal_batch_size="8"),
        InputError,
        ARGUMENT,
        ("internal_batch_size must be a positive int", "'8'"),
    ),
    Bad(
        "tolerance of a whole",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, tol=1.5),
        InputError,
        ARGUMENT,
        ("tol must be a relative error between 0 and 1", "1.5"),
    ),
    Bad(
        "cap below the start",
        lambda m, x: IntegratedGradients(m).attribute(x, target=0, tol=0.1, max_steps=4),
        InputError,
        ARGUMENT,
        ("max_steps must be an int of at least 7", "got 4"),
    ),
    Bad(
        "seed and generator",
        lambda m, x: NoiseTunnel(Saliency(m)).attribute(x, target=0, seed=1, generator=torch.Generator()),
        InputError,
        ARGUMENT,
        ("seed or generator, not both",),
    ),
    # models
    Bad(
        "no callable",
        lambda m, x: Saliency(3),
        InputError,
        ARGUMENT,
        ("forward_func must be an nn.Module or a callable", "int 3"),
    ),
    Bad(
        "no method object",
        lambda m, x: NoiseTunnel(m),
        InputTypeError,
        TYPE,
        ("NoiseTunnel needs a method object", "NoiseTunnel(IntegratedGradients(model))"),
    ),
    Bad(
        "model that returns a dict",
        lambda m, x: explain(lambda v: {"logits": m(v)}, x, "saliency"),
        ModelError,
        MODEL,
        ("The model returned a dict with keys ['logits']", "output='logits'"),
    ),
    Bad(
        "model that returns a tuple",
        lambda m, x: Saliency(lambda v: (m(v), v)).attribute(x, target=0),
        ModelError,
        MODEL,
        ("The model returned a tuple of 2 (Tensor, Tensor)", "output=0"),
    ),
    Bad(
        "unknown part of the output",
        lambda m, x: explain(lambda v: {"logits": m(v)}, x, "ig", output="logit"),
        ModelError,
        MODEL,
        ("no part 'logit'", "Did you mean 'logits'?"),
    ),
    Bad(
        "NaN in the output",
        lambda m, x: Saliency(lambda v: m(v) / 0 * 0).attribute(x, target=0),
        ModelError,
        MODEL,
        ("The model returned NaN in 3 of 3 rows", "(3, 3)", "log of zero"),
    ),
    Bad(
        "detached score",
        lambda m, x: Saliency(lambda v: m(v).detach()).attribute(x, target=0),
        ModelError,
        MODEL,
        ("does not depend on the input through differentiable operations", "detaches", "perturbation method"),
    ),
    Bad(
        "score of something else",
        lambda m, x: Saliency(lambda v: (m.fc2.weight.sum() + v.detach() * 0).requires_grad_()).attribute(x, target=0),
        ModelError,
        MODEL,
        ("does not depend on", "input"),
    ),
    Bad(
        "merged batch",
        lambda m, x: Saliency(lambda v: m(v).sum(0)[:2]).attribute(x),
        ModelError,
        MODEL,
        ("output of shape (2,) for 3 rows", "The first dimension of the output must be the batch", "merges the batch"),
    ),
    Bad(
        "merged batch under several perturbations",
        lambda m, x: FeatureAblation(lambda v: m(v).sum()).attribute(x, perturbations_per_eval=2),
        InputError,
        ARGUMENT,
        ("When perturbations_per_eval > 1", "1st dim grow", "perturbations_per_eval=1"),
    ),
    Bad(
        "layer with the batch elsewhere",
        lambda m, x: LayerIntegratedGradients(Sequence(), "rnn").attribute(torch.randn(3, 5, 2), target=0),
        LayerError,
        (RuntimeError, AssertionError),
        ("first dimension is not the batch", "'rnn'"),
    ),
    Bad(
        "index into several tensors",
        lambda m, x: NeuronGradient(Sequence(), "rnn").attribute(torch.randn(3, 5, 2), 1),
        LayerError,
        (RuntimeError, AssertionError),
        ("layer with multiple tensors", "function of"),
    ),
    Bad(
        "list as neuron", lambda m, x: NeuronGradient(m, "fc1").attribute(x, [1]), InputError, ARGUMENT, ("1 targets",)
    ),
]


class Sequence(nn.Module):
    """A recurrent net with its batch in the middle inside."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x.transpose(0, 1))[0][-1])


@pytest.mark.parametrize("bad", TABLE, ids=lambda b: b.name)
def test_bad_input_is_refused_with_a_text_that_helps(bad: Bad) -> None:
    torch.manual_seed(0)
    model, x = Net().train(), torch.randn(3, 4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    clean = x.clone()
    with pytest.raises(bad.error) as caught:
        bad.call(model, x)
    for builtin in bad.also:
        assert isinstance(caught.value, builtin)
    for part in bad.says:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(x, clean) and not x.requires_grad


@pytest.mark.parametrize(
    "bad", [b for b in TABLE if issubclass(b.error, (InputError, InputTypeError))], ids=lambda b: b.name
)
def test_argument_errors_are_assertion_errors_too(bad: Bad) -> None:
    """Code written for Captum catches AssertionError."""
    with pytest.raises(AssertionError):
        bad.call(Net(), torch.randn(3, 4))


def test_error_inside_the_model_comes_through_as_it_is() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Saliency(broken).attribute(torch.randn(1, 2))


def test_unexpected_argument_is_a_type_error_or_told_where_captum_takes_it() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        IntegratedGradients(Net()).attribute(torch.randn(1, 4), target=0, nonsense=1)
    with pytest.warns(InterpWarning, match="no argument 'feature_masc': it is ignored.*Did you mean 'feature_mask'"):
        FeatureAblation(Net()).attribute(torch.randn(1, 4), target=0, feature_masc=1)

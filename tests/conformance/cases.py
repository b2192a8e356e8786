"""The table: small problems of every kind that a method can meet. It drives conformance, reference and state tests.

A row of `CASES` is a problem; `VARIANTS` are the registered methods (and NoiseTunnel around some of them). Arguments
are sent to a method by the names in its signature, so a newly registered method is tested without a word here, unless
it asks for an argument that `Problem.known` has no value for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import interp_plugins.attr as ours
from interp_plugins.api.binding import list_methods, method_info

# -- nets: tiny, each with one trait ---------------------------------------------------------------------------


class Mlp(nn.Module):
    """Two linear layers; `out` is the shape after the batch, () for one scalar per example."""

    def __init__(self, act: nn.Module, out: tuple[int, ...] = (3,)):
        super().__init__()
        self.out = out
        self.fc1, self.act, self.fc2 = nn.Linear(4, 5), act, nn.Linear(5, max(1, torch.Size(out).numel()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x))).reshape(x.shape[0], *self.out)


class Cnn(nn.Module):
    """Convolution, optional BatchNorm, activation, pooling, linear."""

    def __init__(self, act: nn.Module, norm: bool = False):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3) if norm else nn.Identity()
        self.act, self.pool, self.fc = act, nn.AvgPool2d(2), nn.Linear(12, 3)
        if norm:
            self.bn.running_mean.uniform_(-0.5, 0.5)
            self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.act(self.bn(self.conv(x)))).flatten(1))


class TwoInputs(nn.Module):
    """Two inputs and a weight per example, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act, self.fc = nn.Linear(3, 4), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        a = self.a(x)
        z = self.act(a * self.b(y) + a)
        return self.fc(z if weight is None else z * weight)


class Extras(nn.Module):
    """Uses further arguments: a batched tensor and a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x: Tensor, shift: Tensor, factor: float) -> Tensor:
        return self.fc2(self.act(self.fc1(x + shift)) * factor)


class Split(nn.Module):
    """A layer with two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x[:, :2] ** 2


class TwoOutputs(nn.Module):
    """A net around a layer with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.split, self.fc2 = nn.Linear(4, 5), Split(), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.cat(self.split(self.fc1(x)), 1))


class Tokens(nn.Module):
    """Token ids, an embedding, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.act, self.fc = nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.act(self.embed(ids)).mean(1))


class Block(nn.Module):
    """Attention over tokens: `nn.MultiheadAttention`, or fused attention."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.qkv = nn.Linear(6, 18) if fused else None
        self.attn = None if fused else nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, t: Tensor) -> Tensor:
        n = self.norm(t)
        if self.attn is not None:
            return t + self.attn(n, n, n, need_weights=False)[0]
        q, k, v = self.qkv(n).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        return t + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class TinyVit(nn.Module):
    """A class token and four patches through two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls = nn.Conv2d(2, 6, 2, 2), nn.Parameter(torch.randn(1, 1, 6))
        self.blocks, self.fc = nn.Sequential(Block(False), Block(True)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.embed(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.cls.expand(len(t), -1, -1), t], 1)
        return self.fc(self.blocks(t)[:, 0])


# -- the table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A row of the table; `build` makes the problem.

    Attributes:
        net: makes the model.
        shapes: shape of each input without the batch.
        target: as Captum takes it.
        baselines: number, None, or a function of the inputs (tuple) giving what Captum takes.
        args: function of the batch size giving `additional_forward_args`.
        layer: name of the layer, and whether its input is meant.
        neuron: selector.
        mask: function giving a feature mask.
        as_tuple: whether a single input is handed over as a tuple.
        ids: whether inputs are integers.
        block: whether the target leaves several values per example (perturbation methods take that).
        n: batch size.
        in_place_behind: the layer's output is changed in place by what follows (see docs/differences.md).
    """

    name: str
    net: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((4,),)
    target: Any = 1
    baselines: Any = None
    args: Callable[[int, torch.dtype], Any] | None = None
    layer: str = "act"
    to_input: bool = False
    neuron: Any = 1
    mask: Callable[[], Any] | None = None
    as_tuple: bool = False
    ids: bool = False
    block: bool = False
    n: int = 3
    in_place_behind: bool = False

    def build(self, dtype: torch.dtype = torch.float64) -> Problem:
        """Model, inputs and arguments, always with the same numbers (drawn in float64)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                model = self.net().to(dtype).eval()
                xs = tuple(
                    torch.randint(0, 7, (self.n, *s)) if self.ids else torch.randn(self.n, *s).to(dtype)
                    for s in self.shapes
                )
                baselines = self.baselines(xs) if callable(self.baselines) else self.baselines
                args = self.args(self.n, dtype) if self.args else None
            finally:
                torch.set_default_dtype(default)
        inputs = xs if self.as_tuple or len(xs) > 1 else xs[0]
        return Problem(self, model, inputs, baselines, args)


@dataclass
class Problem:
    """A built case, with the value of every argument that a method may ask for."""

    case: Case
    model: nn.Module
    inputs: Any
    baselines: Any
    args: Any
    sent: dict[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> nn.Module:
        return self.model.get_submodule(self.case.layer)

    @property
    def xs(self) -> tuple[Tensor, ...]:
        return self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)

    def pool(self) -> Any:
        """A distribution of baselines: four rows per input."""
        g = torch.Generator().manual_seed(11)
        shapes = [(4, *x.shape[1:]) for x in self.xs]
        rows = [
            torch.randint(0, 7, shape, generator=g)
            if self.case.ids
            else torch.randn(shape, generator=g, dtype=torch.float64).to(x.dtype)
            for shape, x in zip(shapes, self.xs)
        ]
        return tuple(rows) if isinstance(self.inputs, tuple) else rows[0]

    def thirds(self) -> Any:
        """A mask with at most three features per input."""
        masks = [torch.arange(x[0].numel()).reshape(1, *x.shape[1:]) * 3 // x[0].numel() for x in self.xs]
        masks = [m + 3 * i for i, m in enumerate(masks)]
        return tuple(masks) if isinstance(self.inputs, tuple) else masks[0]

    def known(self, distribution: bool) -> dict[str, Any]:
        windows = tuple(tuple(min(2, s) for s in x.shape[1:]) for x in self.xs)
        strides = tuple(tuple(max(1, w - 1) for w in window) for window in windows)
        many = len(self.xs) > 1
        return {
            "inputs": self.inputs,
            "target": self.case.target,
            "baselines": self.pool() if distribution else self.baselines,
            "additional_forward_args": self.args,
            "sliding_window_shapes": windows if many else windows[0],
            "strides": strides if many else strides[0],
            "neuron_selector": self.case.neuron,
            "attribute_to_layer_input": self.case.to_input,
            "attribute_to_neuron_input": self.case.to_input,
            "feature_mask": self.case.mask() if self.case.mask else None,
            "n_steps": 5,
            "n_samples": 3,
            "nt_samples": 3,
            "stdevs": tuple(0.1 * (i + 1) for i in range(len(self.xs))) if many else 0.1,
        }


def first(xs: tuple[Tensor, ...]) -> Tensor:
    return xs[0].flip(0) * 0.5


CASES = [
    Case("int", lambda: Mlp(nn.Tanh())),
    Case("list", lambda: Mlp(nn.ReLU()), target=[0, 2, 1], baselines=0.3, layer="fc1",
         mask=lambda: torch.tensor([[0, 0, 1, 3]])),
    Case("1-d tensor", lambda: Mlp(nn.ReLU()), target=torch.tensor([2, 0, 1]), baselines=first, layer="fc2",
         to_input=True),
    Case("0-d tensor", lambda: Mlp(nn.Softplus()), target=torch.tensor(2), baselines=lambda xs: xs[0][:1] * 0.5),
    Case("scalar", lambda: Mlp(nn.Tanh(), ()), target=None, baselines=-1),
    Case("column", lambda: Mlp(nn.Tanh(), (1,)), target=None, neuron=(2,)),
    Case("tuple", lambda: Mlp(nn.Tanh(), (2, 3)), target=(1, 2)),
    Case("list of tuples", lambda: Mlp(nn.ReLU(), (2, 3)), target=[(0, 0), (1, 2), (0, 1)]),
    Case("tuple with a slice", lambda: Mlp(nn.Tanh(), (2, 3)), target=(slice(1, 2), 0)),
    Case("block", lambda: Mlp(nn.Tanh(), (2, 3)), target=(slice(None), 0), block=True),
    Case("all outputs", lambda: Mlp(nn.Tanh()), target=None, block=True),
    Case("conv", lambda: Cnn(nn.ELU(), norm=True), ((2, 4, 4),), layer="bn", neuron=(1, 2, 3), baselines=first,
         mask=lambda: torch.arange(16).reshape(1, 1, 4, 4) // 4),
    Case("in-place ReLU", lambda: Cnn(nn.ReLU(inplace=True)), ((2, 4, 4),), neuron=(0, 1, 1)),
    Case("in-place ReLU behind the layer", lambda: Cnn(nn.ReLU(inplace=True)), ((2, 4, 4),), layer="conv",
         neuron=(0, 1, 1), in_place_behind=True),
    Case("layer input", lambda: Cnn(nn.Tanh()), ((2, 4, 4),), layer="pool", to_input=True, neuron=(2, 0, 0)),
    Case("two inputs", TwoInputs, ((3,), (2,)), baselines=lambda xs: (xs[0].flip(0), 0.5), neuron=(3,),
         mask=lambda: (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2]]))),
    Case("two inputs, tensor argument", TwoInputs, ((3,), (2,)), target=[2, 0, 1],
         args=lambda n, dtype: torch.linspace(0.5, 1.5, n)[:, None].to(dtype)),
    Case("tuple of arguments", Extras,
         args=lambda n, dtype: (torch.linspace(-1, 1, n)[:, None].expand(n, 4).to(dtype), 2.0)),
    Case("tuple of one input", lambda: Mlp(nn.Tanh()), as_tuple=True, baselines=lambda xs: (first(xs),)),
    Case("layer with two outputs", TwoOutputs, layer="split", neuron=lambda t: t[0][:, 1] + t[1][:, 0]),
    Case("token ids", Tokens, ((4,),), ids=True, layer="embed", neuron=(1, 2), baselines=0),
    Case("one sample", lambda: Mlp(nn.ReLU()), n=1, target=[2]),
]  # fmt: skip
# For methods about transformers and for maps of tokens, beside the table.
ATTENTION = Case("attention", TinyVit, ((2, 4, 4),), layer="blocks.1.norm", neuron=(0, 1))
BY_NAME = {case.name: case for case in (*CASES, ATTENTION)}

# -- methods ---------------------------------------------------------------------------------------------------

VARIANTS = [
    *list_methods(),
    "noise_tunnel/saliency",
    "noise_tunnel/gradient_shap",
    "noise_tunnel/occlusion",
    "noise_tunnel/layer_integrated_gradients",
    "noise_tunnel/neuron_gradient",
]


# Traits of methods that the table cannot read off a signature.
SHUFFLES = {"feature_permutation", "layer_feature_permutation"}  # over the batch: one sample cannot be shuffled
# (N, 1, ...) where the target leaves (N, 1)
KEEPS_SINGLE = {"shapley_value_sampling", "shapley_values", "rise", "sobol", "hsic", "owen"}
OUTPUTS_APART = {*KEEPS_SINGLE, "lime", "kernel_shap"}  # (N, K, ...), not (N * K, ...)
SOFT = {"sobol"}  # shows features in part, which ids refuse
FEW_FEATURES = {"shapley_values"}  # 2^d coalitions


MAPS = {"grad_cam_plus_plus", "x_grad_cam", "layer_cam", "hi_res_cam", "eigen_grad_cam", "eigen_cam", "score_cam",
        "ablation_cam", "finer_cam"}  # fmt: skip # (N, 1, *space), laid out by themselves
ONE_SCORE = {"score_cam", "ablation_cam"}  # perturb, but take one value per sample
COMPARES_CLASSES = {"finer_cam"}


AROUND = {name for name in list_methods() if method_info(name).traits.wraps}  # made of another method


def typical(variant: str) -> Case:
    """The case to look closer at: a small CNN, or a small transformer for methods about attention."""
    return ATTENTION if method_info(innermost(variant)).applies_to == "transformer" else BY_NAME["conv"]


def innermost(variant: str) -> str:
    """The method that does the work: NoiseTunnel's inner method, or the method itself."""
    name, _, inner = variant.partition("/")
    return inner or method_info(name).traits.inside or name


def make(variant: str, problem: Problem, lib: Any = ours, model: Any = None) -> Any:
    """The method object, from our classes or from those of the same names in another package."""
    name, _, _ = variant.partition("/")
    cls = method_info(name).cls if lib is ours else getattr(lib, method_info(name).cls.__name__)
    if name in AROUND:
        return cls(make(innermost(variant), problem, lib, model))
    func = problem.model if model is None else model
    return cls(func, problem.layer) if "layer" in inspect.signature(cls).parameters else cls(func)


def accepted(method: Any) -> dict[str, inspect.Parameter]:
    """Parameters of a method's `attribute`, with those of the method inside a NoiseTunnel."""
    inner = getattr(method, "attribution_method", None)
    own = inspect.signature(method.attribute).parameters
    return {**(accepted(inner) if inner is not None else {}), **own}


def arguments(variant: str, method: Any, problem: Problem) -> dict[str, Any]:
    """Keyword arguments for `method.attribute`, by the names it takes."""
    info = method_info(innermost(variant))
    known = problem.known(info.baselines == "distribution")
    parameters = accepted(method)
    for name, p in parameters.items():
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            assert name in known, f"{variant} requires {name!r}: give it a value in Problem.known"
    if innermost(variant) in FEW_FEATURES and known["feature_mask"] is None:
        known["feature_mask"] = problem.thirds()
    return {k: v for k, v in known.items() if k in parameters and v is not None}


def attribute(variant: str, problem: Problem, lib: Any = ours, model: Any = None, **more: Any) -> Any:
    """Run a method on a problem; `more` overrides and adds arguments."""
    method = make(variant, problem, lib, model)
    return method.attribute(**{**arguments(variant, method, problem), **more})


def applies(variant: str, case: Case) -> bool:
    """Whether the method can do this case by its documentation."""
    inner = innermost(variant)
    info = method_info(inner)
    if inner in SHUFFLES and case.n == 1:
        return False
    if case.block and (info.needs == "gradient" or inner in ONE_SCORE):
        return False
    outer = method_info(variant.partition("/")[0])
    if "image" in (info.applies_to, outer.applies_to) and [len(s) for s in case.shapes] != [3]:
        return False
    if info.applies_to == "transformer" and case is not ATTENTION:
        return False
    if case is ATTENTION and not (info.applies_to == "transformer" or inner in MAPS):
        return False
    if inner in COMPARES_CLASSES and case.name in ("scalar", "column", "tuple with a slice"):
        return False
    if inner == "guided_grad_cam" and case.name == "layer with two outputs":
        return False
    if case.ids and inner in SOFT:
        return False
    # Noise tunnel: maps of several outputs are example by example, not copy by copy.
    return not (case.block and variant.startswith("noise_tunnel"))


def pairs() -> list[tuple[str, Case]]:
    """Every method with every case that it can do."""
    return [(variant, case) for variant in VARIANTS for case in BY_NAME.values() if applies(variant, case)]


def label(value: Any) -> str | None:
    """Ids for parametrize."""
    return value.name if isinstance(value, Case) else str(value)


def leaves(result: Any) -> list[Tensor]:
    """All tensors of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in leaves(part)]


def distance(a: Any, b: Any) -> float:
    """Largest absolute difference of two results of one layout."""
    assert type(a) is type(b), f"{type(a).__name__} and {type(b).__name__}"
    first, second = leaves(a), leaves(b)
    assert [t.shape for t in first] == [t.shape for t in second]
    return max(float((s.detach().double() - t.detach().double()).abs().max()) for s, t in zip(first, second))

"""The climb: closed forms, rows that never meet, dead units, and a model that is left as it was."""

import copy
import signal
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_plugins import InputSpec, Layer, visualize
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning, LayerError, TargetError
from interp_plugins.core.global_random import rng_state
from interp_plugins.core.grid import Grid
from interp_plugins.optim import Objective, params
from interp_plugins.optim import objectives as o
from interp_plugins.optim.objective import Joined, Seen, SeenLayer


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """One score of a picture: <w, x> + b, behind a rectifier where asked."""

    def __init__(self, weight: Tensor, bias: float = 0.0, rectified: bool = False):
        super().__init__()
        self.weight, self.bias, self.act = nn.Parameter(weight), bias, nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act((x * self.weight).flatten(1).sum(1, keepdim=True) + self.bias)


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return net.to(dtype).eval()


X = torch.zeros(1, 3, 12, 12)
QUICK: dict[str, Any] = {"like": X, "steps": 6, "progress": False}
PLAIN: dict[str, Any] = {"param": "pixel", "colour": None, "transform": "none", "progress": False, "tol": None}


def test_a_linear_score_ends_at_its_bound() -> None:
    w = torch.randn(3, 5, 5, generator=gen())
    found = visualize(Linear(w), target=0, like=torch.zeros(1, 3, 5, 5), steps=500, **PLAIN)
    assert float(found.activation) > 0.99 * float(w.clamp(min=0).sum())
    assert torch.equal(found.images[0] > 0.5, w > 0)
    worst = visualize(Linear(w), target=0, like=torch.zeros(1, 3, 5, 5), steps=500, minimise=True, **PLAIN)
    assert float(worst.activation) < 0.99 * float(w.clamp(max=0).sum())


def test_a_quadratic_score_ends_at_its_maximum() -> None:
    w, centre, weight = torch.randn(1, 3, 4, generator=gen()).double(), 0.2, 2.0
    objective = o.logit(0) - o.l2(centre) * (weight / 2 * w.numel())
    found = visualize(
        Linear(w), objective=objective, like=torch.zeros(1, 1, 3, 4).double(), steps=900, lr=0.02, squash=None, **PLAIN
    )
    assert (found.images[0] - (centre + w / weight)).abs().max() < 1e-3


def test_a_neuron_moves_its_own_field_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False)).eval()
    found = visualize(net, "0", neuron=(1, 2, 3), like=torch.zeros(1, 3, 8, 9), init="grey", steps=150, **PLAIN)
    inside = torch.zeros(8, 9, dtype=torch.bool)
    inside[2:5, 3:6] = True
    assert torch.equal(found.images[0][:, ~inside], torch.full_like(found.images[0][:, ~inside], 0.5))
    assert torch.equal(found.images[0][:, 2:5, 3:6] > 0.5, net[0].weight[1] > 0)


@pytest.mark.parametrize("param", ["fft", "pixel", "maco"])
def test_a_picture_is_the_same_alone_in_a_batch_and_in_any_chunks(param: str) -> None:
    net = small(dtype=torch.float64)
    how = {"like": X.double(), "steps": 96, "param": param, "progress": False, "tol": 0.75, "min_steps": 64}
    together = visualize(net, "3", channel=[0, 3, 5, 6], **how)
    assert "converged" in together.state
    chunked = visualize(net, "3", channel=[0, 3, 5, 6], batch_size=3, **how)
    alone = visualize(net, "3", channel=5, **how)
    assert (together.images - chunked.images).abs().max() < 1e-6
    assert (together.images[2] - alone.images[0]).abs().max() < 1e-6
    assert together.state == chunked.state and together.state[2] == alone.state[0]
    other = visualize(net, "3", channel=5, seed=1, **how)
    assert (other.images[0] - alone.images[0]).abs().max() > 1e-3


def test_gradients_as_small_as_they_may_be_give_the_same_picture() -> None:
    found = []
    for scale in (1.0, 1e-9):
        net = small(dtype=torch.float64)
        with torch.no_grad():
            net[3].weight.mul_(scale)
            net[3].bias.mul_(scale)
        found.append(visualize(net, "3", channel=1, **{**QUICK, "like": X.double(), "steps": 24}).images)
    assert torch.equal(*found)


def test_probabilities_are_told() -> None:
    with pytest.warns(InterpWarning, match="without its last softmax"):
        visualize(nn.Sequential(small(), nn.Softmax(1)), target=1, **QUICK)


def test_rows_are_as_many_as_asked_for() -> None:
    found = visualize(small(), "3", channel=slice(1, 4), n=2, **QUICK)
    assert found.names[:3] == ("3:1 (1)", "3:1 (2)", "3:2 (1)") and found.unit == (0, 0, 1, 1, 2, 2)
    assert not torch.equal(found.images[0], found.images[1])
    everything = visualize(small(), "3", channel="all", snapshots=(1, 4), **QUICK)
    assert len(everything) == 8 and sorted(everything.films) == [1, 4] and everything.films[4].shape == (8, 3, 12, 12)
    assert repr(everything[2]).startswith("Visualization(3:2: 1 ran all steps; 12 x 12, fft; without data")
    assert everything.history.shape == (8, 6) and len(list(everything)) == 8
    assert visualize(small(), "3", direction=torch.eye(8)[:2], **QUICK).names == ("3:direction 0", "3:direction 1")
    assert visualize(small(), "3", neuron=[(1,), (2, 0, 1)], **QUICK).names == ("3:1@centre", "3:2@0,1")


def test_a_direction_along_an_axis_is_that_channel() -> None:
    net = small(dtype=torch.float64)
    how = {**QUICK, "like": X.double()}
    channel, direction = (
        visualize(net, "3", **{k: v}, **how) for k, v in (("channel", 2), ("direction", torch.eye(8)[2]))
    )
    assert (channel.images - direction.images).abs().max() < 1e-9


def test_a_unit_out_of_reach_is_woken_and_one_without_weights_is_dead() -> None:
    w = torch.rand(3, 8, 8, generator=gen()) + 0.5  # <w, x> is 96 at grey, 192 at most
    how = {"like": torch.zeros(1, 3, 8, 8), "steps": 400, **PLAIN}
    woken = visualize(Linear(w, bias=-0.8 * float(w.sum()), rectified=True), "act", channel=0, **how)
    assert woken.state == ("woken",) and float(woken.activation) > 0.98 * 0.2 * float(w.sum())
    for net in (Linear(0 * w, -1.0, True), Linear(w, -1e6, True)):
        dead = visualize(net, "act", channel=0, **{**how, "steps": 20})
        assert dead.state == ("dead",) and "dead" in repr(dead)
    both = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).eval()
    with torch.no_grad():
        both[0].weight[0], both[0].bias[0] = 1, 0
        both[0].weight[1], both[0].bias[1] = 0, -1
    mixed = visualize(both, "1", channel=[0, 1], **QUICK)
    assert mixed.state == ("steps", "dead")
    assert torch.equal(mixed.images[0], visualize(both, "1", channel=0, **QUICK).images[0])


def test_a_rectifier_in_place_behind_the_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)]
    nets = [nn.Sequential(parts[0], parts[1], nn.ReLU(inplace=i), parts[2]).double().eval() for i in (True, False)]
    objective = o.channel("1", 2) + 0.1 * o.channel("3", 0)  # two layers: the pass goes on behind the first
    found = [visualize(net, objective=objective, **{**QUICK, "like": X.double()}) for net in nets]
    assert torch.equal(found[0].images, found[1].images)


def test_behind_the_layer_nothing_runs() -> None:
    net, calls = small(), [0]
    net[5].register_forward_hook(lambda *a: calls.__setitem__(0, calls[0] + 1))
    visualize(net, "4", channel=1, **QUICK)  # the first call also asks whether rows feel each other
    calls[0] = 0
    early = visualize(net, "4", channel=1, **{**QUICK, "steps": 20})
    probes = calls[0]
    visualize(net, "4", channel=1, **{**QUICK, "steps": 50})
    assert calls[0] == 2 * probes  # what runs the whole net are the first looks alone
    full = visualize(net, objective=o.channel("4", 1) + 0 * o.logit(0), **{**QUICK, "steps": 20})
    assert torch.allclose(early.images, full.images, atol=1e-6)


def test_the_call_of_a_layer_can_be_chosen() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, int]]:
            return self.conv(torch.tanh(self.conv(x))), {"no": 1}

    torch.manual_seed(0)
    net = Twice().eval()
    first = visualize(net, Layer("conv", call=0), channel=1, **{**QUICK, "transform": "none"})
    with torch.no_grad():
        assert torch.allclose(net.conv(first.inputs)[:, 1].mean(), first.activation.float(), atol=1e-5)
    last = visualize(net, "conv", channel=1, **{**QUICK, "transform": "none"})
    with torch.no_grad():
        assert torch.allclose(net(last.inputs)[0][:, 1].mean(), last.activation.float(), atol=1e-5)


def test_the_model_gets_normalised_pictures() -> None:
    spec = InputSpec("image", mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), vocab=("a", "b", "c", "d"))
    found = visualize(small(), target="b", input_spec=spec, **QUICK)
    assert found.names == ("b",) and found.images.min() >= 0 and found.images.max() <= 1
    assert torch.allclose(found.inputs, spec.normalise(found.images), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(small()(found.inputs)[:, 1].double(), found.activation, atol=1e-5)
    wide = visualize(small(), "3", channel=0, input_spec=InputSpec("image", value_range=(0.0, 255.0)), **QUICK)
    assert 100 < wide.images.mean() < 155


@pytest.mark.parametrize("shape", [(1, 1, 12, 12), (1, 6, 12, 12), (1, 3, 30), (1, 7)])
def test_other_inputs_than_colour_pictures(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = {4: nn.Conv2d, 3: nn.Conv1d}.get(len(shape))
    net = nn.Sequential(layer(shape[1], 4, 3) if layer else nn.Linear(7, 4), nn.ReLU()).eval()
    found = visualize(net, "1", channel=2, data=torch.rand(20, *shape[1:], generator=gen()), steps=30, progress=False)
    assert found.images.shape == shape and float(found.activation) > 0
    assert found.examples is not None and found.examples.index.shape == (1, 9)
    if len(shape) == 2:
        assert found.images.min() >= -0.01 and found.images.max() <= 1.01 and "ratio" in found.scores


def test_further_inputs_stay_as_in_the_example() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Linear(2, 4)

        def forward(self, x: Tensor, code: Tensor) -> Tensor:
            return (self.conv(x) * self.gate(code)[:, :, None, None]).mean((2, 3))

    torch.manual_seed(0)
    net, code = Pair().eval(), torch.tensor([[1.0, -2.0]])
    found = visualize(net, target=1, like=(X, code), steps=6, progress=False)
    with torch.no_grad():
        assert torch.allclose(net(found.inputs, code)[:, 1].double(), found.activation, atol=1e-5)


class Attention(nn.Module):
    """Tokens with a class token in front, as ViT has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.ones(1, 1, 8))
        self.mix, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))[:, 0])


def test_tokens_are_places_and_the_class_token_is_asked_for_by_name() -> None:
    torch.manual_seed(0)
    net = Attention().eval()
    found = visualize(net, "mix", channel=3, size=16, **QUICK)
    assert found.images.shape == (1, 3, 16, 16) and found.inputs.shape == (1, 3, 12, 12)
    with torch.no_grad():
        tokens = net.mix(torch.cat([net.cls, net.patch(found.inputs).flatten(2).transpose(1, 2)], 1))
    assert torch.allclose(tokens[:, 1:, 3].mean(1).double(), found.activation, atol=1e-5)
    own = visualize(net, "mix", channel=3, token="cls", **QUICK)
    assert own.names == ("mix:3@cls",) and own.activation != found.activation


def test_one_layer_of_numbers_for_the_algebra() -> None:
    a, b = (torch.randn(2, 3, 4, 4, generator=gen(s)) for s in (1, 2))
    seen = Seen({"a": SeenLayer(a, Grid("first", (4, 4))), "b": SeenLayer(b, Grid("first", (4, 4)))}, a)
    one, two = o.channel("a", 1), o.channel("b", 2)
    x, y = a[:, 1].mean((1, 2)), b[:, 2].mean((1, 2))
    for found, want in (
        ((one + 2 * two - 1) / 2, (x + 2 * y - 1) / 2),
        (-one * two, -x * y),
        (1 - one, 1 - x),
        (2 / one, 2 / x),
        (sum([one, two]), x + y),
        (o.weighted({one: 2.0, two: -1.0}), 2 * x - y),
        (o.neuron("a", 1), a[:, 1, 2, 2]),
        (o.neuron("a", 1, 3, 0), a[:, 1, 3, 0]),
        (o.layer("a"), a.mean((1, 2, 3))),
        (o.deepdream("a"), a.square().mean((1, 2, 3))),
        (o.dot("a", b[:1]), (a * b[:1]).sum((1, 2, 3))),
        (o.match("a", a[:1]), -(a - a[:1]).square().sum((1, 2, 3)) / a[0].square().sum()),
        (o.tv(), a.diff(dim=2).abs().mean((1, 2, 3)) + a.diff(dim=3).abs().mean((1, 2, 3))),
        (o.l1(0.5), (a - 0.5).abs().mean((1, 2, 3))),
        (o.custom(["b"], lambda s, p: s["b"].amax((1, 2, 3))), b.amax((1, 2, 3))),
    ):
        assert isinstance(found, Objective) and torch.allclose(found(seen), want, atol=1e-6)
    v = torch.tensor([1.0, -1.0, 2.0])
    along = torch.einsum("nchw,c->nhw", a, v)
    cos = along / (a.norm(dim=1) * v.norm())
    assert torch.allclose(o.direction("a", v, 2)(seen), (along * cos.clamp(min=0.1) ** 2).mean((1, 2)), atol=1e-6)
    white = torch.randn(3, 3, generator=gen(3))
    assert torch.allclose(o.angled("a", v, white)(seen), o.direction("a", white @ v, 4.0)(seen))
    assert repr(one - 0.01 * o.tv()) == "(channel(a, 1) - (0.01 * tv()))" and Joined("+", one, two).layers == (
        "a",
        "b",
    )
    with pytest.raises(InputTypeError, match="joined with objectives and numbers"):
        one + "two"


def test_rows_of_a_unit_are_compared_only_where_that_is_asked() -> None:
    a = torch.zeros(2, 2, 2, 2)
    a[0, 0], a[1, 1] = 1, 1
    seen = Seen({"a": SeenLayer(a, Grid("first", (2, 2)))}, a)
    assert torch.allclose(o.diversity("a")(seen), torch.zeros(2))  # Gram matrices without overlap
    same = Seen({"a": SeenLayer(a[:1].expand(2, -1, -1, -1), Grid("first", (2, 2)))}, a)
    assert torch.allclose(o.diversity("a")(same), -torch.ones(2))
    ends = o.interpolate(o.channel("a", 0), o.channel("a", 1))(seen)
    one = Seen({"a": SeenLayer(a[:1], Grid("first", (2, 2)))}, a[:1])
    assert torch.allclose(o.interpolate(o.channel("a", 0), o.channel("a", 1))(one), torch.tensor([0.5]))
    assert torch.allclose(ends, torch.tensor([1.0, 1.0])) and o.alignment("a")(same).abs().max() == 0
    net = small(dtype=torch.float64)
    how = {**QUICK, "like": X.double(), "steps": 40, "n": 3}
    apart = visualize(net, "3", channel=1, diversity=5.0, batch_size=1, **how)
    plain = visualize(net, "3", channel=1, **how)

    def alike(v: Any) -> float:
        with torch.no_grad():
            g = net[:4](v.inputs.double()).flatten(2)
        grams = F.normalize((g @ g.transpose(1, 2)).flatten(1), dim=1)
        return float((grams @ grams.T).sum())

    assert alike(apart) < alike(plain)


def test_statistics_and_facets() -> None:
    net = small(dtype=torch.float64)
    found = o.bn_statistics(net)
    x = torch.rand(2, 3, 12, 12, generator=gen()).double()
    with torch.no_grad():
        a = net[0](x)
    want = -(a.mean((2, 3)) - net[1].running_mean).square().sum(1)
    want = want - (a.var((2, 3), correction=0) - net[1].running_var).square().sum(1)
    seen = Seen({found.layers[0]: SeenLayer(a, Grid("first", (12, 12)))}, x)
    assert torch.allclose(found(seen), want)
    probe = torch.rand(6, generator=gen())
    one = visualize(net, objective=o.facet("1", probe, o.channel("3", 0)), **{**QUICK, "like": X.double()})
    assert one.activation.isfinite().all() and "facet" in one.names[0]
    with pytest.raises(InputError, match="has none"):
        o.bn_statistics(nn.Linear(2, 2))


def test_the_optimiser_can_be_chosen_and_rows_may_leave_it() -> None:
    net = small(dtype=torch.float64)
    how = {"like": X.double(), "steps": 80, "progress": False, "tol": 0.6, "min_steps": 64}
    factory = lambda leaves: torch.optim.RMSprop(leaves, lr=0.05)  # noqa: E731
    many = visualize(net, "3", channel=[0, 1, 2, 3], optimizer=factory, **how)
    alone = visualize(net, "3", channel=2, optimizer=factory, **how)
    assert (many.images[2] - alone.images[0]).abs().max() < 1e-6 and len(set(many.steps.tolist())) >= 1


def test_nan_stops_a_row_and_no_other() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))
            bad = torch.where(level > 0.55, torch.nan, 0.0)
            return torch.stack([level, level + bad], 1)[:, :, None, None]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.breaks, self.end = Breaks(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.breaks(x))

    found = visualize(Net(), "breaks", channel=[0, 1], like=X, steps=64, **PLAIN)
    assert found.state == ("steps", "nan") and found.images.isfinite().all() and found.images[1].mean() <= 0.6


def state_of(net: nn.Module) -> tuple[Any, ...]:
    tensors = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    grads = [(p.grad is None, p.requires_grad) for p in net.parameters()]
    return tensors, flags, grads, rng_state()


def unchanged(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    same = all(torch.equal(v, after[0][k]) for k, v in before[0].items())
    return same and before[1:] == after[1:]


@pytest.mark.parametrize("how", ["success", "error", "interrupt"])
def test_the_model_is_left_as_it_was(how: str) -> None:
    net = small().train()
    net[3].eval()
    net[0].weight.requires_grad_(False)
    before = state_of(net)
    calls = [0]

    def hook(seen: dict[Any, Tensor], picture: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 20 and how == "error":
            raise RuntimeError("mine")
        if calls[0] == 20 and how == "interrupt":
            signal.raise_signal(signal.SIGINT)
        return seen["3"].mean((1, 2, 3))

    objective = o.custom(["3"], hook)
    asked = {"objective": [objective, o.channel("3", 1)], "like": X, "steps": 60, "progress": False, "batch_size": 2}
    if how == "error":
        with pytest.raises(RuntimeError, match="mine"):
            visualize(net, **asked)
    else:
        found = visualize(net, **asked)
        assert found.state == (("interrupted",) * 2 if how == "interrupt" else ("steps",) * 2)
        assert (how != "interrupt") or 0 < int(found.steps[0]) < 60
    assert unchanged(before, state_of(net))


def test_training_mode_and_dropout_play_no_part() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    found = visualize(copy.deepcopy(net).train(), "3", channel=1, **QUICK)
    assert torch.equal(found.images, visualize(net.eval(), "3", channel=1, **QUICK).images)
    with torch.inference_mode():
        assert torch.equal(found.images, visualize(net, "3", channel=1, **QUICK).images)


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({}, InputError, "one of channel, neuron"),
        ({"layer": "3", "channel": 1, "target": 2}, InputError, "channel and target"),
        ({"channel": 1}, InputError, "is of a layer"),
        ({"layer": "3", "target": 1}, InputError, "leave layer out"),
        ({"layer": "3", "channel": 8}, InputError, "has 8 channels, 0 to 7; got 8"),
        ({"layer": "3", "channel": "some"}, InputError, "slice or 'all'"),
        ({"layer": "tree", "channel": 1}, LayerError, "No layer named 'tree'"),
        ({"layer": "3", "neuron": (1, 99, 0)}, InputError, "places"),
        ({"layer": "3", "direction": torch.ones(3)}, InputError, "has 8 numbers"),
        ({"target": "cat"}, TargetError, "no class names are known"),
        ({"layer": "3", "channel": 1, "steps": 0}, InputError, "steps must be a positive int"),
        ({"layer": "3", "channel": 1, "size": (3, 3, 3)}, InputError, "size must be"),
        ({"layer": "3", "channel": 1, "init": "cat"}, InputError, "init must be"),
        ({"layer": "3", "channel": 1, "colour": "data"}, InputError, "colours of data="),
        ({"layer": "3", "channel": 1, "param": "maco", "magnitude": "data"}, InputError, "spectrum of data="),
        ({"objective": "channel"}, InputTypeError, "takes an Objective"),
        ({"layer": "3", "channel": 1, "like": torch.zeros(1, 5).long()}, InputTypeError, "dataset_examples"),
    ],
)
def test_wrong_questions_are_refused(asked: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        visualize(small(), asked.pop("layer", None), **{"like": X, "steps": 2, "progress": False, **asked})


def test_a_picture_to_begin_from_and_magnitudes_of_data() -> None:
    begin = torch.rand(1, 3, 12, 12, generator=gen()) * 0.8 + 0.1
    for param in ("pixel", "fft"):
        found = visualize(small(), "3", channel=1, init=begin, param=param, lr=1e-9, **QUICK)
        assert (found.images - begin).abs().max() < 1e-3
    data = torch.rand(12, 3, 12, 12, generator=gen())
    one = visualize(small(), "3", channel=1, param=params.Phases(), magnitude="data", colour="data", data=data, steps=4)
    assert one.alpha is not None and one.alpha.shape == (1, 12, 12) and float(one.alpha.max()) > 0

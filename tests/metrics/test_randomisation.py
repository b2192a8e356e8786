"""Randomisation: what is drawn anew and what stays the user's, closed forms, a slow cascade, and both ends."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration, explain
from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.core.other_weights import held_by, other_weights
from interp_plugins.metrics import (
    complexity_rise,
    input_invariance,
    parameter_randomisation,
    random_data,
    random_target,
    randomisation_curves,
    spearman_correlation,
)
from interp_plugins.metrics.redrawn import drawn_anew


def cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 8 * 8, 5),
    )  # fmt: skip


class Tied(nn.Module):
    """A class token, attention, a norm, a recurrent layer, a buffer that is no weight, and one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm, self.lstm = nn.LayerNorm(6), nn.LSTM(6, 6, batch_first=True)
        self.down, self.up = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.up.weight = self.down.weight
        self.alias = [self.down.weight]
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1), persistent=False)
        self.register_buffer("steps", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.cat([x, self.token.expand(len(x), -1, -1)], 1)
        t = t + self.attention(self.norm(t), t, t, need_weights=False, attn_mask=self.mask)[0]
        return self.up(self.down(self.lstm(t)[0]))[:, -1]


X = torch.randn(3, 1, 10, 10, generator=torch.Generator().manual_seed(1))


def state(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Each weight and buffer, the object and its numbers."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {k: (v, v.detach().clone()) for k, v in named}


def same(model: nn.Module, before: dict[str, tuple[Tensor, Tensor]]) -> bool:
    now = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    return list(now) == list(before) and all(
        now[k] is v and torch.equal(now[k].detach(), old) for k, (v, old) in before.items()
    )


@pytest.mark.parametrize("mode", ["permute", "init", "normal"])
def test_all_that_is_trained_is_drawn_anew_and_nothing_else(mode: str) -> None:
    model, x = Tied(), torch.randn(2, 4, 6)
    before, clean = state(model), model(x)
    places = held_by(model)
    new = drawn_anew([p for p in places if p.tensor.is_floating_point()], mode, 0, 0)
    with other_weights(model, places, new):
        inside = state(model)
        changed = {k for k, (v, _) in inside.items() if not torch.equal(v.detach(), before[k][1])}
        zeros = {"norm.bias", "attention.in_proj_bias", "attention.out_proj.bias"}  # as they are before a training
        assert {*before} - changed <= {"mask", "steps", *zeros, *(["norm.weight"] if mode != "normal" else [])}
        assert changed >= {"token", "attention.in_proj_weight", "down.weight", "lstm.weight_hh_l0"}
        assert model.up.weight is model.down.weight  # tied ones once
        assert model.lstm._flat_weights[0] is model.lstm.weight_ih_l0
        assert (model(x) - clean).abs().max() > 1e-3
        if mode == "permute":
            assert torch.equal(model.token.flatten().sort().values, before["token"][1].flatten().sort().values)
    assert same(model, before) and torch.equal(model(x), clean)
    assert model.lstm._flat_weights[0] is model.lstm.weight_ih_l0 and model.alias[0] is model.down.weight


def test_weights_are_a_function_of_seed_draw_and_name() -> None:
    places = [p for p in held_by(cnn()) if p.tensor.is_floating_point()]
    whole, part = drawn_anew(places, "permute", 3, 0), drawn_anew(places[2:5], "permute", 3, 0)
    assert all(torch.equal(whole[k], v) for k, v in part.items())
    others = [drawn_anew(places, "permute", 4, 0), drawn_anew(places, "permute", 3, 1)]
    assert not any(torch.equal(other[id(places[0].tensor)], whole[id(places[0].tensor)]) for other in others)
    before = torch.get_rng_state()
    drawn_anew(places, "init", 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_cascade_is_that_of_a_copy(accelerated: bool) -> None:
    """What is remembered of the trained weights is not used for random ones, and the other way round."""
    model, target = cnn().eval(), torch.tensor([0, 3, 1])
    names = ["6", "3", ("0", "1")]
    with acceleration(accelerated):
        first = explain(model, X, "ig", target=target, n_steps=4)[0].attribution
        found = randomisation_curves(
            model, X, explain=("ig", {"n_steps": 4}), target=target, stages=names, similarity=("rank", "cosine", "ssim")
        )
        again = explain(model, X, "ig", target=target, n_steps=4)[0].attribution
    assert torch.equal(first, again) and found.stages == ("6", "3", "0, 1")
    own = first.sum(1).abs()
    for k in range(3):
        twin = copy.deepcopy(model)
        mine = [p for p in held_by(twin) if p.path[0] in ("6", "63", "6301")[k] and p.tensor.is_floating_point()]
        new = drawn_anew(mine, "permute", 0, 0)
        with torch.no_grad():
            for place in mine:
                place.tensor.copy_(new[id(place.tensor)])
            map_ = explain(twin, X, "ig", target=target, n_steps=4, accelerate=False)[0].attribution.sum(1).abs()
        expected = spearman_correlation(own, map_)
        torch.testing.assert_close(found.similarity["rank"][:, k], expected, rtol=0, atol=5e-3)
    assert torch.allclose(found.upper_half(), found.similarity["rank"][:, :2].mean(1))
    assert torch.allclose(found.mean("cosine"), found.similarity["cosine"].mean(1))


def test_a_map_of_the_input_never_changes_and_noise_does_at_once() -> None:
    blind = parameter_randomisation(cnn(), X, explain=lambda m, x, t: x, target=0)
    assert torch.equal(blind, torch.ones(3).double())

    def noise(model: nn.Module, x: Tensor, target: object) -> Tensor:
        return torch.randn(x.shape)

    assert parameter_randomisation(cnn(), X, explain=noise, target=0).abs().max() < 0.4
    knows = parameter_randomisation(cnn(), X, explain="saliency", target=0, draws=2)
    assert knows.max() < 0.6


def test_orders_and_stages() -> None:
    model, given = cnn(), {"explain": "saliency", "target": 0}
    top = randomisation_curves(model, X, **given)
    assert top.stages == ("6", "3", "1", "0")  # of four layers four stages
    assert randomisation_curves(model, X, order="bottom_up", **given).stages == ("0", "1", "3", "6")
    assert randomisation_curves(model, X, stages=2, **given).stages == ("6", "3 ... 0")
    alone = randomisation_curves(model, X, order="independent", stages="all", **given)
    assert torch.allclose(alone.similarity["rank"][:, 0], top.similarity["rank"][:, 0])
    bottom = randomisation_curves(model, X, order="bottom_up", **given)
    torch.testing.assert_close(bottom.similarity["rank"][:, -1], top.similarity["rank"][:, -1])  # all
    smooth = randomisation_curves(model, X, smooth=4, **given)
    assert not torch.equal(smooth.similarity["rank"], top.similarity["rank"])


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [RuntimeError, Stop])
def test_the_users_weights_are_theirs_whatever_happens(error: type[BaseException]) -> None:
    model = cnn().train()
    before, rng, hooks = state(model), torch.get_rng_state(), model[0].register_forward_hook(lambda *a: None)
    calls: list[int] = []

    def failing(m: nn.Module, x: Tensor, target: object) -> Tensor:
        calls.append(1)
        if len(calls) > 2:
            assert not torch.equal(m[6].weight, before["6.weight"][1])
            raise error("stop")
        return x

    parameter_randomisation(model, X, explain="saliency", target=0)
    complexity_rise(model, X, explain="saliency", target=0)
    with pytest.raises(error):
        parameter_randomisation(model, X, explain=failing, target=0)
    assert same(model, before) and torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in model.modules()) and all(
        p.requires_grad and p.grad is None for p in model.parameters()
    )
    assert list(model[0]._forward_hooks) == [hooks.id]


def test_a_model_in_a_closure_and_a_bound_method_object_are_found() -> None:
    from interp_plugins.attr import Saliency

    model = cnn().eval()
    plain = parameter_randomisation(model, X, explain="saliency", target=0)
    assert torch.equal(parameter_randomisation(lambda x: model(x), X, explain="saliency", target=0), plain)
    assert torch.equal(parameter_randomisation(model, X, explain=Saliency(model), target=0), plain)


def test_complexity_of_the_histogram() -> None:
    """A map of two halves has entropy ln 2; of all weights random it has four sizes: ln 4, a rise of one."""
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.data[0] = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def sizes(m: nn.Module, x: Tensor, target: object) -> Tensor:
        trained = torch.equal(m.weight.detach()[0], torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
        return torch.tensor([[0.0, 0, 1, 1] if trained else [0.0, 1, 2, 3]])

    assert complexity_rise(model, torch.ones(1, 4).double(), explain=sizes, target=0).item() == pytest.approx(1)


def test_other_classes() -> None:
    model = cnn().eval()

    def of_class(m: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        assert target.shape == (len(x),)
        return x * (1 + target[:, None, None, None])

    assert torch.allclose(random_target(model, X, explain=of_class, target=2), torch.ones(3).double())  # only larger
    seen: list[Tensor] = []

    def noting(m: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        seen.append(target)
        return x

    random_target(model, X, explain=noting, target=2, n_targets=4, ids=torch.tensor([4, 5, 6]))
    drawn = torch.stack(seen)
    assert all(sorted(column.tolist()) == [0, 1, 2, 3, 4] for column in drawn.T)
    assert not torch.equal(drawn[:, 0], drawn[:, 1]) or not torch.equal(drawn[:, 1], drawn[:, 2])
    with pytest.raises(InputError, match="5 other classes were asked for, and the model has 5"):
        random_target(model, X, explain="saliency", target=2, n_targets=5)
    with pytest.raises(InputError, match=r"outputs \(N, C\) that are explained at one of them"):
        random_target(model, X, explain="saliency", target=lambda out: out[:, 0])


def test_a_net_of_another_training() -> None:
    model = cnn().eval()
    assert torch.allclose(random_data(model, X, explain="ig", target=0, other_model=model), torch.ones(3).double())
    assert random_data(model, X, explain="saliency", target=0, other_model=cnn(5).eval()).max() < 0.6
    with pytest.raises(InputError, match="other_model is missing"):
        random_data(model, X, explain="ig", target=0)


def test_a_constant_in_the_data_that_the_model_takes_off() -> None:
    """Kindermans: the gradient stays; input x gradient with w = (1, 2) and c = 1 changes by (1, 2)."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data[0] = torch.tensor([1.0, 2.0])
    x = torch.tensor([[3.0, 4.0]]).double()
    assert input_invariance(model, x, explain="saliency", target=0).item() == 0
    change = input_invariance(model, x, explain="ixg", target=0, relative=False)
    assert change.item() == pytest.approx(5**0.5)
    assert input_invariance(model, x, explain="ixg", target=0).item() == pytest.approx(5**0.5 / 73**0.5)
    from interp_plugins.attr import Saliency

    with pytest.raises(InputError, match="A method object explains the model that it was made with"):
        input_invariance(model, x, explain=Saliency(model), target=0)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"order": "upwards"}, UnknownNameError, "order"),
        ({"mode": "zero"}, UnknownNameError, "mode"),
        ({"similarity": ("rnak",)}, UnknownNameError, "Did you mean 'rank'"),
        ({"draws": 0}, InputError, "draws must be an int from 1 up, got 0"),
        ({"stages": ["9"]}, UnknownNameError, "module with weights '9'"),
        ({"stages": 0}, InputError, "stages must be a positive int"),
    ],
)
def test_wrong_words_are_refused(given: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        randomisation_curves(cnn(), X, explain="saliency", target=0, **given)


def test_a_function_without_modules_has_no_weights_to_draw() -> None:
    with pytest.raises(InputError, match="The weights of this function cannot be found"):
        parameter_randomisation(lambda v: v.sum((1, 2, 3)), X, explain="saliency")

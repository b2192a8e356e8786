"""Integer inputs at their look-ups: whatever does the look-up, jointly with floats, folded to one number per id."""

from __future__ import annotations

import re
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_plugins.api.explain import explain
from interp_plugins.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerConductance,
    LayerIntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from interp_plugins.core.baseline import NO_ID, IdBaseline, Sample
from interp_plugins.core.errors import InputError, InputTypeError, ModelError

VOCAB, WIDTH = 11, 4


class Net(nn.Module):
    """A head behind look-ups; subclasses say how the ids (n, T) are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 3)

    def look_up(self, ids: Tensor) -> Tensor:
        return self.embed(ids)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.linspace(0.5, 1.5, ids.shape[1])[:, None]
        return self.head((torch.tanh(self.look_up(ids)) * places).mean(1))


class Functional(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embed.weight)


class Indexed(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.embed.weight[ids]


class Selected(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return torch.index_select(self.embed.weight, 0, ids.flatten()).view(*ids.shape, -1)


class Chunks(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return torch.cat([self.embed(part) for part in ids.split(2, 1)], 1)


class Steps(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return torch.stack([self.embed(step) for step in ids.t()], 1)


class DroppedRows(Net):
    """As fastai's SentenceEncoder: rows that are padding in a chunk do not go through it."""

    def look_up(self, ids: Tensor) -> Tensor:
        rows = (ids[:, 0] >= 0).sum()
        found = self.embed(ids[:rows])
        return torch.cat([found, found.new_zeros(len(ids) - len(found), *found.shape[1:])])


class Turned(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        order = torch.arange(len(ids) - 1, -1, -1)
        return self.embed(ids.flip(1)[order].int()).flip(1)[order]


class Offsets(Net):
    """One table for several columns, as recommenders do."""

    def look_up(self, ids: Tensor) -> Tensor:
        shifted = (ids + torch.arange(ids.shape[1])) % VOCAB
        shifted += 0
        return self.embed(shifted)


class Shifted(Net):
    """A start token in front, made by writing into a new tensor, as decoders do."""

    def look_up(self, ids: Tensor) -> Tensor:
        start = torch.zeros_like(ids)
        start[:, 1:] = ids[:, :-1].clone()
        padded = F.pad(ids, (1, 0), value=3)
        with_start = torch.cat([ids.new_full((len(ids), 1), 2), ids], 1)
        last = torch.roll(self.embed(ids), 0)
        return last + 0 * (self.embed(start) + self.embed(padded)[:, 1:] + self.embed(with_start)[:, 1:])


class Positions(Net):
    """Position ids and a mask, made from the ids' shape and values, are no ids."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(20, WIDTH)

    def look_up(self, ids: Tensor) -> Tensor:
        mask = ids.ne(-5).long()
        count = mask.cumsum(1) * mask
        arange = torch.arange(ids.shape[1], dtype=torch.long).expand(ids.shape)
        return self.embed(ids) + 0.1 * self.place(count) + 0.1 * self.place(arange) * mask[..., None]


class Twice(Net):
    """One table asked twice for the same ids."""

    def look_up(self, ids: Tensor) -> Tensor:
        return 0.5 * (self.embed(ids) + self.embed(ids.masked_fill(ids == 99, 0)))


class Tables(Net):
    """Two tables for the same ids."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.randn(VOCAB, WIDTH))

    def look_up(self, ids: Tensor) -> Tensor:
        renamed = torch.arange(VOCAB).flip(0)[ids]  # through a table of ids
        return self.embed(ids) + self.other[renamed.where(renamed >= 0, 0)]


WAYS = [
    Net,
    Functional,
    Indexed,
    Selected,
    Chunks,
    Steps,
    DroppedRows,
    Turned,
    Offsets,
    Shifted,
    Positions,
    Twice,
    Tables,
]


def built(cls: type[nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls().double()


def some_ids(n: int = 3, length: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cls", WAYS)
def test_every_way_of_looking_up_is_complete(cls: type[nn.Module]) -> None:
    model, ids = built(cls), some_ids()
    maps, delta = IntegratedGradients(model).attribute(ids, target=1, return_convergence_delta=True)
    assert maps.shape == ids.shape and maps.dtype == torch.float64
    assert float(delta.abs().max()) < 1e-8 and bool((maps != 0).all())
    at_ids, delta = IntegratedGradients(model).attribute(ids, 3, target=1, return_convergence_delta=True)
    with torch.no_grad():
        change = model(ids)[:, 1] - model(torch.full_like(ids, 3))[:, 1]
    assert float(delta.abs().max()) < 1e-8
    torch.testing.assert_close(at_ids.sum(1), change, atol=1e-8, rtol=0)


@pytest.mark.parametrize("cls", [Functional, Indexed, Selected, Chunks, Steps, Turned])
@pytest.mark.parametrize("method", [Saliency, InputXGradient, IntegratedGradients])
def test_the_way_of_looking_up_does_not_matter(cls: type[nn.Module], method: Any) -> None:
    ids = some_ids()
    want, got = (method(built(c)).attribute(ids, target=2) for c in (Net, cls))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("baseline", [0, 7, some_ids(seed=9)])
def test_captums_layer_integrated_gradients_at_the_embedding(baseline: Any) -> None:
    model, ids = built(Positions), some_ids()
    theirs = captum.attr.LayerIntegratedGradients(model, model.embed).attribute(
        ids, torch.full_like(ids, baseline) if isinstance(baseline, int) else baseline, target=1
    )
    want = theirs.sum(2)
    ours = LayerIntegratedGradients(model, "embed").attribute(ids, baseline, target=1).sum(2)
    for got in (IntegratedGradients(model).attribute(ids, baseline, target=1), ours):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=0)  # their quadrature's weights are float32


class Table(nn.Module):
    """Columns of ids and of numbers; the order of the inputs as asked for."""

    def __init__(self, ids_first: bool = True) -> None:
        super().__init__()
        self.ids_first = ids_first
        self.embeds = nn.ModuleList([nn.Embedding(5, 2), nn.Embedding(7, 3)])
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))

    def forward(self, a: Tensor, b: Tensor, scale: Tensor | None = None, extra_ids: Tensor | None = None) -> Tensor:
        ids, x = (a, b) if self.ids_first else (b, a)
        rows = [table(ids[:, i]) for i, table in enumerate(self.embeds)]
        if extra_ids is not None:
            rows[0] = rows[0] + self.embeds[0](extra_ids)
        out = self.net(torch.cat([*rows, x], 1))
        return out if scale is None else out * scale


def table_inputs(n: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    ids = torch.stack([torch.randint(0, k, (n,), generator=g) for k in (5, 7)], 1)
    return ids, torch.randn(n, 3, generator=g, dtype=torch.float64)


def columns(model: Table, target: int) -> Any:
    """The same model as a function of one wide tensor: both embeddings and the numbers."""
    return lambda wide: model.net(wide)[:, target]


@pytest.mark.parametrize("ids_first", [True, False])
def test_ids_and_numbers_are_explained_jointly(ids_first: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Table(ids_first).double()
    ids, x = table_inputs()
    with torch.no_grad():
        wide = torch.cat([*(t(ids[:, i]) for i, t in enumerate(model.embeds)), x], 1)
    inputs = (ids, x) if ids_first else (x, ids)
    for method, wanted in (
        (IntegratedGradients, lambda: IntegratedGradients(columns(model, 1)).attribute(wide)),
        (InputXGradient, lambda: InputXGradient(columns(model, 1)).attribute(wide)),
        (Saliency, lambda: Saliency(columns(model, 1)).attribute(wide)),
    ):
        got = method(model).attribute(inputs, target=1)
        of_ids, of_x = got if ids_first else got[::-1]
        want = wanted()
        torch.testing.assert_close(of_ids, torch.stack([want[:, :2].sum(1), want[:, 2:5].sum(1)], 1))
        torch.testing.assert_close(of_x, want[:, 5:])
    conductance = LayerConductance(model, "net.1").attribute(inputs, target=1)
    torch.testing.assert_close(
        conductance, LayerConductance(lambda w: model.net(w), model.net[1]).attribute(wide, target=1)
    )


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 4),
    target=st.integers(0, 1),
    mean=st.booleans(),
    chunk=st.integers(20, 90),
)
def test_the_joint_map_is_complete(seed: int, n: int, target: int, mean: bool, chunk: int) -> None:
    g = torch.Generator().manual_seed(seed)
    model = built(Table, seed)
    ids = torch.stack([torch.randint(0, k, (n,), generator=g) for k in (5, 7)], 1)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    pool, numbers = torch.randint(0, 5, (6, 2), generator=g), torch.randn(6, 3, generator=g, dtype=torch.float64)
    baselines = (Sample(pool), Sample(numbers)) if mean else None
    maps, delta = IntegratedGradients(model).attribute(
        (ids, x), baselines, target=target, internal_batch_size=chunk, return_convergence_delta=True
    )
    assert float(delta.abs().max()) < 1e-7
    with torch.no_grad():
        rows = [
            t(pool[:, i]).mean(0) if mean else t.weight.new_zeros(t.embedding_dim) for i, t in enumerate(model.embeds)
        ]
        start = model.net(torch.cat([*rows, numbers.mean(0) if mean else numbers.new_zeros(3)]))[target]
        change = model(ids, x)[:, target] - start
    torch.testing.assert_close(sum(m.sum(1) for m in maps), change, atol=1e-7, rtol=0)


def test_arguments_stay_arguments() -> None:
    model, (ids, x) = built(Table), table_inputs()
    scale, more = torch.linspace(1, 2, 4, dtype=torch.float64)[:, None], ids[:, 0].flip(0)
    maps, delta = IntegratedGradients(model).attribute(
        (ids, x), target=0, additional_forward_args=(scale, more), internal_batch_size=3, return_convergence_delta=True
    )
    assert [m.shape for m in maps] == [(4, 2), (4, 3)] and float(delta.abs().max()) < 1e-8


def test_baselines_of_ids() -> None:
    model, ids = built(Net), some_ids()
    ig = IntegratedGradients(model)
    zero, by_name = ig.attribute(ids, target=0), ig.attribute(ids, "zero", target=0)
    mixed = torch.full_like(ids[:1], NO_ID)
    mixed[:, 0] = 4
    assert torch.equal(zero, by_name) and torch.equal(zero, ig.attribute(ids, IdBaseline(3), target=0))
    kept = ig.attribute(ids, torch.where(torch.arange(5) == 0, ids, NO_ID), target=0)
    assert bool((kept[:, 0] == 0).all()) and bool((kept[:, 1:] != 0).all())
    assert not torch.equal(ig.attribute(ids, mixed, target=0), zero)
    swapped = FeatureAblation(model).attribute(ids, IdBaseline(3), target=0)
    assert torch.equal(swapped, FeatureAblation(model).attribute(ids, 3, target=0))
    most = Sample(torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 0, 0, 0, 5]]))
    by_id = Occlusion(model).attribute(ids, (1,), baselines=torch.tensor([[1, 2, 3, 4, 5]]), target=0)
    assert torch.equal(Occlusion(model).attribute(ids, (1,), baselines=most, target=0), by_id)
    drawn = GradientShap(model).attribute(ids, most.rows, n_samples=4, target=0, seed=1)
    assert torch.equal(drawn, GradientShap(model).attribute(ids, most, n_samples=4, target=0, seed=1))
    with pytest.raises(InputError, match="'black' means nothing for integers"):
        ig.attribute(ids, "black", target=0)


def test_noise_goes_to_the_rows() -> None:
    model, (ids, x) = built(Table), table_inputs()
    for inner in (IntegratedGradients(model), Saliency(model), GradientShap(model)):
        more = {"baselines": (ids, x)} if isinstance(inner, GradientShap) else {}
        noisy = [
            NoiseTunnel(inner).attribute((ids, x), "vargrad", 6, stdevs=stdevs, target=0, seed=2, **more)
            for stdevs in (0.1, (0.1, 0.0), (None, None))
        ]
        assert all(m.shape == v.shape and bool((m > 0).all()) for one in noisy for m, v in zip(one, (ids, x)))
    still = NoiseTunnel(Saliency(model)).attribute((ids, x), "vargrad", 6, stdevs=0.0, target=0)
    assert max(float(m.max()) for m in still) < 1e-15
    smooth = NoiseTunnel(Saliency(model)).attribute((ids, x), stdevs=1e-9, target=0)
    torch.testing.assert_close(smooth, Saliency(model).attribute((ids, x), target=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["ig", "nt", "gradshap", "saliency", "ixg", "occlusion", "feature_ablation"])
def test_explain_takes_ids(method: str) -> None:
    model, ids = built(Positions), some_ids()
    before, hooks = ids.clone(), sum(len(m._forward_hooks) for m in model.modules())
    exp = explain(model, ids, method)[0]
    assert exp.attributions.shape == ids.shape and exp.attributions.is_floating_point()
    assert torch.equal(ids, before) and hooks == sum(len(m._forward_hooks) for m in model.modules())
    if method == "ig":
        assert float(exp.relative_delta.max()) < 1e-6 and bool((exp.baselines == NO_ID).all())


def test_a_model_that_keeps_a_state_is_left_as_it_was() -> None:
    class Stateful(Net):
        def __init__(self) -> None:
            super().__init__()
            self.state: list[Tensor] = [torch.zeros(1, WIDTH, dtype=torch.float64)]

        def look_up(self, ids: Tensor) -> Tensor:
            self.state = [s.sum(0, keepdim=True) + 1 for s in self.state]
            self.added = self.state[0]
            return self.embed(ids)

    model = built(Stateful)
    state = model.state
    explain(model, some_ids(), ("ig", "occlusion"))
    assert model.state is state and not hasattr(model, "added")


class Bag(Net):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCAB, WIDTH)

    def look_up(self, ids: Tensor) -> Tensor:
        return self.bag(ids)[:, None]


class Sorted(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.embed(ids.sort(1)[0])


class Pairs(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.embed((ids[:, :-1] * 3 + ids[:, 1:]) % VOCAB)[:, [0, 0, 1, 2, 3]]


class OneHot(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, VOCAB).double() @ self.embed.weight


class Counts(Net):
    def look_up(self, ids: Tensor) -> Tensor:
        return self.embed.weight.mean(0) * ids[..., None].double()


@pytest.mark.parametrize(
    ("cls", "error", "text"),
    [
        (Bag, ModelError, "embedding_bag.*feature_ablation"),
        (Sorted, ModelError, "computed from several ids.*feature_ablation"),
        (Pairs, ModelError, "computed from several ids"),
        (OneHot, InputTypeError, r"inputs\[0\] is integer.*no such look-up.*feature_ablation"),
        (Counts, InputTypeError, r"inputs\[0\] is integer.*x\.float\(\)"),
    ],
)
def test_ids_that_cannot_be_credited_are_refused(cls: type[nn.Module], error: type[Exception], text: str) -> None:
    model, ids = built(cls), some_ids()
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        IntegratedGradients(model).attribute(ids, target=0)
    assert explain(model, ids, "feature_ablation", target=0)[0].attributions.shape == ids.shape


def test_an_input_that_is_not_looked_up_is_named() -> None:
    class Masked(Net):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.head((self.embed(ids) * mask[..., None]).mean(1))

    model, ids = built(Masked), some_ids()
    with pytest.raises(InputTypeError, match=r"inputs\[1\] is integer.*additional_forward_args"):
        IntegratedGradients(model).attribute((ids, torch.ones_like(ids)), target=0)
    assert IntegratedGradients(model).attribute(ids, target=0, additional_forward_args=torch.ones_like(ids)).shape == (
        3,
        5,
    )

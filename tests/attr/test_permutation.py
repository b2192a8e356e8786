"""Feature permutation: what is shuffled, with what, and how often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interp_plugins.attr import FeaturePermutation, LayerFeaturePermutation
from interp_plugins.attr.perturbation.permutation import permute_feature
from interp_plugins.core.errors import InputError, InputTypeError, InterpWarning


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_linear_model_gives_the_weighted_difference_to_another_sample(x: Tensor) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = FeaturePermutation(lambda z: z @ weight).attribute(x, seed=0) / weight
    for j in range(3):
        sources = x[:, j] - found[:, j]  # the value that came in
        assert torch.allclose(sources.sort().values, x[:, j].sort().values)
        assert not torch.allclose(sources, x[:, j])


def test_feature_in_two_inputs_is_shuffled_in_one_order(x: Tensor) -> None:
    rows: list[Tensor] = []

    def model(a: Tensor, b: Tensor) -> Tensor:
        rows.append(torch.cat([a, b], 1))
        return (a * b).sum(1)

    same = torch.zeros(1, 3, dtype=torch.long)
    FeaturePermutation(model).attribute((x, x), feature_mask=(same, same), seed=0)
    for r in torch.cat(rows):
        assert torch.equal(r[:3], r[3:])


def test_repeats_are_averaged(x: Tensor) -> None:
    method = FeaturePermutation(lambda z: z.prod(1))
    many = method.attribute(x, n_repeats=100, seed=0)
    others = [[x[:, j][torch.arange(6) != i].mean() for j in range(3)] for i in range(6)]
    rest = torch.stack([x[:, [1, 2]].prod(1), x[:, [0, 2]].prod(1), x[:, [0, 1]].prod(1)], 1)
    # All orders but the identity are equally likely, so a sample meets itself in (5! - 1) of the 719.
    stay = (120 - 1) / 719
    expected = rest * (1 - stay) * (x - torch.tensor(others, dtype=torch.float64))
    assert float((many - expected).abs().max()) < 0.3 * float(expected.abs().max())


def test_function_of_the_user_draws_from_the_seed(x: Tensor) -> None:
    def noise(z: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, torch.randn_like(z), z)

    before = torch.get_rng_state()
    one, two, other = (FeaturePermutation(lambda z: z.sum(1), noise).attribute(x, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_layer_variant_is_the_plain_method_behind_the_layer(x: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    mask = torch.tensor([[0, 1, 1, 2]])
    found = LayerFeaturePermutation(net, net[1]).attribute(x, target=0, layer_mask=mask, seed=2)
    plain = FeaturePermutation(net[2]).attribute(net[:2](x).detach(), target=0, feature_mask=mask, seed=2)
    assert torch.equal(found, plain)


def test_errors(x: Tensor) -> None:
    with pytest.raises(AssertionError, match=r"cannot permute features with batch_size = 1.*FeatureAblation"):
        FeaturePermutation(lambda z: z.sum(1)).attribute(x[:1])
    with pytest.raises(InputTypeError, match="perm_func must be a function"):
        FeaturePermutation(lambda z: z, 3)
    with pytest.raises(InputTypeError, match=r"perm_func must return a tensor of its input's shape \(6, 3\)"):
        FeaturePermutation(lambda z: z.sum(1), lambda z, mask: z[:2]).attribute(x)
    with pytest.warns(InterpWarning, match="no argument 'feature_masc'"):
        FeaturePermutation(lambda z: z.sum(1)).attribute(x, feature_masc=None)
    with pytest.raises(InputError, match="n_repeats must be a positive int"):
        FeaturePermutation(lambda z: z.sum(1)).attribute(x, n_repeats=0)


def test_order_is_never_the_same() -> None:
    x = torch.arange(2.0)[:, None]
    with torch.random.fork_rng(devices=[]):
        for _ in range(20):
            assert torch.equal(permute_feature(x, torch.ones(1, 1, dtype=torch.bool)), x.flip(0))

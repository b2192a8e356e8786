"""Parametrisations, colours and views against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from interp_plugins.core.errors import InputError, UnknownNameError
from interp_plugins.optim.colour import Colour, measured_matrix, natural_matrix
from interp_plugins.optim.params import Fourier, Phases, Pixels, as_param, from_spectrum, measured_magnitudes
from interp_plugins.optim.transforms import CROPS, NAMED, ROBUST, STILL, Transform, as_transform, resized


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("space", [(31, 32), (32, 31), (33, 33), (1, 8), (7,), (3, 4, 5)])
def test_a_picture_comes_back_from_its_coefficients(space: tuple[int, ...]) -> None:
    picture = torch.rand(2, 3, *space, generator=gen())
    for param in (Fourier(), Fourier(decay=0.5), Pixels()):
        found = param.image(param.leaves(picture, space), space)
        assert found.shape == picture.shape and (found - picture).abs().max() < 1e-5


def test_the_gradient_of_the_spectrum_is_its_adjoint() -> None:
    z = torch.randn(1, 2, 4, 3, 2, dtype=torch.float64, generator=gen()).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: Fourier().image([t], (4, 5)), (z,))


def test_without_decay_white_numbers_give_white_pixels() -> None:
    (z,) = Fourier(decay=0.0).start(1, (64, 64), [gen()] * 64)
    rows = Fourier(decay=0.0).image([torch.randn(z.shape, generator=gen(1))], (64, 64))
    power = torch.fft.fft2(rows).abs().square().mean((0, 1))
    ring = torch.fft.fftfreq(64).abs()[:, None].maximum(torch.fft.fftfreq(64).abs()[None])
    low, high = power[(ring > 0.05) & (ring < 0.2)].mean(), power[ring > 0.3].mean()
    assert abs(low / high - 1) < 0.05


def test_phases_keep_every_magnitude() -> None:
    space = (16, 18)
    param = Phases()
    leaves = param.start(3, space, [gen(), gen(1)])
    found = torch.fft.rfft2(param.image(leaves, space), norm="ortho").abs()
    share = found / param.magnitudes(space, found)
    inner = share[..., 1:-1].flatten(1)  # the first and last column keep their Hermitian part alone
    assert ((inner.amax(1) - inner.amin(1)) / inner.mean(1) < 1e-4).all()
    image = param.image(leaves, space).flatten(1)
    assert image.mean(1).abs().max() < 1e-5 and (image.std(1, correction=0) - 1).abs().max() < 1e-5


def test_phases_begin_at_a_picture_with_its_own_magnitudes() -> None:
    image = torch.randn(1, 3, 12, 12, generator=gen())
    image = (image - image.mean((2, 3), keepdim=True)) / image.std((1, 2, 3), correction=0, keepdim=True)
    param = Phases(measured_magnitudes(image, (12, 12)))
    found = param.image(param.leaves(image, (12, 12)), (12, 12))
    image = (image - image.mean()) / image.std(correction=0)
    assert (found - image).abs().max() < 1e-2
    with pytest.raises(InputError, match="a picture of"):
        param.image(param.leaves(image, (12, 12)), (10, 10))
    with pytest.raises(InputError, match="'natural' or a tensor"):
        Phases("pink")


def test_odd_sizes_have_no_extra_column() -> None:
    assert from_spectrum(torch.ones(1, 1, 5, 4, dtype=torch.complex64), (5, 7)).shape == (1, 1, 5, 7)
    with pytest.raises(UnknownNameError, match="Known: pixel, fft, maco"):
        as_param("ftt")


def test_the_colours_of_data_have_their_covariance() -> None:
    x = torch.randn(50, 3, 6, 6, dtype=torch.float64, generator=gen()) @ torch.rand(6, 6, dtype=torch.float64)
    x = torch.einsum("ij,njhw->nihw", torch.rand(3, 3, dtype=torch.float64, generator=gen(2)), x)
    m = measured_matrix(x)
    want = torch.cov(x.movedim(1, -1).flatten(0, -2).T, correction=0)
    share = (m @ m.T) / want
    assert (share / share[0, 0] - 1).abs().max() < 1e-9 and abs(m.norm(dim=0).max() - 1) < 1e-12
    assert abs(natural_matrix().norm(dim=0).max() - 1) < 1e-12
    with pytest.raises(InputError, match="data that vary"):
        measured_matrix(torch.ones(3, 2, 4))


@pytest.mark.parametrize("squash", ["sigmoid", "clamp", None])
def test_colours_go_there_and_back(squash: str | None) -> None:
    colour = Colour(torch.tensor([0.0, 10.0, -1.0]), torch.tensor([1.0, 30.0, 1.0]), natural_matrix(), squash)
    picture = (
        colour.low[None, :, None] + torch.rand(2, 3, 9, generator=gen()) * (colour.high - colour.low)[None, :, None]
    )
    assert (colour.picture(colour.image(picture)) - picture).abs().max() < 2e-3 * 20
    wild = colour.picture(100 * torch.randn(1, 3, 50, generator=gen()))
    inside = (wild >= colour.low[None, :, None]) & (wild <= colour.high[None, :, None])
    assert bool(inside.all()) == (squash is not None)
    with pytest.raises(InputError, match="range of raw values is empty"):
        Colour(torch.tensor([1.0]), torch.tensor([1.0]))


def test_a_still_view_is_the_picture() -> None:
    x = torch.rand(2, 3, 12, 10, generator=gen())
    draws = STILL.draws([gen(), gen()], 1)[0]
    assert torch.equal(STILL.view(x, draws, (12, 10), 0.5), x)
    bigger = STILL.view(x, draws, (20, 24), 0.5)
    assert torch.equal(bigger, F.interpolate(x, size=(20, 24), mode="bilinear", align_corners=False))
    small = Transform(rotate=1e-6, scale=0, shift=0, pad=0)
    assert (small.view(x, draws, (12, 10), 0.5) - x).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["robust", "crops"])
@pytest.mark.parametrize("space", [(12, 10), (30,), (4, 5, 6)])
def test_grey_stays_grey_and_each_row_has_its_own_draws(name: str, space: tuple[int, ...]) -> None:
    transform = NAMED[name]
    grey = torch.full((2, 2, *space), 0.5)
    draws = transform.draws([gen(3), gen(4)], 5)
    assert draws.shape == (5, 2 * transform.views, 7)
    for one in draws:
        assert (transform.view(grey, one, [s + 1 for s in space], 0.5) - 0.5).abs().max() < 1e-6
    x = torch.rand(1, 2, *space, generator=gen()).expand(2, -1, *space)
    found = transform.view(x, draws[0], space, 0.5).unflatten(0, (2, transform.views))
    assert not torch.equal(found[0], found[1])
    alone = transform.view(x[1:], transform.draws([gen(4)], 5)[0], space, 0.5)
    assert torch.equal(alone, found[1])


def test_a_turned_view_of_a_long_picture_keeps_its_shapes() -> None:
    """A disc stays a disc: angles are those of the picture's own places, not of its sides."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = (((y - 19.5) ** 2 + (x - 39.5) ** 2) < 144).double()[None, None]
    turn = Transform(rotate=45, scale=0, shift=0, pad=0)
    found = turn.view(disc, torch.tensor([[0, 0, 0, 0, 1.0, 1.0, 0]]).double(), (40, 80), 0.0)
    assert (found - disc).abs().mean() < 0.01


def test_crops_are_parts_and_shrunk_pictures_are_smoothed() -> None:
    ramp = torch.linspace(0, 1, 64)[None, None, None].expand(1, 1, 64, 64)
    views = CROPS.view(ramp, CROPS.draws([gen()], 1)[0], (16, 16), 0.5)
    widths = views[:, 0, 8, 15] - views[:, 0, 8, 0]
    assert views.shape[0] == 4 and bool((widths > 0.2).all()) and bool((widths <= 1.01).all())
    fine = torch.eye(2).repeat(32, 32)[None, None]  # a chessboard
    assert (resized(fine, (8, 8)) - 0.5).abs().max() < 0.05
    noisy = CROPS.noisy(views, [gen(1)], 1.0)
    assert 0.03 < (noisy - views).std() < 0.09


def test_wrong_views_are_refused() -> None:
    for bad, text in ({"rotate": -1}, "rotate"), ({"scale": 1.0}, "relative change"), ({"crops": 0}, "crops"):
        with pytest.raises(InputError, match=text):
            Transform(**bad)
    with pytest.raises(InputError, match="share of the side"):
        Transform(part=(0.9, 0.1))
    with pytest.raises(InputError, match="transform must be"):
        as_transform("wobble", False)
    assert as_transform(None, True) is CROPS and as_transform(None, False) is ROBUST
    assert math.isclose(ROBUST.shift, 6 / 128)

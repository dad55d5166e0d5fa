"""Every transformation is the image itself where its parameters are zero, and does in closed form what it says elsewhere."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from antivenom.errors import SettingsError
from antivenom.randomness import Draws
from antivenom.threat.pixels import Pixels
from antivenom.threat.transforms import TRANSFORMS, BiasField, Exposure, Placement, Stripes, _spline

KINDS = pytest.mark.parametrize("kind", TRANSFORMS.values())


@pytest.fixture
def x():
    return torch.rand(4, 3, 12, 17, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(4))


def full(kind, pixels=None, size=None):
    """At its full limits; stripes of a tenth of the range."""
    return kind(size or (0.1 if kind is Stripes else 1.0), pixels or Pixels())


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_zeros_are_the_image_to_the_last_bit(x, kind, dtype, tied):
    for shade in (1.0, 1e-6, 0.0):
        image = (shade * x).to(dtype)
        transform = full(kind, Pixels(low=-0.3, high=1.7, tied=tied))
        theta = torch.zeros(4, *transform.shape(image), dtype=dtype)
        assert torch.equal(transform.apply(image, theta), image)
        nothing = kind(0.0).apply(image, torch.ones(4, *kind(0.0).shape(image), dtype=dtype))
        assert torch.equal(nothing, image)


@KINDS
def test_epsilon_scales_the_limits_image_by_image(x, draws, kind):
    theta = full(kind).sample(x, draws)
    share = torch.tensor([0.2, 0.5, 0.7, 1.0])
    epsilon = share * full(kind).epsilon
    together = kind(epsilon).apply(x, theta)
    torch.testing.assert_close(together, full(kind).apply(x, theta * share.reshape(-1, *(1,) * (theta.ndim - 1))))
    for i in range(4):
        one = torch.tensor([i])
        torch.testing.assert_close(kind(float(epsilon[i])).apply(x[one], theta[one]), together[one])
        torch.testing.assert_close(kind(epsilon).take(one).apply(x[one], theta[one]), together[one])


@KINDS
def test_range_region_and_ties_are_kept(x, draws, kind):
    region = torch.zeros(4, 1, 12, 17)
    region[..., 3:9] = 1
    x = x.clone()
    x[:, :, :2], x[:, :, -2:] = 0, 1
    pixels = Pixels(region=region, tied=True)
    transform = full(kind, pixels)
    moved = transform.apply(x, transform.sample(x, draws)) - x
    assert (moved * (1 - region) == 0).all()
    torch.testing.assert_close(moved.amax(1), moved.amin(1))
    assert (moved != 0).flatten(1).any(1).all()
    free = full(kind).apply(x, 1 - 2 * draws.at(1).uniform(*full(kind).shape(x)))
    assert free.min() >= 0
    assert free.max() <= 1


@KINDS
def test_a_range_of_its_own_changes_nothing_but_the_scale(x, draws, kind):
    """Hounsfield units from -1000 to 3000 as the same image in [0, 1]."""
    theta = full(kind).sample(x, draws)
    wide = full(kind, Pixels(low=-1000.0, high=3000.0), size=400.0 if kind is Stripes else 1.0)
    moved = (wide.apply(4000 * x - 1000, theta) + 1000) / 4000
    torch.testing.assert_close(moved, full(kind).apply(x, theta), rtol=0, atol=1e-5)


@KINDS
def test_slopes_along_the_parameters_are_those_of_the_image(draws, kind):
    x = 0.3 + 0.4 * torch.rand(2, 2, 5, 6, generator=torch.Generator().manual_seed(1)).double()
    transform = full(kind, size=0.05)
    theta = transform.sample(x, draws.take(torch.arange(2))).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda free: transform.apply(x, free), (theta,))


@KINDS
def test_a_draw_belongs_to_its_image_and_fills_the_range(x, kind):
    transform, many = full(kind), Draws.of(0, torch.arange(400))
    images = x[:1].expand(400, -1, -1, -1)
    theta = transform.sample(images, many)
    assert theta.abs().max() <= 1
    assert theta.max() > 0.9
    assert theta.min() < -0.9
    assert theta.mean().abs() < 0.1
    index = torch.tensor([7, 2])
    assert torch.equal(transform.guess(images[index], many.take(index)), transform.guess(images, many)[index])


def test_chance_tries_stripes_at_full_size_and_the_others_anywhere(x, draws):
    assert (Stripes(0.1).guess(x, draws).abs() == 1).all()
    assert torch.equal(Placement(1.0).guess(x, draws), Placement(1.0).sample(x, draws))


# -- placement ---------------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_pixels_moves_every_value_and_reflects_at_the_border():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    down = Placement(1.0, shift=0.25).apply(x, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(down[..., :6, :], x[..., 2:, :], rtol=0, atol=1e-5)
    torch.testing.assert_close(down[..., 6:, :], x[..., 6:, :].flip(-2), rtol=0, atol=1e-5)
    across = Placement(1.0, shift=0.25).apply(x, torch.tensor([[0.0, 0.0, -1.0]]))
    torch.testing.assert_close(across[..., 2:], x[..., :6], rtol=0, atol=1e-5)


def test_a_turn_is_about_the_middle_and_keeps_the_shape_of_things():
    x = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    quarter = Placement(1.0, degrees=90.0).apply(x, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(quarter, x.rot90(1, (2, 3)), rtol=0, atol=1e-4)
    oblong = torch.rand(1, 1, 6, 10, generator=torch.Generator().manual_seed(0))
    half = Placement(1.0, degrees=180.0).apply(oblong, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(half, oblong.flip(2, 3), rtol=0, atol=1e-4)
    # A disc is as round after the turn of an oblong image as before: only its edge, which falls between pixels, differs.
    rows, columns = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(64) - 31.5, indexing="ij")
    away = (rows**2 + columns**2).sqrt()[None, None]
    disc = (15.5 - away).clamp(0, 1)
    turned = Placement(1.0, degrees=45.0).apply(disc, torch.tensor([[1.0, 0.0, 0.0]]))
    assert (turned - disc)[away < 19].abs().max() < 0.35


def test_a_black_surround_stays_black():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:24, 8:24] = 1
    moved = Placement(1.0).apply(x, torch.tensor([[1.0, -1.0, 1.0]]))
    assert (moved[..., :3, :] == 0).all()
    assert (moved[..., -3:] == 0).all()
    assert (moved != x).any()


# -- exposure ----------------------------------------------------------------------------------------------------------


def test_gamma_contrast_and_brightness_are_what_they_are_called(x):
    x = 0.2 + 0.4 * x
    bent, spread, lit = (Exposure(1.0).apply(x, torch.eye(3)[i].expand(4, 3)) for i in range(3))
    torch.testing.assert_close(bent, x ** math.exp(0.35))
    torch.testing.assert_close(lit, 1.25 * x)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(spread, mean + 1.25 * (x - mean))
    torch.testing.assert_close(spread.mean((1, 2, 3), keepdim=True), mean)
    torch.testing.assert_close(Exposure(1.0).apply(x, torch.tensor([[-1.0, 0, 0]]).expand(4, 3)), x ** math.exp(-0.35))


def test_the_exponent_stays_within_what_nnu_net_trains_on():
    assert math.exp(-Exposure(1.0).gamma) >= 0.7
    assert math.exp(Exposure(1.0).gamma) <= 1.5


def test_black_stays_black_under_gamma_and_brightness_and_its_slopes_are_finite():
    x = torch.zeros(1, 1, 4, 4)
    theta = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    dark = Exposure(1.0).apply(x, theta)
    (slope,) = torch.autograd.grad(dark.sum(), theta)
    assert (dark == 0).all()
    assert slope.isfinite().all()


# -- bias field --------------------------------------------------------------------------------------------------------


def test_the_field_stays_within_its_limit_and_reaches_it(x):
    x = 0.1 + 0.3 * x
    theta = Draws.of(0, torch.arange(4)).uniform(4, 4).round() * 2 - 1  # the wildest that the limits allow
    field = (BiasField(1.0).apply(x, theta) / x).log()
    assert field.abs().max() <= 0.3 + 1e-5
    assert field.std() > 0.03
    torch.testing.assert_close(field[:, 0], field[:, 2], rtol=0, atol=1e-5)  # the same for all channels
    even = BiasField(0.5, limit=0.4).apply(x, torch.ones(4, 4, 4))
    torch.testing.assert_close(even, math.exp(0.2) * x)


def test_with_four_knots_the_field_is_one_cubic_polynomial_along_each_side():
    theta = Draws.of(0, torch.arange(1)).uniform(4, 4).double()
    x = torch.full((1, 1, 24, 30), 0.3, dtype=torch.float64)
    field = (BiasField(1.0).apply(x, theta) / x).log()[0, 0]
    for _ in range(4):
        field = field.diff(dim=0)
    assert field.abs().max() < 1e-12


@pytest.mark.parametrize("knots", [4, 5, 9])
def test_the_spline_is_scipy_s(knots):
    side = 31
    place = (np.arange(side) + 0.5) / side * (knots - 3)
    known = BSpline.design_matrix(place, np.arange(-3.0, knots + 1), 3).toarray()
    np.testing.assert_allclose(_spline(side, knots).numpy(), known, atol=1e-12)


# -- stripes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_a_stripe_is_the_same_in_every_row(tied):
    x = torch.full((4, 3, 12, 17), 0.5)  # nothing is clipped
    transform = Stripes(8 / 255, Pixels(tied=tied))
    theta = transform.sample(x, Draws.of(0, torch.arange(4)))
    delta = transform.apply(x, theta) - x
    assert theta.shape == (4, 1 if tied else 3, 17)
    assert (delta.var(2, unbiased=False) == 0).all()
    torch.testing.assert_close(delta[:, :, 0], (8 / 255 * theta).expand(4, 3, 17), rtol=0, atol=1e-7)
    assert (delta.std(3) > 0).all()


# -- words and limits --------------------------------------------------------------------------------------------------


def test_words_tell_limits_that_are_not_the_usual_ones():
    assert Placement(1.0).describe() == "placement"
    assert BiasField(1.0, Pixels(tied=True), knots=6, limit=0.5).describe() == "bias field, limit 0.5, knots 6, tied channels"
    assert Stripes(0.1, Pixels(grid=1 / 255)).describe() == "stripes, grid 1/255"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Placement(1.0, degrees=-1.0), "degrees of the placement"),
        (lambda: Placement(1.0, shift=math.nan), "shift"),
        (lambda: Exposure(1.0, gamma=math.inf), "gamma"),
        (lambda: BiasField(1.0, limit=-0.1), "limit"),
        (lambda: BiasField(1.0, knots=3), "at least 4 knots"),
    ],
)
def test_limits_that_cannot_be_are_refused(make, said):
    with pytest.raises(SettingsError, match=said):
        make()

"""Noise, blur, exposure and storage where the outcome is known by statistics, by hand or by physics."""

import math

import pytest
import torch

from antivenom.corruptions import acquisition as scanner
from antivenom.corruptions.acquisition import BEAM
from antivenom.randomness import Draws

ONE = Draws.of(0, torch.arange(1))


def flat(value, side=128, channels=1):
    return torch.full((1, channels, side, side), value)


def point(side=41):
    image = torch.zeros(1, 1, side, side)
    image[..., side // 2, side // 2] = 1
    return image


def spread(image):
    """Variance of a picture's mass, down and across."""
    mass = image[0, 0].double() / image.sum()
    place = torch.arange(image.shape[-1]).double()
    down, across = mass.sum(1), mass.sum(0)
    return tuple((m * (place - (m * place).sum()) ** 2).sum().item() for m in (down, across))


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
def test_quantum_noise_follows_the_counts_and_is_strongest_where_few_quanta_arrive(value):
    noisy = scanner.quantum_noise(flat(value), 5000.0, ONE)
    expected = 1 / (BEAM * math.sqrt(5000 * math.exp(-BEAM * value)))  # relative deviation of a count, through the logarithm
    assert noisy.std().item() == pytest.approx(expected, rel=0.05)
    assert noisy.mean().item() == pytest.approx(value, abs=0.003)


@pytest.mark.parametrize("value", [0.25, 0.64])
def test_shot_noise_grows_with_the_root_of_the_light(value):
    noisy = scanner.shot_noise(flat(value), 400.0, ONE)
    assert noisy.std().item() == pytest.approx(math.sqrt(value / 400), rel=0.05)
    assert torch.equal(scanner.shot_noise(flat(0.0), 400.0, ONE), flat(0.0))


def test_gaussian_noise_has_its_deviation_everywhere():
    assert scanner.gaussian_noise(flat(0.5), 0.05, ONE).std().item() == pytest.approx(0.05, rel=0.05)


def test_rician_noise_lifts_black_to_the_rayleigh_mean_and_is_normal_where_the_signal_is_strong():
    dark, bright = (scanner.rician_noise(flat(value), 0.05, ONE) for value in (0.0, 0.6))
    assert dark.mean().item() == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.03)
    assert bright.std().item() == pytest.approx(0.05, rel=0.05)
    assert bright.mean().item() == pytest.approx(math.hypot(0.6, 0.05 / math.sqrt(1)), abs=0.002)


@pytest.mark.parametrize(("share", "count"), [(0.01, 164), (1e-6, 1)])
def test_so_many_pixels_die_in_all_channels(share, count):
    broken = scanner.dead_pixels(flat(0.5, channels=3), share, ONE)
    hit = (broken != 0.5).all(1)
    assert torch.equal(hit, (broken != 0.5).any(1))
    assert hit.sum() == count
    assert set(broken.unique().tolist()) <= {0.0, 0.5, 1.0}


def test_lines_run_from_border_to_border_along_rows_or_columns():
    draws = Draws.of(0, torch.arange(24))
    lined = scanner.detector_lines(flat(0.5, 40).expand(24, -1, -1, -1), 0.2, draws) - 0.5
    rows = (lined == lined[..., :1]).flatten(1).all(1)
    columns = (lined == lined[..., :1, :]).flatten(1).all(1)
    assert (rows ^ columns).all()
    assert 4 < rows.sum() < 20
    assert ((lined != 0).flatten(1).sum(1) == 2 * 40).all()  # a twentieth of 40 lines
    sizes = lined[lined != 0].abs()
    assert sizes.min() >= 0.1 - 1e-6
    assert sizes.max() <= 0.2 + 1e-6


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_a_gaussian_blur_is_as_wide_as_it_says_and_loses_nothing(share):
    blurred = scanner.gaussian_blur(point(), share, ONE)
    sigma = share * 41
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for variance in spread(blurred):
        assert variance == pytest.approx(sigma**2, rel=0.1)  # the bilinear share adds a sixth of a pixel


def test_a_disc_is_even_inside_and_empty_outside():
    blurred = scanner.defocus_blur(point(), 8 / 41, ONE)[0, 0]
    place = torch.arange(41) - 20
    away = torch.hypot(place[:, None].float(), place.float())
    inside = blurred[away < 6.5]
    assert inside.std() < 0.05 * inside.mean()
    assert inside.mean().item() == pytest.approx(1 / (math.pi * 64), rel=0.03)
    assert (blurred[away > 9.5] == 0).all()


def test_motion_smears_along_one_line_of_its_length():
    draws = Draws.of(0, torch.arange(8))
    smeared = scanner.motion_blur(point().expand(8, -1, -1, -1), 12 / 41, draws)
    for image in smeared.split(1):
        down, across = spread(image)
        assert down + across == pytest.approx(12**2 / 12, rel=0.1)
    assert len({round(spread(image)[0], 3) for image in smeared.split(1)}) == 8


@pytest.mark.parametrize("blur", [scanner.motion_blur, scanner.gaussian_blur, scanner.defocus_blur])
def test_a_smear_shorter_than_a_pixel_still_takes_its_share_and_a_flat_image_stays(blur):
    blurred = blur(point(24 + 1), 0.1 / 25, ONE)
    assert 0.8 < blurred.max() < 1
    torch.testing.assert_close(blur(flat(0.3, 30), 0.1, ONE), flat(0.3, 30), rtol=0, atol=1e-6)


@pytest.mark.parametrize("blur", [scanner.motion_blur, scanner.gaussian_blur, scanner.defocus_blur])
def test_a_length_is_a_share_of_the_picture(blur):
    """Twice as many pixels, the same picture."""
    small = torch.zeros(1, 1, 40, 40)
    small[..., 14:26, 14:26] = 1
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    coarse, fine = blur(small, 0.1, ONE), torch.nn.functional.avg_pool2d(blur(large, 0.1, ONE), 2)
    assert (coarse - fine).abs().max() < 0.05


def test_a_stop_is_twice_the_light():
    light = scanner.exposure(flat(0.2), 1.0, ONE)[0, 0, 0, 0].item() ** 2.2
    assert light == pytest.approx(2 * 0.2**2.2, rel=1e-5)
    assert torch.equal(scanner.exposure(flat(0.9), 3.0, ONE), flat(1.0))
    assert (scanner.exposure(flat(0.2), -1.0, ONE) < 0.2).all()


def test_a_window_level_goes_either_way():
    moved = scanner.level_shift(flat(0.5, 16).expand(32, -1, -1, -1), 0.2, Draws.of(0, torch.arange(32)))
    assert moved.unique().tolist() == pytest.approx([0.3, 0.7])


def test_contrast_is_about_each_channels_mean():
    image = torch.tensor([0.2, 0.4, 0.6]).reshape(1, 1, 1, 3).expand(1, 3, 16, 3)
    assert scanner.contrast(image, 0.5, ONE)[0, 0, 0].tolist() == pytest.approx([0.3, 0.4, 0.5])
    assert scanner.contrast(image, 2.0, ONE)[0, 0, 0].tolist() == pytest.approx([0.0, 0.4, 0.8], abs=1e-6)


def test_a_bias_field_is_smooth_and_reaches_its_limit_and_leaves_black_black():
    draws = Draws.of(0, torch.arange(6))
    field = scanner.bias_field(flat(0.3, 64).expand(6, -1, -1, -1), 0.5, draws).div(0.3).log()
    assert field.abs().amax((1, 2, 3)).tolist() == pytest.approx([0.5] * 6, abs=1e-3)
    assert field[..., 16:48, 16:48].abs().amax((1, 2, 3)).mean() > 0.35  # in the middle too, not in a corner alone
    assert field.diff(dim=-1).abs().max() < 0.15
    assert torch.equal(scanner.bias_field(flat(0.0), 0.5, ONE), flat(0.0))


def test_uneven_light_only_darkens_smoothly_down_to_its_limit():
    draws = Draws.of(0, torch.arange(6))
    loss = scanner.uneven_light(flat(0.9, 64).expand(6, -1, -1, -1), 0.5, draws).div(0.9).log()
    assert loss.max() <= 1e-6
    assert loss.min() >= -0.5 - 1e-6
    assert (loss.amax((1, 2, 3)) - loss.amin((1, 2, 3)) > 0.25).all()


def test_ghosts_lie_a_period_away_on_both_sides_and_are_half_as_strong_as_the_modulation():
    draws = Draws.of(0, torch.arange(12))
    image = torch.zeros(1, 1, 60, 60)
    image[..., 30, 20] = 0.8
    for ghosted in scanner.ghosting(image.expand(12, -1, -1, -1), 0.4, draws):
        places = (ghosted[0] > 1e-4).nonzero()
        assert len(places) == 3
        away = (places - torch.tensor([30, 20])).abs()
        period = away.max().item()
        assert period in {20, 15, 12, 10}
        copies = [ghosted[0, r, c].item() for r, c in places.tolist() if (r, c) != (30, 20)]
        assert copies == pytest.approx([0.8 * 0.2] * 2, abs=1e-5)


def test_ghosting_is_a_modulation_of_k_space():
    draws = Draws.of(5, torch.arange(1))
    image = torch.rand(1, 1, 60, 60, generator=torch.Generator().manual_seed(0)) / 2
    direction, period, phase = draws.uniform(3)[0].tolist()
    axis, lines = (-2 if direction < 0.5 else -1), torch.arange(60)
    swing = 1 + 0.4 * torch.cos(2 * math.pi * (lines * round(60 / (3 + int(4 * period))) / 60 + phase))
    modulated = torch.fft.fft2(image) * (swing[:, None] if axis == -2 else swing)
    torch.testing.assert_close(scanner.ghosting(image, 0.4, draws), torch.fft.ifft2(modulated).abs(), rtol=0, atol=1e-5)


def test_a_jpeg_of_a_flat_grey_gives_it_back_and_a_poor_one_loses_detail():
    torch.testing.assert_close(scanner.jpeg(flat(0.2), 75.0, ONE), flat(51 / 255), rtol=0, atol=1e-6)
    grain = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    errors = [(scanner.jpeg(grain, quality, ONE) - grain).abs().mean() for quality in (100.0, 5.0)]
    assert errors[0] < errors[1]


def test_resampling_loses_what_is_finer_than_what_is_kept():
    stripes = (torch.arange(32) % 2).float().expand(1, 1, 32, 32)
    assert scanner.resampling(stripes, 0.25, ONE).std() < 0.1
    torch.testing.assert_close(scanner.resampling(stripes, 1.0, ONE), stripes)


def test_so_many_levels_are_left():
    ramp = torch.linspace(0, 1, 256).expand(1, 1, 16, 256)
    assert scanner.quantisation(ramp, 5.0, ONE).unique().tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_a_shift_moves_every_image_as_far_in_a_direction_of_its_own():
    draws = Draws.of(0, torch.arange(8))
    moved = scanner.shift(point().expand(8, -1, -1, -1), 6 / 41, draws)
    place = torch.arange(41.0) - 20
    mass = moved[:, 0] / moved.sum((1, 2, 3))[:, None, None]
    down, across = (mass.sum(2) * place).sum(1), (mass.sum(1) * place).sum(1)
    torch.testing.assert_close(torch.hypot(down, across), torch.full((8,), 6.0), rtol=0, atol=0.1)
    assert len(torch.atan2(down, across).unique()) == 8


def test_a_colour_image_gets_its_own_noise_in_each_channel():
    images = torch.cat([flat(0.4, 64), flat(0.5, 64), flat(0.6, 64)], 1)
    noise = (scanner.gaussian_noise(images, 0.05, ONE) - images)[0].flatten(1)
    assert (torch.corrcoef(noise) - torch.eye(3)).abs().max() < 0.1

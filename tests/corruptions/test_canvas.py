"""Areas, lengths and edges on a sheet, where geometry gives them."""

import math

import pytest
import torch

from antivenom.corruptions.canvas import Canvas, curve


@pytest.mark.parametrize(("height", "width"), [(24, 24), (64, 96), (512, 300)])
def test_a_disc_covers_its_area_at_every_size(height, width):
    sheet = Canvas(height, width)
    sheet.disc((0.5, 0.5), 0.2)
    cover = sheet.cover()
    assert cover.shape == (height, width)
    assert cover.sum().item() == pytest.approx(math.pi * (0.2 * min(height, width)) ** 2, rel=0.02)


def test_a_line_thinner_than_a_pixel_still_covers_its_share():
    sheet = Canvas(24, 24)
    sheet.line([(0.2, 0.5), (0.8, 0.5)], 0.01)
    assert sheet.cover().sum().item() == pytest.approx(0.6 * 0.01 * 24**2, rel=0.15)


def test_what_is_cleared_is_bare_and_soft_edges_lose_nothing():
    sheet = Canvas(64, 64)
    sheet.area([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)])
    sheet.disc((0.5, 0.5), 0.1, clear=True)
    sharp, soft = sheet.cover(), sheet.cover(0.03)
    assert sharp[32, 32] == 0
    assert soft.sum().item() == pytest.approx(sharp.sum().item(), rel=0.01)
    assert ((soft > 0.02) & (soft < 0.98)).sum() > 2 * ((sharp > 0.02) & (sharp < 0.98)).sum()


def test_a_letter_is_as_tall_as_its_capitals():
    sheet = Canvas(200, 200)
    sheet.write("L", (0.1, 0.1), 0.3, "la")
    rows = (sheet.cover() > 0.5).any(1).nonzero()
    assert (rows.max() - rows.min() + 1).item() / 200 == pytest.approx(0.3, rel=0.05)


def test_a_curve_starts_and_ends_at_its_ends_and_its_pieces_are_many():
    way = curve([(0.0, 0.0), (0.2, 0.9), (0.7, 0.4), (1.0, 0.5)])
    assert way[0] == (0.0, 0.0)
    assert way[-1] == pytest.approx((1.0, 0.5))
    assert len(way) == 49


def test_nothing_is_drawn_from_the_global_generator():
    world = torch.get_rng_state()
    sheet = Canvas(32, 32)
    sheet.write("R", (0.1, 0.1), 0.3, "la", bold=0.1)
    sheet.cover(0.1)
    assert torch.equal(world, torch.get_rng_state())

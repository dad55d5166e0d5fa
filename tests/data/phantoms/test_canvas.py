"""What is drawn is the same thing at every size."""

from __future__ import annotations

import numpy as np
import pytest

from antivenom.data.phantoms.canvas import Canvas, Frame, canvas


@pytest.mark.parametrize("size", [28, 64, 224])
def test_a_disc_has_its_area_at_any_size(size):
    paper = Canvas(size)
    covered = 4 * paper.inside(0.5 - np.hypot(paper.x, paper.y)).mean()
    assert covered == pytest.approx(np.pi * 0.25, rel=0.01)


def test_a_border_is_never_sharper_than_a_pixel():
    paper = Canvas(64)
    share = paper.inside(0.2 - paper.x)[0]
    assert ((share > 0.01) & (share < 0.99)).any()
    assert share[0] == 1
    assert share[-1] == 0


@pytest.mark.parametrize("size", [28, 64, 224])
def test_a_thin_stroke_keeps_its_ink_when_pixels_grow(size):
    paper = Canvas(size)
    path = np.array([[[-0.6, 0.1], [0.0, -0.1], [0.6, 0.1]]])
    drawn = paper.strokes(path, np.full((1, 3), 0.01), np.ones((1, 3)))
    length = 2 * np.hypot(0.6, 0.2)
    assert drawn.sum() * paper.pixel**2 == pytest.approx(length * 0.01 * (2 * np.pi) ** 0.5, rel=0.02)


def test_a_stroke_is_as_high_as_asked_and_has_no_beads():
    paper = Canvas(256)
    drawn = paper.strokes(np.array([[[-1.5, 0.0], [1.5, 0.0]]]), np.full((1, 2), 0.03), np.full((1, 2), 0.7))
    ridge = drawn.max(0)
    assert ridge.min() > 0.68  # a pixel's own blur takes 2 % here
    assert ridge.max() - ridge.min() < 0.001


def test_dots_fall_where_they_are_put():
    drawn = Canvas(100).dots(np.array([0.5]), np.array([-0.5]), np.array([0.05]), np.array([1.0]))
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (row, column) in {(r, c) for r in (24, 25) for c in (74, 75)}
    assert drawn.max() == pytest.approx(0.94, abs=0.03)  # the nearest pixel centre is off by half a pixel each way


@pytest.mark.parametrize("octaves", [1, 3])
def test_texture_has_mean_zero_and_unit_height(octaves):
    fields = np.stack([Canvas(64).texture(np.random.default_rng(i), 8, octaves) for i in range(60)])
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.std() == pytest.approx(1, abs=0.08)


def test_texture_is_the_same_field_at_every_size():
    coarse, fine = (Canvas(size).texture(np.random.default_rng(3), 8) for size in (32, 128))
    pooled = fine.reshape(32, 4, 32, 4).mean((1, 3))
    np.testing.assert_allclose(pooled, coarse, atol=0.05)


def test_texture_finer_than_a_pixel_fades_instead_of_flickering():
    assert Canvas(28).texture(np.random.default_rng(0), 224).std() < 0.3


def test_blur_keeps_the_mean_of_an_even_picture_and_lowers_a_peak():
    paper, peak = Canvas(64), np.zeros((64, 64), np.float32)
    peak[32, 32] = 1
    np.testing.assert_allclose(paper.blur(np.ones((3, 64, 64), np.float32), 0.1), 1, rtol=1e-5)
    assert paper.blur(peak, 0.1).max() < 0.02


def test_a_frame_puts_a_point_where_its_pixel_reads_it_back():
    frame, paper = Frame(degrees=20, zoom=1.3, right=0.1, down=-0.2), canvas(128)
    u, v = frame.positions(paper)
    picture = frame.place(np.stack([u, v], -1))
    np.testing.assert_allclose(picture[..., 0], paper.x, atol=1e-5)
    np.testing.assert_allclose(picture[..., 1], paper.y, atol=1e-5)

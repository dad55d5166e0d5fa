"""Pictures: the image where the map is cold, its colour where it is hot, and tiles where they belong."""

import numpy as np
import pytest
import torch

from antivenom.errors import ImageError, InputError
from antivenom.explanation.panels import INFERNO, Row, coloured, overlay, panel, shown, tiled


def flat(colour, height=8, width=8):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def lightness(colours):
    """CIELAB lightness of sRGB colours, `(..., 3)` in 0..255."""
    linear = np.where(colours <= 10.31, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.where(luminance > 0.008856, np.cbrt(luminance), 7.787 * luminance + 16 / 116) - 16


def test_the_colours_grow_lighter_evenly():
    ramp = lightness(coloured(np.linspace(0, 1, 256)[None])[0].astype(float))
    assert (np.diff(ramp) > -0.3).all()  # rounding to 8 bits
    assert np.abs(ramp - np.linspace(ramp[0], ramp[-1], 256)).max() < 6  # even in CAM02-UCS, nearly so in CIELAB
    assert np.array_equal(coloured(np.linspace(0, 1, len(INFERNO))[None])[0], INFERNO)


def test_the_image_shows_where_the_map_is_cold():
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(overlay(image, torch.zeros(4, 5)), expected)
    assert np.array_equal(shown(image), expected)
    assert np.array_equal(overlay(image, torch.ones(4, 5), opacity=1.0), flat(INFERNO[-1], 4, 5))
    grey = overlay(image[:1], torch.zeros(4, 5))
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_tiles_stand_by_row_and_column():
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (90, 90, 90)]]
    sheet = tiled([[flat(c) for c in row] for row in colours], rows=["one", "two"], columns=["a", "b"], side=40)
    left, top = sheet.shape[1] - 2 * 46, sheet.shape[0] - 2 * 46
    for i, row in enumerate(colours):
        for j, colour in enumerate(row):
            tile = sheet[top + 46 * i : top + 46 * i + 40, left + 46 * j : left + 46 * j + 40]
            assert (tile == colour).all()
    assert (sheet[:top].min(axis=2) < 128).any()  # letters
    assert (sheet[top:, :left].min(axis=2) < 128).any()
    assert (sheet[:, -6:] == 255).all()


def test_a_picture_keeps_its_shape_on_white():
    sheet = tiled([[flat((0, 0, 0), 10, 20)]], rows=[""], columns=["a"], side=40)
    top = sheet.shape[0] - 46
    assert (sheet[top + 10 : top + 30, -46:-6] == 0).all()
    assert (sheet[top : top + 10, -46:-6] == 255).all()


def test_a_label_that_is_too_long_is_cut():
    short, long = (tiled([[flat(255)]], rows=["row"], columns=[label], side=40) for label in ("mm", "m" * 80))
    assert short.shape == long.shape
    assert (long[:, -5:] == 255).all()


def test_a_panel_shows_the_input_first_and_then_the_models():
    image, heats = np.full((1, 8, 8), 0.2), {"plain": np.zeros((8, 8)), "cbam": np.ones((8, 8))}
    sheet = panel([Row("one", image, heats), Row("two", image, heats)], side=16, opacity=1.0)
    tiles = [sheet[-12, sheet.shape[1] - 22 * k + 8].tolist() for k in (3, 2, 1)]
    assert tiles == [[51] * 3, [51] * 3, [252, 255, 164]]


def test_what_cannot_be_shown_is_refused():
    image, heat = np.zeros((1, 8, 8)), np.zeros((8, 8))
    with pytest.raises(ImageError, match="its image's size"):
        overlay(image, heat[:4])
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        overlay(image, heat + 2)
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        overlay(image, heat * np.nan)
    with pytest.raises(ImageError, match="one channel or three"):
        overlay(np.zeros((2, 8, 8)), heat)
    with pytest.raises(InputError, match="same models"):
        panel([Row("one", image, {"a": heat}), Row("two", image, {"b": heat})])
    for rows in ([], [Row("one", image, {})][:0]):
        with pytest.raises(InputError, match="label per row"):
            panel(rows)
    with pytest.raises(InputError, match="label per row"):
        tiled([[flat(0)]], rows=["one"], columns=["a", "b"])

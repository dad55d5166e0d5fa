import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from antivenom.data import limits
from antivenom.data.reading import Frame, inside, read_image, resize
from antivenom.errors import DataError, ImageError, SettingsError

GREY = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], -1)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_files_give_their_pixels(tmp_path, suffix):
    grey, colour = read_image(saved(tmp_path / f"g.{suffix}", GREY)), read_image(saved(tmp_path / f"c.{suffix}", COLOUR))
    assert grey.shape == (1, 6, 8)
    assert colour.shape == (3, 6, 8)
    assert grey.dtype == torch.float32
    np.testing.assert_array_equal((grey[0] * 255).round(), GREY)
    np.testing.assert_array_equal((colour.permute(1, 2, 0) * 255).round(), COLOUR)


def test_jpeg_is_near_its_pixels(tmp_path):
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 2, (1, 64))
    image = read_image(saved(tmp_path / "x.jpg", smooth, quality=95))
    assert (image[0] * 255 - torch.from_numpy(smooth)).abs().max() < 4


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    deep = np.array([[0, 1, 256, 65535]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal((read_image(saved(tmp_path / name, deep))[0] * 65535).round(), deep)


def test_what_a_file_is_is_told_by_its_content(tmp_path):
    assert read_image(saved(tmp_path / "x.jpg", GREY, format="PNG")).shape == (1, 6, 8)
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(ImageError, match=r"x\.png: not a PNG"):
        read_image(tmp_path / "x.png")


def test_a_grey_file_stored_as_colour_is_grey_when_grey_is_wanted(tmp_path):
    path = saved(tmp_path / "x.png", np.stack([GREY] * 3, -1))
    assert read_image(path).shape[0] == 3
    np.testing.assert_array_equal((read_image(path, channels=1)[0] * 255).round(), GREY)


def test_colour_becomes_grey_by_its_luminance(tmp_path):
    path = saved(tmp_path / "x.png", np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8))
    assert read_image(path, channels=1)[0, 0].tolist() == pytest.approx([0.299, 0.587, 0.114], abs=1 / 255)
    np.save(tmp_path / "x.npy", np.eye(3)[None])
    assert read_image(tmp_path / "x.npy", channels=1)[0, 0].tolist() == pytest.approx([0.299, 0.587, 0.114])


def test_grey_becomes_three_equal_channels(tmp_path):
    image = read_image(saved(tmp_path / "x.png", GREY), channels=3)
    assert image.shape == (3, 6, 8)
    assert torch.equal(image[0], image[2])


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    image = read_image(saved(tmp_path / "x.png", GREY, exif=exif))
    np.testing.assert_array_equal((image[0] * 255).round(), np.rot90(GREY, -1))


def test_palettes_are_resolved_and_transparency_is_laid_over_black(tmp_path):
    Image.fromarray(COLOUR).quantize(256).save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png").permute(1, 2, 0) * 255 - torch.from_numpy(COLOUR)).abs().max() < 16
    alpha = np.full((1, 2, 4), 255, dtype=np.uint8)
    alpha[0, 0, 3] = 0
    assert read_image(saved(tmp_path / "a.png", alpha))[0, 0].tolist() == [0, 1]
    veiled = Image.fromarray(np.full((1, 1), 200, np.uint8)).convert("LA")
    veiled.putalpha(0)
    veiled.save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[0]]]


def test_one_bit_pictures_and_cmyk_are_read(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").unique().tolist() == [0, 1]
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "k.tif")
    assert read_image(tmp_path / "k.tif").shape == (3, 6, 8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "npy"])
def test_truncated_files_are_refused_by_name(tmp_path, suffix, rng):
    path, noise = tmp_path / f"cut.{suffix}", rng.integers(0, 256, (64, 64), dtype=np.uint8)
    np.save(path, noise) if suffix == "npy" else saved(path, noise)
    assert read_image(path).shape == (1, 64, 64)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}"):
        read_image(path)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, place, value):
    """Nothing but ImageError leaves the door, whichever byte is wrong."""
    path, buffer = tmp_path_factory.getbasetemp() / "damaged.png", io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        image = read_image(path)
    except ImageError:
        return
    assert image.min() >= 0
    assert image.max() <= 1


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: cannot be opened"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png"):
        read_image(tmp_path / "empty.png")


def png_claiming(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8200, 100_000])
def test_a_file_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png_claiming(side, side))
    with pytest.raises(ImageError, match=r"bomb\.png.*pixels"):
        read_image(tmp_path / "bomb.png")


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", GREY)
    monkeypatch.setattr(limits, "MAX_BYTES", path.stat().st_size)
    assert read_image(path).shape == (1, 6, 8)
    monkeypatch.setattr(limits, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(ImageError, match="at most"):
        read_image(path)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 255]], np.uint8), 1),
        (np.array([[0, 65535]], ">u2"), 1),
        (np.array([[False, True]]), 1),
        (np.array([[0, 0.5]]), 0.5),
    ],
)
def test_arrays_are_scaled_by_their_type(tmp_path, values, white):
    np.save(tmp_path / "x.npy", values)
    assert read_image(tmp_path / "x.npy").tolist() == [[[0, white]]]


def test_arrays_may_have_channels_first_or_last(tmp_path):
    np.save(tmp_path / "last.npy", COLOUR)
    np.save(tmp_path / "first.npy", np.moveaxis(COLOUR, 2, 0))
    assert torch.equal(read_image(tmp_path / "last.npy"), read_image(tmp_path / "first.npy"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0, np.nan]]), "finite"),
        (np.array([[0, 1.5]]), r"\[0, 1\.5\]"),
        (np.array([[-0.1, 0]]), r"\[-0\.1, 0\]"),
        (np.array([[1, 2]], np.int64), "no stated range"),
        (np.zeros((4, 5, 6)), "shape"),
        (np.zeros((0, 4)), "pixels"),
        (np.array([[None]]), r"x\.npy"),
    ],
)
def test_arrays_that_are_no_image_are_refused(tmp_path, values, says):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ImageError, match=says):
        read_image(tmp_path / "x.npy")


def test_an_npz_holds_one_image(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", image=GREY)
    assert read_image(tmp_path / "one.npz").shape == (1, 6, 8)
    np.savez(tmp_path / "two.npz", a=GREY, b=GREY)
    with pytest.raises(ImageError, match="holds 2 arrays"):
        read_image(tmp_path / "two.npz")


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    page = Image.fromarray(GREY)
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page])
    with pytest.raises(ImageError, match="holds 2 pictures"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png", "folder/secret.png", "\0"])
def test_no_path_leads_out_of_the_root(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    saved(tmp_path / "secret.png", GREY)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    with pytest.raises(DataError):
        inside(root, path)


def test_paths_and_links_below_the_root_are_followed(tmp_path):
    saved(tmp_path / "x.png", GREY)
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    assert inside(tmp_path, "link.png") == inside(tmp_path, "a/../x.png") == (tmp_path / "x.png").resolve()


def test_squash_uses_the_whole_image_crop_its_middle_and_pad_black_margins():
    image = torch.zeros(1, 8, 16)
    image[..., :4] = 1  # a white stripe at the left, outside the middle square
    assert resize(image, 8)[0, 0].tolist() == pytest.approx([1, 1, 0, 0, 0, 0, 0, 0], abs=0.2)
    assert resize(image, 8, fit="crop").max() == 0
    padded = resize(torch.ones(1, 8, 16), 8, fit="pad")
    assert padded[0, :, 0].tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 0, 0])


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.sampled_from(["squash", "crop", "pad"])
)
def test_resizing_gives_the_size_and_keeps_the_range(rows, columns, height, width, fit):
    image = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(rows * 41 + columns))
    small = resize(image, (height, width), fit=fit)
    assert small.shape == (1, height, width)
    assert small.max() <= image.max() + 1e-6
    assert fit == "pad" or small.min() >= image.min() - 1e-6


def test_scaling_down_averages_instead_of_picking():
    wires = (torch.arange(64) % 8 == 0).float().expand(1, 64, 64)  # one column in eight is white
    assert (resize(wires, 8)[..., 1:-1] - 1 / 8).abs().max() < 0.05


def test_masks_are_brought_to_size_in_the_same_way():
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, 8:] = True
    small = Frame(4, "pad").mask(mask)
    assert small.dtype == torch.bool
    assert small[1:3].tolist() == [[False, False, True, True]] * 2
    assert not small[0].any()
    assert torch.equal(Frame().mask(mask), mask)


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (2, 3, 4), 2.5, "64", 100_000])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(SettingsError, match="size must be"):
        Frame(size)


def test_unknown_fits_are_refused():
    with pytest.raises(SettingsError, match="squash, crop, pad"):
        Frame(4, "stretch")

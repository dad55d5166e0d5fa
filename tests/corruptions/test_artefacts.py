"""What is drawn is as large, as many and as bright as it says, and lies where it should."""

import pytest
import torch

from antivenom.corruptions import artefacts
from antivenom.corruptions.grey import ink
from antivenom.randomness import Draws

EIGHT = Draws.of(0, torch.arange(8))


def grey(value, height=128, width=128, number=8):
    return torch.full((number, 1, height, width), value)


def extents(mask):
    """Height and width of what is covered by more than a half, for each image."""
    found = []
    for image in mask[:, 0] > 0.5:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        found.append(((rows.max() - rows.min() + 1).item(), (columns.max() - columns.min() + 1).item()))
    return found


def pieces(mask):
    """Connected parts of one mask `(H, W)`, counted."""
    from scipy.ndimage import label

    return label((mask > 0.5).numpy(), structure=torch.ones(3, 3).numpy())[1]


def test_a_pin_is_white_metal_with_a_dark_rim_and_grows_in_its_place():
    images = grey(0.4)
    small, large = (artefacts.pin(images, length, EIGHT) for length in (0.15, 0.4))
    for found, white in ((small, 0.55), (large, 0.8)):  # a short wire is thinner than a pixel
        assert (found.images.amax((1, 2, 3)) > white).all()
        assert (found.images.amin((1, 2, 3)) < 0.39).all()
    assert (large.mask[small.mask > 0.9] > 0.5).float().mean() > 0.95


@pytest.mark.parametrize("length", [0.3, 0.5])
def test_a_pin_is_as_long_as_it_says(length):
    covered = artefacts.pin(grey(0.3), length, EIGHT).images > 0.6
    for image in covered[:, 0]:
        places = image.nonzero().float()
        assert torch.pdist(places).max().item() / 128 == pytest.approx(length, rel=0.15)


def test_some_pins_are_screws_and_some_are_wires():
    area = (artefacts.pin(grey(0.3, number=24), 0.4, Draws.of(0, torch.arange(24))).images > 0.6).float().sum((1, 2, 3))
    assert (area > 2 * area.min()).sum() >= 8
    assert (area < 1.5 * area.min()).sum() >= 3


def test_dust_is_white_on_a_plate_and_dark_and_soft_near_a_lens():
    images = grey(0.5, 512, 512)
    plate, lens = artefacts.plate_dust(images, 20, EIGHT), artefacts.lens_dust(images, 20, EIGHT)
    assert (plate.images >= 0.5).all()
    assert (plate.images.amax((1, 2, 3)) > 0.85).all()
    assert (lens.images <= 0.5).all()
    soft, sharp = (((found.mask > 0.05) & (found.mask < 0.5)).sum() / (found.mask > 0.05).sum() for found in (lens, plate))
    assert soft > sharp


@pytest.mark.parametrize("draw", [artefacts.plate_dust, artefacts.lens_dust, artefacts.hair, artefacts.tubes])
def test_more_of_them_are_those_that_were_there_and_others(draw):
    few, many = draw(grey(0.5), 4, EIGHT).mask, draw(grey(0.5), 12, EIGHT).mask
    assert (many >= few - 1e-6).all()
    assert (many.sum((1, 2, 3)) > few.sum((1, 2, 3))).all()
    assert (draw(grey(0.5), 0, EIGHT).mask == 0).all()


def test_hair_is_thin_long_and_brown_in_colour():
    skin = torch.tensor([0.8, 0.6, 0.5]).reshape(1, 3, 1, 1).expand(8, 3, 256, 256)
    found = artefacts.hair(skin, 3, EIGHT)
    assert max(max(extent) for extent in extents(found.mask)) > 128
    assert (found.mask > 0.5).float().mean((1, 2, 3)).max() < 0.03
    red, green, blue = found.images.amin((0, 2, 3)).tolist()
    assert red > green > blue


def test_a_ruler_keeps_to_one_side_and_its_marks_are_alike_and_apart():
    draws = Draws.of(0, torch.arange(24))
    mask = artefacts.ruler(grey(0.7, 256, 256, 24), 0.1, draws).mask
    at_side = []
    for image, (tall, wide) in zip(mask, extents(mask), strict=True):
        assert min(tall, wide) <= 0.12 * 256
        assert max(tall, wide) > 0.8 * 256
        assert 20 < pieces(image[0]) < 35
        at_side.append(
            torch.stack([image[0, :40].sum(), image[0, -40:].sum(), image[0, :, :40].sum(), image[0, :, -40:].sum()]).argmax()
        )
    assert len({side.item() for side in at_side}) == 4


def test_a_marker_is_one_letter_as_tall_as_it_says_in_an_upper_corner():
    mask = artefacts.laterality_marker(grey(0.2, 256, 200), 0.2, EIGHT).mask
    for image, (tall, _) in zip(mask, extents(mask), strict=True):
        assert tall / 200 == pytest.approx(0.2, rel=0.15)
        assert pieces(image[0]) == 1
        assert image[:, 128:].sum() == 0
    left = mask[..., :100].sum((1, 2, 3)) > mask[..., 100:].sum((1, 2, 3))
    assert left.any()
    assert not left.all()


def test_text_has_many_letters_in_a_corner_and_differs_by_image():
    mask = artefacts.burned_in_text(grey(0.2, 256, 256), 0.04, EIGHT).mask
    assert all(15 < pieces(image[0]) < 40 for image in mask)
    assert len({image.sum().item() for image in mask}) == 8
    middle = mask[:, :, 96:160, :]
    assert (middle == 0).all()


def test_a_collimator_closes_from_the_border_and_leaves_the_middle():
    found = artefacts.collimation(grey(0.6), 0.2, EIGHT)
    assert (found.images[..., 40:88, 40:88] == 0.6).all()
    for side in (found.images[..., 0, :], found.images[..., -1, :], found.images[..., 0], found.images[..., -1]):
        assert (side < 0.1).all()
    hidden = (found.mask > 0.5).float().mean((1, 2, 3))
    assert (hidden > 0.2).all()
    assert (hidden < 0.65).all()


def test_a_bubble_has_a_dark_rim_and_a_bright_glint():
    found = artefacts.gel_bubbles(grey(0.5), 0.2, EIGHT)
    assert (found.images.amin((1, 2, 3)) < 0.42).all()
    assert (found.images.amax((1, 2, 3)) > 0.65).all()


def test_flare_brightens_the_photograph_and_not_its_black_surround():
    images = grey(0.4)
    images[..., :32, :] = 0
    found = artefacts.lens_flare(images, 0.8, EIGHT)
    assert (found.images[..., :32, :] == 0).all()
    assert (found.images >= images).all()
    assert (found.images.amax((1, 2, 3)) > 0.45).all()


def test_tubes_come_from_the_neck_and_leads_from_a_side():
    mask = artefacts.tubes(grey(0.4, number=32), 1, Draws.of(0, torch.arange(32))).mask[:, 0]
    top = mask[:, 0, 40:90].amax(1) > 0.2
    side = (mask[:, :, 0].amax(1) > 0.2) | (mask[:, :, -1].amax(1) > 0.2)
    assert (top ^ side).all()
    assert 6 < top.sum() < 26


@pytest.mark.parametrize(("draw", "strength"), [(artefacts.pin, 0.4), (artefacts.laterality_marker, 0.2), (artefacts.hair, 8)])
def test_a_thing_is_as_large_in_a_picture_of_twice_the_pixels(draw, strength):
    small, large = (draw(grey(0.3, side, side), strength, EIGHT).mask for side in (96, 192))
    coarse = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - coarse).abs().mean() < 0.01
    assert (small > 0.5).float().mean().item() == pytest.approx((coarse > 0.5).float().mean().item(), rel=0.15)


def test_an_ink_has_its_colour_in_colour_and_its_luminance_in_grey():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images[1] = images[1, :1]
    found = ink(images, (0.9, 0.5, 0.1)).flatten(1)
    assert found[0].tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert found[1].tolist() == pytest.approx([0.574] * 3, abs=1e-4)

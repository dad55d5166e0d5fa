import pytest
import torch
from pydantic import ValidationError

from antivenom.randomness import Draws
from antivenom.training.augmentation import Augmentation

ALL = Augmentation(rotation=20, shift=0.1, zoom=0.2, mirror=True, upend=True, brightness=0.1, contrast=0.2)


@pytest.fixture
def images():
    return torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def draws():
    return Draws.of(0, torch.arange(16))


class Fixed:
    """Draws that give the numbers they are told."""

    def __init__(self, **numbers):
        self.row = torch.full((10,), 0.5)
        for place, value in numbers.items():
            self.row[int(place[1:])] = value

    def uniform(self, columns):
        return self.row[None, :columns]


def test_off_means_untouched(images, draws):
    assert torch.equal(Augmentation().apply(images, draws), images)


def test_what_befalls_an_image_does_not_depend_on_its_company(images, draws):
    together, some = ALL.apply(images, draws), torch.tensor([11, 3])
    torch.testing.assert_close(ALL.apply(images[some], draws.take(some)), together[some])
    assert not torch.equal(ALL.apply(images, draws.at(1)), together)


def test_the_global_generator_is_left_alone(images, draws):
    world = torch.get_rng_state()
    ALL.apply(images, draws)
    assert torch.equal(world, torch.get_rng_state())


def test_images_stay_in_range_and_in_size(images, draws):
    for settings in (ALL, Augmentation(brightness=1.0), Augmentation(contrast=0.9), Augmentation(zoom=0.5, surround="black")):
        out = settings.apply(images, draws)
        assert out.shape == images.shape
        assert out.min() >= 0
        assert out.max() <= 1


def test_a_shift_moves_by_whole_pixels_where_it_should():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 2, 5] = 1
    down = Augmentation(shift=0.25, surround="black").apply(image, Fixed(_2=0.0, _3=0.5))  # looks 2 pixels further up
    assert down[0, 0].argmax() == 4 * 8 + 5
    torch.testing.assert_close(down.max(), torch.tensor(1.0))
    aside = Augmentation(shift=0.25, surround="black").apply(image, Fixed(_2=0.5, _3=1.0))
    assert aside[0, 0].argmax() == 2 * 8 + 3


@pytest.mark.parametrize("shape", [(8, 8), (12, 8)])
def test_a_quarter_turn_is_a_quarter_turn_also_where_sides_differ(shape):
    image = torch.zeros(1, 1, *shape)
    height, width = shape
    image[..., height // 2 - 3, width // 2] = 1  # above the centre
    turned = Augmentation(rotation=90, surround="black").apply(image, Fixed(_0=1.0))
    row, column = divmod(int(turned[0, 0].argmax()), width)
    assert (row, column) == (height // 2 - 1, width // 2 - 3)  # left of it, as far away


def test_zoom_magnifies_about_the_centre():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 6:10, 6:10] = 1
    larger, smaller = (Augmentation(zoom=0.5, surround="black").apply(image, Fixed(_1=luck)).sum() for luck in (1.0, 0.0))
    torch.testing.assert_close(larger, torch.tensor(16 * 1.5**2), rtol=0.05, atol=0)
    torch.testing.assert_close(smaller, torch.tensor(16 * 0.5**2), rtol=0.05, atol=0)


def test_what_comes_in_from_outside_is_black_or_reflected():
    image = torch.ones(1, 1, 8, 8)
    black, reflected = (
        Augmentation(shift=0.25, surround=surround).apply(image, Fixed(_2=0.0)) for surround in ("black", "reflected")
    )
    assert (black[..., :2, :] == 0).all()
    torch.testing.assert_close(reflected, image)


def test_half_of_the_images_are_mirrored_exactly():
    images = torch.rand(400, 1, 4, 4)
    out = Augmentation(mirror=True).apply(images, Draws.of(0, torch.arange(400)))
    mirrored, kept = ((out == other).flatten(1).all(1) for other in (images.flip(-1), images))
    assert (mirrored ^ kept).all()
    assert 160 < mirrored.sum() < 240
    upended = Augmentation(upend=True).apply(images, Draws.of(0, torch.arange(400)))
    assert ((upended == images.flip(-2)) | (upended == images)).flatten(1).all()


def test_a_crop_is_a_part_of_the_image_at_full_detail(draws):
    images = torch.arange(144.0).reshape(1, 1, 12, 12).expand(16, -1, -1, -1) / 144
    out = Augmentation(crop=0.5).apply(images, draws)
    assert out.shape == (16, 1, 6, 6)
    corners = (out[:, 0, 0, 0] * 144).round().long()
    for image, corner in zip(out, corners, strict=True):
        top, left = divmod(int(corner), 12)
        assert torch.equal(image, images[0, :, top : top + 6, left : left + 6])
    assert len(corners.unique()) > 8


def test_brightness_and_contrast_do_what_they_say():
    image = torch.tensor([0.4, 0.6]).reshape(1, 1, 1, 2)
    brighter = Augmentation(brightness=0.2).apply(image, Fixed(_9=1.0))
    torch.testing.assert_close(brighter.flatten(), torch.tensor([0.6, 0.8]))
    harder = Augmentation(contrast=0.5).apply(image, Fixed(_8=1.0))
    torch.testing.assert_close(harder.flatten(), torch.tensor([0.35, 0.65]))


@pytest.mark.parametrize("settings", [{"rotation": -1}, {"crop": 0}, {"turn": 10}, {"surround": "grey"}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValidationError):
        Augmentation(**settings)


def test_blocks_are_put_in_another_order_whole():
    images = torch.arange(4.0).repeat_interleave(4).reshape(1, 1, 4, 4).repeat(32, 1, 1, 1) / 4
    images[:, 0, :2, :2], images[:, 0, :2, 2:], images[:, 0, 2:, :2], images[:, 0, 2:, 2:] = 0.1, 0.2, 0.3, 0.4
    found = Augmentation(blocks=2).apply(images, Draws.of(0, torch.arange(32)))
    blocks = found.reshape(32, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(32, 4, 4)
    assert (blocks == blocks[:, :, :1]).all()
    assert torch.equal(blocks[:, :, 0].sort(1).values, torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(32, 4))
    changed = (found != images).flatten(1).any(1)
    assert 8 <= changed.sum() <= 24  # half of the images


def test_what_no_block_holds_stays_in_its_place():
    images = torch.rand(8, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    found = Augmentation(blocks=3).apply(images, Draws.of(0, torch.arange(8)))
    assert torch.equal(found[:, :, 6:], images[:, :, 6:])
    assert torch.equal(found[:, :, :, 3:], images[:, :, :, 3:])
    assert torch.equal(found.flatten(1).sort(1).values, images.flatten(1).sort(1).values)


def test_noise_is_normal_and_is_not_clipped():
    images = torch.full((16, 1, 16, 16), 0.98)
    found = Augmentation(noise=0.25).apply(images, Draws.of(0, torch.arange(16)))
    assert found.amax() > 1.3
    assert (found - images).std().item() == pytest.approx(0.25, rel=0.05)
    assert (found - images).mean().abs() < 0.02

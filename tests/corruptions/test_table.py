"""What every corruption promises, whatever it does, and what the door refuses."""

import pytest
import torch

from antivenom.corruptions.artefacts import Drawn
from antivenom.corruptions.table import CORRUPTIONS, SEVERITIES, corrupt, corrupt_by, corruption, drawn_over, natural
from antivenom.data.datasets import DATASETS
from antivenom.errors import ImageError, SettingsError
from antivenom.randomness import Draws

EVERY = pytest.mark.parametrize("name", CORRUPTIONS)
ARTEFACTS = ["pin", "plate_dust", "lens_dust", "hair", "ruler", "laterality_marker", "burned_in_text", "collimation"]
ARTEFACTS += ["gel_bubbles", "lens_flare", "tubes"]
DETERMINISTIC = {"gaussian_blur", "defocus_blur", "under_exposure", "over_exposure", "contrast_loss", "contrast_gain"}
DETERMINISTIC |= {"gamma_up", "gamma_down", "jpeg", "resampling", "quantisation"}


def scans(number=4, channels=3, height=48, width=60, seed=0):
    """Smooth bodies with some grain, off the middle, in a black surround; in colour each channel is its own."""
    generator = torch.Generator().manual_seed(seed)
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    shape = torch.rand(number, channels, 4, 1, 1, generator=generator)
    at, far = 0.4 * shape[:, :, :2] - 0.2, 0.6 + 0.3 * shape[:, :, 2]
    away = torch.hypot(down - at[:, :, 0], across - at[:, :, 1]) / far
    ribs = 0.12 * (9 * down + 3 * across + 6 * shape[:, :, 3]).sin()
    grain = 0.03 * torch.randn(number, channels, height, width, generator=generator)
    return ((1.15 - away).clamp(0, 0.62) + (ribs + grain) * (away < 1)).clamp(0, 1)


def luck(number=4, seed=0):
    return Draws.of(seed, torch.arange(number) + 11)


def change(images, name, severity, draws):
    return (corrupt(images, name, severity, draws) - images).abs().mean().item()


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 24), (24, 100)])
def test_what_comes_out_is_an_image_like_the_one_that_went_in(name, channels, height, width):
    images = scans(2, channels, height, width)
    before, world = images.clone(), torch.get_rng_state()
    for severity in (1, 5):
        found = corrupt(images, name, severity, luck(2))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.device == images.device
        assert found.min() >= 0
        assert found.max() <= 1
        assert found.isfinite().all()
    assert not torch.equal(found, images)
    assert torch.equal(images, before)
    assert torch.equal(world, torch.get_rng_state())


@EVERY
@pytest.mark.parametrize("side", [24, 48, 160])
def test_a_higher_severity_changes_more(name, side):
    images = scans(6, height=side, width=side * 5 // 4)
    changes = [change(images, name, severity, luck(6)) for severity in SEVERITIES]
    assert changes == sorted(changes), changes
    assert changes[-1] > 1.5 * changes[0]


@EVERY
def test_the_first_severity_is_slight_and_the_last_is_not(name):
    images = 0.2 + 0.7 * scans(6, height=160, width=160)
    assert change(images, name, 1, luck(6)) < 0.045
    assert ((corrupt(images, name, 5, luck(6)) - images).abs().flatten(1).amax(1) > 0.08).all()  # smooth as they are


@EVERY
def test_the_same_draws_give_the_same_image_and_other_draws_another(name):
    images = scans()
    found = corrupt(images, name, 4, luck())
    assert torch.equal(found, corrupt(images, name, 4, luck()))
    again = corrupt(images, name, 4, luck(seed=1))
    moved = (found != again).flatten(1).any(1)
    assert moved.any() == (name not in DETERMINISTIC)


@EVERY
def test_an_image_alone_gives_what_it_gives_in_company(name):
    images = scans(5)
    together = corrupt(images, name, 4, luck(5))
    for some in torch.tensor([[3, 1], [0, 4]]):
        apart = corrupt(images[some], name, 4, luck(5).take(some))
        torch.testing.assert_close(apart, together[some], rtol=0, atol=2e-6)  # a mean may be added up in another order


@EVERY
def test_a_grey_image_stays_grey_and_changes_as_it_does_in_one_channel(name):
    grey, colour = scans(2, 1, 33, 41), scans(2, 3, 33, 41)
    mixed = torch.cat([grey.expand(-1, 3, -1, -1), colour])
    found = corrupt(mixed, name, 4, luck())
    assert (found[:2] == found[:2, :1]).all()
    assert (found[2:] != found[2:, :1]).any()
    alone = corrupt(grey, name, 4, luck().take(torch.arange(2)))
    torch.testing.assert_close(found[:2, :1], alone, rtol=0, atol=2e-6)


@EVERY
def test_images_of_half_and_double_precision_come_back_as_such(name):
    images = scans(2)
    for kind in (torch.float16, torch.float64):
        found = corrupt(images.to(kind), name, 3, luck(2))
        assert found.dtype is kind
        assert found.min() >= 0
        assert found.max() <= 1
    torch.testing.assert_close(found.float(), corrupt(images, name, 3, luck(2)), rtol=0, atol=1e-6)


@EVERY
def test_large_images_are_taken_as_well(name):
    images = scans(1, 3, 512, 512)
    assert 0 < change(images, name, 5, luck(1)) < 0.6


@EVERY
def test_a_row_says_where_it_is_natural_and_how_strong_it_is(name):
    row = CORRUPTIONS[name]
    assert row.natural
    assert row.natural <= {known.modality for known in DATASETS.values()}
    assert len(set(row.strengths)) == len(SEVERITIES)
    assert list(row.strengths) in (sorted(row.strengths), sorted(row.strengths, reverse=True))
    assert all(row.within[0] <= strength <= row.within[1] for strength in row.strengths)
    assert row.summary.endswith(".")
    assert row.title
    assert row.unit
    assert row.reason
    assert all(name in natural(modality) for modality in row.natural)
    assert torch.equal(corrupt(scans(), name, 3, luck()), corrupt_by(scans(), name, row.strengths[2], luck()))


@pytest.mark.parametrize("name", ARTEFACTS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_an_artefact_says_where_it_lies_and_leaves_the_rest_alone(name, severity):
    images = scans(4, height=96, width=96)
    found = drawn_over(images, name, severity, luck())
    assert isinstance(found, Drawn)
    assert found.mask.shape == (4, 1, 96, 96)
    assert found.mask.min() >= 0
    assert found.mask.max() <= 1
    assert torch.equal(found.images, corrupt(images, name, severity, luck()))
    untouched = (found.mask == 0).expand_as(images)
    assert untouched.any()
    assert torch.equal(found.images[untouched], images[untouched])
    assert ((found.images != images).any(1, keepdim=True) & (found.mask > 0)).flatten(1).any(1).float().mean() >= 0.5


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - set(ARTEFACTS)))
def test_what_lies_nowhere_has_no_mask(name):
    with pytest.raises(SettingsError, match="has no mask"):
        drawn_over(scans(), name, 3, luck())


def test_severities_share_their_luck_and_corruptions_do_not():
    images = torch.full((2, 1, 64, 64), 0.5)
    weak, strong = (corrupt_by(images, "gaussian_noise", size, luck(2)) - 0.5 for size in (0.01, 0.02))
    torch.testing.assert_close(2 * weak, strong, rtol=0, atol=1e-6)
    other = corrupt_by(images, "shot_noise", 800.0, luck(2)) - 0.5
    assert torch.corrcoef(torch.stack([weak.flatten(), other.flatten()]))[0, 1].abs() < 0.1


def test_no_gradient_is_kept():
    images = scans().requires_grad_()
    assert not corrupt(images, "gamma_up", 3, luck()).requires_grad


BAD = [
    (lambda: corrupt(scans() * 255, "jpeg", 3, luck()), ImageError, "divide"),
    (lambda: corrupt((scans() * 255).byte(), "jpeg", 3, luck()), ImageError, "floating-point"),
    (lambda: corrupt(scans().where(scans() > 0, torch.nan), "jpeg", 3, luck()), ImageError, "finite"),
    (lambda: corrupt(scans()[0], "jpeg", 3, luck()), ImageError, "shape"),
    (lambda: corrupt(scans(channels=2), "jpeg", 3, luck()), ImageError, "C 1 or 3"),
    (lambda: corrupt(scans()[:0], "jpeg", 3, luck(0)), ImageError, "at least one"),
    (lambda: corrupt(scans(height=15), "jpeg", 3, luck()), ImageError, "15x60"),
    (lambda: corrupt(scans(), "jpeg", 3, luck(3)), SettingsError, "3 streams for 4"),
    (lambda: corrupt(scans(), "rain", 3, luck()), SettingsError, "no corruption 'rain'; there are quantum_noise"),
    (lambda: corrupt(scans(), "jpeg", 0, luck()), SettingsError, "got 0"),
    (lambda: corrupt(scans(), "jpeg", 6, luck()), SettingsError, "1 to 5"),
    (lambda: corrupt(scans(), "jpeg", True, luck()), SettingsError, "got True"),
    (lambda: corrupt(scans(), "jpeg", 2.5, luck()), SettingsError, "got 2.5"),
    (lambda: corrupt_by(scans(), "jpeg", 0.5, luck()), SettingsError, "from 1 to 100"),
    (lambda: corrupt_by(scans(), "gaussian_noise", torch.nan, luck()), SettingsError, "nan"),
    (lambda: corrupt_by(scans(), "quantum_noise", torch.inf, luck()), SettingsError, "inf"),
]


@pytest.mark.parametrize(("call", "error", "said"), BAD)
def test_the_door_refuses_what_cannot_be_corrupted(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_a_row_is_found_by_its_name():
    assert corruption("pin").title == "Orthopaedic pin"
    assert "pin" in natural("chest X-ray")
    assert natural("digits") == []

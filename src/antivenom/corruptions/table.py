"""The corruptions by name: what each does, to which scans it happens, and how strong its five severities are.

Severity 1 is barely seen and 5 is a scan that a radiographer would repeat, judged by eye on real images of each kind at their
stored size; where MedMNIST-C states strengths for the same kind of image (see `acquisition`), the row says how they compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.corruptions import acquisition, artefacts
from antivenom.corruptions.artefacts import MOST, Drawn
from antivenom.errors import ImageError, SettingsError
from antivenom.randomness import Draws, image_keys

Change = Callable[[Tensor, float, Draws], Tensor]
Drawing = Callable[[Tensor, float, Draws], Drawn]

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 16  # px along the shorter side; below, a pin or a letter is no shape any more

CHEST, FUNDUS, SKIN, BRAIN = "chest X-ray", "fundus photography", "dermoscopy", "brain MRI"  # as data names them
CT = ("abdominal CT, axial", "abdominal CT, coronal", "abdominal CT, sagittal")
PHOTOGRAPHS = frozenset({FUNDUS, SKIN})
STORED = frozenset({*PHOTOGRAPHS, CHEST, BRAIN, *CT})


@dataclass(frozen=True)
class Corruption:
    """One row of the table.

    Attributes:
        run: the function; a `Drawing` where something lies on the image.
        title: name in a report.
        summary: what happens, in a sentence.
        natural: modalities, as data names them, to which it happens; elsewhere it can be run and is a control.
        unit: what the strengths count.
        strengths: of severity 1 to 5.
        reason: where they come from.
        within: the least and the largest strength that has a meaning.
    """

    run: Change | Drawing
    title: str
    summary: str
    natural: frozenset[str]
    unit: str
    strengths: tuple[float, float, float, float, float]
    reason: str
    within: tuple[float, float]

    def strength(self, severity: int) -> float:
        """The strength of a severity.

        Raises:
            SettingsError: it is none of 1 to 5.
        """
        if isinstance(severity, bool) or severity not in SEVERITIES:
            raise SettingsError(f"a severity is a whole number from 1 to {len(SEVERITIES)}, got {severity!r}")
        return self.strengths[int(severity) - 1]


LOOKED = "by eye on real images"
LIKE_MEDMNIST = "by eye; MedMNIST-C: {}"
SHARE = (0.0, 1.0)

CORRUPTIONS: dict[str, Corruption] = {
    "quantum_noise": Corruption(
        acquisition.quantum_noise,
        "Quantum noise",
        "Too few X-ray quanta reach the detector, fewest behind bone.",
        frozenset({CHEST}),
        "quanta in a pixel behind nothing",
        (5000.0, 1200.0, 300.0, 100.0, 40.0),
        "deviation at mid-grey of 0.01, 0.02, 0.04, 0.07 and 0.11; the dose falls to under a hundredth",
        (1.0, math.inf),
    ),
    "shot_noise": Corruption(
        acquisition.shot_noise,
        "Shot noise",
        "Too little light reaches the camera, so that bright parts turn grainy.",
        PHOTOGRAPHS,
        "quanta in a white pixel",
        (1500.0, 400.0, 130.0, 50.0, 20.0),
        LIKE_MEDMNIST.format("60 to 5 on skin"),
        (1.0, math.inf),
    ),
    "gaussian_noise": Corruption(
        acquisition.gaussian_noise,
        "Electronic noise",
        "The amplifier adds noise that does not depend on the signal.",
        frozenset({CHEST, *PHOTOGRAPHS, *CT}),
        "standard deviation, share of the range",
        (0.01, 0.025, 0.05, 0.08, 0.12),
        LIKE_MEDMNIST.format("0.04 to 0.08 on pneumonia, to 0.2 on fundus, to 0.26 on skin"),
        (0.0, math.inf),
    ),
    "rician_noise": Corruption(
        acquisition.rician_noise,
        "Rician noise",
        "Noise in both parts of the MR signal lifts the black surround and grains the rest.",
        frozenset({BRAIN}),
        "standard deviation of either part, share of the range",
        (0.01, 0.025, 0.05, 0.08, 0.12),
        "by eye; the same deviations as electronic noise",
        (0.0, math.inf),
    ),
    "dead_pixels": Corruption(
        acquisition.dead_pixels,
        "Dead pixels",
        "Elements of the detector are stuck at black or white.",
        frozenset({CHEST, *PHOTOGRAPHS}),
        "share of the pixels, at least one pixel",
        (0.0005, 0.002, 0.006, 0.02, 0.05),
        LIKE_MEDMNIST.format("0.005 to 0.02 on pneumonia, to 0.17 on skin"),
        SHARE,
    ),
    "detector_lines": Corruption(
        acquisition.detector_lines,
        "Detector lines",
        "One line in twenty of a flat panel reads too low or too high.",
        frozenset({CHEST}),
        "largest offset of a line, share of the range",
        (0.02, 0.05, 0.1, 0.2, 0.4),
        LOOKED,
        SHARE,
    ),
    "motion_blur": Corruption(
        acquisition.motion_blur,
        "Motion blur",
        "The patient or the hand moves during the exposure.",
        frozenset({CHEST, *PHOTOGRAPHS}),
        "length, share of the shorter side",
        (0.008, 0.016, 0.03, 0.05, 0.08),
        "by eye; 2, 4, 7, 11 and 18 px at 224 px",
        SHARE,
    ),
    "gaussian_blur": Corruption(
        acquisition.gaussian_blur,
        "Soft focus",
        "A large focal spot or a soft reconstruction blurs the image.",
        STORED,
        "standard deviation, share of the shorter side",
        (0.003, 0.006, 0.01, 0.016, 0.025),
        "by eye; 0.7, 1.3, 2.2, 3.6 and 5.6 px at 224 px",
        SHARE,
    ),
    "defocus_blur": Corruption(
        acquisition.defocus_blur,
        "Defocus",
        "The lens is out of focus.",
        PHOTOGRAPHS,
        "radius, share of the shorter side",
        (0.005, 0.01, 0.017, 0.027, 0.04),
        LIKE_MEDMNIST.format("4 to 8 px at 224 px on skin, 0.018 to 0.036"),
        SHARE,
    ),
    "under_exposure": Corruption(
        acquisition.exposure,
        "Under-exposure",
        "Too little light, so that the photograph is dark.",
        PHOTOGRAPHS,
        "stops",
        (-0.3, -0.7, -1.2, -2.0, -3.0),
        LIKE_MEDMNIST.format("values times 0.9 to 0.5; here 0.91 to 0.39"),
        (-8.0, 0.0),
    ),
    "over_exposure": Corruption(
        acquisition.exposure,
        "Over-exposure",
        "Too much light, so that bright parts are lost.",
        PHOTOGRAPHS,
        "stops",
        (0.2, 0.45, 0.8, 1.2, 1.8),
        LIKE_MEDMNIST.format("values times 1.1 to 1.5; here 1.07 to 1.76"),
        (0.0, 8.0),
    ),
    "level_shift": Corruption(
        acquisition.level_shift,
        "Window level",
        "The display window stands too high or too low, so that all is too dark or too bright.",
        frozenset({CHEST, *CT}),
        "shift, share of the range",
        (0.03, 0.08, 0.15, 0.25, 0.4),
        LOOKED,
        SHARE,
    ),
    "contrast_loss": Corruption(
        acquisition.contrast,
        "Low contrast",
        "Scattered rays or a wide window flatten the image.",
        frozenset({CHEST, SKIN, *CT}),
        "factor of the distance from the channel's mean",
        (0.9, 0.75, 0.6, 0.45, 0.3),
        LIKE_MEDMNIST.format("0.9 to 0.4"),
        SHARE,
    ),
    "contrast_gain": Corruption(
        acquisition.contrast,
        "High contrast",
        "A narrow window drives bright parts to white and dark ones to black.",
        STORED,
        "factor of the distance from the channel's mean",
        (1.1, 1.3, 1.6, 2.1, 3.0),
        LIKE_MEDMNIST.format("1.1 to 1.6"),
        (1.0, math.inf),
    ),
    "gamma_up": Corruption(
        acquisition.gamma,
        "Dark display curve",
        "Another display curve darkens the middle greys.",
        STORED,
        "exponent",
        (1.1, 1.25, 1.5, 1.9, 2.6),
        LIKE_MEDMNIST.format("1.1 to 1.6 on chest, to 2 on CT"),
        (1.0, math.inf),
    ),
    "gamma_down": Corruption(
        acquisition.gamma,
        "Bright display curve",
        "Another display curve brightens the middle greys.",
        STORED,
        "exponent",
        (0.92, 0.8, 0.67, 0.52, 0.36),
        LIKE_MEDMNIST.format("0.9 to 0.4 on chest and CT"),
        (0.01, 1.0),
    ),
    "bias_field": Corruption(
        acquisition.bias_field,
        "Bias field",
        "The receiver coil hears some parts better than others.",
        frozenset({BRAIN}),
        "largest logarithm of the factor",
        (0.08, 0.2, 0.35, 0.55, 0.85),
        "by eye; Chen et al., MICCAI 2020, train MR segmentation on up to 0.3",
        (0.0, 8.0),
    ),
    "uneven_light": Corruption(
        acquisition.uneven_light,
        "Uneven light",
        "The lamp reaches some parts worse than others.",
        PHOTOGRAPHS,
        "largest logarithm of the loss of a stored value",
        (0.1, 0.3, 0.6, 1.0, 1.7),
        LOOKED,
        (0.0, 8.0),
    ),
    "ghosting": Corruption(
        acquisition.ghosting,
        "Ghosting",
        "Breath or pulse during MR leaves shifted, wrapped copies.",
        frozenset({BRAIN}),
        "depth of the modulation of k-space",
        (0.08, 0.18, 0.35, 0.6, 1.0),
        LOOKED,
        SHARE,
    ),
    "jpeg": Corruption(
        acquisition.jpeg,
        "JPEG",
        "The archive compresses with loss.",
        STORED,
        "quality, 1 to 100",
        (70.0, 40.0, 20.0, 10.0, 5.0),
        LIKE_MEDMNIST.format("50 to 7 on chest, 30 to 5 on fundus"),
        (1.0, 100.0),
    ),
    "resampling": Corruption(
        acquisition.resampling,
        "Resampling",
        "The image was stored smaller and enlarged again.",
        STORED,
        "share of rows and columns that is kept",
        (0.75, 0.5, 0.33, 0.22, 0.14),
        LIKE_MEDMNIST.format("0.8 to 0.4 on pneumonia, 0.3 to 0.1 on chest"),
        (0.001, 1.0),
    ),
    "quantisation": Corruption(
        acquisition.quantisation,
        "Few grey levels",
        "The image was stored with fewer levels, so that smooth parts break into steps.",
        STORED,
        "levels a channel",
        (64.0, 32.0, 16.0, 8.0, 5.0),
        "by eye; 6, 5, 4 and 3 bits, and fewer",
        (2.0, 65536.0),
    ),
    "shift": Corruption(
        acquisition.shift,
        "Shift",
        "The patient stands beside the middle of the field.",
        STORED,
        "share of the shorter side",
        (0.01, 0.03, 0.06, 0.1, 0.16),
        LOOKED,
        SHARE,
    ),
    "pin": Corruption(
        artefacts.pin,
        "Orthopaedic pin",
        "A metal screw or wire lies over the chest.",
        frozenset({CHEST}),
        "length, share of the shorter side",
        (0.05, 0.1, 0.18, 0.3, 0.5),
        "by eye; a screw of 2 to 18 cm on a field of 36 cm",
        (0.0, 2.0),
    ),
    "plate_dust": Corruption(
        artefacts.plate_dust,
        "Dust on the plate",
        "Dust and lint on the imaging plate leave sharp white specks.",
        frozenset({CHEST}),
        "specks",
        (2.0, 6.0, 14.0, 30.0, 60.0),
        LOOKED,
        (0.0, float(MOST)),
    ),
    "lens_dust": Corruption(
        artefacts.lens_dust,
        "Dust near the lens",
        "Dust near the lens leaves dark, soft spots.",
        PHOTOGRAPHS,
        "spots",
        (1.0, 4.0, 10.0, 22.0, 50.0),
        LOOKED,
        (0.0, float(MOST)),
    ),
    "hair": Corruption(
        artefacts.hair,
        "Hair",
        "Hairs lie over the lesion.",
        frozenset({SKIN}),
        "hairs",
        (1.0, 4.0, 10.0, 22.0, 45.0),
        LOOKED,
        (0.0, float(MOST)),
    ),
    "ruler": Corruption(
        artefacts.ruler,
        "Ruler",
        "The marks of a ruler run along one side.",
        frozenset({SKIN}),
        "length of a long mark, share of the shorter side",
        (0.02, 0.04, 0.07, 0.11, 0.16),
        LOOKED,
        SHARE,
    ),
    "laterality_marker": Corruption(
        artefacts.laterality_marker,
        "Laterality marker",
        "A lead letter L or R lies in an upper corner.",
        frozenset({CHEST}),
        "height of the letter, share of the shorter side",
        (0.03, 0.05, 0.08, 0.13, 0.2),
        "by eye; a lead letter of 1 to 7 cm on a field of 36 cm, where 2 cm is usual",
        SHARE,
    ),
    "burned_in_text": Corruption(
        artefacts.burned_in_text,
        "Burned-in text",
        "A viewer or a secondary capture wrote series, time and window into a corner.",
        STORED,
        "height of a capital, share of the shorter side",
        (0.012, 0.02, 0.03, 0.045, 0.065),
        LOOKED,
        SHARE,
    ),
    "collimation": Corruption(
        artefacts.collimation,
        "Collimation border",
        "The collimator hides a border of the field.",
        frozenset({CHEST}),
        "largest hidden share of a side",
        (0.02, 0.05, 0.1, 0.16, 0.24),
        LOOKED,
        (0.0, 0.5),
    ),
    "gel_bubbles": Corruption(
        artefacts.gel_bubbles,
        "Gel bubbles",
        "Bubbles stand in the gel between skin and lens.",
        frozenset({SKIN}),
        "radius of the largest, share of the shorter side",
        (0.02, 0.045, 0.08, 0.13, 0.2),
        LOOKED,
        SHARE,
    ),
    "lens_flare": Corruption(
        artefacts.lens_flare,
        "Lens flare",
        "Stray light of the lamp falls on a part of the photograph.",
        PHOTOGRAPHS,
        "opacity",
        (0.08, 0.2, 0.4, 0.65, 0.95),
        LOOKED,
        SHARE,
    ),
    "tubes": Corruption(
        artefacts.tubes,
        "Tubes and leads",
        "Tubes and leads of intensive care lie over the chest.",
        frozenset({CHEST}),
        "tubes and leads",
        (1.0, 2.0, 4.0, 7.0, 12.0),
        LOOKED,
        (0.0, float(MOST)),
    ),
}


def corruption(name: str) -> Corruption:
    """The row of a corruption.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in CORRUPTIONS:
        raise SettingsError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def natural(modality: str) -> list[str]:
    """Names of the corruptions that happen to scans of a modality, as data names it.

    >>> natural("brain MRI")[:3]
    ['rician_noise', 'gaussian_blur', 'contrast_gain']
    """
    return [name for name, row in CORRUPTIONS.items() if modality in row.natural]


def corrupt(images: Tensor, name: str, severity: int, draws: Draws) -> Tensor:
    """Let one corruption happen to images.

    The same draws give the same image, whoever else is in the batch. Two severities with the same draws differ in strength
    alone; two corruptions with the same draws are unrelated.

    Args:
        images: `(B, C, H, W)` in [0, 1], C is 1 or 3, at least 16 px along both sides.
        name: one of `CORRUPTIONS`.
        severity: 1, barely seen, to 5, a scan to be repeated.
        draws: one stream for each image.

    Returns:
        Images of the same shape, kind and device in [0, 1]; computed in float32, without a gradient.

    Raises:
        ImageError: images of another kind, shape or range.
        SettingsError: an unknown name or severity, or streams of other images.

    >>> images = torch.full((2, 1, 24, 32), 0.5)
    >>> worse = corrupt(images, "gaussian_noise", 5, Draws.of(0, torch.arange(2)))
    >>> worse.shape == images.shape, bool((worse - images).std() > 0.1)
    (True, True)
    """
    return _run(images, name, corruption(name).strength(severity), draws)[0]


def corrupt_by(images: Tensor, name: str, strength: float, draws: Draws) -> Tensor:
    """Let one corruption happen to images with an explicit strength, in the row's own unit; else as `corrupt`.

    Raises:
        ImageError, SettingsError: see `corrupt`; also a strength that has no meaning.

    >>> images = torch.full((1, 1, 24, 24), 0.5)
    >>> corrupt_by(images, "gamma_up", 2.0, Draws.of(0, torch.arange(1))).unique().tolist()
    [0.25]
    """
    return _run(images, name, strength, draws)[0]


def drawn_over(images: Tensor, name: str, severity: int, draws: Draws) -> Drawn:
    """Lay an artefact over images and say where: the images that `corrupt` gives, with a mask of what was drawn.

    Raises:
        ImageError, SettingsError: see `corrupt`; also a corruption that lies nowhere, but everywhere.

    >>> found = drawn_over(torch.zeros(1, 1, 64, 64), "pin", 3, Draws.of(0, torch.arange(1)))
    >>> bool(((found.images > 0) <= (found.mask > 0)).all())
    True
    """
    changed, mask = _run(images, name, corruption(name).strength(severity), draws)
    if mask is None:
        raise SettingsError(f"{name} changes the whole image and has no mask; call corrupt")
    return Drawn(changed, mask)


def _run(images: Tensor, name: str, strength: float, draws: Draws) -> tuple[Tensor, Tensor | None]:
    row = corruption(name)
    _check(images, draws)
    least, most = row.within
    if not least <= strength <= most or not math.isfinite(strength):
        raise SettingsError(f"{name} takes a strength from {least:g} to {most:g} ({row.unit}), got {strength}")
    with torch.no_grad():
        # Severities share their luck; corruptions do not.
        found = row.run(images.float(), float(strength), draws.at(image_keys([name])))
    if isinstance(found, Drawn):
        return found.images.to(images), found.mask.to(images)
    return found.to(images), None


def _check(images: Tensor, draws: Draws) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[1] not in {1, 3} or not len(images):
        raise ImageError(f"expected images (B, C, H, W) with C 1 or 3 and at least one of them, got shape {shape}")
    if min(shape[2:]) < SMALLEST:
        raise ImageError(
            f"images of {shape[2]}x{shape[3]} px are too small to be corrupted; at least {SMALLEST} px along a side"
        )
    if not images.is_floating_point():
        raise ImageError(f"expected floating-point images in [0, 1], got {images.dtype}; divide by their largest value")
    if not images.isfinite().all():
        raise ImageError("images must be finite")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise ImageError(f"images must lie in [0, 1], got {low:g} to {high:g}; divide by their largest value")
    if len(draws) != len(images):
        raise SettingsError(f"{len(draws)} streams for {len(images)} images; draw one for each")

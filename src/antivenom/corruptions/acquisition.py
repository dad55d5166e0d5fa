"""What the scanner, the camera and the archive do to a scan: quanta, blur, exposure, receiver coils, compression.

Each is a pure function of images `(B, C, H, W)` in [0, 1], a strength and the images' own luck, and gives images in [0, 1] of
the same shape, kind and device; grey copied to three channels stays grey. Functions that draw nothing take `draws` all the
same, so that all are called alike.

Lengths are shares of the shorter side: what an unsteady hand or a lens out of focus smears is a part of the picture, however
many pixels it is stored in. Noise is stated for the stored pixel at any size, and so are the blocks of a JPEG: a scan averaged
to fewer pixels would carry less noise, so that the same severity is harsher on a small image. Dead pixels and lines are shares
of their number.

Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019,
https://arxiv.org/abs/1903.12261
Di Salvo, Doerrich, Ledig, "MedMNIST-C: Comprehensive benchmark and improved classifier robustness by simulating realistic image
corruptions", 2024, https://arxiv.org/abs/2406.17536
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.corruptions.grey import normal, wide
from antivenom.randomness import Draws

# From black to white of a radiograph the beam falls to a fiftieth: chosen here, so that bone starves first.
BEAM = math.log(50.0)
STARVED = 0.1  # least share of the expected root that is counted; a detector that counts nothing shows white, not infinity
DISPLAY = 2.2  # exponent between stored values and light (sRGB, about)
LINES = 0.05  # share of a detector's lines that are faulty: chosen here
MIDDLE = 0.7  # radius of the part of an image that a bias field is scaled by, in half sides: chosen here
FINE = 401  # points along a smear, odd so that its middle is one
DISC = 8192  # points over a disc
GOLDEN = math.pi * (3 - math.sqrt(5))  # angle after which points fill a disc evenly
GHOSTS = (3, 7)  # periods that are drawn from, in shares 1/n of the side; the last is left out


def quantum_noise(images: Tensor, photons: float, draws: Draws) -> Tensor:
    """Count X-ray quanta: `photons` reach a pixel behind nothing, the fewer the whiter the image is there.

    The stored value is the logarithm of the count, so that noise is strongest in bone and mediastinum. Counts are normal in
    their square root, which is near the Poisson law from a few counts on.
    """
    expected = photons * (-BEAM * images).exp()
    share = (1 + normal(images, draws) / (2 * expected.sqrt())).clamp_min(STARVED)
    return (images - 2 * share.log() / BEAM).clamp(0, 1)


def shot_noise(images: Tensor, photons: float, draws: Draws) -> Tensor:
    """Count light in a camera: `photons` reach a white pixel; noise grows with the root of the value, black stays black."""
    return (images + (images / photons).sqrt() * normal(images, draws)).clamp(0, 1)


def gaussian_noise(images: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Add normal noise of one standard deviation, in units of the range, as an amplifier does."""
    return (images + deviation * normal(images, draws)).clamp(0, 1)


def rician_noise(images: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Take the magnitude of a signal with normal noise in both its parts, as MR does: the black surround turns grey.

    Gudbjartsson, Patz, "The Rician distribution of noisy MRI data", Magnetic Resonance in Medicine 34 (1995),
    https://doi.org/10.1002/mrm.1910340618
    """
    real, imaginary = (deviation * normal(images, draws.at(part)) for part in (0, 1))
    return torch.hypot(images + real, imaginary).clamp(0, 1)


def dead_pixels(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Put a share of the pixels, at least one, to black or white in all channels: dead and stuck elements, salt and pepper."""
    height, width = images.shape[-2:]
    order = draws.at(0).uniform(height * width).argsort(1)[:, : max(1, round(share * height * width))]
    stuck = (draws.at(1).uniform(height * width) < 0.5).gather(1, order)
    found = torch.full((len(images), height * width), -1.0).scatter(1, order, stuck.float()).to(images)
    found = found.reshape(-1, 1, height, width)
    return torch.where(found < 0, images, found)


def detector_lines(images: Tensor, offset: float, draws: Draws) -> Tensor:
    """Shift one line in twenty, rows in half of the images and columns in the others, by up to `offset` up or down."""
    shape = images.shape[-2:]
    down, across = (_line_offsets(draws.at(axis), side).to(images) for axis, side in enumerate(shape))
    rows = wide(draws.at(2).uniform(1)[:, 0] < 0.5).to(images.device)
    return (images + offset * torch.where(rows, down[:, None, :, None], across[:, None, None, :])).clamp(0, 1)


def motion_blur(images: Tensor, length: float, draws: Draws) -> Tensor:
    """Smear the image evenly along a straight way in a direction of its own, `length` in shares of the shorter side."""
    along = length * min(images.shape[-2:]) * torch.linspace(-0.5, 0.5, FINE)
    angle = math.pi * draws.uniform(1)
    ways = torch.stack([angle.sin() * along, angle.cos() * along], -1)
    smeared = [_blurred(image[None], _spread(way)) for image, way in zip(images, ways, strict=True)]
    return torch.cat(smeared).clamp(0, 1)


def gaussian_blur(images: Tensor, deviation: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Blur with a normal kernel of one standard deviation, in shares of the shorter side: a large focal spot, a soft filter."""
    share = (torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE
    places = deviation * min(images.shape[-2:]) * torch.special.ndtri(share)
    still = torch.zeros_like(places)
    down, across = _spread(torch.stack([places, still], -1)), _spread(torch.stack([still, places], -1))
    return _blurred(_blurred(images, down), across).clamp(0, 1)


def defocus_blur(images: Tensor, radius: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Blur with an even disc, as a lens out of focus does; `radius` in shares of the shorter side."""
    number = torch.arange(DISC, dtype=torch.float64)
    away, angle = radius * min(images.shape[-2:]) * ((number + 0.5) / DISC).sqrt(), GOLDEN * number
    return _blurred(images, _spread(torch.stack([away * angle.sin(), away * angle.cos()], -1))).clamp(0, 1)


def exposure(images: Tensor, stops: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Let in twice the light for each stop, or half of it below 0; what outgrows the range is lost."""
    return (images * 2 ** (stops / DISPLAY)).clamp(0, 1)


def level_shift(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """Add or take away the same everywhere, as a display window at the wrong level does; which of them is drawn."""
    sign = 1 - 2 * (draws.uniform(1)[:, 0] < 0.5).to(images)
    return (images + amount * wide(sign)).clamp(0, 1)


def contrast(images: Tensor, factor: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Multiply the distance from the channel's mean: below 1 as scattered rays or a wide window, above 1 as a narrow window."""
    mean = images.mean((2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, 1)


def gamma(images: Tensor, exponent: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Raise every value to a power, as another display curve does: above 1 darker, below 1 brighter."""
    return images**exponent


def bias_field(images: Tensor, limit: float, draws: Draws) -> Tensor:
    """Multiply with a smooth field between exp(-limit) and exp(limit), as the receiver coil of an MR scanner does.

    Van Leemput, Maes, Vandermeulen, Suetens, "Automated model-based bias field correction of MR images of the brain", IEEE
    Transactions on Medical Imaging 18 (1999), https://doi.org/10.1109/42.811268: the logarithm is a polynomial; here of the
    third degree.
    """
    return (images * (limit * _smooth_field(images, draws)).exp()).clamp(0, 1)


def uneven_light(images: Tensor, limit: float, draws: Draws) -> Tensor:
    """Darken with a smooth field between exp(-limit) and 1, as a lamp that reaches some parts worse does."""
    return images * (limit / 2 * (_smooth_field(images, draws) - 1)).exp()


def ghosting(images: Tensor, depth: float, draws: Draws) -> Tensor:
    """Modulate the lines of k-space periodically, as breath and pulse do in MR: two faint copies, shifted and wrapped around.

    A modulation 1 + depth cos(2 pi k / n + phase) of line k gives copies a share 1/n of the side to both sides, each
    `depth / 2` strong; what is stored is the magnitude. Direction, n from 3 to 6 and phase are drawn.
    """
    return torch.stack([_ghosted(image, depth, *luck) for image, luck in zip(images, draws.uniform(3).tolist(), strict=True)])


def jpeg(images: Tensor, quality: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Write and read again as JPEG of a quality from 1 to 100, by Pillow: 8 bits, colour at half resolution."""
    # The luminance of a grey image is its grey to the last bit, and its chroma is nothing: it comes back grey.
    return torch.stack([_recompressed(image, round(quality)) for image in images]).to(images)


def resampling(images: Tensor, share: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Store with a share of the rows and columns and enlarge again, bilinear both ways."""
    small = [max(2, round(share * side)) for side in images.shape[-2:]]
    coarse = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(coarse, images.shape[-2:], mode="bilinear").clamp(0, 1)


def quantisation(images: Tensor, levels: float, draws: Draws) -> Tensor:  # noqa: ARG001 - the same for every image
    """Round to so many levels a channel, evenly spaced from black to white."""
    steps = round(levels) - 1
    return (images * steps).round() / steps


def shift(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Move the image a share of its shorter side in a direction of its own; what comes in is the image, mirrored."""
    height, width = images.shape[-2:]
    angle, reach = 2 * math.pi * draws.uniform(1)[:, 0], share * min(height, width)
    rows = torch.eye(2, 3).repeat(len(images), 1, 1)
    rows[:, 0, 2], rows[:, 1, 2] = 2 * reach / width * angle.cos(), 2 * reach / height * angle.sin()
    where = F.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode="bilinear", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _smooth_field(images: Tensor, draws: Draws) -> Tensor:
    """`(B, 1, H, W)` from -1 to 1: a polynomial of the third degree with normal coefficients.

    It is scaled by its largest value in the middle of the image, where the patient is, and cut off outside.
    """
    down, across = (torch.linspace(-1, 1, side) for side in images.shape[-2:])
    powers = [(i, j) for i in range(4) for j in range(4 - i) if i + j]
    terms = torch.stack([down[:, None] ** i * across**j for i, j in powers])
    field = (draws.normal(len(powers))[:, :, None, None] * terms).sum(1, keepdim=True)
    inside = torch.hypot(down[:, None], across) < MIDDLE
    return (field / (field.abs() * inside).amax((2, 3), keepdim=True)).clamp(-1, 1).to(images)


def _line_offsets(draws: Draws, side: int) -> Tensor:
    """`(B, side)`: 0 for sound lines, else from a half to 1 with either sign."""
    size, sign, order = draws.uniform(3, side).unbind(1)
    faulty = order.argsort(1) < max(1, round(LINES * side))
    return torch.where(faulty, (1 + size) / 2 * torch.where(sign < 0.5, -1.0, 1.0), 0.0)


def _spread(points: Tensor) -> Tensor:
    """An even mass at points `(P, 2)`, down and across in pixels, shared out bilinearly to a kernel around the origin.

    A smear shorter than a pixel still takes its due share from the neighbours.
    """
    tall, wide_ = (int(reach) + 1 for reach in points.abs().amax(0).tolist())
    corner = points.floor()
    part = points - corner
    kernel = torch.zeros(2 * tall + 1, 2 * wide_ + 1, dtype=torch.float64)
    for down in (0, 1):
        for across in (0, 1):
            weight = (part[:, 0] if down else 1 - part[:, 0]) * (part[:, 1] if across else 1 - part[:, 1])
            place = corner.long() + torch.tensor([tall + down, wide_ + across])
            # A point on the far edge has no weight beyond it; the place is kept inside all the same.
            place = place.minimum(torch.tensor(kernel.shape) - 1)
            kernel.index_put_((place[:, 0], place[:, 1]), weight.double(), accumulate=True)
    return kernel / kernel.sum()


def _blurred(images: Tensor, kernel: Tensor) -> Tensor:
    """Every channel under one kernel; beyond the border the image goes on as it ended."""
    tall, wide_ = (side // 2 for side in kernel.shape)
    channels = F.pad(images, (wide_, wide_, tall, tall), mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(channels, kernel.to(images)[None, None]).reshape(images.shape)


def _ghosted(image: Tensor, depth: float, direction: float, period: float, phase: float) -> Tensor:
    axis = -2 if direction < 0.5 else -1
    first, past = GHOSTS
    far = round(image.shape[axis] / (first + int(period * (past - first))))
    ahead, behind = image.roll(far, axis), image.roll(-far, axis)
    real = image + depth / 2 * math.cos(2 * math.pi * phase) * (ahead + behind)
    imaginary = depth / 2 * math.sin(2 * math.pi * phase) * (ahead - behind)
    return torch.hypot(real, imaginary).clamp(0, 1)


def _recompressed(image: Tensor, quality: int) -> Tensor:
    from PIL import Image

    levels = (255 * image).round().to(torch.uint8).cpu()
    pixels = (levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).numpy()
    file = io.BytesIO()
    # Named, since Pillow's own choice of subsampling is not promised.
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    back = torch.from_numpy(np.array(Image.open(file), dtype=np.float32) / np.float32(255))
    return back[None] if back.ndim == 2 else back.permute(2, 0, 1)

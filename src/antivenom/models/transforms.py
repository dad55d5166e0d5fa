"""Classic transforms of the image in front of a classifier, meant to wash a perturbation out.

Guo, Rana, Cissé, van der Maaten, "Countering Adversarial Images using Input Transformations", ICLR 2018,
https://arxiv.org/abs/1711.00117: JPEG, total variation. Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in
Deep Neural Networks", NDSS 2018, https://arxiv.org/abs/1704.01155: bit depth, median. None draws anything, so none hides a
gradient behind luck; those that round lend the identity's (see `presentation`).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from antivenom.errors import ImageError, SettingsError
from antivenom.models.classifier import Step
from antivenom.models.presentation import Undifferentiable, from_bytes, lend, to_bytes


class Jpeg(Undifferentiable):
    """Write and read again as JPEG, by Pillow: 8 bits, colour at half resolution. Grey or colour.

    Args:
        quality: 1 to 100; 75 in Guo et al.

    Raises:
        SettingsError: another quality.

    >>> (255 * Jpeg(75)(torch.full((1, 1, 8, 8), 0.2))).unique().tolist()
    [51.0]
    """

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        if not 1 <= quality <= 100:
            raise SettingsError(f"the quality of a JPEG lies between 1 and 100, got {quality}")
        self.quality = int(quality)

    def exactly(self, image: Tensor) -> Tensor:
        """One image, compressed.

        Raises:
            ImageError: neither one channel nor three.
        """
        from PIL import Image

        if len(image) not in {1, 3}:
            raise ImageError(f"a JPEG has 1 or 3 channels, got an image {tuple(image.shape)}")
        file = io.BytesIO()
        # Named, since Pillow's own choice of subsampling is not promised.
        Image.fromarray(to_bytes(image)).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        return from_bytes(np.asarray(Image.open(file)))

    def settings(self) -> dict[str, Any]:
        """The quality."""
        return {"quality": self.quality}


class BitDepth(Step):
    """Round to the nearest of `2 ** bits` grey levels between 0 and 1.

    Args:
        bits: 1 to 16.

    Raises:
        SettingsError: another number of bits.

    >>> BitDepth(1)(torch.tensor([[[[0.2, 0.6]]]])).flatten().tolist()
    [0.0, 1.0]
    """

    differentiable = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise SettingsError(f"a bit depth lies between 1 and 16, got {bits}")
        self.bits = int(bits)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] to the same on the grid."""
        steps = 2**self.bits - 1
        return lend((images.detach() * steps).round() / steps, images)

    def settings(self) -> dict[str, Any]:
        """The bits."""
        return {"bits": self.bits}


class Median(Step):
    """The median of the window around each pixel, channel by channel; the border is repeated outwards.

    Of an even number of values the upper of the two in the middle, and an even window reaches farther up and left (as
    SciPy's `median_filter`). The gradient goes to the pixel that was chosen.

    Args:
        size: pixels a side of the window; 2 and 3 in Xu et al.

    Raises:
        SettingsError: less than 2.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if size < 2:
            raise SettingsError(f"a median needs a window of at least 2 pixels a side, got {size}")
        self.size = int(size)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` to the same, filtered."""
        before, after = self.size // 2, (self.size - 1) // 2
        padded = F.pad(images, (before, after, before, after), mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(-2)
        return windows.kthvalue(self.size**2 // 2 + 1, dim=-1).values

    def settings(self) -> dict[str, Any]:
        """The size."""
        return {"size": self.size}


class TotalVariation(Step):
    """The image of least `|u - x|^2 / 2 + weight * TV(u)`, channel by channel, by a fixed number of steps on its dual.

    Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 60, 1992; solved as in Beck,
    Teboulle, "Fast Gradient-Based Algorithms for Constrained Total Variation Image Denoising and Deblurring Problems", IEEE
    Transactions on Image Processing 18, 2009. Isotropic. Differentiable through all steps, whose maps are kept in memory.
    Guo et al. keep a random half of the pixels first; here all are kept, so that nothing is drawn.

    Args:
        weight: of the variation, above 0; 0.03 in Guo et al.
        iterations: steps; after 20 the result is within 1 % of the minimum on noisy images at the default weight.

    Raises:
        SettingsError: a weight that is not positive and finite, or no step.
    """

    def __init__(self, weight: float = 0.03, iterations: int = 20) -> None:
        super().__init__()
        if not 0 < weight < float("inf") or iterations < 1:
            raise SettingsError(f"total variation needs a weight above 0 and an iteration, got {weight} and {iterations}")
        self.weight, self.iterations = float(weight), int(iterations)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] to the same, smoother between edges."""
        flow = ahead = torch.zeros_like(images).expand(2, *images.shape)
        momentum = 1.0
        for _ in range(self.iterations):
            risen = ahead + _slope(images + self.weight * _divergence(ahead)) / (8 * self.weight)
            length = risen.square().sum(0).clamp_min(1).sqrt()  # the clamp keeps the root away from 0, where it has no slope
            following, faster = risen / length, (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = following + (momentum - 1) / faster * (following - flow)
            flow, momentum = following, faster
        return (images + self.weight * _divergence(flow)).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Weight and iterations."""
        return {"weight": self.weight, "iterations": self.iterations}


def _slope(images: Tensor) -> Tensor:
    """Differences to the next pixel down and across, `(2, B, C, H, W)`; 0 at the far border."""
    down = F.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    across = F.pad(images[..., :, 1:] - images[..., :, :-1], (0, 1))
    return torch.stack([down, across])


def _divergence(flow: Tensor) -> Tensor:
    """The negative adjoint of `_slope`."""
    down, across = flow[0][..., :-1, :], flow[1][..., :, :-1]
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(across, (0, 1)) - F.pad(across, (1, 0))

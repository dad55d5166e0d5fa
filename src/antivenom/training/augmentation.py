"""The papers' augmentation as one operation on a batch: turn, shift, zoom, crop, mirror, brighten, shuffle blocks.

What befalls an image follows from its own draws (seed, image, epoch), not from its company in the batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from antivenom.randomness import Draws

_BLOCKS, _NOISE = 1, 2  # places of draws beside the first
_NUMBERS = 10  # drawn for every image whatever is switched on, so that one setting does not move the draws of another


class Augmentation(BaseModel):
    """How far images are moved and changed in training; all off by default.

    Attributes:
        rotation: degrees, either way.
        shift: share of the side, either way, down and across.
        zoom: 0.2 scales by 0.8 to 1.2.
        crop: share of the side that is kept, at a random place; the image becomes smaller.
        mirror: whether left and right are exchanged, in half of the images.
        upend: whether top and bottom are exchanged, in half of the images.
        brightness: added to all values, either way.
        contrast: 0.2 multiplies the distance from the image's mean by 0.8 to 1.2.
        blocks: so many by so many blocks of the image are put in another order, in half of the images; 0 or 1 leaves them.
        noise: standard deviation of normal noise, added last and not clipped, as randomised smoothing asks (Cohen et al. 2019).
        surround: what comes in from outside: black, or the image reflected at its border.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> turned = Augmentation(rotation=10, mirror=True).apply(images, Draws.of(0, torch.arange(2)))
    >>> turned.shape == images.shape
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: float = Field(default=0.0, ge=0, le=180)
    shift: float = Field(default=0.0, ge=0, lt=1)
    zoom: float = Field(default=0.0, ge=0, lt=1)
    crop: float = Field(default=1.0, gt=0, le=1)
    mirror: bool = False
    upend: bool = False
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    blocks: int = Field(default=0, ge=0, le=16)
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    surround: Literal["black", "reflected"] = "reflected"

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Change images `(B, C, H, W)` in [0, 1], each by its own draws; without noise the result lies in [0, 1]."""
        luck = draws.uniform(_NUMBERS).to(images.device)
        either_way, coin = 2 * luck - 1, luck < 0.5
        if self.rotation or self.shift or self.zoom:
            images = self._moved(images, either_way)
        if self.crop < 1:
            images = _cropped(images, self.crop, luck[:, 4:6])
        if self.mirror:
            images = torch.where(coin[:, 6, None, None, None], images.flip(-1), images)
        if self.upend:
            images = torch.where(coin[:, 7, None, None, None], images.flip(-2), images)
        if self.brightness or self.contrast:
            gain, offset = (either_way[:, column, None, None, None] for column in (8, 9))
            mean = images.mean((1, 2, 3), keepdim=True)
            images = mean + (images - mean) * (1 + self.contrast * gain) + self.brightness * offset
        if self.blocks > 1:
            order = draws.at(_BLOCKS).uniform(self.blocks**2 + 1).to(images.device)
            images = torch.where(order[:, -1, None, None, None] < 0.5, _shuffled(images, order[:, :-1].argsort(1)), images)
        images = images.clamp(0, 1)
        if self.noise:
            images = images + self.noise * draws.at(_NOISE).normal(*images.shape[1:]).to(images)
        return images

    def _moved(self, images: Tensor, either_way: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        angle, scale = either_way[:, 0] * math.radians(self.rotation), 1 / (1 + self.zoom * either_way[:, 1])
        down, across = 2 * self.shift * either_way[:, 2], 2 * self.shift * either_way[:, 3]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # In grid units the sides are alike; pixels are not, so a turn of an oblong image is sheared by its aspect.
        rows = [cos, -sin * height / width, across, sin * width / height, cos, down]
        where = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3).to(images), list(images.shape), align_corners=False)
        padding = "reflection" if self.surround == "reflected" else "zeros"
        return F.grid_sample(images, where, mode="bilinear", padding_mode=padding, align_corners=False)


def _cropped(images: Tensor, share: float, luck: Tensor) -> Tensor:
    """The same share of each image from a place of its own, at whole pixels."""
    height, width = images.shape[-2:]
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    tops, lefts = (luck[:, 0] * (height - tall + 1)).long(), (luck[:, 1] * (width - wide + 1)).long()
    places = zip(images, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([image[:, top : top + tall, left : left + wide] for image, top, left in places])


def _shuffled(images: Tensor, order: Tensor) -> Tensor:
    """Blocks of equal size in another order `(B, blocks * blocks)`; what is left over at the far borders stays."""
    n, channels, height, width = images.shape
    blocks = math.isqrt(order.shape[1])
    tall, wide = height // blocks, width // blocks
    inner = images[:, :, : blocks * tall, : blocks * wide]
    cut = inner.reshape(n, channels, blocks, tall, blocks, wide).permute(0, 2, 4, 1, 3, 5).reshape(n, blocks**2, -1)
    moved = cut.gather(1, order[:, :, None].expand_as(cut)).reshape(n, blocks, blocks, channels, tall, wide)
    found = images.clone()
    found[:, :, : blocks * tall, : blocks * wide] = moved.permute(0, 3, 1, 4, 2, 5).reshape_as(inner)
    return found

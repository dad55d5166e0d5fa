"""What keeps a grey image grey: one luck for all its channels, and inks without a hue."""

from __future__ import annotations

import torch
from torch import Tensor

from antivenom.randomness import Draws

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def is_grey(images: Tensor) -> Tensor:
    """Whether all channels of an image `(B, C, H, W)` are the same, as `(B,)`; one channel always is.

    >>> is_grey(torch.tensor([[[[0.1]], [[0.1]], [[0.1]]], [[[0.1]], [[0.1]], [[0.2]]]])).tolist()
    [True, False]
    """
    return (images == images[:, :1]).flatten(1).all(1)


def normal(images: Tensor, draws: Draws) -> Tensor:
    """Standard normal numbers in the images' shape: one field for all channels of a grey image, one for each of a colour image.

    A grey image meets the same field however many channels it is copied to.
    """
    channels, height, width = images.shape[1:]
    fields = torch.cat([draws.at(channel).normal(1, height, width) for channel in range(channels)], 1).to(images)
    return torch.where(wide(is_grey(images)), fields[:, :1], fields)


def ink(images: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """An ink `(B, C, 1, 1)` for the images: the colour in a colour image, its luminance in a grey one."""
    hue, light = torch.tensor(colour), sum(share * value for share, value in zip(LUMINANCE, colour, strict=True))
    channels = images.shape[1]
    flat = torch.full((channels,), light)
    tinted = hue if channels == len(colour) else flat
    return torch.where(wide(is_grey(images)), flat.to(images)[:, None, None], tinted.to(images)[:, None, None])


def wide(values: Tensor) -> Tensor:
    """Numbers `(B,)` as `(B, 1, 1, 1)`, to be met with images."""
    return values[:, None, None, None]

"""An auto-encoder in front of a classifier, and the half of one that lets a classifier's own backbone be trained as the other.

Kokalj-Filipovic, Miller, Chang, Lau, "Mitigation of Adversarial Examples in RF Deep Classifiers Utilizing AutoEncoder
Pre-training", ICMCIS 2019, https://arxiv.org/abs/1902.08034: pre-training, `Decoder`. Liao, Liang, Dong, Pang, Hu, Zhu,
"Defense against Adversarial Attacks Using High-Level Representation Guided Denoiser", CVPR 2018,
https://arxiv.org/abs/1712.02976: a U-shaped denoiser that states what to take away, `Denoiser`. Chen, Zhao, Chen, Med. Phys.
48:6198, 2021 compare with an "Auto Encoder" and do not say which of the two it is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antivenom.errors import ImageError, SettingsError
from antivenom.models.classifier import Step

WIDTH, LEVELS = 24, 2


class Denoiser(Step):
    """A small U-shaped network that adds to the image what it has learnt to put right; untrained, it changes nothing.

    Each level halves the side and doubles the width; its maps are handed across to the level of the same size. There is no
    batch-norm, so an image is denoised alike alone and in company, in training and in use. Sides that do not divide are
    padded inside by the border. 265 thousand weights at the default width for grey images.

    Args:
        channels: of the images.
        width: channels at full size.
        levels: how often the side is halved.
        seed: of the random start.

    Raises:
        SettingsError: no channel, width or level, or more levels than 6.

    >>> images = torch.rand(2, 1, 13, 9)
    >>> denoiser = Denoiser(1)
    >>> torch.equal(denoiser(images), images), sum(p.numel() for p in denoiser.parameters())
    (True, 265105)
    """

    def __init__(self, channels: int, width: int = WIDTH, levels: int = LEVELS, *, seed: int = 0) -> None:
        super().__init__()
        if min(channels, width, levels) < 1 or levels > 6:
            raise SettingsError(f"a denoiser has channels, a width and 1 to 6 levels, got {channels}, {width} and {levels}")
        self.channels, self.width, self.levels = int(channels), int(width), int(levels)
        widths = [width * 2**level for level in range(levels + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList([_pair(before, after) for before, after in pairwise([channels, *widths])])
            self.up = nn.ModuleList([_pair(3 * outer, outer) for outer in widths[:-1]])
            self.last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] to the same, denoised.

        Raises:
            ImageError: another number of channels.
        """
        return self.restored(images).clamp(0, 1)

    def restored(self, images: Tensor) -> Tensor:
        """As `forward`, not yet clipped to [0, 1]: what training compares, lest clipped pixels teach nothing.

        Raises:
            ImageError: as `forward`.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ImageError(f"this denoiser takes images (B, {self.channels}, H, W), got {tuple(images.shape)}; build another")
        height, width = images.shape[-2:]
        multiple = 2**self.levels
        maps = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        across = []
        for level, pair in enumerate(self.down):
            maps = pair(maps if level == 0 else F.max_pool2d(maps, 2))
            across.append(maps)
        for pair, beside in zip(reversed(self.up), reversed(across[:-1]), strict=True):
            maps = pair(torch.cat([F.interpolate(maps, scale_factor=2.0), beside], 1))
        missing: Tensor = self.last(maps)[..., :height, :width]
        return images + missing

    def settings(self) -> dict[str, Any]:
        """Channels, width and levels; the weights travel as tensors."""
        return {"channels": self.channels, "width": self.width, "levels": self.levels}

    def __repr__(self) -> str:
        """The settings in one line, as a card's description has it."""
        return f"Denoiser({self.extra_repr()})"


class Decoder(nn.Module):
    """Maps of a backbone back to what the backbone was given.

    Args:
        maps: channels of the backbone's last maps.
        channels: of what it was given.
        doublings: how often the side is doubled; the rest of the way is resampled.
        seed: of the random start.

    >>> tuple(Decoder(512, 1, doublings=3)(torch.rand(2, 512, 2, 2), (30, 30)).shape)
    (2, 1, 30, 30)
    """

    def __init__(self, maps: int, channels: int, *, doublings: int, width: int = WIDTH, seed: int = 0) -> None:
        super().__init__()
        widths = [width * 2 ** min(level, 2) for level in range(doublings, -1, -1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = [nn.Conv2d(maps, widths[0], 1), nn.ReLU()]
            for before, after in pairwise(widths):
                layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps `(B, maps, h, w)` to `(B, channels, *size)`, unbounded."""
        return F.interpolate(self.layers(maps), size, mode="bilinear")


def _pair(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with its activation, started to keep the spread of values."""
    layers: list[nn.Module] = []
    for inputs in (before, after):
        layer = nn.Conv2d(inputs, after, 3, padding=1)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)

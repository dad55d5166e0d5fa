"""Attention inside a network: layers that weigh a map by what they find in it. Where they go is said in `parts`.

Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, https://arxiv.org/abs/1807.06521
Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018, https://arxiv.org/abs/1807.06514
Zhang, Goodfellow, Metaxas, Odena, "Self-Attention Generative Adversarial Networks", ICML 2019, https://arxiv.org/abs/1805.08318
Datta, Shaikh, Srihari, Gao, "Soft-Attention Improves Skin Cancer Classification Performance", iMIMIC at MICCAI 2021,
https://arxiv.org/abs/2105.03358

Every map that is multiplied with, or that chooses what is read, is the answer of a submodule of its own, so a forward hook
reads it: `Cbam.channel`, `Cbam.spatial`, `Bam.gate`, `SelfAttention.attention`, `SoftAttention.heads`; in timm's layers `gate`.

>>> layer, seen = Cbam(32).eval(), []
>>> handle = layer.spatial.register_forward_hook(lambda module, given, answer: seen.append(answer))
>>> weighed = layer(torch.rand(2, 32, 7, 7))
>>> handle.remove()
>>> tuple(seen[0].shape), seen[0].unique().tolist()
((2, 1, 7, 7), [0.5])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REDUCTION = 16  # channels of a map for one inside its gate (CBAM and BAM)
SPATIAL_KERNEL = 7  # of CBAM's spatial gate
SPATIAL_MOMENTUM = 0.01  # of the batch-norm in that gate (the authors' code)
DILATION = 4  # of BAM's spatial gate
NARROWER = 8  # channels of a map for one of queries and keys (SAGAN)
HEADS = 16  # of Soft-Attention


class ChannelGate(nn.Module):
    """What CBAM gives each channel, from its mean and its maximum over the places.

    Args:
        channels: of the map.
        reduction: channels for one of the hidden layer.
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        width = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Weights in [0, 1], `(B, C, 1, 1)`, of the channels of maps `(B, C, H, W)`."""
        both: Tensor = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return both.sigmoid()[:, :, None, None]


class SpatialGate(nn.Module):
    """What CBAM gives each place, from the maximum and the mean over the channels.

    The batch-norm on its logits is in the authors' code and not in the paper's formula. Its weight starts at 0, so that the
    gate starts at exactly one half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=SPATIAL_MOMENTUM)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Weights in [0, 1], `(B, 1, H, W)`, of the places of maps `(B, C, H, W)`."""
        logits: Tensor = self.norm(self.conv(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)))
        return logits.sigmoid()


class Cbam(nn.Module):
    """Weigh channels, then places; each weight multiplies. Layers start as torch starts them, as in the authors' code.

    >>> sum(p.numel() for p in Cbam(64).parameters())
    680
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelGate(channels, reduction), SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same, weighed."""
        x = x * self.channel(x)
        weighed: Tensor = x * self.spatial(x)
        return weighed


class Bam(nn.Module):
    """Add to a map a share of itself: a gate of channels and places together.

    The logits of channels and places are multiplied, as in the authors' code; the paper adds them.

    Args:
        channels: of the map.
        reduction: channels for one inside the gate.
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        width = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, channels))
        self.spatial = nn.Sequential(
            *_normed(nn.Conv2d(channels, width, 1)),
            *_normed(nn.Conv2d(width, width, 3, padding=DILATION, dilation=DILATION)),
            *_normed(nn.Conv2d(width, width, 3, padding=DILATION, dilation=DILATION)),
            nn.Conv2d(width, 1, 1),
        )
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same, weighed by 1 to 2; `gate` answers `(B, C, H, W)` in [0, 1]."""
        logits = self.channel(x.mean((2, 3)))[:, :, None, None] * self.spatial(x)
        weighed: Tensor = x * (1 + self.gate(logits))
        return weighed


class SelfAttention(nn.Module):
    """Add to every place what the places that it asks for have to say. It starts as the identity: gamma is 0.

    Values are as wide as the map and no convolution follows them, as in the repository of Chen et al., Med. Phys. 48:6198,
    2021; in the paper they are narrower, and one does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // NARROWER)
        self.query, self.key = nn.Conv2d(channels, width, 1), nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.attention = nn.Softmax(dim=-1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same; `attention` answers `(B, HW, HW)`, where row i sums to 1 over what place i reads."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        read = value @ self.attention(query.transpose(1, 2) @ key).transpose(1, 2)
        # Cast, for a twin in bfloat16 leaves the weights of layers that it does not know in float32.
        attended: Tensor = x + self.gamma.to(x.dtype) * read.reshape(x.shape)
        return attended


class SoftAttention(nn.Module):
    """Weigh the places by the sum of several maps, each a softmax over them: gamma x sum_k softmax(W_k * x).

    This is the paper's formula. The public code of its layer has a ReLU in front of the softmax and no gamma. Two deviations:
    the pooling of both and their concatenation that follow there are left out; and gamma starts at 1, so that without them the
    map is not scaled away.

    >>> sum(p.numel() for p in SoftAttention(2048).parameters())
    294929
    """

    def __init__(self, channels: int, heads: int = HEADS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, heads, 3, padding=1)
        self.heads = nn.Softmax(dim=-1)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, C, H, W)` to the same; `heads` answers `(B, heads, HW)`, each head summing to 1 over the places."""
        maps: Tensor = self.heads(self.conv(x).flatten(2))
        weight = maps.sum(1).reshape(len(x), 1, *x.shape[2:])
        return x * weight * self.gamma.to(x.dtype)


def _normed(layer: nn.Conv2d) -> tuple[nn.Module, ...]:
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()

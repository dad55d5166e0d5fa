"""Convolutions on maps of a few pixels, computed as one matrix product.

The CPU libraries under torch are made for large maps: on the 2 x 2 maps in which a ResNet ends at 64 px they run at a tenth of
the machine's speed. Nearly half of a training step and a quarter of an attack's gradient went there. Gathering the pixels under
every tap and multiplying once gives the same answer up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Pairs of channels for each pixel of the map that is made, from which gathering pays (benchmarks/small_maps.py).
PAIRS_A_PIXEL = 8192
FEW_PIXELS = 256  # of a whole batch, from which copying the weights is cheaper than scattering the pixels


class SmallMapConv2d(nn.Conv2d):
    """A convolution with the same weights, and another way to compute it where its map is small and its channels are many."""

    @staticmethod
    def of(layer: nn.Conv2d) -> SmallMapConv2d:
        """The same convolution, sharing its weights."""
        twin = SmallMapConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            device="meta",
        )
        twin.weight, twin.bias = layer.weight, layer.bias
        return twin.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of `(B, C, H, W)`."""
        assert not isinstance(self.padding, str)
        (tall, wide), (down, across), (top, left) = self.kernel_size, self.stride, self.padding
        height, width = (x.shape[-2] + 2 * top - tall) // down + 1, (x.shape[-1] + 2 * left - wide) // across + 1
        if x.is_cuda or x.ndim != 4 or height * width * PAIRS_A_PIXEL > self.in_channels * self.out_channels:
            return super().forward(x)
        framed = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        taps = [
            framed[:, i : i + down * (height - 1) + 1 : down, j : j + across * (width - 1) + 1 : across]
            for i in range(tall)
            for j in range(wide)
        ]
        # Weights with the channels last need no copy. Others do, unless the pixels are brought into their order.
        copied = not self.weight.is_contiguous(memory_format=torch.channels_last)
        if copied and len(x) * height * width <= FEW_PIXELS:
            gathered, weights = torch.stack(taps, -1).flatten(-2), self.weight.flatten(1)
        else:
            gathered, weights = torch.cat(taps, -1), self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(gathered, weights, self.bias).permute(0, 3, 1, 2)


def on_small_maps(model: nn.Module) -> nn.Module:
    """Exchange, in place, every convolution that gathering could serve; names, weights and answers stay."""
    for name, layer in list(model.named_modules()):
        if name and type(layer) is nn.Conv2d and _servable(layer):
            model.set_submodule(name, SmallMapConv2d.of(layer))
    return model


def _servable(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    wide = layer.kernel_size != (1, 1) and layer.in_channels * layer.out_channels >= PAIRS_A_PIXEL
    return plain and wide and not isinstance(layer.padding, str)

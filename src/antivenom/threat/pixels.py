"""Pixels: which values of an image the adversary may move, and which values an image can hold at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ROUNDING = 2**-23  # of float32 at 1
EDGE = 1e-6  # of the range: so near its end a value stands at it, or rounding would decide


def per_image(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Shape a value per image `(B,)` to `(B, 1, ..., 1)`, so that it broadcasts over `like`; leave a number as it is."""
    return value.reshape(-1, *(1,) * (like.ndim - 1)).to(like) if isinstance(value, Tensor) else value


def some(value: float | Tensor, index: Tensor) -> float | Tensor:
    """A value per image for some of the images; a number holds for all."""
    return value[index.to(value.device)] if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Pixels:
    """Which values may move, and how. As it stands: all of them, freely, in [0, 1].

    Attributes:
        low, high: the range of a value; a number, or `(B,)` where images differ.
        region: `(B, 1, H, W)`, 1 where pixels may move.
        tied: channels move as one, as in a grey image that was copied to three.
        grid: distance of two stored values, such as 1 / 255 for 8 bits; a number, or `(B,)`. None: any float.
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    region: Tensor | None = None
    tied: bool = False
    grid: float | Tensor | None = None

    def take(self, index: Tensor) -> Pixels:
        """The same for some of the images."""
        return replace(
            self,
            low=some(self.low, index),
            high=some(self.high, index),
            region=None if self.region is None else self.region[index.to(self.region.device)],
            grid=None if self.grid is None else some(self.grid, index),
        )

    def free(self, delta: Tensor) -> Tensor:
        """The part of a direction along which the image can move."""
        if self.region is not None:
            delta = delta * self.region
        if self.tied:
            delta = delta.mean(1, keepdim=True).expand_as(delta)
        return delta

    def passable(self, direction: Tensor, point: Tensor) -> Tensor:
        """A direction without those values that already stand at the end of their range which it points to."""
        low, high = per_image(self.low, point), per_image(self.high, point)
        edge = EDGE * (high - low)
        blocked = ((point <= low + edge) & (direction < 0)) | ((point >= high - edge) & (direction > 0))
        if self.tied:
            blocked = blocked.any(1, keepdim=True)
        return direction.masked_fill(blocked, 0)

    def limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far each value can fall (at most 0) and rise (at least 0) in its range."""
        low, high = (per_image(self.low, x) - x).clamp_max(0), (per_image(self.high, x) - x).clamp_min(0)
        if self.tied:  # common bounds, or clipping would untie the channels
            low, high = low.amax(1, keepdim=True), high.amin(1, keepdim=True)
        return low, high

    def clip(self, delta: Tensor, x: Tensor) -> Tensor:
        """Keep `x + delta` in range. Every value moves towards 0, so the result leaves no ball that `delta` was in."""
        return torch.clamp(delta, *self.limits(x))

    def store(self, delta: Tensor) -> Tensor:
        """Round to the grid, towards 0: rounding to the nearest value would leave the ball."""
        if self.grid is None:
            return delta
        grid = per_image(self.grid, delta)
        slack = 1e-3 + ROUNDING / torch.as_tensor(grid)  # what float32 leaves of a whole number of steps
        whole = ((delta / grid).abs() + slack).floor()
        return whole * delta.sign() * grid

    def describe(self) -> str:
        """The pixels in a few words, empty for the plain ones."""
        parts = []
        if self.region is not None:
            parts.append("inside a region")
        if self.tied:
            parts.append("tied channels")
        if isinstance(self.grid, float):
            parts.append(f"grid 1/{1 / self.grid:.0f}")
        elif self.grid is not None:
            parts.append("stored grid")
        return ", ".join(parts)

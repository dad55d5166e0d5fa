"""A sheet to draw on, many times finer than the image, that says how much of each pixel is covered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FINE = 1024  # least side of the sheet in its own pixels, so that a hair on an image of 24 px still has a width
OVERSAMPLED = 3  # least number of the sheet's pixels along one of the image's

Point = tuple[float, float]  # across from the left, down from the top, in shares of the image's shorter side


class Canvas:
    """A blank sheet over an image of `height` by `width` pixels. All lengths are shares of the image's shorter side.

    Drawn by Pillow on the CPU: the same calls give the same sheet.

    >>> sheet = Canvas(32, 48)
    >>> sheet.disc((0.5, 0.5), 0.25)
    >>> cover = sheet.cover()
    >>> tuple(cover.shape), round(cover.mean().item() * 48 / 32, 2)  # the area of the disc
    ((32, 48), 0.2)
    """

    def __init__(self, height: int, width: int) -> None:
        from PIL import Image, ImageDraw

        short = min(height, width)
        self.finer = max(OVERSAMPLED, math.ceil(FINE / short))
        self.short, self.right, self.bottom = short, width / short, height / short
        self._sheet = Image.new("L", (width * self.finer, height * self.finer))
        self._pen = ImageDraw.Draw(self._sheet)

    def line(self, points: Sequence[Point], width: float) -> None:
        """A line of one width through points, round at its ends and corners."""
        self._pen.line([self._at(point) for point in points], 255, max(1, round(width * self._unit)), joint="curve")
        for end in (points[0], points[-1]):
            self.disc(end, width / 2)

    def area(self, points: Sequence[Point], *, clear: bool = False) -> None:
        """The inside of a polygon, filled or cleared."""
        self._pen.polygon([self._at(point) for point in points], 0 if clear else 255)

    def disc(self, at: Point, radius: float, *, clear: bool = False) -> None:
        """A disc, filled or cleared."""
        (x, y), far = self._at(at), radius * self._unit
        self._pen.ellipse((x - far, y - far, x + far, y + far), 0 if clear else 255)

    def write(self, text: str, at: Point, height: float, anchor: str, *, bold: float = 0.0) -> None:
        """Text in Pillow's own font, whose capitals are `height` tall.

        Args:
            text: may have several lines.
            at: where the anchor lies.
            height: of a capital letter.
            anchor: as Pillow names it; `la` is the upper left corner, `ra` the upper right.
            bold: by how much strokes are thickened on either side, in heights.
        """
        from PIL import ImageFont

        em = height / CAPITAL
        font = ImageFont.load_default(em * self._unit)
        align = "right" if anchor[0] == "r" else "left"
        stroke = bold * height * self._unit
        self._pen.multiline_text(self._at(at), text, 255, font, anchor, align=align, stroke_width=stroke)

    def cover(self, soft: float = 0.0) -> Tensor:
        """How much of each pixel is covered, `(H, W)` in [0, 1]; its edges blurred by a standard deviation `soft`."""
        from PIL import ImageFilter

        seen = self._sheet.reduce(self.finer)
        if soft:
            seen = seen.filter(ImageFilter.GaussianBlur(soft * self.short))
        return torch.from_numpy(np.asarray(seen, dtype=np.float32) / np.float32(255))

    @property
    def _unit(self) -> int:
        """The shorter side, in the sheet's pixels."""
        return self.short * self.finer

    def _at(self, point: Point) -> Point:
        return point[0] * self._unit, point[1] * self._unit


CAPITAL = 0.7  # height of a capital letter in Pillow's own font (Aileron), in its size


def curve(points: Sequence[Point], pieces: int = 48) -> list[Point]:
    """The Bezier curve with these three or more control points, as `pieces` straight pieces.

    >>> curve([(0.0, 0.0), (0.5, 1.0), (1.0, 0.0)], 2)
    [(0.0, 0.0), (0.5, 0.5), (1.0, 0.0)]
    """
    degree = len(points) - 1

    def at(t: float) -> Point:
        weights = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
        x, y = (sum(weight * point[axis] for weight, point in zip(weights, points, strict=True)) for axis in (0, 1))
        return x, y

    return [at(piece / pieces) for piece in range(pieces + 1)]

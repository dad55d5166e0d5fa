"""Drawing by formula: soft shapes, Gaussian strokes and smooth noise at any size.

Positions are in units of half the picture: x from -1 (left) to 1 (right), y from -1 (top) to 1 (bottom). Every edge and stroke
is widened by the pixel, and thin strokes grow fainter as pixels grow coarser, so a picture at 28 px is the picture at 512 px
seen from farther away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Random = np.random.Generator

_FOOTPRINT = 0.5  # standard deviation of the pixel's own blur, in pixels
_SPACING = 1.4  # dots that make a stroke, in standard deviations apart: the ripple is below 0.1 %
_SPLINE_GAIN = 1 / 0.4794  # a cubic B-spline averages noise down to this share of its standard deviation, per pair of axes


@dataclass(frozen=True)
class Canvas:
    """A square grid of pixels.

    >>> disc = Canvas(64).inside(0.5 - np.hypot(Canvas(64).x, Canvas(64).y))
    >>> round(float(disc.mean()) * 4, 2)  # area of a circle of radius 0.5
    0.79
    """

    size: int

    @cached_property
    def pixel(self) -> float:
        """Width of a pixel."""
        return 2 / self.size

    @cached_property
    def x(self) -> Array:
        """Horizontal positions of pixel centres, `(H, W)` float32."""
        return np.broadcast_to(self._centres, (self.size, self.size)).copy()

    @cached_property
    def y(self) -> Array:
        """Vertical positions of pixel centres, `(H, W)` float32."""
        return self.x.T.copy()

    @cached_property
    def _centres(self) -> Array:
        return ((np.arange(self.size, dtype=np.float32) + 0.5) * self.pixel - 1).astype(np.float32)

    def inside(self, depth: Array, softness: float = 0.0) -> Array:
        """Share of each pixel that lies inside a shape, `(H, W)`.

        Args:
            depth: distance to the border, positive inside.
            softness: width of the border; never less than a pixel.
        """
        t = depth * (1 / max(softness, 1.2 * self.pixel)) + 0.5
        np.clip(t, 0, 1, out=t)
        smooth: Array = t * t * (3 - 2 * t)
        return smooth

    def bump(self, x: Array, y: Array, across: float, down: float | None = None) -> Array:
        """A Gaussian hill of height 1 at the origin of the positions given."""
        down = across if down is None else down
        return _bell(np.hypot(x / across, y / down))

    def ridge(self, offset: Array, width: float) -> Array:
        """A line of Gaussian profile where `offset` is 0, fainter where it is thinner than a pixel."""
        seen = float(np.hypot(width, _FOOTPRINT * self.pixel))
        return (width / seen) * _bell(offset / seen)

    def texture(self, random: Random, cells: int, octaves: int = 1) -> Array:
        """Smooth noise `(H, W)` of mean 0 and standard deviation 1, with `cells` random knots across.

        Each further octave has twice the knots and half the height.
        """
        total, power = np.zeros((self.size, self.size), np.float32), 0.0
        for octave in range(octaves):
            knots = random.standard_normal((cells * 2**octave + 3,) * 2, dtype=np.float32)
            basis = _spline_basis(self.size, cells * 2**octave)
            total += (0.5**octave * _SPLINE_GAIN) * (basis @ knots @ basis.T)
            power += 0.25**octave
        total /= power**0.5
        return total

    def dots(self, x: Array, y: Array, width: Array, height: Array) -> Array:
        """The sum of Gaussian dots, each `(M,)`: positions, standard deviations and heights."""
        seen = np.hypot(width, _FOOTPRINT * self.pixel)
        scale = (1 / seen).astype(np.float32)[:, None]
        across = _bell((self._centres - x.astype(np.float32)[:, None]) * scale)
        down = _bell((self._centres - y.astype(np.float32)[:, None]) * scale)
        mass = (height * (width / seen) ** 2).astype(np.float32)
        drawn: Array = down.T @ (across * mass[:, None])  # a Gaussian is a product over axes, so their sum is a matrix product
        return drawn

    def strokes(self, paths: Array, width: Array, height: Array) -> Array:
        """The sum of soft lines along polylines.

        Args:
            paths: `(P, S, 2)`, S points (x, y) on each of P lines.
            width: `(P, S)` standard deviation of the profile.
            height: `(P, S)` height of the profile.
        """
        step = np.diff(paths, axis=1)
        length = np.hypot(step[..., 0], step[..., 1])
        seen = np.hypot(width, _FOOTPRINT * self.pixel)[:, :-1]
        pieces = np.maximum(np.ceil(length / (_SPACING * seen)), 1).astype(np.int64).ravel()
        segment = np.repeat(np.arange(len(pieces)), pieces)
        share = (np.arange(len(segment)) - np.repeat(np.cumsum(pieces) - pieces, pieces) + 0.5) / pieces[segment]

        def along(values: Array) -> Array:
            first, last = values[:, :-1].ravel()[segment], values[:, 1:].ravel()[segment]
            between: Array = first + share * (last - first)
            return between

        wide = along(width)
        dot = along(height) * (length.ravel() / pieces)[segment] / (wide * (2 * np.pi) ** 0.5)
        return self.dots(along(paths[..., 0]), along(paths[..., 1]), wide, dot)

    def blur(self, image: Array, width: float) -> Array:
        """Gaussian blur of `(..., H, W)`; the picture's edge repeats the weights that it cuts off."""
        distance = self._centres[:, None] - self._centres
        kernel = _bell(distance / max(width, 0.05 * self.pixel))
        kernel /= kernel.sum(1, keepdims=True)
        blurred: Array = kernel @ image @ kernel.T
        return blurred


@dataclass(frozen=True)
class Frame:
    """Where a body lies in the picture: turned about its own origin, enlarged, then moved."""

    degrees: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0

    def positions(self, canvas: Canvas) -> tuple[Array, Array]:
        """Body coordinates of every pixel, two arrays `(H, W)`."""
        cos, sin = self._turn(1 / self.zoom)
        x, y = canvas.x - np.float32(self.right), canvas.y - np.float32(self.down)
        return cos * x + sin * y, cos * y - sin * x

    def place(self, points: Array) -> Array:
        """Picture positions `(..., 2)` of points given in body coordinates."""
        cos, sin = self._turn(self.zoom)
        x, y = points[..., 0], points[..., 1]
        return np.stack([cos * x - sin * y + self.right, cos * y + sin * x + self.down], -1)

    def _turn(self, scale: float) -> tuple[float, float]:
        angle = np.deg2rad(self.degrees)
        return float(np.cos(angle)) * scale, float(np.sin(angle)) * scale


@lru_cache(maxsize=16)
def canvas(size: int) -> Canvas:
    """The canvas of a size, with its positions computed once."""
    return Canvas(size)


def _bell(deviations: Array) -> Array:
    """A Gaussian of height 1, cut off at 7 standard deviations.

    Beyond, its values would become denormal numbers, with which a processor multiplies a hundred times slower.
    """
    exponent = np.square(deviations)
    exponent *= -0.5
    np.maximum(exponent, -24.5, out=exponent)
    return np.exp(exponent, out=exponent)


@lru_cache(maxsize=64)
def _spline_basis(size: int, cells: int) -> Array:
    """Cubic B-splines `(size, cells + 3)`, averaged over each pixel so that knots finer than a pixel fade out."""
    fine = max(1, -(-4 * cells // size))
    at = (np.arange(size * fine) + 0.5) * cells / (size * fine)
    distance = np.abs(at[:, None] - (np.arange(cells + 3) - 1))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    basis = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    averaged: Array = basis.reshape(size, fine, -1).mean(1).astype(np.float32)
    return averaged

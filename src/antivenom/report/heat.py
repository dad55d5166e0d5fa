"""Maps as pictures for a page: coloured, laid over their images, with lines around what is attended to and around a lesion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from antivenom.report.panels import LARGEST, data_uri

Array = np.ndarray[Any, Any]

# Five colours of "inferno", whose lightness rises evenly: van der Walt and Smith, https://bids.github.io/colormap/ (CC0).
COLOURS = np.array([[0, 0, 4], [87, 16, 109], [187, 55, 85], [249, 141, 10], [252, 255, 164]]) / 255
OPACITY = 0.6  # of the colour where a map is largest
ATTENDED, LESION = np.array([1.0, 1.0, 1.0]), np.array([0.2, 0.9, 1.0])  # of the lines
SHOWN = 160  # pixels along an edge at least, so that a line is one and not a staircase
LEVEL = 0.5  # of a map's largest value, as `explanation.focus` draws its line


def coloured(heat: Array) -> Array:
    """Colour a map `(H, W)` in [0, 1], dark to bright; `(3, H, W)`.

    >>> coloured(np.array([[0.0, 1.0]])).round(2).tolist()
    [[[0.0, 0.99]], [[0.0, 1.0]], [[0.02, 0.64]]]
    """
    return np.stack([np.interp(heat, np.linspace(0, 1, len(COLOURS)), channel) for channel in COLOURS.T])


def picture(image: Array, heat: Array | None = None, mask: Array | None = None, *, line: bool = True, side: int = SHOWN) -> str:
    """An image, enlarged where it is small, with a map laid over it and lines around areas, as a PNG data URI.

    Args:
        image: `(C, H, W)` in [0, 1].
        heat: `(H, W)` in [0, 1].
        mask: `(H, W)` bool, of the lesion.
        line: whether the map's upper half is outlined.
        side: to which an image is enlarged at least, by whole pixels.
    """
    step = math.ceil(max(image.shape[1:]) / LARGEST)
    image = image[:, ::step, ::step]
    zoom = max(1, math.ceil(side / max(image.shape[1:])))
    shown = np.broadcast_to(image, (3, *image.shape[1:])).repeat(zoom, 1).repeat(zoom, 2).astype(float)
    if heat is not None:
        fine = enlarged(heat[::step, ::step], (shown.shape[1], shown.shape[2]))
        share = OPACITY * fine
        shown = (1 - share) * shown + share * coloured(fine)
        if line and fine.max() > 0:
            shown = _drawn(shown, fine > LEVEL * fine.max(), ATTENDED)
    if mask is not None:
        shown = _drawn(shown, mask[::step, ::step].repeat(zoom, 0).repeat(zoom, 1), LESION)
    return data_uri(shown)


def strip(*rows: Array, height: int = 12) -> str:
    """Weights `(C,)` in [0, 1] as rows of colour, one above the other, as a PNG data URI."""
    return data_uri(coloured(np.stack(rows)).repeat(height, 1))


def field(values: Array, side: int = 200) -> str:
    """Values `(S, S)` as a square of colour between their smallest and their largest, the first row below."""
    low, high = float(values.min()), float(values.max())
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return data_uri(coloured(enlarged(unit[::-1], (side, side))))


def enlarged(values: Array, size: tuple[int, int]) -> Array:
    """Values `(H, W)` at another size, bilinearly, within their own range."""
    from PIL import Image

    found = Image.fromarray(np.asarray(values, dtype=np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(found, dtype=float).clip(values.min(), values.max())


def _drawn(shown: Array, area: Array, colour: Array) -> Array:
    """A line along the inner edge of an area, two pixels wide where there is room."""
    inner = area
    for _ in range(2 if min(area.shape) >= SHOWN else 1):
        framed = np.pad(inner, 1, constant_values=True)
        inner = inner & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.where(area & ~inner, colour[:, None, None], shown)

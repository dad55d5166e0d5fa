"""Pictures of maps: laid over their images in colour, and tiled with labels. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from antivenom.errors import ImageError, InputError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

Array = np.ndarray[Any, Any]

# Every sixteenth colour of "inferno", whose lightness rises evenly: van der Walt and Smith, https://bids.github.io/colormap/,
# given to the public domain (CC0). Colours in between, straight from one to the next, differ from theirs by 6 of 255 at most.
INFERNO = np.array(
    [
        [0, 0, 4],
        [11, 7, 36],
        [33, 12, 74],
        [60, 9, 101],
        [87, 16, 109],
        [112, 25, 110],
        [137, 34, 106],
        [163, 43, 97],
        [187, 55, 85],
        [209, 70, 68],
        [227, 89, 50],
        [241, 113, 30],
        [249, 141, 10],
        [252, 171, 15],
        [249, 202, 50],
        [242, 232, 101],
        [252, 255, 164],
    ],
    dtype=np.float64,
)
OPACITY = 0.7  # of the colour where a map is 1; the image shows through everywhere
LETTERS, GAP, INK = 13, 6, (20, 20, 20)  # height of the letters and space between tiles in pixels


@dataclass(frozen=True)
class Row:
    """One image and maps over it.

    Attributes:
        label: stands to its left.
        image: `(C, H, W)` in [0, 1], one channel or three.
        heats: by the name of their model, maps `(H, W)` in [0, 1].
    """

    label: str
    image: Array | Tensor
    heats: Mapping[str, Array | Tensor]


def coloured(heat: Array | Tensor) -> Array:
    """Colour a map `(H, W)` in [0, 1], dark to bright; `(H, W, 3)` uint8.

    >>> coloured(np.array([[0.0, 1.0]])).tolist()
    [[[0, 0, 4], [252, 255, 164]]]
    """
    return _bytes(_colours(_heat(heat)))


def shown(image: Array | Tensor) -> Array:
    """An image `(C, H, W)` in [0, 1], grey or colour, as `(H, W, 3)` uint8."""
    return _bytes(255 * _image(image))


def overlay(image: Array | Tensor, heat: Array | Tensor, *, opacity: float = OPACITY) -> Array:
    """Lay a map over its image: the hotter a place, the more of the map's colour and the less of the image.

    Args:
        image: `(C, H, W)` in [0, 1], one channel or three.
        heat: `(H, W)` in [0, 1]; where it is 0 the image stays as it is.
        opacity: share of the map's colour where it is 1.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ImageError: no such image or map, or of different sizes.

    >>> overlay(np.full((1, 1, 2), 0.2), np.array([[0.0, 1.0]]), opacity=1.0).tolist()
    [[[51, 51, 51], [252, 255, 164]]]
    """
    under, heat = 255 * _image(image), _heat(heat)
    if under.shape[:2] != heat.shape:
        raise ImageError(f"a map has its image's size {under.shape[:2]}, got {heat.shape}")
    share = opacity * heat[..., None]
    return _bytes((1 - share) * under + share * _colours(heat))


def panel(rows: Sequence[Row], *, side: int = 160, opacity: float = OPACITY) -> Array:
    """Tile images and maps as Chen 2021 does in Figures 4 to 6: the input, then one column per model.

    Args:
        rows: one per image, all with maps of the same models, in whose order the columns stand.
        side: longer edge of a tile in pixels.
        opacity: as for `overlay`.

    Returns:
        `(height, width, 3)` uint8.

    Raises:
        ImageError: as `overlay`.
        InputError: no rows, or rows with maps of different models.
    """
    names = list(rows[0].heats) if rows else []
    for row in rows:
        if list(row.heats) != names:
            raise InputError(
                f"all rows have maps of the same models: {names} in the first one, {list(row.heats)} in {row.label!r}"
            )
    pictures = [[shown(row.image), *(overlay(row.image, heat, opacity=opacity) for heat in row.heats.values())] for row in rows]
    return tiled(pictures, rows=[row.label for row in rows], columns=["input", *names], side=side)


def tiled(pictures: Sequence[Sequence[Array]], *, rows: Sequence[str], columns: Sequence[str], side: int = 160) -> Array:
    """Tile pictures on white, with a label to the left of each row and above each column.

    Args:
        pictures: by row, then column, each `(H, W, 3)` uint8 of any size.
        rows, columns: the labels; one that is too long for its column is cut short.
        side: longer edge of a tile in pixels.

    Returns:
        `(height, width, 3)` uint8.

    Raises:
        InputError: no pictures, or as many labels as do not fit.
    """
    if not pictures or len(rows) != len(pictures) or {len(row) for row in pictures} != {len(columns)} or not columns:
        raise InputError(
            f"a panel has a label per row and column, got {len(rows)} and {len(columns)} labels for rows of "
            f"{[len(row) for row in pictures]} pictures"
        )
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LETTERS)
    margin = int(max(font.getlength(label) for label in rows)) + 2 * GAP
    head, step = LETTERS + 2 * GAP, side + GAP
    sheet = Image.new("RGB", (margin + step * len(columns), head + step * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        pen.text((margin + step * column + side / 2, head / 2), _cut(label, font, side), INK, font, anchor="mm")
    for row, (label, tiles) in enumerate(zip(rows, pictures, strict=True)):
        pen.text((GAP, head + step * row + side / 2), label, INK, font, anchor="lm")
        for column, tile in enumerate(tiles):
            fitted = _fitted(tile, side)
            left, top = margin + step * column + (side - fitted.width) // 2, head + step * row + (side - fitted.height) // 2
            sheet.paste(fitted, (left, top))
    return np.asarray(sheet)


def _fitted(tile: Array, side: int) -> Any:
    from PIL import Image

    scale = side / max(tile.shape[:2])
    size = max(1, round(tile.shape[1] * scale)), max(1, round(tile.shape[0] * scale))
    return Image.fromarray(np.ascontiguousarray(tile)).resize(size, Image.Resampling.LANCZOS)


def _cut(label: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(f"{label}…") > width:
        label = label[:-1]
    return f"{label}…"


def _colours(heat: Array) -> Array:
    places = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(heat, places, channel) for channel in INFERNO.T], -1)


def _heat(heat: Array | Tensor) -> Array:
    values = np.asarray(heat, dtype=np.float64)
    if values.ndim != 2 or not (values.min(initial=0) >= 0 and values.max(initial=0) <= 1):
        raise ImageError(f"a map is (H, W) in [0, 1], got {values.shape} from {values.min()} to {values.max()}")
    return values


def _image(image: Array | Tensor) -> Array:
    """`(H, W, 3)` in [0, 1]."""
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] not in {1, 3}:
        raise ImageError(f"an image is (C, H, W) with one channel or three, got {values.shape}")
    return np.broadcast_to(values.transpose(1, 2, 0), (*values.shape[1:], 3)).clip(0, 1)


def _bytes(values: Array) -> Array:
    return np.rint(values).astype(np.uint8)

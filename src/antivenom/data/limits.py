"""How large a file and an image may be, and still be opened."""

from __future__ import annotations

from antivenom.errors import ImageError

MAX_PIXELS = 2**26  # 8192 x 8192: the largest mammogram and fundus photograph, with room
MAX_BYTES = 2**29


def check_size(height: int, width: int) -> None:
    """Refuse an image before its pixels are decoded.

    Raises:
        ImageError: no pixel, or more than `MAX_PIXELS`.
    """
    if not 0 < height * width <= MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels; between 1 and {MAX_PIXELS:,} can be read")


def check_length(length: int) -> None:
    """Refuse a file before it is read.

    Raises:
        ImageError: more than `MAX_BYTES`.
    """
    if length > MAX_BYTES:
        raise ImageError(f"{length:,} bytes; at most {MAX_BYTES:,} can be read")

"""Walk a set and name what is wrong with it: unreadable images and masks, and the same picture in several splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from antivenom.data.imageset import ImageSet
from antivenom.errors import DataError


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one image.

    Attributes:
        key: the image.
        kind: `image` and `mask` cannot be read; `leak`: another split holds the very same pixels.
        message: what is wrong.
    """

    key: str
    kind: Literal["image", "mask", "leak"]
    message: str


def check(images: ImageSet, *, progress: Callable[[int], None] | None = None) -> list[Problem]:
    """Read every image and mask of a set, one at a time, and list what is wrong; an empty list is a sound set.

    Args:
        images: the set; where it is split, pictures that stand in two splits are found by their pixels, as loaded.
        progress: told before each image how many were read.
    """
    found: list[Problem] = []
    seen: dict[bytes, int] = {}  # 16 bytes an image
    splits = images.index.splits[images.rows]
    keys = images.keys
    for position, key in enumerate(keys):
        if progress is not None:
            progress(position)
        try:
            image = images[position].image
        except DataError as error:
            found.append(Problem(key, "image", str(error)))
            continue
        first = seen.setdefault(hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest(), position)
        if splits[first] != splits[position]:
            message = f"the same pixels as {keys[first]}: one stands in {splits[first] or 'no split'}, the other in "
            found.append(Problem(key, "leak", f"{message}{splits[position] or 'no split'}"))
        if images.has_masks:
            found += _mask_problem(images, position, key, tuple(image.shape[1:]))
    return found


def _mask_problem(images: ImageSet, position: int, key: str, shape: tuple[int, ...]) -> list[Problem]:
    try:
        mask = images.mask(position)
    except DataError as error:
        return [Problem(key, "mask", str(error))]
    if tuple(mask.shape) == shape:
        return []
    return [Problem(key, "mask", f"the mask is {tuple(mask.shape)}, the image {shape}")]

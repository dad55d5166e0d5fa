"""CIFAR-10 as JPEG bytes in one NPZ file: `{train,test}_jpeg`, where image i is bytes `_offsets[i]` to `_offsets[i + 1]`.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from antivenom.data.caveats import measured_caveats
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.npz import StoredArray, read_member, stored_array
from antivenom.data.reading import Fit, Frame, Size, from_array
from antivenom.data.splits import carve_val
from antivenom.errors import DataError, ImageError
from antivenom.task import Task

_SPLITS = ("train", "test")


@dataclass(frozen=True)
class PackedImages:
    """Reads image `row` of a set whose encoded files lie end to end in one array a split."""

    bytes: tuple[StoredArray, ...]
    offsets: tuple[np.ndarray[Any, Any], ...]
    frame: Frame

    def __call__(self, row: int) -> Tensor:
        for array, offsets in zip(self.bytes, self.offsets, strict=True):
            if row < len(offsets) - 1:
                return self.frame(_decode(array, int(offsets[row]), int(offsets[row + 1]), row))
            row -= len(offsets) - 1
        raise DataError(f"row {row} lies beyond the last image")


def read_cifar10(
    path: str | Path,
    *,
    name: str = "cifar10",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    cache: Path | None = None,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read CIFAR-10 packed as JPEG. It has no validation split: an eighth of training is carved for it, by class.

    Raises:
        DataError: a damaged file, or arrays that do not fit each other.
    """
    path, frame = Path(path), Frame(size, fit)
    offsets = tuple(read_member(path, f"{split}_offsets").astype(np.int64) for split in _SPLITS)
    packed = tuple(stored_array(path, f"{split}_jpeg", cache=cache) for split in _SPLITS)
    labels = [read_member(path, f"{split}_labels") for split in _SPLITS]
    for split, array, places, values in zip(_SPLITS, packed, offsets, labels, strict=True):
        fits = len(places) == len(values) + 1 and places[0] == 0 and places[-1] == len(array)
        if not fits or (np.diff(places) <= 0).any():
            raise DataError(
                f"{path}: {split} has {len(values)} labels, {len(places)} offsets and {len(array)} bytes, which disagree"
            )
    task = Task(tuple(str(label) for label in read_member(path, "class_names")))
    targets = np.concatenate(labels).astype(np.int64)
    stated = np.repeat(_SPLITS, [len(values) for values in labels])
    splits = carve_val(stated, [""] * len(targets), targets, seed=seed)
    keys = [f"{split}:{position}" for split, values in zip(_SPLITS, labels, strict=True) for position in range(len(values))]
    index = Index.of(keys, targets, splits=splits.tolist())
    told = f"The file has no validation split; an eighth of training was taken for it here with seed {seed}."
    return ImageSet(
        name,
        task,
        index,
        PackedImages(packed, offsets, frame),
        channels=3,
        caveats=(*caveats, told, *measured_caveats(index, task)),
        origin=f"cifar10|{path.name}|{frame}",
    )


def _decode(array: StoredArray, start: int, stop: int, row: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(BytesIO(array.rows(start, stop).tobytes()), formats=("JPEG",)) as picture:
            return from_array(np.array(picture.convert("RGB")), f"{array.path} row {row}")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{array.path} row {row}: cannot be decoded ({error})") from error

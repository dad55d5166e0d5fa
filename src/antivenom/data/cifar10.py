"""CIFAR-10 as published (its binary version), and as JPEG bytes in one NPZ file.

    root/data_batch_1.bin ... data_batch_5.bin     training
    root/test_batch.bin                            test
    root/batches.meta.txt                          the ten classes, one a line

A record of the binary version is one byte of label and 3072 of pixels: the red, green and blue planes of 32 x 32. In the NPZ
file, image i is bytes `{train,test}_offsets[i]` to `_offsets[i + 1]` of `{train,test}_jpeg`.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
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

BINARY = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SPLITS = ("train", "test")
_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_IMAGE = (3, 32, 32)
_RECORD = 1 + prod(_IMAGE)
_AT_ONCE = 1000  # records whose labels are read together


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


@dataclass(frozen=True)
class RecordImages:
    """Reads image `row` of the binary version from its batches, one image at a time."""

    batches: tuple[StoredArray, ...]
    frame: Frame

    def __call__(self, row: int) -> Tensor:
        for batch in self.batches:
            if row < len(batch):
                return self.frame(from_array(batch[row][1:].reshape(_IMAGE), f"{batch.path} record {row}"))
            row -= len(batch)
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
    load, origin = PackedImages(packed, offsets, frame), f"cifar10|{path.name}|{frame}"
    return train_and_test(name, task, labels, load, channels=3, seed=seed, caveats=caveats, origin=origin)


def read_cifar10_binary(
    root: str | Path,
    *,
    name: str = "cifar10-binary",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read the binary version of CIFAR-10. It has no validation split: an eighth of training is carved for it, by class.

    Args:
        root: the folder of the batches, `cifar-10-batches-bin` as published.
        name: of the set, as in a report.
        size, fit: what every image is brought to; they are `(3, 32, 32)` as stored.
        seed: of the validation split.
        caveats: what a reader of any figure must be told beyond what is found here.

    Raises:
        DataError: a missing or truncated file, or the python version, which is pickled.
        LabelError: a label outside the ten classes.
    """
    root, frame = Path(root), Frame(size, fit)
    if (root / "data_batch_1").exists() and not (root / _BATCHES[0]).exists():
        raise DataError(
            f"{root}: CIFAR-10's python version is pickled and could run any code; take the binary version, {BINARY}"
        )
    try:
        classes = (root / "batches.meta.txt").read_text(encoding="latin-1").split()
        batches = tuple(_records(root / batch) for batch in _BATCHES)
    except OSError as error:
        lacks = f"{error.filename}: cannot be read ({error.strerror}); it comes with the binary version, {BINARY}"
        raise DataError(lacks) from error
    if len(classes) != 10:
        raise DataError(f"{root}: batches.meta.txt names {len(classes)} classes, CIFAR-10 has 10; fetch {BINARY} again")
    task, values = Task(tuple(classes)), [_record_labels(batch) for batch in batches]
    labels = [np.concatenate(values[:-1]), values[-1]]
    load, origin = RecordImages(batches, frame), f"cifar10-binary|{frame}"
    return train_and_test(name, task, labels, load, channels=3, seed=seed, caveats=caveats, origin=origin)


def train_and_test(
    name: str,
    task: Task,
    labels: Sequence[np.ndarray[Any, Any]],
    load: Callable[[int], Tensor],
    *,
    channels: int,
    seed: int,
    caveats: Sequence[str],
    origin: str,
) -> ImageSet:
    """A set that was published as training and test images: validation is carved from training, an eighth of every class.

    Args:
        labels: of training and of test, `(N,)` each.
        load: reads an image by its place, training first.
        name, task, channels, seed, caveats, origin: as elsewhere.

    Raises:
        LabelError: a label outside the classes.
        SplitError: no training image, or too few.
    """
    targets = np.concatenate(labels).astype(np.int64)
    stated = np.repeat(_SPLITS, [len(values) for values in labels])
    splits = carve_val(stated, [""] * len(targets), targets, seed=seed)
    keys = [f"{split}:{position}" for split, values in zip(_SPLITS, labels, strict=True) for position in range(len(values))]
    index = Index.of(keys, targets, splits=splits.tolist())
    told = f"The set has no validation split; an eighth of training was taken for it here with seed {seed}."
    caveats = (*caveats, told, *measured_caveats(index, task))
    return ImageSet(name, task, index, load, channels=channels, caveats=caveats, origin=origin)


def _records(path: Path) -> StoredArray:
    length = path.stat().st_size
    if not length or length % _RECORD:
        raise DataError(f"{path}: {length:,} bytes are no whole records of {_RECORD:,}; it is truncated, fetch {BINARY} again")
    return StoredArray(path, 0, (length // _RECORD, _RECORD), "|u1")


def _record_labels(batch: StoredArray) -> np.ndarray[Any, Any]:
    starts = range(0, len(batch), _AT_ONCE)
    return np.concatenate([batch.rows(start, min(start + _AT_ONCE, len(batch)))[:, 0].copy() for start in starts])


def _decode(array: StoredArray, start: int, stop: int, row: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(BytesIO(array.rows(start, stop).tobytes()), formats=("JPEG",)) as picture:
            return from_array(np.array(picture.convert("RGB")), f"{array.path} row {row}")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{array.path} row {row}: cannot be decoded ({error})") from error

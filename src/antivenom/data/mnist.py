"""MNIST as published: four IDX files, plain or packed with gzip.

    root/train-images-idx3-ubyte     root/train-labels-idx1-ubyte
    root/t10k-images-idx3-ubyte      root/t10k-labels-idx1-ubyte

An IDX file of bytes begins with big-endian 32-bit numbers: 0x800 plus the number of axes, then the length of each axis. Its
values follow.

LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998, http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

from antivenom.data import limits
from antivenom.data.cifar10 import train_and_test
from antivenom.data.imageset import ImageSet
from antivenom.data.medmnist import ArrayImages
from antivenom.data.npz import PIECE, StoredArray, cache_folder, fingerprint, unpacking
from antivenom.data.reading import Fit, Frame, Size
from antivenom.errors import DataError
from antivenom.task import Task

_PARTS = ("train", "t10k")
_TASK = Task(tuple(f"class {digit}" for digit in range(10)))  # named as read_npz names them: models serve both forms
_GZIP = b"\x1f\x8b"


def read_mnist(
    root: str | Path,
    *,
    name: str = "mnist-idx",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    cache: Path | None = None,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read MNIST from its IDX files. It has no validation split: an eighth of training is carved for it, by class.

    Args:
        root: the folder of the four files; names with a dot, `train-images.idx3-ubyte`, and with `.gz` are known too.
        name: of the set, as in a report.
        size, fit: what every image is brought to; they are `(1, 28, 28)` as published.
        seed: of the validation split.
        cache: folder for unpacked files, see `read_idx`.
        caveats: what a reader of any figure must be told beyond what is found here.

    Raises:
        DataError: a missing or damaged file, or images and labels that do not fit each other.
        LabelError: a label outside 0 to 9.
    """
    root, frame = Path(root), Frame(size, fit)
    images = tuple(read_idx(_found(root, f"{part}-images-idx3-ubyte"), 3, cache=cache) for part in _PARTS)
    labels = tuple(read_idx(_found(root, f"{part}-labels-idx1-ubyte"), 1, cache=cache) for part in _PARTS)
    for part, pictures, digits in zip(_PARTS, images, labels, strict=True):
        if len(pictures) != len(digits):
            raise DataError(f"{root}: {part} has {len(pictures)} images and {len(digits)} labels; fetch them again")
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(f"{root}: images must be alike in train and t10k, got {[array.shape for array in images]}")
    values = [digits.rows(0, len(digits)) for digits in labels]
    load, origin = ArrayImages(images, 1, frame), f"mnist-idx|{frame}"
    return train_and_test(name, _TASK, values, load, channels=1, seed=seed, caveats=caveats, origin=origin)


def read_idx(path: Path, axes: int, *, cache: Path | None = None) -> StoredArray:
    """Make an IDX file of bytes readable row by row, unpacking it to the cache first if it is packed with gzip.

    Args:
        path: the file; its first bytes tell whether it is packed.
        axes: how many the array must have: 3 for images `(N, H, W)`, 1 for labels `(N,)`.
        cache: folder for unpacked files; `cache_folder()` where None.

    Raises:
        DataError: another magic number, images too large, more or fewer bytes than promised, or no room to unpack them.
    """
    length = 4 * (1 + axes)
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(length)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, it may be damaged or truncated ({error}); fetch it again") from error
    if len(head) < length:
        raise DataError(f"{path}: ends within its header, after {len(head)} of {length} bytes; fetch it again")
    magic, *shape = struct.unpack(f">{1 + axes}I", head)
    if magic != 0x800 + axes:
        raise DataError(f"{path}: its magic number is {magic}, an IDX file of bytes with {axes} axes has {0x800 + axes}")
    if not 0 < prod(shape[1:]) <= limits.MAX_PIXELS:
        raise DataError(f"{path}: images of {shape[1:]} pixels; between 1 and {limits.MAX_PIXELS:,} can be read")
    promised = length + prod(shape)
    place = _unpacked(path, promised, cache) if packed else path
    held = place.stat().st_size
    if held != promised:
        raise DataError(f"{path}: its header promises {promised:,} bytes, it holds {held:,}; fetch it again")
    return StoredArray(place, length, tuple(shape), "|u1")


def _found(root: Path, name: str) -> Path:
    for known in (name, name.replace("-idx", ".idx")):
        for path in (root / known, root / f"{known}.gz"):
            if path.is_file():
                return path
    raise DataError(f"{root}: no {name}, plain or packed as .gz; name the folder that holds the four files of MNIST")


def _unpacked(path: Path, promised: int, cache: Path | None) -> Path:
    """Where the file lies unpacked; no more than it promises is ever written, however much it holds."""
    target = (cache or cache_folder()) / f"{path.stem}-{fingerprint(path)}.idx"
    if target.is_file() and target.stat().st_size == promised:
        return target
    with unpacking(str(path), promised, target) as file, gzip.open(path) as packed:
        left = promised
        while piece := packed.read(min(left, PIECE)):
            left -= file.write(piece)
        if left or packed.read(1):
            held = "fewer" if left else "more"
            raise DataError(f"{path}: its header promises {promised:,} bytes, it holds {held}; fetch it again")
    return target

"""The way back: an image to a file of the kind that it came from, so that the reader gives the very same values again.

What a file can hold lies on a grid, as a rule: 8 bits have steps of 1 / 255. An image is rounded to the nearest value of the
grid, never cut off: 254.9999 is 255. An attack whose `Pixels(grid=...)` is the `grid` of a format ends on that grid, so its
success survives storage; `nearest` says beforehand what will be read again, to the last bit.

A file is written beside its place, read back, and renamed: one that is there holds what was meant.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from antivenom.data.dicom import DicomImage, read_dicom
from antivenom.data.npz import members, read_member
from antivenom.data.reading import from_array, read_image, with_channels
from antivenom.errors import DataError, ImageError, SettingsError

EDGE = 1e-6  # beyond the range: what float32 leaves of an addition that ends at 0 or 1
UNEVEN = 1e-3  # of a step: by more than that steps differ in earnest
DERIVATION = "Adversarial perturbation added by antivenom to test a classifier; not for diagnosis"
_TEXT = 1024  # characters of DICOM's short text (PS3.5, table 6.2-1)
_SIXTEEN = 65535
_BIG_ENDIAN = "1.2.840.10008.1.2.2"

Array = np.ndarray[Any, Any]


class Format(ABC):
    """A kind of file, and which values it can hold."""

    suffix: ClassVar[str]

    @property
    @abstractmethod
    def grid(self) -> float | None:
        """The distance of two neighbouring values, as `Pixels.grid` takes it; None where there is no even one."""

    @abstractmethod
    def nearest(self, image: Tensor) -> Tensor:
        """The image as it will be read again; `(C, H, W)` float32 in [0, 1] both ways, C 1 or 3.

        Raises:
            ImageError: not such an image, or one that the file cannot hold.
        """

    @abstractmethod
    def encode(self, image: Tensor) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: as `nearest`.
        """

    def write(self, image: Tensor, path: str | Path) -> None:
        """Write an image `(C, H, W)` in [0, 1], whole or not at all.

        Raises:
            ImageError: as `nearest`, or the file would not be read back as what was meant.
            DataError: the file cannot be written.
        """
        meant = self.nearest(image)

        def check(draft: Path) -> None:
            if not torch.equal(read_image(draft, channels=1 if len(meant) == 1 else 3), meant):
                raise ImageError(f"{path}: what was written is not read back as it was meant; choose another format")

        write_whole(Path(path), self.encode(image), check)


@dataclass(frozen=True)
class Png(Format):
    """PNG of 8 bits, grey or colour, or of 16 bits, grey.

    Args:
        highest: what white is stored as: 255 or 65535.

    >>> Png().nearest(torch.tensor([[[0.9999, 0.5 / 255 + 1e-4, 0.0]]])).mul(255).tolist()
    [[[255.0, 1.0, 0.0]]]
    """

    highest: int = 255
    suffix = ".png"

    def __post_init__(self) -> None:
        _check_highest(self.highest)

    @property
    def grid(self) -> float:
        return 1 / self.highest

    def nearest(self, image: Tensor) -> Tensor:
        return from_array(self._stored(image), "the image")

    def encode(self, image: Tensor) -> bytes:
        from PIL import Image

        content = BytesIO()
        Image.fromarray(self._stored(image)).save(content, format="PNG")
        return content.getvalue()

    def _stored(self, image: Tensor) -> Array:
        if len(image) == 3 and self.highest == _SIXTEEN:
            raise ImageError("colour of 16 bits is read from PNG in 8 (Pillow's limit); store it as NPZ")
        return _rounded(image, self.highest)


@dataclass(frozen=True)
class Npz(Format):
    """One array `image` of `(H, W)` or `(H, W, 3)` in an NPZ file, without pickle.

    Args:
        highest: what white is stored as, 255 (uint8) or 65535 (uint16); None stores float32 as it is.

    >>> image = torch.rand(3, 4, 4)
    >>> torch.equal(Npz().nearest(image), image)
    True
    """

    highest: int | None = None
    suffix = ".npz"

    def __post_init__(self) -> None:
        if self.highest is not None:
            _check_highest(self.highest)

    @property
    def grid(self) -> float | None:
        return None if self.highest is None else 1 / self.highest

    def nearest(self, image: Tensor) -> Tensor:
        return from_array(self._stored(image), "the image")

    def encode(self, image: Tensor) -> bytes:
        content = BytesIO()
        np.savez(content, image=self._stored(image))
        return content.getvalue()

    def _stored(self, image: Tensor) -> Array:
        return _last(_checked(image).numpy()) if self.highest is None else _rounded(image, self.highest)


@dataclass(frozen=True)
class Dicom(Format):
    """A copy of a DICOM file with other pixels, and marked as derived.

    The image is what the reader shows of the file. Every pixel takes the stored value whose display is nearest; where
    several are shown alike, as outside the window, the one nearest to the value it had, so that a pixel that did not change
    keeps its own. Type, bits, sign, rescale, window and inversion stay as they are, and so does what else stands in the
    file, the patient's name too. New are the SOP Instance UID (which follows from the pixels), DERIVED in Image Type, a
    Derivation Description and a reference to the source image. An uncompressed file keeps its transfer syntax; a
    compressed one becomes Explicit VR Little Endian, since lossy compression would undo what was added.

    Args:
        source: the file to copy, of one frame.

    Raises:
        ImageError: on first use: the source cannot be read.
    """

    source: Path
    suffix = ".dcm"

    @cached_property
    def original(self) -> DicomImage:
        """The source as it is read."""
        return read_dicom(self.source)

    @cached_property
    def shown(self) -> Tensor:
        """What the reader shows of each value that the file could store, from the lowest on; `(2 ** bits,)` float32."""
        return self.original.presentation(torch.from_numpy((self._every * self.original.grid).astype(np.float32)))

    @cached_property
    def grid(self) -> float | None:
        raw = torch.from_numpy(self._every * self.original.grid)
        values = np.unique(self.original.presentation(raw).numpy())
        inside = values[(values > 0) & (values < 1)]  # at its ends a window may cut a step short
        levels = inside if len(inside) > 1 else values
        step = (levels[-1] - levels[0]) / max(1, len(levels) - 1)
        return float(step) if step > 0 and (np.abs(np.diff(levels) - step) < UNEVEN * step).all() else None

    def stored(self, image: Tensor) -> Array:
        """The integers that show the image, in the shape and type of the source's.

        Raises:
            ImageError: see `nearest`.
        """
        lowest, (levels, level_of, first, last) = self.original.presentation.lowest, self._levels
        own = self._planes(self.original.stored).astype(np.int64) - lowest
        wanted = self._fitting(image).numpy()
        above = np.searchsorted(levels, wanted).clip(0, len(levels) - 1)
        below = (above - 1).clip(0)
        level = np.where(wanted - levels[below] < levels[above] - wanted, below, above)
        value = own.clip(first[level], last[level])
        value = np.where(level_of[value] == level, value, first[level])  # a table need not rise throughout
        planes = (value + lowest).astype(self.original.stored.dtype)
        return np.asarray(planes[0] if self.original.stored.ndim == 2 else np.moveaxis(planes, 0, 2))

    def nearest(self, image: Tensor) -> Tensor:
        return with_channels(replace(self.original, stored=self.stored(image)).pixels, len(image))

    def encode(self, image: Tensor) -> bytes:
        import pydicom

        values, content = self.stored(image), BytesIO()
        try:
            file = pydicom.dcmread(self.source)
            if file.file_meta.TransferSyntaxUID.is_compressed:
                file.decompress(generate_instance_uid=False)
            _put(file, values)
            _mark(file)
            file.save_as(content, enforce_file_format=True)
        except ImageError as error:
            raise ImageError(f"{self.source}: {error}") from error
        except Exception as error:  # as in read_dicom
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ImageError(f"{self.source}: cannot be written again with other pixels ({reason})") from error
        return content.getvalue()

    @property
    def _every(self) -> Array:
        return np.arange(2**self.original.bits)

    @cached_property
    def _levels(self) -> tuple[Array, Array, Array, Array]:
        """What can be shown, rising; which of it each value is shown as; and of each the first and the last such value."""
        levels, level_of = np.unique(self.shown.numpy(), return_inverse=True)
        order, ends = np.argsort(level_of, kind="stable"), np.cumsum(np.bincount(level_of))
        return levels, level_of, order[np.r_[0, ends[:-1]]], order[ends - 1]

    @staticmethod
    def _planes(stored: Array) -> Array:
        return stored[None] if stored.ndim == 2 else np.moveaxis(stored, 2, 0)

    def _fitting(self, image: Tensor) -> Tensor:
        """The image with as many channels as the file has, if it can be shown in them."""
        image, channels = _checked(image), len(self._planes(self.original.stored))
        if tuple(image.shape[1:]) != self.original.stored.shape[:2]:
            height, width = self.original.stored.shape[:2]
            raise ImageError(
                f"{self.source} holds {height} x {width} pixels, the image has {image.shape[1]} x {image.shape[2]}; "
                "read it at its own size, or store another format"
            )
        if len(image) < channels:
            raise ImageError(
                f"{self.source} is in colour and the image is grey: what of each colour is meant? read it in colour"
            )
        if len(image) > channels and not (image == image[:1]).all():
            raise ImageError(f"{self.source} is grey and cannot hold three different channels; tie them ('tied channels')")
        return image[:channels]


def own_format(source: str | Path) -> Format:
    """The format that holds what a file holds, as the reader reads it.

    DICOM is written as DICOM and 16-bit grey as PNG of 16 bits; an array stays an array; 8-bit pictures of any kind become PNG,
    since JPEG would undo what was added; a picture of floats becomes NPZ.

    Raises:
        ImageError: the file is none that the reader reads.
    """
    source = Path(source)
    try:
        with source.open("rb") as file:
            head = file.read(132)
        if head[128:] == b"DICM":
            return Dicom(source)
        if head.startswith(b"\x93NUMPY"):
            return _array_format(np.load(source, mmap_mode="r", allow_pickle=False).dtype)
        if head.startswith(b"PK\x03\x04"):
            return _array_format(read_member(source, members(source)[0]).dtype)
        return _picture_format(source)
    except OSError as error:
        raise ImageError(f"{source}: cannot be opened ({error.strerror or error})") from error
    except (DataError, ValueError, IndexError) as error:
        raise ImageError(f"{source}: {error}") from error


def stored_grid(source: str | Path) -> float | None:
    """The distance of two neighbouring values of a file, in units of the range: what `Pixels(grid=...)` takes.

    1 / 255 for 8 bits, 1 / 65535 for 16; of DICOM the step in what is displayed: 1 / (2 ** bits - 1), or the rescale's slope
    over the window's width where the file states a window. None where there is no even step: floats, a sigmoid window, a table.

    Raises:
        ImageError: the file is none that the reader reads.
    """
    return own_format(source).grid


def write_whole(path: Path, content: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write a file beside its place, flush it to disk, check it, and rename it; its folder is made.

    Raises:
        DataError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(draft)
        draft.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; make room or choose another folder") from error
    finally:
        draft.unlink(missing_ok=True)


# -- pixels ------------------------------------------------------------------------------------------------------------


def _check_highest(highest: int) -> None:
    if highest not in (255, _SIXTEEN):
        raise SettingsError(f"white is stored as 255 (8 bits) or {_SIXTEEN} (16 bits), not as {highest}")


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or len(image) not in (1, 3) or not image.numel() or not image.is_floating_point():
        raise ImageError(f"an image to write is floating point of shape (1 or 3, H, W), got {image.dtype} {tuple(image.shape)}")
    low, high = float(image.min()), float(image.max())
    if not (low >= -EDGE and high <= 1 + EDGE):  # a NaN fails both
        raise ImageError(f"an image to write must be finite and lie in [0, 1], got [{low:g}, {high:g}]")
    return image.detach().cpu().float().clamp(0, 1)


def _rounded(image: Tensor, highest: int) -> Array:
    values = np.rint(_checked(image).double().numpy() * highest)
    return _last(values.astype(np.uint8 if highest == 255 else np.uint16))


def _last(values: Array) -> Array:
    """Channels behind the pixels, none where there is one: a shape that no reader takes for another."""
    return np.ascontiguousarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, 2))


def _array_format(dtype: np.dtype[Any]) -> Format:
    if dtype.kind == "f":
        return Npz()
    highest = {"bool": 255, "uint8": 255, "uint16": _SIXTEEN}.get(dtype.name)
    if highest is None:
        raise ImageError(f"{dtype} has no stated range; store bool, uint8, uint16, or floats in [0, 1]")
    return Npz(highest)


def _picture_format(source: Path) -> Format:
    from PIL import Image

    with Image.open(source) as picture:
        if picture.mode == "F":
            return Npz()
        return Png(_SIXTEEN) if picture.mode.startswith("I;16") else Png()


# -- DICOM elements ----------------------------------------------------------------------------------------------------


def _put(file: Any, values: Array) -> None:
    """Replace the pixels of an uncompressed file."""
    bits, allocated = int(file.BitsStored), int(file.BitsAllocated)
    if allocated not in (8, 16, 32) or int(file.get("HighBit", bits - 1)) != bits - 1:
        raise ImageError(
            f"pixels of {bits} bits that end at bit {file.get('HighBit')} of {allocated} are not written; "
            "only those that begin at bit 0 of 8, 16 or 32 are"
        )
    order = ">" if file.file_meta.TransferSyntaxUID == _BIG_ENDIAN else "<"
    word = np.dtype(f"{order}u{allocated // 8}")
    words = values.astype(np.int64)
    if values.ndim == 2:
        words = _beside(np.frombuffer(file.PixelData, word, values.size).reshape(values.shape).astype(np.int64), words, file)
    else:
        file.PhotometricInterpretation, file.PlanarConfiguration = "RGB", 0  # as it was read
    content = (words & (2**allocated - 1)).astype(word).tobytes()
    file.PixelData = content + b"\0" * (len(content) % 2)
    if order == ">" and allocated == 8:
        file["PixelData"].VR = "OB"  # in words, two pixels would change places
    for name, extreme in (("SmallestImagePixelValue", values.min()), ("LargestImagePixelValue", values.max())):
        if name in file:
            file[name].value = int(extreme)


def _beside(before: Array, words: Array, file: Any) -> Array:
    """New words with what stood in the bits above the pixel's own, such as an overlay, unless that was the sign alone."""
    bits, allocated = int(file.BitsStored), int(file.BitsAllocated)
    own = 2**bits - 1
    sign = np.where(before & (1 << (bits - 1)), (2**allocated - 1) & ~own, 0)
    if file.PixelRepresentation and (before & ~own == sign).all():
        return words
    return np.asarray((words & own) | (before & ~own))


def _mark(file: Any) -> None:
    """Say that this is no original, and of which image it was made (PS3.3 C.7.6.1.1.2, C.7.6.1.1.3)."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = file.SOPClassUID, file.SOPInstanceUID
    pixels = hashlib.sha256(file.PixelData).hexdigest()
    file.SourceImageSequence = [*(file.get("SourceImageSequence") or []), source]
    file.SOPInstanceUID = generate_uid(entropy_srcs=[str(file.SOPInstanceUID), pixels])
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    kind = file.get("ImageType") or []
    file.ImageType = ["DERIVED", "SECONDARY", *([] if isinstance(kind, str) else kind)[2:]]
    before = str(file.get("DerivationDescription") or "")
    file.DerivationDescription = f"{before[: _TEXT - len(DERIVATION) - 2]}; {DERIVATION}" if before else DERIVATION

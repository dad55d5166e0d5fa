"""DICOM images in their own units: the stored integers, and how a viewer turns them into what is seen.

The steps are those of DICOM PS3.3 C.11.1 (modality: rescale or table) and C.11.2 (values of interest: window or table), then
the inversion of MONOCHROME1. Where a file states no window, the whole stored range is shown: never the image's own least and
greatest value, which would let one changed pixel shift all others.

An image has two readings, both float32 in [0, 1]: `raw`, where neighbouring stored values lie `grid` apart, so that an attack
on it changes what a file can hold; and `pixels`, what is displayed. `presentation` leads from the one to the other, is
differentiable and works on batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from antivenom.data import limits
from antivenom.errors import ImageError

WindowShape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Rescale:
    """Stored values to the modality's units, such as Hounsfield: `slope * value + intercept`."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        return values * self.slope + self.intercept


@dataclass(frozen=True)
class Window:
    """Modality units to [0, 1] by centre and width (PS3.3 C.11.2.1.2, C.11.2.1.3).

    >>> Window(50, 100, "LINEAR_EXACT")(torch.tensor([-10.0, 0.0, 25.0, 100.0])).tolist()
    [0.0, 0.0, 0.25, 1.0]
    """

    centre: float
    width: float
    shape: WindowShape = "LINEAR"

    def __post_init__(self) -> None:
        least = 1 if self.shape == "LINEAR" else 0
        fits = self.width >= least and self.width > 0 and np.isfinite([self.centre, self.width]).all()
        if self.shape not in get_args(WindowShape) or not fits:
            raise ImageError(f"window {self.shape} with centre {self.centre} and width {self.width} is none that DICOM knows")

    def __call__(self, values: Tensor) -> Tensor:
        if self.shape == "SIGMOID":
            return torch.sigmoid(4 * (values - self.centre) / self.width)
        if self.shape == "LINEAR_EXACT":
            return ((values - self.centre) / self.width + 0.5).clamp(0, 1)
        if self.width == 1:
            return (values > self.centre - 0.5).to(values.dtype)
        return ((values - (self.centre - 0.5)) / (self.width - 1) + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Lookup:
    """A table of a DICOM file: entry `i` belongs to value `first + i`; values between two entries are interpolated.

    Entries are in the modality's units for a modality table and in [0, 1] for a table of values of interest.

    >>> Lookup(10, (0.0, 1.0))(torch.tensor([9.0, 10.5, 12.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    first: int
    entries: tuple[float, ...]

    def __call__(self, values: Tensor) -> Tensor:
        table = torch.tensor(self.entries, dtype=values.dtype, device=values.device)
        place = (values - self.first).clamp(0, len(self.entries) - 1)
        below = place.detach().floor().long().clamp(max=max(0, len(self.entries) - 2))
        above = (below + 1).clamp(max=len(self.entries) - 1)
        return table[below] + (place - below) * (table[above] - table[below])


@dataclass(frozen=True)
class Presentation:
    """How stored values become what is seen.

    Attributes:
        lowest, highest: the stored range, by bits and sign.
        modality: stored values to the modality's units.
        interest: modality units to [0, 1]; None shows the whole stored range.
        inverted: MONOCHROME1, where the lowest value is white.
    """

    lowest: int
    highest: int
    modality: Rescale | Lookup = Rescale()
    interest: Window | Lookup | None = None
    inverted: bool = False

    def __call__(self, raw: Tensor) -> Tensor:
        """Stored values as `raw` in [0, 1], of any shape, to displayed values in [0, 1]; float32."""
        values = self.modality(raw * (self.highest - self.lowest) + self.lowest)
        if self.interest is not None:
            seen = self.interest(values)
        else:
            ends = self.modality(torch.tensor([self.lowest, self.highest], dtype=values.dtype, device=values.device))
            low, high = ends.min(), ends.max()
            seen = ((values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)).clamp(0, 1)
        return 1 - seen if self.inverted else seen


@dataclass(frozen=True)
class DicomImage:
    """One frame of a DICOM file.

    Attributes:
        stored: `(H, W)`, or `(H, W, 3)` in colour, of integers as stored.
        bits: bits stored per value, 1 to 16.
        signed: whether stored values have a sign.
        photometric: the file's photometric interpretation.
        spacing: millimetres between rows and between columns; None where the file does not say.
        presentation: stored values to what is seen.
    """

    stored: np.ndarray[Any, Any]
    bits: int
    signed: bool
    photometric: str
    spacing: tuple[float, float] | None
    presentation: Presentation

    @property
    def grid(self) -> float:
        """The distance in `raw` of two neighbouring stored values."""
        return 1 / (self.presentation.highest - self.presentation.lowest)

    @property
    def raw(self) -> Tensor:
        """The stored values, `(C, H, W)` float32, scaled so that the stored range is [0, 1]."""
        planes = self.stored[None] if self.stored.ndim == 2 else np.moveaxis(self.stored, 2, 0)
        shifted = planes.astype(np.int64) - self.presentation.lowest
        return torch.from_numpy((shifted * self.grid).astype(np.float32))

    @property
    def pixels(self) -> Tensor:
        """What is displayed, `(C, H, W)` float32 in [0, 1]."""
        return self.presentation(self.raw)

    def to_stored(self, raw: Tensor) -> np.ndarray[Any, Any]:
        """Round `raw` `(C, H, W)` to the values and the shape that the file holds; the inverse of `raw`.

        Raises:
            ImageError: a NaN or a value outside [0, 1].
        """
        if not bool(((raw >= 0) & (raw <= 1)).all()):
            raise ImageError(f"stored values must lie in [0, 1], got [{float(raw.min()):g}, {float(raw.max()):g}]")
        values = np.rint(raw.detach().cpu().double().numpy() / self.grid).astype(np.int64) + self.presentation.lowest
        planes = values[0] if self.stored.ndim == 2 else np.moveaxis(values, 0, 2)
        return planes.astype(self.stored.dtype)


def read_dicom(path: str | Path, *, frame: int | None = None, window: Window | None = None) -> DicomImage:
    """Read one image of a DICOM file.

    Grey images of 1 to 16 bits, signed or not, and RGB or YBR colour (handed out as RGB); uncompressed, RLE and JPEG baseline
    need nothing more, JPEG 2000 and JPEG-LS need the extra `antivenom[dicom]`.

    Args:
        path: the file.
        frame: which frame of a file that holds several, from 0.
        window: shown instead of what the file states. Without it: the file's first table of values of interest, else its
            first window, else the whole stored range.

    Raises:
        ImageError: missing, not DICOM, damaged, without pixels, of several frames while none is named, or in a compression
            that cannot be decoded here.
    """
    path = Path(path)
    import pydicom

    try:
        limits.check_length(path.stat().st_size)
        syntax = str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            raise ImageError("deflated DICOM is not read, since its size is unknown before it is unpacked; store it otherwise")
        return _image(pydicom.dcmread(path), frame, window)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Exception as error:  # pydicom and its decoders meet a hostile file in any way they like
        raise ImageError(f"{path}: no readable DICOM image, it is damaged or truncated ({_reason(error)})") from error


@dataclass(frozen=True)
class Head:
    """What the head of a file tells of an image's origin.

    Attributes:
        patient: a hash of the patient's id, so that no report shows the id; empty where there is none. This hides ids from
            readers and is no anonymisation, since short ids can be guessed.
        scanner: maker and model, empty where the file does not say.
    """

    patient: str
    scanner: str


def read_head(path: str | Path) -> Head:
    """Read patient and scanner of a DICOM file without its pixels.

    Raises:
        ImageError: missing, or not DICOM.
    """
    import pydicom

    wanted = ["PatientID", "IssuerOfPatientID", "Manufacturer", "ManufacturerModelName"]
    try:
        file = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        person, issuer, maker, model = (str(file.get(name) or "").strip() for name in wanted)
    except Exception as error:  # as in read_dicom
        raise ImageError(f"{path}: the head of this DICOM file cannot be read ({_reason(error)})") from error
    patient = hashlib.sha256(f"{issuer}|{person}".encode()).hexdigest()[:16] if person else ""
    return Head(patient, " ".join(part for part in (maker, model) if part))


def _image(file: Any, frame: int | None, window: Window | None) -> DicomImage:
    needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PixelData")
    missing = [name for name in needed if name not in file]
    if missing:
        raise ImageError(f"holds no image of integers: {', '.join(missing)} missing")
    photometric = str(file.PhotometricInterpretation)
    if photometric not in (*_GREY, *_COLOUR):
        raise ImageError(f"{photometric} is not read; {', '.join((*_GREY, *_COLOUR))} are")
    limits.check_size(int(file.Rows), int(file.Columns))
    frames = int(file.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise ImageError(f"holds {frames} frames; name one by frame=0 to frame={frames - 1}")
    if not 0 <= (frame or 0) < frames:
        raise ImageError(f"has no frame {frame}; it holds {frames}, counted from 0")
    bits, signed = int(file.BitsStored), bool(file.PixelRepresentation)
    if not 1 <= bits <= min(16, int(file.BitsAllocated)):
        raise ImageError(f"{bits} bits stored of {file.BitsAllocated} allocated; 1 to 16 are read")
    stored = _stored_values(file, frame or 0, bits, signed)
    lowest = -(2 ** (bits - 1)) if signed else 0
    if photometric in _COLOUR:
        presentation = Presentation(lowest, lowest + 2**bits - 1)
    else:
        modality = _modality(file, frame or 0, signed)
        interest = window or _interest(file, frame or 0, signed)
        presentation = Presentation(lowest, lowest + 2**bits - 1, modality, interest, photometric == "MONOCHROME1")
    return DicomImage(stored, bits, signed, photometric, _spacing(file), presentation)


def _stored_values(file: Any, frame: int, bits: int, signed: bool) -> np.ndarray[Any, Any]:
    from pydicom.pixels.utils import pixel_array

    try:
        values = np.asarray(pixel_array(file, index=frame))
    except (RuntimeError, NotImplementedError) as error:
        syntax = file.file_meta.TransferSyntaxUID
        raise ImageError(
            f"{syntax.name} cannot be decoded here ({_reason(error)}); JPEG 2000 and JPEG-LS need antivenom[dicom], "
            "any other must be converted first, as with dcmdjpeg or gdcmconv"
        ) from error
    # Bits above the stored ones may carry overlays, and the stored ones need not be the lowest.
    shift = max(0, int(file.get("HighBit", bits - 1)) + 1 - bits)
    values = (values.astype(np.int32) >> shift) & (2**bits - 1)
    if signed:
        values = np.where(values >= 2 ** (bits - 1), values - 2**bits, values)
    small, large = (np.int8, np.int16) if signed else (np.uint8, np.uint16)
    return np.asarray(values, dtype=small if bits <= 8 else large)


def _modality(file: Any, frame: int, signed: bool) -> Rescale | Lookup:
    tables = file.get("ModalityLUTSequence")
    if tables:
        return _lookup(tables[0], signed, scale=1)
    place = _holder(file, frame, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = float(place.get("RescaleSlope", 1)), float(place.get("RescaleIntercept", 0))
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ImageError(f"rescale slope {slope} and intercept {intercept} give no values")
    return Rescale(slope, intercept)


def _interest(file: Any, frame: int, signed: bool) -> Window | Lookup | None:
    place = _holder(file, frame, "FrameVOILUTSequence", "WindowCenter")
    tables = place.get("VOILUTSequence")
    if tables:
        first_is_signed = signed or float(file.get("RescaleIntercept", 0)) < 0
        return _lookup(tables[0], first_is_signed, scale=2 ** int(tables[0].LUTDescriptor[2]) - 1)
    centre, width = _first(place.get("WindowCenter")), _first(place.get("WindowWidth"))
    if centre is None or width is None:
        return None
    return Window(float(centre), float(width), str(place.get("VOILUTFunction") or "LINEAR"))  # type: ignore[arg-type]


def _lookup(table: Any, signed: bool, scale: float) -> Lookup:
    """A table from its descriptor (entries, first value mapped, bits) and its data; 0 entries stand for 65536."""
    count, first, bits = (int(v) for v in table.LUTDescriptor)
    count, data = count or 65536, table.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == count else "<u2")
    entries = np.atleast_1d(np.asarray(data)).astype(np.int64)
    if bits <= 8 and len(entries) == (count + 1) // 2 and count > 1:  # two 8-bit entries packed in each word
        entries = np.asarray(entries, "<u2").view(np.uint8).astype(np.int64)
    if len(entries) < count:
        raise ImageError(f"a table promises {count} entries and holds {len(entries)}")
    if signed and first >= 2**15:  # some files write a negative first value without its sign
        first -= 2**16
    return Lookup(first, tuple((entries[:count] / scale).tolist()))


def _holder(file: Any, frame: int, group: str, keyword: str) -> Any:
    """Where an element stands: in the file itself, or in the functional groups of an enhanced multi-frame file."""
    if keyword in file:
        return file
    for name, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = file.get(name)
        if groups and len(groups) > place and group in groups[place]:
            return groups[place][group][0]
    return file


def _first(value: Any) -> Any:
    """A file may state several windows; the first is the one a viewer shows."""
    return value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _spacing(file: Any) -> tuple[float, float] | None:
    value = file.get("PixelSpacing") or file.get("ImagerPixelSpacing")
    if not value or len(value) != 2:
        return None
    rows, columns = float(value[0]), float(value[1])
    return (rows, columns) if rows > 0 and columns > 0 and np.isfinite([rows, columns]).all() else None


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__

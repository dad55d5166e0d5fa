"""The door for pixels: one file to one image `(C, H, W)` float32 in [0, 1].

What a file is, is told by its first bytes, never by its name. A file is refused when it is larger than
`limits` allows, in bytes or in the pixels that it claims (before any of them is decoded), when it ends early or when it holds a
NaN.

What happens to unusual files: EXIF orientation is applied; a palette is resolved; a transparent pixel is laid over black;
CMYK becomes RGB; 16-bit grey keeps its 16 bits, 16-bit colour PNG comes in 8 (Pillow's limit). Where grey is wanted of a colour
file, its luminance is taken (ITU-R BT.601 in 8 bits, which leaves a file with three equal channels as it is).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from antivenom.data import limits
from antivenom.data.dicom import read_dicom
from antivenom.errors import DataError, ImageError, SettingsError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".dcm", ".dicom")
Fit = Literal["squash", "crop", "pad"]
Size = int | tuple[int, int]

_PICTURES = ("PNG", "JPEG", "BMP", "TIFF")
_RANGES = {"bool": 1, "uint8": 255, "uint16": 65535}  # what an array's white is, by its type


def read_image(path: str | Path, *, channels: Literal[1, 3] | None = None) -> Tensor:
    """Read a PNG, JPEG, BMP, TIFF, NPY, NPZ or DICOM file as `(C, H, W)` float32 in [0, 1].

    An array is `(H, W)`, `(H, W, C)` or `(C, H, W)` of bool, uint8, uint16, or of floats in [0, 1]; an NPZ holds one array.
    A DICOM image is read as it would be displayed; `antivenom.data.dicom.read_dicom` gives its stored values as well.

    Args:
        path: the file.
        channels: 1 for grey, 3 for colour; None keeps what the file has.

    Raises:
        ImageError: the file is missing, unreadable, truncated, too large, of another kind, not finite or out of range.
    """
    path = Path(path)
    content = _content(path)
    if content[128:132] == b"DICM":
        return with_channels(read_dicom(path).pixels, channels)
    try:
        if content.startswith((b"\x93NUMPY", b"PK\x03\x04")):
            return with_channels(from_array(_array(path, content), path.name), channels)
        return _from_picture(content, path.name, channels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # a decoder meets a hostile file in any way it likes
        raise ImageError(f"{path}: cannot be read, it is damaged or truncated ({error or type(error).__name__})") from error


def inside(root: Path, relative: str) -> Path:
    """Join a root and a path from a table, following symlinks; the result lies below the root.

    Raises:
        DataError: the path leads out of the root.

    >>> inside(Path("/data"), "../etc/passwd")
    Traceback (most recent call last):
    ...
    antivenom.errors.DataError: '../etc/passwd' leads out of /data; files must lie below the root
    """
    home = root.resolve()
    try:
        path = (home / relative).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of symlinks
        raise DataError(f"{relative!r} is no path: {error}") from error
    if not path.is_relative_to(home):
        raise DataError(f"{relative!r} leads out of {root}; files must lie below the root")
    return path


def resize(image: Tensor, size: Size, *, fit: Fit = "squash") -> Tensor:
    """Bring `(C, H, W)` to a size by antialiased bilinear interpolation, which never leaves the range of the image.

    Args:
        image: float image.
        size: side of a square, or (height, width), in pixels.
        fit: `squash` scales both axes on their own; `crop` keeps the aspect and cuts off what overhangs, evenly on both
            sides; `pad` keeps the aspect and fills what is missing with black, evenly on both sides.

    Raises:
        SettingsError: a size or fit that cannot be.

    >>> resize(torch.ones(1, 4, 8), 4, fit="pad")[0, :, 0].round().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    height, width = check_sides(size)
    if fit not in get_args(Fit):
        raise SettingsError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
    rows, columns = image.shape[1:]
    if fit == "crop":
        scale = min(rows / height, columns / width)
        keep_rows, keep_columns = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
        return _scale(image[:, top : top + keep_rows, left : left + keep_columns], height, width)
    if fit == "squash":
        return _scale(image, height, width)
    scale = min(height / rows, width / columns)
    inner_rows, inner_columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (height - inner_rows) // 2, (width - inner_columns) // 2
    margins = (left, width - inner_columns - left, top, height - inner_rows - top)
    return functional.pad(_scale(image, inner_rows, inner_columns), margins)


@dataclass(frozen=True)
class Frame:
    """How every image of a set is brought to one size; the plain one leaves images as they are.

    >>> Frame(2)(torch.ones(1, 4, 8)).shape
    torch.Size([1, 2, 2])
    """

    size: Size | None = None
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if self.size is not None:
            check_sides(self.size)
        if self.fit not in get_args(Fit):
            raise SettingsError(f"fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")

    def __call__(self, image: Tensor) -> Tensor:
        return image if self.size is None else resize(image, self.size, fit=self.fit)

    def mask(self, mask: Tensor) -> Tensor:
        """Bring a mask `(H, W)` bool to the size in the same way; a pixel is lesion where at least half of it is."""
        return self(mask[None].to(torch.float32))[0] >= 0.5


def check_sides(size: Size) -> tuple[int, int]:
    """Height and width of a size.

    Raises:
        SettingsError: not one or two positive whole numbers, or too many pixels.
    """
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides) or sides[0] * sides[1] > limits.MAX_PIXELS:
        raise SettingsError(f"size must be the side of a square or (height, width) in pixels, got {size!r}")
    return sides[0], sides[1]


def with_channels(image: Tensor, channels: int | None) -> Tensor:
    """Make `(C, H, W)` grey (its luminance, ITU-R BT.601) or three equal channels; None leaves it as it is."""
    if channels is None or channels == len(image):
        return image
    if channels == 3:
        return image.expand(3, -1, -1).contiguous()
    if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]):
        return image[:1].clone()
    return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None].clamp(0, 1)


def from_array(values: np.ndarray[Any, Any], name: str) -> Tensor:
    """Turn an array of pixels into `(C, H, W)` float32 in [0, 1]; the type says what white is.

    Raises:
        ImageError: another shape or type, a NaN, or floats outside [0, 1].

    >>> from_array(np.array([[0, 255]], dtype=np.uint8), "two pixels").tolist()
    [[[0.0, 1.0]]]
    """
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[2] in (1, 3):
        values = np.moveaxis(values, 2, 0)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ImageError(f"{name}: expected (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, got shape {values.shape}")
    limits.check_size(values.shape[1], values.shape[2])
    if values.dtype.name in _RANGES:
        image = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        return image.div_(_RANGES[values.dtype.name])
    if values.dtype.kind != "f":
        raise ImageError(f"{name}: {values.dtype} has no stated range; store bool, uint8, uint16, or floats in [0, 1]")
    if not (values.min() >= 0 and values.max() <= 1):  # a NaN fails both
        raise ImageError(f"{name}: floats must be finite and lie in [0, 1], got [{values.min():g}, {values.max():g}]")
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _content(path: Path) -> bytes:
    """A file's bytes, whole and at once: a decoder's own many small reads cost more than decoding a small file."""
    try:
        limits.check_length(path.stat().st_size)
        return path.read_bytes()
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror or error})") from error


def _from_picture(content: bytes, name: str, channels: int | None) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(BytesIO(content), formats=_PICTURES)
    except UnidentifiedImageError:
        raise ImageError("not a PNG, JPEG, BMP, TIFF, NPY, NPZ or DICOM file, or its beginning is damaged") from None
    with picture:
        limits.check_size(picture.height, picture.width)
        pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        if pages > 1:
            raise ImageError(f"holds {pages} pictures; one is wanted")
        ImageOps.exif_transpose(picture, in_place=True)
        return with_channels(from_array(np.asarray(_plain(picture, channels)), name), channels)


def _plain(picture: Any, channels: int | None) -> Any:
    """A picture of any mode as 8-bit grey or RGB, or as an array where it holds more than 8 bits."""
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I;16"):
        return _native(np.asarray(picture))
    if picture.mode == "I":
        raise ImageError("32-bit integers have no stated range; store 8 or 16 bits")
    grey = picture.mode in ("1", "L", "LA")
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")
    wanted = "L" if grey or channels == 1 else "RGB"
    return picture if picture.mode == wanted else picture.convert(wanted)


def _native(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _array(path: Path, content: bytes) -> np.ndarray[Any, Any]:
    if content.startswith(b"\x93NUMPY"):
        return _native(np.load(path, mmap_mode="r", allow_pickle=False))  # mapped: a shape beyond the file is refused
    from antivenom.data.npz import members, read_member

    names = members(path)
    if len(names) != 1:
        raise ImageError(f"holds {len(names)} arrays ({', '.join(names)}); one is wanted")
    return _native(read_member(path, names[0]))


def _scale(image: Tensor, height: int, width: int) -> Tensor:
    if tuple(image.shape[1:]) == (height, width):
        return image
    scaled = functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)  # the weights sum to 1 only up to rounding

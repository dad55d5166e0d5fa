"""NPZ files of any size, read piece by piece: an array is never loaded whole because one image of it is wanted.

A member that is stored plainly is read in place. A compressed one is unpacked once, in pieces, to a file in the cache folder
(`ANTIVENOM_CACHE`, else the user's own cache) and read from there. Pickled objects are never loaded.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from antivenom.errors import DataError

MAX_WHOLE = 2**29  # bytes of a member that is read whole: labels, names
PIECE = 2**22  # bytes that are unpacked at once
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and extra field


@dataclass(frozen=True)
class StoredArray:
    """An array that stays on disk; its rows are read when asked for. Cheap to hand to another process.

    Attributes:
        path: the file that holds it.
        offset: where its first value lies, in bytes.
        shape: as stored; the first axis counts rows.
        dtype: numpy's name of the type.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        return np.asarray(self.rows(row, row + 1)[0])

    def rows(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Rows `start` to `stop`, read from disk.

        Raises:
            DataError: rows that do not exist, or a file that ends before them.
        """
        if not 0 <= start <= stop <= len(self):
            raise DataError(f"{self.path}: rows {start} to {stop} were asked for, it has {len(self)}")
        dtype, items = np.dtype(self.dtype), prod(self.shape[1:])
        begin = self.offset + start * items * dtype.itemsize
        try:
            values = np.fromfile(self.path, dtype, (stop - start) * items, offset=begin)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if len(values) != (stop - start) * items:
            raise DataError(f"{self.path}: ends before row {stop}; the file is truncated")
        return values.reshape(stop - start, *self.shape[1:])


def members(path: Path) -> list[str]:
    """Names of the arrays in an NPZ file.

    Raises:
        DataError: not an NPZ file, or a damaged one.
    """
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_member(path: Path, name: str) -> np.ndarray[Any, Any]:
    """Read one array whole; for labels and names.

    Raises:
        DataError: missing, damaged, of Python objects, or larger than `MAX_WHOLE` bytes.
    """
    with _opened(path) as archive:
        info = _info(archive, path, name)
        if info.file_size > MAX_WHOLE:
            raise DataError(f"{path}: {name} holds {info.file_size:,} bytes; at most {MAX_WHOLE:,} are read at once")
        with archive.open(info) as file:
            shape, fortran, dtype, _ = _header(file, info, path, name)
            values = np.frombuffer(_pieces(file, path, name), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def stored_array(path: Path, name: str, *, cache: Path | None = None) -> StoredArray:
    """Make one array of an NPZ file readable row by row, unpacking it to the cache first if it is compressed.

    Args:
        path: the NPZ file.
        name: the array's name in it.
        cache: folder for unpacked arrays; `cache_folder()` where None.

    Raises:
        DataError: missing, damaged, of Python objects, in Fortran order, or no room to unpack it.
    """
    with _opened(path) as archive:
        info = _info(archive, path, name)
        with archive.open(info) as file:
            shape, fortran, dtype, header = _header(file, info, path, name)
        if fortran and len(shape) > 1:
            raise DataError(f"{path}: {name} lies in Fortran order, column by column; store it in C order")
        if info.compress_type == zipfile.ZIP_STORED:
            return StoredArray(path, _start(path, info) + header, shape, dtype.str)
        unpacked = (cache or cache_folder()) / f"{path.stem}-{name}-{fingerprint(path, info.CRC)}.npy"
        if not (unpacked.is_file() and unpacked.stat().st_size == info.file_size):
            with unpacking(f"{path}: {info.filename}", info.file_size, unpacked) as file, archive.open(info) as packed:
                shutil.copyfileobj(packed, file, PIECE)
        return StoredArray(unpacked, header, shape, dtype.str)


def cache_folder() -> Path:
    """Where unpacked arrays are kept: `ANTIVENOM_CACHE`, else `antivenom` below the user's cache folder."""
    own = os.environ.get("ANTIVENOM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antivenom"


def fingerprint(path: Path, mark: object = "") -> str:
    """What tells a packed file from another of its name, for what is unpacked of it: 16 hexadecimal digits."""
    facts = path.stat()
    return sha256(f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{mark}".encode()).hexdigest()[:16]


@contextmanager
def unpacking(what: str, size: int, target: Path) -> Iterator[IO[bytes]]:
    """Open a file to unpack `size` bytes to; it takes the name `target` only once the block ends without an error.

    Args:
        what: is unpacked, for messages.
        size: in bytes; refused before anything is written where there is no room for it.
        target: where it is to lie; its folder is made.

    Raises:
        DataError: no room, or what the block reads is damaged.
    """
    part = target.with_suffix(f".{os.getpid()}.part")
    advice = "free some, or name another folder in ANTIVENOM_CACHE"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(target.parent).free
        if room < size:
            raise DataError(f"{what} takes {size:,} bytes unpacked, in {target.parent} {room:,} are free; {advice}")
        with part.open("wb") as file:
            yield file
        part.replace(target)
    except (EOFError, BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{what} is damaged or truncated ({error})") from error
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); {advice}") from error
    finally:
        part.unlink(missing_ok=True)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an NPZ file, or damaged or truncated ({error})") from error


def _info(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        present = ", ".join(n.removesuffix(".npy") for n in archive.namelist())
        raise DataError(f"{path}: no array {name!r}; it holds {present or 'nothing'}") from None


def _header(file: IO[bytes], info: zipfile.ZipInfo, path: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, type and length of an array's header, which must agree with the size of the member."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: the header of {name} is damaged ({error})") from error
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects, which are never loaded; store plain numbers or strings")
    header, body = file.tell(), prod(shape) * dtype.itemsize
    if header + body != info.file_size:
        raise DataError(f"{path}: {name} promises {body:,} bytes and holds {info.file_size - header:,}")
    return shape, fortran, dtype, header


def _pieces(file: IO[bytes], path: Path, name: str) -> bytes:
    try:
        return file.read()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {name} is damaged or truncated ({error})") from error


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<HH", file.read(_LOCAL_HEADER)[26:])
    return info.header_offset + _LOCAL_HEADER + int(name_length) + int(extra_length)

"""Images that lie as files below one root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from torch import Tensor

from antivenom.data.reading import SUFFIXES, Frame, inside, read_image
from antivenom.data.tables import Table
from antivenom.errors import DataError

Channels = Literal[1, 3]


@dataclass(frozen=True)
class FileImages:
    """Reads image `row` of a set from its file. Holds names only, and can be handed to another process."""

    root: Path
    paths: np.ndarray[Any, Any]  # (N,) of UTF-8 bytes, relative to the root: a quarter of what text takes
    channels: Channels
    frame: Frame

    @staticmethod
    def of(root: Path, paths: Sequence[str] | np.ndarray[Any, Any], channels: Channels, frame: Frame) -> FileImages:
        """Images at relative paths, in the order of the index."""
        return FileImages(root, _packed(paths), channels, frame)

    def __call__(self, row: int) -> Tensor:
        return self.frame(read_image(inside(self.root, self.paths[row].decode()), channels=self.channels))


@dataclass(frozen=True)
class FileMasks:
    """Reads the lesion mask of image `row`: white, or at least half of it, is lesion."""

    root: Path
    paths: np.ndarray[Any, Any]  # (N,) of UTF-8 bytes, empty where an image has no mask
    frame: Frame

    @staticmethod
    def of(root: Path, paths: Sequence[str] | np.ndarray[Any, Any], frame: Frame) -> FileMasks:
        """Masks at relative paths, in the order of the index."""
        return FileMasks(root, _packed(paths), frame)

    def __call__(self, row: int) -> Tensor:
        path = self.paths[row].decode()
        if not path:
            raise DataError(f"image {row} of the set in {self.root} has no lesion mask")
        return self.frame.mask(read_image(inside(self.root, path), channels=1)[0] >= 0.5)


def images_below(folder: Path, *, suffixes: Sequence[str] = SUFFIXES) -> Iterator[str]:
    """Paths of all image files below a folder, relative to it, in a fixed order; hidden ones and links to folders left out.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                yield (Path(where) / name).relative_to(folder).as_posix()


def paths_by_stem(root: Path, folder: str = "") -> dict[str, str]:
    """Image files below `root / folder`, by their name without suffix; paths are relative to the root.

    Of two files of one name and one length the first is taken: some archives hold the same images twice.

    Raises:
        DataError: no such folder, or two different files of one name.
    """
    found: dict[str, str] = {}
    for relative in images_below(root / folder):
        path = str(PurePosixPath(folder, relative))
        first = found.setdefault(PurePosixPath(path).stem, path)
        if first != path and (root / first).stat().st_size != (root / path).stat().st_size:
            raise DataError(f"{root}: {first} and {path} have one name and differ; which is meant? leave one below the root")
    return found


def on_disk(table: Table, column: str, there: Mapping[str, str]) -> tuple[Table, tuple[str, ...]]:
    """The rows of a table whose images exist, and a sentence if that is not all of them.

    Args:
        table: one row an image.
        column: its column of image names.
        there: the names that exist, as keys.

    Raises:
        DataError: none does.
    """
    names = table[column].tolist()
    kept = np.fromiter((name in there for name in names), dtype=bool, count=len(names))
    if not kept.any():
        raise DataError(f"{table.path}: none of its {len(names):,} images is on disk beside it; is it the right root?")
    if kept.all():
        return table, ()
    return table.take(kept), (f"Only {int(kept.sum()):,} of the {len(names):,} listed images are on disk and used.",)


def shared_channels(root: Path, paths: Sequence[str] | np.ndarray[Any, Any], *, looked_at: int = 8) -> Channels:
    """Whether a set is grey or colour, by a few files spread over it; a file with three equal channels is grey.

    Raises:
        ImageError: one of them is unreadable.
    """
    for row in np.unique(np.linspace(0, len(paths) - 1, min(looked_at, len(paths))).astype(int)):
        image = read_image(inside(root, str(paths[row])))
        if len(image) == 3 and not ((image[0] == image[1]) & (image[0] == image[2])).all():
            return 3
    return 1


def _packed(paths: Sequence[str] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray([str(path).encode() for path in paths])

"""Manifests: every file below a root with its size and SHA-256, so that data can be told to be the data of a figure."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from antivenom.errors import DataError
from antivenom.provenance import digest_file, digest_json

_HEAD = ["path", "bytes", "sha256"]


@dataclass(frozen=True)
class FileRow:
    """One file: path relative to the root, length in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


def manifest(root: str | Path, *, progress: Callable[[int], None] | None = None) -> list[FileRow]:
    """List every file below a root (or one file), in a fixed order; hidden files are left out.

    Args:
        root: the folder.
        progress: told before each file how many are done.

    Raises:
        DataError: no such folder, or a file that cannot be read.
    """
    root = Path(root)
    rows: list[FileRow] = []
    for path in _files(root):
        if progress is not None:
            progress(len(rows))
        try:
            rows.append(FileRow(_relative(path, root), path.stat().st_size, digest_file(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return rows


def manifest_digest(rows: Sequence[FileRow]) -> str:
    """One SHA-256 for all files of a manifest."""
    return digest_json([[row.path, row.bytes, row.sha256] for row in rows])


def write_manifest(path: str | Path, rows: Sequence[FileRow]) -> None:
    """Write a manifest as CSV. Keep it outside the root, or it lists itself the next time.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([_HEAD, *([row.path, row.bytes, row.sha256] for row in rows)])
    except OSError as error:
        raise DataError(f"{path}: the manifest cannot be written ({error.strerror or error})") from error


def read_manifest(path: str | Path) -> list[FileRow]:
    """Read a manifest that `write_manifest` wrote.

    Raises:
        DataError: missing, or no manifest.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        if head != _HEAD:
            raise ValueError(f"its head is {','.join(head)}")
        return [FileRow(name, int(length), sha256) for name, length, sha256 in rows]
    except OSError as error:
        raise DataError(f"{path}: the manifest cannot be read ({error.strerror or error})") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: no manifest that antivenom wrote ({error})") from error


def verify_manifest(root: str | Path, rows: Sequence[FileRow]) -> list[str]:
    """Compare a root with its manifest; one sentence for each file that is missing, changed or new. Empty means unchanged.

    Raises:
        DataError: no such folder, or a file that cannot be read.
    """
    now = {row.path: row for row in manifest(root)}
    told = [f"{row.path} is missing" for row in rows if row.path not in now]
    told += [f"{row.path} has changed" for row in rows if row.path in now and now[row.path] != row]
    return told + [f"{path} is not in the manifest" for path in sorted(set(now) - {row.path for row in rows})]


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    for where, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))


def _relative(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()

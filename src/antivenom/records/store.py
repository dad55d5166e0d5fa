"""A run's folder: Parquet shards that appear whole or not at all, and examples' pixels by their digest.

    run/
      protocol.json     what was asked for; a run continues only under the very same protocol
      provenance.json   weights, data and code digests, versions, machine, the model's card
      operating.json    thresholds chosen on clean validation images
      execution.json    how the model is run for gradients, chosen once
      attacks.json      what the attacks that run are, and their papers
      scans.parquet     what the data set says of each image
      shards/NAME/      examples, answers and, of a guard, scores (.parquet) of some images under one row of the plan
      pixels/ab/….npy   kept images `(C, H, W)`, float32, named by SHA-256
      flags.json        suspicions about the run itself

A shard is written beside its place, flushed to disk and renamed: a process that is killed at any moment leaves finished
shards and nothing else that a reader would see.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antivenom.errors import RecordsError
from antivenom.records.tables import SCHEMAS, Answer, Example, Scan, Score, to_table


class Store:
    """The records of one run, on disk.

    Args:
        folder: the run's folder; made when first written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    # -- documents -----------------------------------------------------------------------------------------------------

    def write_document(self, name: str, value: Any) -> None:
        """Write `name`.json whole or not at all.

        Raises:
            RecordsError: the disk is full or the folder cannot be written.
        """
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
        self._write(self.folder / f"{name}.json", text.encode())

    def document(self, name: str) -> Any:
        """Read `name`.json.

        Raises:
            RecordsError: it is missing or damaged.
        """
        path = self.folder / f"{name}.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise RecordsError(f"{path} is missing: {self.folder} is not a run's folder, or its run never started") from None
        except ValueError as error:
            raise RecordsError(f"{path} is damaged ({error}); run the audit again into a new folder") from None

    def has_document(self, name: str) -> bool:
        """Whether `name`.json exists."""
        return (self.folder / f"{name}.json").is_file()

    # -- scans ---------------------------------------------------------------------------------------------------------

    def write_scans(self, scans: Iterable[Scan]) -> None:
        """Write what the data set says of every image of the run."""
        self._write(self.folder / "scans.parquet", _parquet(to_table(Scan, scans)))

    def scans(self) -> pa.Table:
        """Every `Scan`."""
        return _read(self.folder / "scans.parquet", SCHEMAS[Scan])

    # -- shards --------------------------------------------------------------------------------------------------------

    def shards(self) -> list[str]:
        """Names of the finished shards, sorted."""
        home = self.folder / "shards"
        return sorted(p.name for p in home.iterdir() if not p.name.startswith(".")) if home.is_dir() else []

    def has_shard(self, name: str) -> bool:
        """Whether this shard is finished."""
        return self._shard(name).is_dir()

    def write_shard(
        self, name: str, examples: Sequence[Example], answers: Sequence[Answer], scores: Sequence[Score] = ()
    ) -> None:
        """Add one shard, whole or not at all.

        Raises:
            RecordsError: it exists already, the disk is full or the folder cannot be written.
        """
        if self.has_shard(name):
            raise RecordsError(f"shard {name} of {self.folder} is finished; a finished shard is never written again")
        draft = self.folder / "shards" / f".{name}.{os.getpid()}"
        with _clear_failure(draft):
            draft.mkdir(parents=True, exist_ok=True)
            _flush(draft / "examples.parquet", _parquet(to_table(Example, examples)))
            _flush(draft / "answers.parquet", _parquet(to_table(Answer, answers)))
            if scores:
                _flush(draft / "scores.parquet", _parquet(to_table(Score, scores)))
            draft.rename(self._shard(name))
            _flush_folder(self.folder / "shards")

    def examples(self) -> pa.Table:
        """Every `Example` of every finished shard."""
        return self._gathered("examples", Example)

    def answers(self) -> pa.Table:
        """Every `Answer` of every finished shard."""
        return self._gathered("answers", Answer)

    def scores(self) -> pa.Table:
        """Every `Score` of every finished shard that has some."""
        return self._gathered("scores", Score, [s for s in self.shards() if (self._shard(s) / "scores.parquet").is_file()])

    def _gathered(self, name: str, kind: type, shards: Sequence[str] | None = None) -> pa.Table:
        names = self.shards() if shards is None else shards
        parts = [_read(self._shard(s) / f"{name}.parquet", SCHEMAS[kind]) for s in names]
        return pa.concat_tables(parts) if parts else SCHEMAS[kind].empty_table()

    def _shard(self, name: str) -> Path:
        return self.folder / "shards" / name

    def sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for pattern in ("shards/.*", ".*.draft", "pixels/*/.*.draft"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # -- pixels --------------------------------------------------------------------------------------------------------

    def keep_pixels(self, image: np.ndarray[Any, Any]) -> str:
        """Keep an image `(C, H, W)` and return its digest; the same pixels are kept once."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(image, dtype=np.float32), allow_pickle=False)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        path = self._pixel_path(digest)
        if not path.exists():
            self._write(path, content)
        return digest

    def pixels(self, digest: str) -> np.ndarray[Any, Any]:
        """The image `(C, H, W)` float32 kept under this digest.

        Raises:
            RecordsError: it is missing, or its bytes do not have that digest.
        """
        path = self._pixel_path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise RecordsError(f"{path} is missing: the pixels of this example were removed") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise RecordsError(f"{path} is damaged: its content is not what was recorded")
        loaded: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return loaded

    def _pixel_path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise RecordsError(f"{digest!r} is not a SHA-256 digest")
        return self.folder / "pixels" / digest[:2] / f"{digest}.npy"

    def _write(self, path: Path, content: bytes) -> None:
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        with _clear_failure(draft):
            path.parent.mkdir(parents=True, exist_ok=True)
            _flush(draft, content)
            draft.replace(path)


@contextlib.contextmanager
def _clear_failure(draft: Path) -> Iterator[None]:
    """Turn a failed write into one sentence, and leave nothing half-written."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.unlink()
        raise RecordsError(
            f"cannot write {draft.parent}: {error.strerror or error}; finished shards are safe: "
            "make room or choose another folder, then run the same command again"
        ) from error


def _flush(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, schema=schema, partitioning=None)
    except FileNotFoundError:
        raise RecordsError(f"{path} is missing: {path.parent} holds no such records") from None
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{path} is damaged ({str(error).splitlines()[0]})") from None

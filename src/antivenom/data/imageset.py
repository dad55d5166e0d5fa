"""A set of images that streams: a small index in memory, one image at a time from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.errors import DataError, ImageError, LabelError, SplitError
from antivenom.task import Task

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Index:
    """What is known of every image without opening it; one row an image.

    Attributes:
        keys: `(N,)` unique names, stable across machines (a path relative to the root, or `file:position`).
        targets: `(N,)` int64 class indices, or `(N, K)` int8 with 1 present and 0 absent.
        groups: `(N,)` patient, subject or lesion id that must stay in one split; empty where the set names none.
        splits: `(N,)` of `train`, `val`, `test`; empty where the set is not split.
        sources: `(N,)` where the image came from, such as a hospital or camera; empty where unknown.
        traits: further columns to report by, such as sex or age; each `(N,)`.
        unit: what a group is, for reports: `patient`, `subject` or `lesion`.
    """

    keys: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]
    groups: np.ndarray[Any, Any]
    splits: np.ndarray[Any, Any]
    sources: np.ndarray[Any, Any]
    traits: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    unit: str = "patient"

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def of(
        keys: Sequence[str],
        targets: Any,
        *,
        groups: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        traits: dict[str, Sequence[str]] | None = None,
        unit: str = "patient",
    ) -> Index:
        """Build an index from plain sequences; a column that is left out is unknown."""
        blank = [""] * len(keys)
        columns = {name: np.asarray(values, dtype=np.str_) for name, values in (traits or {}).items()}
        return Index(
            np.asarray(keys, dtype=np.str_),
            np.asarray(targets),
            np.asarray(groups if groups is not None else blank, dtype=np.str_),
            np.asarray(splits if splits is not None else blank, dtype=np.str_),
            np.asarray(sources if sources is not None else blank, dtype=np.str_),
            columns,
            unit,
        )

    def with_splits(self, splits: Sequence[str] | np.ndarray[Any, Any]) -> Index:
        """The same images, split otherwise."""
        return replace(self, splits=np.asarray(splits, dtype=np.str_))


@dataclass(frozen=True)
class Sample:
    """One image as a set yields it."""

    image: Tensor  # (C, H, W) float32 in [0, 1]; C is 1 for grey images, 3 for colour
    target: Tensor  # () int64, or (K,) int64 with 1 present and 0 absent
    key: str
    group: str  # patient, subject or lesion; the key itself where the set names none
    source: str


@dataclass(frozen=True)
class Batch:
    """Several samples of one size."""

    images: Tensor  # (B, C, H, W) float32 in [0, 1]
    targets: Tensor  # (B,) or (B, K) int64
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    sources: tuple[str, ...]


class ImageSet(torch.utils.data.Dataset[Sample]):
    """Images with targets, groups and splits, loaded one by one when asked for.

    Args:
        name: as in a report.
        task: class names; single- or multi-label.
        index: one row an image.
        load: position in `index` to image `(C, H, W)` float32 in [0, 1].
        channels: 1 (grey) or 3 (colour); every image has as many.
        mask: position in `index` to lesion mask `(H, W)` bool, where the set has masks.
        caveats: what a reader of any figure on this set must be told, one sentence each.
        origin: what identifies the set beyond its index (reader, size, options); part of the digest.

    Raises:
        LabelError: a target outside the classes.
        SplitError: a group in more than one split, or a split of another name.
        DataError: keys that are not unique.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        index: Index,
        load: Callable[[int], Tensor],
        *,
        channels: int,
        mask: Callable[[int], Tensor] | None = None,
        caveats: Sequence[str] = (),
        origin: str = "",
        rows: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.name, self.task, self.index, self.channels = name, task, index, channels
        self.caveats, self.origin = tuple(caveats), origin
        self._load, self._mask = load, mask
        if rows is None:
            check_index(index, task)
            rows = np.arange(len(index))
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Sample:
        row = int(self.rows[position])
        key = str(self.index.keys[row])
        image = self._load(row)
        check_image(image, key, self.channels)
        target = torch.as_tensor(self.index.targets[row], dtype=torch.int64)
        return Sample(image, target, key, str(self.index.groups[row]) or key, str(self.index.sources[row]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    @property
    def targets(self) -> Tensor:
        """Targets of all images without loading any; `(N,)` or `(N, K)` int64."""
        return torch.as_tensor(self.index.targets[self.rows], dtype=torch.int64)

    @property
    def keys(self) -> list[str]:
        """Names of all images."""
        return [str(key) for key in self.index.keys[self.rows]]

    @property
    def groups(self) -> list[str]:
        """Patient, subject or lesion of every image; its own key where the set names none."""
        named = zip(self.index.groups[self.rows], self.index.keys[self.rows], strict=True)
        return [str(group) or str(key) for group, key in named]

    @property
    def sources(self) -> list[str]:
        """Source of every image; empty where unknown."""
        return [str(source) for source in self.index.sources[self.rows]]

    @property
    def has_masks(self) -> bool:
        """Whether lesions are known to the pixel."""
        return self._mask is not None

    def mask(self, position: int) -> Tensor:
        """Lesion mask `(H, W)` bool of one image.

        Raises:
            DataError: the set has no masks.
        """
        if self._mask is None:
            raise DataError(f"{self.name} has no lesion masks; HAM10000 and the phantoms do")
        return self._mask(int(self.rows[position]))

    def take(self, positions: Sequence[int] | np.ndarray[Any, Any]) -> ImageSet:
        """Some of the images, in the order given."""
        return self._with(self.index, self.rows[np.asarray(positions, dtype=np.int64)])

    def split(self, name: str) -> ImageSet:
        """The images of one split: `train`, `val` or `test`.

        Raises:
            SplitError: no image is in it.
        """
        chosen = self.rows[self.index.splits[self.rows] == name]
        if not len(chosen):
            present = sorted({str(s) for s in self.index.splits[self.rows]} - {""})
            raise SplitError(f"{self.name} has no split {name!r}; it has {', '.join(present) or 'none: split it first'}")
        return self._with(self.index, chosen)

    def resplit(self, splits: Sequence[str] | np.ndarray[Any, Any]) -> ImageSet:
        """All images of the index, split otherwise; `splits` is `(N,)` in the order of the index."""
        index = self.index.with_splits(splits)
        check_index(index, self.task)
        return self._with(index, np.arange(len(index)))

    def _with(self, index: Index, rows: np.ndarray[Any, Any]) -> ImageSet:
        return ImageSet(
            self.name,
            self.task,
            index,
            self._load,
            channels=self.channels,
            mask=self._mask,
            caveats=self.caveats,
            origin=self.origin,
            rows=rows,
        )

    @property
    def digest(self) -> str:
        """SHA-256 over origin, classes, keys, targets, groups and splits of these images: which data a figure rests on."""
        digest = hashlib.sha256(f"{self.name}|{self.origin}|{self.task}".encode())
        for column in (self.index.keys, self.index.targets, self.index.groups, self.index.splits):
            digest.update("\n".join(map(str, column[self.rows].tolist())).encode())
        return digest.hexdigest()


def batches(images: ImageSet, size: int) -> Iterator[Batch]:
    """The images in order, `size` at a time, no more than one batch in memory."""
    for start in range(0, len(images), size):
        yield gather([images[i] for i in range(start, min(start + size, len(images)))])


def gather(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size.

    Raises:
        ImageError: images of different sizes; load the set with `size=`.
    """
    shapes = {tuple(s.image.shape) for s in samples}
    if len(shapes) > 1:
        raise ImageError(f"images of different sizes cannot form a batch: {sorted(shapes)}; load the set with size=")
    return Batch(
        torch.stack([s.image for s in samples]),
        torch.stack([s.target for s in samples]),
        tuple(s.key for s in samples),
        tuple(s.group for s in samples),
        tuple(s.source for s in samples),
    )


def check_image(image: Tensor, key: str, channels: int) -> None:
    """Refuse what is not a finite float32 image `(C, H, W)` in [0, 1] with the set's channels.

    Raises:
        ImageError: with the image's name and what is wrong.
    """
    if image.ndim != 3 or image.shape[0] != channels:
        raise ImageError(f"{key}: expected {channels} channel(s) as (C, H, W), got shape {tuple(image.shape)}")
    if image.dtype != torch.float32:
        raise ImageError(f"{key}: expected float32, got {image.dtype}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # a NaN fails both
        raise ImageError(f"{key}: values must be finite and lie in [0, 1], got [{low:g}, {high:g}]")


def check_index(index: Index, task: Task) -> None:
    """Refuse targets outside the classes, keys that repeat, splits of another name and groups in more than one split.

    Raises:
        DataError, LabelError, SplitError: naming the first offender.
    """
    unique, counts = np.unique(index.keys, return_counts=True)
    if len(unique) != len(index):
        raise DataError(f"image names must be unique; {str(unique[counts > 1][0])!r} occurs {counts.max()} times")
    wanted = (len(index), len(task.classes)) if task.multilabel else (len(index),)
    if index.targets.shape != wanted:
        raise LabelError(f"targets must have shape {wanted} for this task, got {index.targets.shape}")
    top = 1 if task.multilabel else len(task.classes) - 1
    wrong = (index.targets < 0) | (index.targets > top)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise LabelError(f"{index.keys[row]}: target {index.targets[row]} is outside 0..{top} ({', '.join(task.classes)})")
    strange = set(np.unique(index.splits).tolist()) - {*SPLITS, ""}
    if strange:
        raise SplitError(f"splits are named {', '.join(SPLITS)}; got {', '.join(sorted(strange))}")
    check_disjoint(index)


def check_disjoint(index: Index) -> None:
    """Refuse a patient, subject or lesion that stands in more than one split.

    Raises:
        SplitError: naming some of them.
    """
    known = (index.groups != "") & (index.splits != "")
    pairs = np.unique(np.stack([index.groups[known], index.splits[known]], 1), axis=0)
    groups, counts = np.unique(pairs[:, 0], return_counts=True) if len(pairs) else (np.empty(0, dtype=np.str_), np.empty(0))
    shared = groups[counts > 1]
    if len(shared):
        some = ", ".join(map(str, shared[:5]))
        raise SplitError(f"{len(shared)} patient, subject or lesion id(s) stand in more than one split: {some}; split by group")

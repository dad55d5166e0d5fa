"""Sets that lie as a `labels.csv` beside its images, or as one folder a class.

root/labels.csv             one row an image: filename, labels, and where known split, patient_id, source ...
root/masks/<stem>.png       lesion masks, where there are any

root/<class>/*              or
root/<split>/<class>/*
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from antivenom.data.caveats import measured_caveats
from antivenom.data.dicom import read_head
from antivenom.data.files import Channels, FileImages, FileMasks, images_below, paths_by_stem, shared_channels
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.reading import Fit, Frame, Size, inside
from antivenom.data.splits import settle_splits
from antivenom.data.tables import Table, class_targets, finding_targets, read_table
from antivenom.errors import DataError, LabelError
from antivenom.task import Task

FILE_COLUMNS = ("filename", "file", "path", "image")
LABEL_COLUMNS = ("label", "class", "target", "diagnosis")
GROUP_COLUMNS = ("patient_id", "subject_id", "lesion_id", "patient", "subject", "group")
SOURCE_COLUMNS = ("source", "site", "hospital", "scanner")
SPLIT_COLUMNS = ("split",)
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclass(frozen=True)
class Label:
    """What of a table is to be told apart.

    Attributes:
        column: the label column; empty looks for one of `LABEL_COLUMNS`. Several columns of 0 and 1 make a multi-label task.
        classes: in the order wanted, a disease last; empty finds them. For several columns they are the columns.
        left_out: labels whose images are not used.
        names: what to call the classes, where the table's own labels say little.
    """

    column: str | tuple[str, ...] = ""
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def labels_csv(
    root: str | Path,
    *,
    name: str = "labels-csv",
    table: str = "labels.csv",
    label: Label | str | tuple[str, ...] = "",
    split: str | None = None,
    group: str | None = None,
    source: str | None = None,
    traits: Sequence[str] = (),
    heads: bool = False,
    channels: Channels | None = None,
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read a folder whose images are listed in a CSV file. Columns not named are looked for by their usual names.

    Args:
        root: the folder.
        name: of the set, as in a report.
        table: the CSV file, relative to the root.
        label: a label column, several columns of 0 and 1, or a `Label`.
        split, group, source: columns of the split, of the patient, subject or lesion, and of the origin.
        traits: further columns to report by.
        heads: take patient and scanner from the head of each DICOM file, where no column names them.
        channels: 1 (grey) or 3 (colour); None looks at a few images.
        size, fit: what every image is brought to, see `reading.resize`; None leaves the sizes as they are.
        seed: of the split, where the table states none.
        caveats: what a reader of any figure must be told beyond what is measured here.

    Raises:
        DataError: a missing folder, file or column, or a path that leads out of the root.
        LabelError: a label outside the classes.
        SplitError: a group in more than one split.
    """
    root, frame = Path(root), Frame(size, fit)
    wanted = label if isinstance(label, Label) else Label(label)
    rows = read_table(inside(root, table))
    rows, told = _without(rows, wanted)
    files = rows.find(None, FILE_COLUMNS)
    if files is None:
        raise DataError(f"{rows.path}: no column of files ({', '.join(FILE_COLUMNS)}); it has {', '.join(rows.columns)}")
    keys = files.tolist()
    if not inside(root, keys[0]).is_file():
        raise DataError(f"{rows.path} lists {keys[0]}, which is not below {root}; is it the right root?")
    task, targets = _targets(rows, wanted, keys)
    groups, sources = rows.find(group, GROUP_COLUMNS), rows.find(source, SOURCE_COLUMNS)
    if heads:
        patients, scanners = _heads(root, keys)
        groups, sources = patients if groups is None else groups, scanners if sources is None else sources
    groups = np.full(len(keys), "") if groups is None else groups
    splits, split_told = settle_splits(rows.find(split, SPLIT_COLUMNS), groups, targets, seed=seed)
    index = Index.of(
        keys,
        targets,
        groups=groups.tolist(),
        splits=splits.tolist(),
        sources=None if sources is None else sources.tolist(),
        traits={trait: rows[trait].tolist() for trait in traits},
        unit=_unit(rows, group),
    )
    channels = channels or shared_channels(root, keys)
    return ImageSet(
        name,
        task,
        index,
        FileImages.of(root, keys, channels, frame),
        channels=channels,
        mask=_masks(root, keys, frame),
        caveats=(*caveats, *told, *split_told, *measured_caveats(index, task)),
        origin=f"labels.csv|{wanted}|{frame}|{channels}",
    )


def class_folders(
    root: str | Path,
    *,
    name: str = "folder",
    classes: Sequence[str] = (),
    group_pattern: str | None = None,
    heads: bool = False,
    channels: Channels | None = None,
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read a folder with one subfolder a class, below subfolders train, val and test or without them.

    Args:
        root: the folder.
        name: of the set, as in a report.
        classes: in the order wanted, a disease last; empty takes the folders' names.
        group_pattern: regular expression whose first group, found in a file's name, is the patient: `person(\\d+)`.
        heads, channels, size, fit, seed, caveats: as in `labels_csv`.

    Raises:
        DataError: a missing folder, no images, or a file name without the group pattern.
        LabelError: a folder outside the classes.
    """
    root, frame = Path(root), Frame(size, fit)
    keys = list(images_below(root))
    if not keys:
        raise DataError(f"{root}: no images below it; expected <class>/<image> or <split>/<class>/<image>")
    parts = [PurePosixPath(key).parts for key in keys]
    is_split = all(p[0].lower() in _SPLIT_FOLDERS for p in parts)
    depth = 2 if is_split else 1
    shallow = next((key for key, p in zip(keys, parts, strict=True) if len(p) <= depth), None)
    if shallow is not None:
        raise DataError(f"{root}: {shallow} lies in no class folder; expected <class>/<image> or <split>/<class>/<image>")
    task, targets = class_targets(np.asarray([p[depth - 1] for p in parts]), classes, keys)
    groups, sources = _heads(root, keys) if heads else (np.full(len(keys), ""), None)
    if group_pattern is not None:
        groups = np.asarray([_group(key, group_pattern) for key in keys])
    splits, told = settle_splits([p[0] for p in parts] if is_split else None, groups, targets, seed=seed)
    index = Index.of(
        keys,
        targets,
        groups=groups.tolist(),
        splits=splits.tolist(),
        sources=None if sources is None else sources.tolist(),
    )
    channels = channels or shared_channels(root, keys)
    return ImageSet(
        name,
        task,
        index,
        FileImages.of(root, keys, channels, frame),
        channels=channels,
        caveats=(*caveats, *told, *measured_caveats(index, task)),
        origin=f"class folders|{frame}|{channels}",
    )


def _without(rows: Table, label: Label) -> tuple[Table, tuple[str, ...]]:
    """The table without the labels left out, and a sentence for each of them."""
    if not label.left_out or not isinstance(label.column, str):
        return rows, ()
    values, groups = _labels(rows, label.column), rows.find(None, GROUP_COLUMNS)
    told = []
    for name in label.left_out:
        out = values == name
        holders = "" if groups is None else f" of {len(np.unique(groups[out]))} groups"
        told.append(f"{int(out.sum())} images{holders} labelled {name} are left out.")
    return rows.take(~np.isin(values, label.left_out)), tuple(told)


def _targets(rows: Table, label: Label, keys: Sequence[str]) -> tuple[Task, np.ndarray[Any, Any]]:
    if not isinstance(label.column, str):
        return finding_targets(rows, label.column, keys)
    task, targets = class_targets(_labels(rows, label.column), label.classes, keys)
    return Task(label.names) if label.names else task, targets


def _labels(rows: Table, column: str) -> np.ndarray[Any, Any]:
    values = rows.find(column or None, LABEL_COLUMNS)
    if values is None:
        raise LabelError(f"{rows.path}: name the label column; it has {', '.join(rows.columns)}")
    return values


def _unit(rows: Table, group: str | None) -> str:
    """What the group column speaks of."""
    column = next((name for name in ([group] if group else GROUP_COLUMNS) if name in rows.columns), "")
    return next((unit for unit in ("subject", "lesion") if unit in column.lower()), "patient")


def _masks(root: Path, keys: Sequence[str], frame: Frame) -> FileMasks | None:
    if not (root / "masks").is_dir():
        return None
    masks = paths_by_stem(root, "masks")
    return FileMasks.of(root, [masks.get(PurePosixPath(key).stem, "") for key in keys], frame)


def _heads(root: Path, keys: Sequence[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Patient and scanner of each DICOM file."""
    heads = [read_head(inside(root, key)) for key in keys]
    return np.asarray([head.patient for head in heads]), np.asarray([head.scanner for head in heads])


def _group(key: str, pattern: str) -> str:
    match = re.search(pattern, PurePosixPath(key).name)
    if match is None or not match.groups():
        raise DataError(f"{key}: its name does not show the group that {pattern!r} looks for")
    return match.group(1)

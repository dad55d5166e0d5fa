"""CSV tables that name a set's images: columns by name, and errors that say what is there instead."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antivenom.errors import DataError, LabelError
from antivenom.task import Task

# Words by which one of two classes is known to be the healthy one; by convention it comes first, the disease last.
_HEALTHY = ("normal", "healthy", "benign", "negative", "control", "no", "non", "without", "absent", "0", "false")


@dataclass(frozen=True)
class Table:
    """A table as read; every value is text.

    Attributes:
        path: where it came from, for messages.
        columns: name to `(N,)` of text.
    """

    path: Path
    columns: dict[str, np.ndarray[Any, Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """A column by its name.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.columns:
            raise DataError(f"{self.path}: no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def find(self, name: str | None, among: Sequence[str]) -> np.ndarray[Any, Any] | None:
        """The column `name`, which must exist; without a name the first of `among` that does, or None."""
        if name is not None:
            return self[name]
        return next((self.columns[candidate] for candidate in among if candidate in self.columns), None)

    def take(self, kept: np.ndarray[Any, Any]) -> Table:
        """Some of the rows, by a mask `(N,)` of bool."""
        return Table(self.path, {name: column[kept] for name, column in self.columns.items()})


def read_table(path: Path) -> Table:
    """Read a CSV file (or one with tabs) whose first line names the columns.

    Raises:
        DataError: missing, empty, not text, with a line of another length, or with a column name twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter="\t" if "\t" in first and "," not in first else ",")
            names = [name.strip() for name in next(lines, [])]
            rows = [row for row in lines if row]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); is it the right root?") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if names and not names[-1]:  # NIH's own table ends each line of its head with a comma
        names = names[:-1]
        rows = [row[:-1] if len(row) == len(names) + 1 and not row[-1] else row for row in rows]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a column name occurs twice: {', '.join(names)}")
    if not rows:
        raise DataError(f"{path}: no rows below its head ({', '.join(names) or 'empty'})")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(f"{path}: row {number} has {len(row)} values, the head names {len(names)} columns")
    return Table(
        path, {name: np.asarray(column, dtype=np.str_) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    )


def class_targets(
    values: np.ndarray[Any, Any], classes: Sequence[str], names: Sequence[str]
) -> tuple[Task, np.ndarray[Any, Any]]:
    """Turn labels `(N,)` into a task and class indices `(N,)`.

    Args:
        values: the label of each image.
        classes: in the order wanted; found by `ordered_classes` where empty.
        names: of the images, for messages.

    Raises:
        LabelError: a blank label, or one outside the classes.
    """
    task = Task(tuple(classes) or ordered_classes(values))
    order = np.argsort(np.asarray(task.classes))
    known = np.asarray(task.classes)[order]
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    wrong = np.flatnonzero(known[place] != values)
    if len(wrong):
        row = int(wrong[0])
        raise LabelError(f"{names[row]}: label {str(values[row])!r} is none of {', '.join(task.classes)}")
    return task, order[place].astype(np.int64)


def finding_targets(table: Table, findings: Sequence[str], names: Sequence[str]) -> tuple[Task, np.ndarray[Any, Any]]:
    """Turn columns of 0 and 1 into a multi-label task and targets `(N, K)`.

    Raises:
        DataError: a column that is missing.
        LabelError: a value other than 0 and 1.
    """
    columns = []
    for finding in findings:
        values = table[finding]
        present, absent = np.isin(values, ("1", "1.0")), np.isin(values, ("0", "0.0"))
        wrong = np.flatnonzero(~(present | absent))
        if len(wrong):
            row = int(wrong[0])
            raise LabelError(f"{names[row]}: {finding} must be 0 or 1, got {str(values[row])!r}")
        columns.append(present.astype(np.int8))
    return Task(tuple(findings), multilabel=True), np.stack(columns, 1)


def ordered_classes(values: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """The classes among labels: numbers by size, names by alphabet; of two, one that sounds healthy comes first.

    Raises:
        LabelError: a blank label, or fewer than two classes.

    >>> ordered_classes(np.array(["dr", "no_dr", "dr"]))
    ('no_dr', 'dr')
    """
    found = sorted({str(value) for value in values})
    if found[0] == "" or len(found) < 2:
        raise LabelError("a label is blank" if found[0] == "" else f"only one class: {found[0]!r}; a task needs two or more")
    if all(name.isdecimal() for name in found):
        found.sort(key=int)
    if len(found) == 2 and _sounds_healthy(found[1]) and not _sounds_healthy(found[0]):
        found.reverse()
    return tuple(found)


def _sounds_healthy(name: str) -> bool:
    return name.lower().replace("-", "_").replace(" ", "_").split("_")[0] in _HEALTHY

"""Diabetic retinopathy grades of the two Kaggle competitions: EyePACS (2015) and APTOS (2019).

    root/trainLabels.csv            image, level            images such as 10_left.jpeg, anywhere below the root
    root/train.csv                  id_code, diagnosis      images such as 000c1434d8d7.png, anywhere below the root

Grades are those of the International Clinical Diabetic Retinopathy scale: Wilkinson et al., Ophthalmology 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from antivenom.data.caveats import measured_caveats
from antivenom.data.files import FileImages, on_disk, paths_by_stem
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.reading import Fit, Frame, Size
from antivenom.data.splits import settle_splits
from antivenom.data.tables import read_table
from antivenom.errors import LabelError
from antivenom.task import Task

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
Question = Literal["binary", "referable", "grade"]

# What is asked, and the least grade that counts as disease where the question is of two classes.
QUESTIONS: dict[Question, tuple[Task, int | None]] = {
    "binary": (Task(("no DR", "DR")), 1),
    "referable": (Task(("not referable", "referable")), 2),
    "grade": (Task(GRADES), None),
}


@dataclass(frozen=True)
class Layout:
    """Where a competition keeps its labels, and how many photographs it has of one person."""

    table: str
    image: str
    grade: str
    paired: bool  # names end in _left and _right: both eyes of a patient


LAYOUTS = {
    "eyepacs": Layout("trainLabels.csv", "image", "level", paired=True),
    "aptos": Layout("train.csv", "id_code", "diagnosis", paired=False),
}


def read_retinopathy(
    root: str | Path,
    competition: str,
    *,
    question: Question = "binary",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read EyePACS or APTOS; split 70/10/20, both eyes of a patient together where the names tell.

    Images listed in the table that are not on disk are left out, and the caveats say how many.

    Args:
        root: the folder of the table.
        competition: `eyepacs` or `aptos`.
        question: `binary` (grade 1 or more), `referable` (grade 2 or more) or `grade` (five classes).
        size, fit: what every image is brought to; the photographs differ in size.
        seed: of the split.
        caveats: what a reader of any figure must be told beyond what is found here.

    Raises:
        DataError: no table, no column or no image.
        LabelError: a grade other than 0 to 4.
    """
    root, frame, layout = Path(root), Frame(size, fit), LAYOUTS[competition]
    table = read_table(root / layout.table)
    there = paths_by_stem(root)
    table, told = on_disk(table, layout.image, there)
    keys = table[layout.image].tolist()
    grades = _grades(table[layout.grade], keys)
    task, least = QUESTIONS[question]
    targets = grades if least is None else (grades >= least).astype(np.int64)
    patients = [key.rsplit("_", 1)[0] if layout.paired else "" for key in keys]
    splits, split_told = settle_splits(None, patients, grades, seed=seed)
    index = Index.of(keys, targets, groups=patients, splits=splits.tolist())
    return ImageSet(
        competition,
        task,
        index,
        FileImages.of(root, [there[key] for key in keys], 3, frame),
        channels=3,
        caveats=(*caveats, *told, *split_told, *measured_caveats(index, task)),
        origin=f"{competition}|{question}|{frame}",
    )


def _grades(values: np.ndarray[Any, Any], keys: Sequence[str]) -> np.ndarray[Any, Any]:
    wrong = np.flatnonzero(~np.isin(values, [str(grade) for grade in range(len(GRADES))]))
    if len(wrong):
        row = int(wrong[0])
        raise LabelError(f"{keys[row]}: grade {str(values[row])!r} is none of 0 to 4")
    return values.astype(np.int64)

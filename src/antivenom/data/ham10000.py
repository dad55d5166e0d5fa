"""HAM10000 as its authors publish it: 10,015 dermoscopic images of 7,470 lesions, in seven classes.

Tschandl, Rosendahl, Kittler, "The HAM10000 dataset, a large collection of multi-source dermatoscopic images of common pigmented
skin lesions", Scientific Data 2018.

    root/HAM10000_metadata*                             lesion_id, image_id, dx, dx_type, age, sex, localization (, dataset)
    root/**/<image_id>.jpg                              such as HAM10000_images_part_1
    root/**/<image_id>_segmentation.png                 lesion masks, where they were fetched too
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from antivenom.data.caveats import measured_caveats
from antivenom.data.files import FileImages, FileMasks, on_disk, paths_by_stem
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.reading import Fit, Frame, Size
from antivenom.data.splits import settle_splits
from antivenom.data.tables import class_targets, read_table
from antivenom.errors import DataError
from antivenom.task import Task

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MALIGNANT = ("akiec", "bcc", "mel")
TRAITS = ("dx_type", "age", "sex", "localization")
_MASK = "_segmentation"
Question = Literal["diagnosis", "binary"]


def read_ham10000(
    root: str | Path,
    *,
    question: Question = "diagnosis",
    name: str = "ham10000",
    size: Size | None = None,
    fit: Fit = "squash",
    seed: int = 0,
    caveats: Sequence[str] = (),
) -> ImageSet:
    """Read HAM10000; split 70/10/20 by lesion, stratified by diagnosis.

    Images listed in the table that are not on disk are left out, and the caveats say how many.

    Args:
        root: the folder of the table.
        question: `diagnosis` (seven classes) or `binary` (malignant is mel, bcc or akiec).
        name: of the set, as in a report.
        size, fit: what images and masks are brought to; 450 x 600 without.
        seed: of the split.
        caveats: what a reader of any figure must be told beyond what is found here.

    Raises:
        DataError: no table, no column or no image.
        LabelError: an unknown diagnosis.
    """
    root, frame = Path(root), Frame(size, fit)
    tables = sorted(path for path in root.glob("HAM10000_metadata*") if path.is_file())
    if not tables:
        raise DataError(f"{root}: no HAM10000_metadata file; is it the right root?")
    table = read_table(tables[0])
    there = paths_by_stem(root)
    table, told = on_disk(table, "image_id", there)
    keys = table["image_id"].tolist()
    task, diagnoses = class_targets(table["dx"], DIAGNOSES, keys)
    targets = diagnoses
    if question == "binary":
        task, targets = Task(("benign", "malignant")), np.isin(table["dx"], MALIGNANT).astype(np.int64)
    lesions = table["lesion_id"]
    splits, split_told = settle_splits(None, lesions, diagnoses, seed=seed)
    origin = table.find(None, ("dataset",))
    index = Index.of(
        keys,
        targets,
        groups=lesions.tolist(),
        splits=splits.tolist(),
        sources=None if origin is None else origin.tolist(),
        traits={trait: table[trait].tolist() for trait in TRAITS},
        unit="lesion",
    )
    masks = [there.get(key + _MASK, "") for key in keys]
    return ImageSet(
        name,
        task,
        index,
        FileImages.of(root, [there[key] for key in keys], 3, frame),
        channels=3,
        mask=FileMasks.of(root, masks, frame) if any(masks) else None,
        caveats=(*caveats, *told, *split_told, *measured_caveats(index, task)),
        origin=f"ham10000|{question}|{frame}",
    )
